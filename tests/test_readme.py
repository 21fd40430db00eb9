"""What the README shows runs as it stands there."""

import importlib.util
import json
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest

from esmm_pipelines.ali_ccp.command import AliCcpConfig
from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.expedia import ExpediaConfig
from esmm_pipelines.grouping.config import DataSetConfig, SplitConfig
from esmm_pipelines.synthetic.command import SyntheticConfig
from esmm_tf.config import flags
from esmm_tf.config.experiments import CompareConfig
from esmm_tf.config.training import InputConfig, ModelConfig, OptimizerConfig, TrainConfig
from esmm_tf.data import manifest

TRAINING = [TrainConfig, ModelConfig, OptimizerConfig, InputConfig]
COMPARISON = [CompareConfig, ModelConfig, InputConfig]
ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _run_python(*args, cwd):
    """Returns a finished `python`, started without what this process told TensorFlow to hide."""
    hidden = ("TF_CPP_MIN_LOG_LEVEL", "TF_USE_LEGACY_KERAS")
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_example_for_ones_own_logs_leads_to_an_export(tmp_path, monkeypatch):
    (tmp_path / "my.toml").write_text(_blocks("toml")[0], encoding="utf-8")
    (tmp_path / "write.py").write_text(_blocks("python")[0], encoding="utf-8")
    shell = next(block for block in _blocks("sh") if "--train_files=records" in block)
    lines = [shlex.split(line) for line in shell.splitlines() if line.startswith("python")]
    monkeypatch.chdir(tmp_path)

    runpy.run_path("write.py")
    commands = [_run_python(*line[1:], cwd=tmp_path) for line in lines]

    assert [command.stderr for command in commands] == [""] * 4
    assert [command.returncode for command in commands] == [0] * 4
    trained, evaluated, predicted, exported = (c.stdout.splitlines() for c in commands)
    assert trained[0].startswith("a feature alone reaches: ")
    assert trained[1].startswith("epoch 1 of 1, train: loss ")
    assert trained[2:] == [line for line in trained if line.startswith("epoch 1 of 1, trained ")]
    assert [line.split()[0] for line in evaluated] == [
        "task",
        "ctr",
        "cvr_clicked",
        "ctcvr",
        "wrote",
    ]
    assert json.loads((tmp_path / "model" / "evaluation.json").read_text())["impressions"] == 3
    assert predicted == ["wrote 3 impressions to predictions.csv"]
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 4
    assert exported == ["wrote export/1"]
    assert (tmp_path / "export" / "1" / "saved_model.pb").exists()


@pytest.mark.slow
def test_the_notebook_leads_to_a_table_a_plot_and_an_export(tmp_path):
    code = _blocks("python")[1]
    for shown, run in (
        ('["reliability_ctr"]', '["reliability_ctr"]._repr_png_()'),  # as a notebook shows it
        ("range(3000)", "range(600)"),
    ):
        assert shown in code
        code = code.replace(shown, run)

    done = _run_python("-c", f"{code}\nprint(len(pctcvr))", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    *table, rows = done.stdout.splitlines()
    aucs = {line.split()[0]: float(line.split()[1]) for line in table[1:]}
    assert rows == "1200"
    assert aucs["ctr"] > 0.65
    assert (tmp_path / "shop_export" / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize(
    ("name", "configs"),
    [
        ("demo_logs", [SyntheticConfig]),
        ("demo", TRAINING),
        ("expedia", TRAINING),
        ("ali_ccp", TRAINING),
        ("compare_logs", [SyntheticConfig]),
        ("compare", COMPARISON),
        ("ali_ccp_compare", COMPARISON),
        ("expedia_compare", COMPARISON),
        ("sparsity_compare", COMPARISON),
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

    missing = [name for name in modules if importlib.util.find_spec(name) is None]

    assert modules
    assert missing == []


@pytest.mark.parametrize(
    ("module", "configs"),
    [
        ("esmm_pipelines.expedia", [ExpediaConfig, SplitConfig, DataSetConfig, EngineConfig]),
        ("esmm_pipelines.ali_ccp", [AliCcpConfig, DataSetConfig, EngineConfig]),
    ],
)
def test_a_recipe_takes_the_flags_that_the_readme_shows(module, configs):
    text = README.replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith(f"python -m {module}")]
    received = []

    for line in lines:
        with pytest.raises(SystemExit) as stop:
            flags.run(lambda *c: received.extend(c), *configs, argv=shlex.split(line)[2:])

        assert stop.value.code == 0
    assert lines
    assert len(received) == len(lines) * len(configs)


@pytest.mark.slow
def test_a_table_becomes_records_by_the_commands_that_the_readme_shows(tmp_path, monkeypatch):
    (tmp_path / "my.toml").write_text(_blocks("toml")[0], encoding="utf-8")
    (tmp_path / "logs").mkdir()
    rows = [
        {
            "user": user,
            "visited": ["shoes", "hats"],
            "visited_weight": [1.1, 0.7],
            "item": item,
            "category": "hats",
            "price": 9.5,
            "click": int(item == 1),
            "conversion": 0,
        }
        for user in range(200)
        for item in range(3)
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "logs" / "a.parquet")
    table, validate = (
        shlex.split(line)
        for line in README.splitlines()
        if line.startswith(("python -m esmm_pipelines.table", "python -m esmm_pipelines.validate"))
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", table[2:])

    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module(table[2], run_name="__main__")
    validated = _run_python(*validate[1:], cwd=tmp_path)

    found = manifest.load_manifest(str(tmp_path / "records"))
    assert sum(map(found.impressions, found.splits)) == 600
    # `validate` finds that only item 1 is clicked, which tells the label.
    assert (validated.returncode, validated.stderr) == (1, "")
