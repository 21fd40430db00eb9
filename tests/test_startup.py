"""What reaches standard error while TensorFlow is imported, and which Keras comes with it."""

import importlib.util
import os
import subprocess
import sys

import pytest

from esmm_tf import startup


def run_python(code, **variables):
    """Runs code in a fresh interpreter, without the variables that this one has set."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_native_code_and_python_write_inside_is_held_back(capfd):
    with startup.stderr_held_back():
        os.write(2, b"chatter of a library\n")
        subprocess.run(["sh", "-c", "echo chatter of a child >&2"], check=True)  # noqa: S607

    assert capfd.readouterr().err == ""


def test_what_is_written_before_and_after_is_shown(capfd):
    os.write(2, b"before\n")
    with startup.stderr_held_back():
        os.write(2, b"inside\n")
    os.write(2, b"after\n")

    assert capfd.readouterr().err == "before\nafter\n"


@pytest.mark.parametrize("error", [ImportError("no such symbol"), KeyboardInterrupt("no more")])
def test_an_exception_shows_what_was_held_back_and_passes(capfd, error):
    @startup.stderr_held_back()
    def fail():
        os.write(2, b"why it failed\n")
        raise error

    with pytest.raises(type(error), match=r"^no "):
        fail()
    os.write(2, b"after\n")

    assert capfd.readouterr().err == "why it failed\nafter\n"


def test_no_file_descriptor_is_left_open():
    before = os.listdir("/proc/self/fd")

    with startup.stderr_held_back():
        inside = os.listdir("/proc/self/fd")

    assert len(os.listdir("/proc/self/fd")) == len(before) < len(inside)


def test_an_import_that_fails_shows_everything(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "import os\nos.write(2, b'libfoo.so is missing\\n')\nraise ImportError('cannot load')\n",
        encoding="utf-8",
    )

    done = run_python("import esmm_tf.startup", PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert done.stderr.startswith("libfoo.so is missing\nTraceback")
    assert done.stderr.endswith("ImportError: cannot load\n")


@pytest.mark.slow
def test_a_fresh_command_shows_a_mistyped_flag_and_nothing_else_and_loads_no_keras_3():
    code = """
import os, sys
from esmm_tf import train
print("tensorflow" in sys.modules, "keras" in sys.modules)
print(os.environ.get("TF_USE_LEGACY_KERAS"))
print(sys.modules["tensorflow"].keras.Model.__module__.split(".")[0])
sys.argv = ["train", "--model_dri=x"]
train.run()
"""

    done = run_python(code)

    assert done.stderr.startswith("error: Unknown command line flag 'model_dri'. Did you mean: ")
    assert done.stderr.count("\n") == 1
    loads_keras_3 = str(importlib.util.find_spec("tensorflow_io") is not None)  # it does so itself
    assert done.returncode == 2
    assert done.stdout.split() == ["True", loads_keras_3, "None", "keras"]


@pytest.mark.slow
def test_what_the_user_chose_for_tensorflow_is_kept():
    code = """
import os, sys, esmm_tf.startup
print(os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["TF_USE_LEGACY_KERAS"])
print("keras" in sys.modules, sys.modules["tensorflow"].keras.Model.__module__.split(".")[0])
"""

    done = run_python(code, TF_CPP_MIN_LOG_LEVEL="0", TF_USE_LEGACY_KERAS="1")

    assert (done.returncode, done.stdout.split()) == (0, ["0", "1", "False", "tf_keras"])
