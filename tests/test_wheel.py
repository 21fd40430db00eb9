"""What a user installs: a wheel in an environment of its own, used from a folder of their own."""

import configparser
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "esmm_tf", "pipelines", "tfrecords_schema")
SCRIPTS = [
    "esmm-ali-ccp",
    "esmm-calibrate",
    "esmm-check-skew",
    "esmm-compare",
    "esmm-evaluate",
    "esmm-expedia",
    "esmm-export",
    "esmm-predict",
    "esmm-serve",
    "esmm-synthetic",
    "esmm-table",
    "esmm-train",
    "esmm-validate",
]

pytestmark = pytest.mark.slow


def run(*command, cwd):
    """Runs a command that must end well, and returns what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    run(*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", target, ".", cwd=source)
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """Returns the `bin` of an environment that holds the wheel, and what it requires from here."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, symlinks=True)
    python = directory / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", wheel, cwd=directory)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = directory / "lib" / version / "site-packages"
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return directory / "bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a user's folder with packages of names that the repository has too."""
    directory = tmp_path_factory.mktemp("folder")
    for name in ("pipelines", "benchmarks", "tests"):
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text("MINE = True\n", encoding="utf-8")
    return directory


def test_a_wheel_holds_packages_of_our_name_alone_and_their_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()

    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"esmm_tf", "esmm_pipelines"}
    assert {
        "esmm_tf/py.typed",
        "esmm_tf/reports/templates/evaluation.html",
        "esmm_pipelines/py.typed",
        "esmm_pipelines/schemas/ali_ccp.toml",
        "esmm_pipelines/schemas/expedia.toml",
    } <= set(names)


def test_a_wheel_has_a_script_for_each_command(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    scripts = configparser.ConfigParser()
    scripts.read_string(archive.read(name).decode("utf-8"))

    assert sorted(scripts["console_scripts"]) == SCRIPTS


def test_every_command_is_found_beside_a_users_own_packages(environment, folder):
    code = """
import importlib, importlib.metadata, json, pipelines, benchmarks
entries = importlib.metadata.distribution("esmm_tf").entry_points
files = {e.name: importlib.import_module(e.load().__module__).__file__ for e in entries}
print(json.dumps([files, pipelines.MINE and benchmarks.MINE]))
"""

    files, is_theirs = json.loads(run(environment / "python", "-c", code, cwd=folder))

    assert is_theirs
    assert sorted(files) == SCRIPTS
    assert all(path.startswith(str(environment.parent)) for path in files.values())


def test_a_model_is_trained_and_exported_by_the_scripts(environment, folder):
    run(
        environment / "esmm-synthetic",
        "--output_dir=logs",
        "--num_impressions=4000",
        "--click_rate=0.2",
        "--conversion_rate=0.3",
        cwd=folder,
    )
    small = ("--embedding_dim=2", "--hidden_units=4", "--on_miscalibration=off")
    run(environment / "esmm-train", "--train_files=logs", "--model_dir=model", *small, cwd=folder)
    told = run(
        environment / "python",
        "-m",
        "esmm_tf.evaluate",
        "--model_dir=model",
        "--files=logs",
        cwd=folder,
    )
    run(environment / "esmm-export", "--model_dir=model", "--export_dir=export", cwd=folder)

    assert told.split()[0] == "task"
    assert (folder / "export" / "1" / "saved_model.pb").exists()
