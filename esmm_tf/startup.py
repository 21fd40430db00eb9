"""Imports TensorFlow with its start-up messages held back; commands import this first.

TensorFlow 2.21 writes about missing GPUs and processor features to the process's standard error at
import and at its first look at devices, whatever TF_CPP_MIN_LOG_LEVEL says. They would bury the
message that a user needs, such as that of a mistyped flag. If the import fails, they are shown.

It also imports all of Keras 3, and with it SciPy, pandas and matplotlib where they are installed,
unless TF_USE_LEGACY_KERAS says that Keras 2 is used, as it is here: 1.7 of 5.9 CPU seconds.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

from absl import logging

_LEGACY_KERAS = "TF_USE_LEGACY_KERAS"


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
    """Keeps what is written to file descriptor 2 off the screen, unless the code within raises."""
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(screen, held.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


@contextlib.contextmanager
def _keras_2_chosen() -> Iterator[None]:
    """Sets TF_USE_LEGACY_KERAS for the import alone; `tf.keras` is what the user's setting says."""
    before = os.environ.get(_LEGACY_KERAS)
    os.environ[_LEGACY_KERAS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_LEGACY_KERAS]
        else:
            os.environ[_LEGACY_KERAS] = before


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with stderr_held_back():
    with _keras_2_chosen():
        import tensorflow as tf
    import tf_keras  # noqa: F401 - it has messages of its own

    tf.config.list_physical_devices()
    # With the extra [io], paths may begin with s3://, hdfs://, az:// or http://.
    if importlib.util.find_spec("tensorflow_io"):
        importlib.import_module("tensorflow_io")

logging.set_verbosity(logging.ERROR)
