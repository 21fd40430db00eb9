"""What the README shows runs as it stands there."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from esmm_tf import config, flags
from pipelines.expedia import ExpediaConfig
from pipelines.synthetic import SyntheticConfig

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.slow
def test_the_example_for_ones_own_logs_leads_to_an_export(tmp_path):
    (tmp_path / "my.toml").write_text(_blocks("toml")[0], encoding="utf-8")
    shell = next(block for block in _blocks("sh") if "--train_files=records" in block)
    commands = [shlex.split(line) for line in shell.splitlines() if line.startswith("python")]

    subprocess.run([sys.executable, "-c", _blocks("python")[0]], cwd=tmp_path, check=True)
    for command in commands:
        subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)

    assert len(commands) == 4
    assert (tmp_path / "export" / "1" / "saved_model.pb").exists()
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("name", "configs"),
    [
        ("demo_logs", [SyntheticConfig]),
        (
            "demo",
            [
                config.TrainConfig,
                config.ModelConfig,
                config.OptimizerConfig,
                config.InputConfig,
            ],
        ),
        (
            "expedia",
            [
                config.TrainConfig,
                config.ModelConfig,
                config.OptimizerConfig,
                config.InputConfig,
            ],
        ),
    ],
)
def test_every_flag_of_a_flagfile_is_known_to_its_command(name, configs):
    received = []

    with pytest.raises(SystemExit) as stop:
        flags.run(
            lambda *parsed: received.extend(parsed),
            *configs,
            argv=["command", f"--flagfile={ROOT / 'flagfiles' / name}.flagfile"],
        )

    assert stop.value.code == 0
    assert [type(item) for item in received] == configs


def test_the_readme_names_commands_that_exist():
    modules = set(re.findall(r"python -m ([\w.]+)", README))

    missing = [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()]

    assert modules
    assert missing == []


def test_the_expedia_recipe_takes_the_flags_that_the_readme_shows():
    line = next(line for line in README.splitlines() if "pipelines.expedia" in line)
    received = []

    with pytest.raises(SystemExit) as stop:
        flags.run(received.append, ExpediaConfig, argv=shlex.split(line)[2:])

    assert stop.value.code == 0
    assert received[0].output_dir == "expedia/records"
