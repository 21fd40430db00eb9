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

from esmm_tf.data.writer import DataSetWriter

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


@pytest.fixture(scope="module")
def trained(environment, folder, schema, build_group):
    """Returns the folder, in which a script has trained on records."""
    with DataSetWriter(str(folder / "logs"), schema, num_shards=1) as writer:
        writer.write("train", build_group(0, 20))
        writer.write("test", build_group(20, 4))
    small = ("--embedding_dim=2", "--hidden_units=4", "--on_label_like_feature=off")
    run(environment / "esmm-train", "--train_files=logs", "--model_dir=model", *small, cwd=folder)
    return folder


def test_a_wheel_holds_packages_of_our_name_alone_and_their_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())

    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"esmm_tf", "esmm_pipelines"}
    assert {
        "esmm_tf/py.typed",
        "esmm_tf/reports/templates/evaluation.html",
        "esmm_pipelines/py.typed",
        "esmm_pipelines/schemas/ali_ccp.toml",
        "esmm_pipelines/schemas/expedia.toml",
    } <= names


@pytest.mark.parametrize("root", ["esmm_tf", "pipelines/esmm_pipelines"])
def test_a_wheel_holds_every_file_of_a_package(wheel, root):
    files = [path for path in (ROOT / root).rglob("*") if path.suffix in (".py", ".html", ".typed")]

    names = zipfile.ZipFile(wheel).namelist()

    assert len(files) > 10
    missing = {str(path.relative_to((ROOT / root).parent)) for path in files} - set(names)
    assert missing == set()


def test_a_wheel_has_a_script_for_each_command(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    scripts = configparser.ConfigParser()
    scripts.read_string(archive.read(name).decode("utf-8"))

    assert sorted(scripts["console_scripts"]) == SCRIPTS


def test_a_script_trains(trained):
    assert (trained / "model" / "history.json").exists()


def test_every_command_is_found_beside_a_users_own_packages(environment, trained):
    code = """
import importlib, importlib.metadata, json, sys, pipelines, benchmarks
entries = importlib.metadata.distribution("esmm_tf").entry_points
commands = {entry.name: entry.load() for entry in entries}
files = {name: importlib.import_module(run.__module__).__file__ for name, run in commands.items()}
print(json.dumps([files, pipelines.MINE and benchmarks.MINE]))
sys.argv = ["esmm-evaluate", "--model_dir=model", "--files=logs"]
commands["esmm-evaluate"]()
"""

    first, told, *_ = run(environment / "python", "-c", code, cwd=trained).splitlines()

    files, is_theirs = json.loads(first)
    assert is_theirs
    assert sorted(files) == SCRIPTS
    assert all(path.startswith(str(environment.parent)) for path in files.values())
    assert all((environment / name).exists() for name in SCRIPTS)
    assert told.split()[0] == "task"
    assert (trained / "model" / "evaluation.json").exists()
