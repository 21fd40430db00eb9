"""Which runs a comparison makes, in which order, and on which split each is measured."""

import numpy as np
import pytest

from esmm_tf.config.experiments import CompareConfig
from esmm_tf.config.training import InputConfig, ModelConfig
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.experiments import execute, plan, runs
from esmm_tf.experiments.execute import ComparisonSettings
from esmm_tf.reports.task_metrics import TaskMetrics, tasks_to_json

TRAINED = {"best_epoch": 1, "epochs": 1, "seconds": 1.0, "impressions_an_epoch": 10}


@pytest.fixture
def settings(schema, build_group, tmp_path):
    """Returns the settings of a comparison on half and on all of the groups."""
    with DataSetWriter(str(tmp_path / "data"), schema, num_shards=1) as writer:
        for first, split in enumerate(("train", "validation", "test")):
            writer.write(split, build_group(first, 7))
    return ComparisonSettings(
        compare=CompareConfig(
            data_dir=str(tmp_path / "data"),
            output_dir=str(tmp_path / "comparison"),
            methods=("base", "esmm"),
            seeds=1,
            fractions=(0.5, 1.0),
            learning_rates=(0.1, 0.2),
        ),
        model=ModelConfig(),
        input=InputConfig(),
    )


@pytest.fixture
def stages(monkeypatch):
    """Returns the file and the runs of each stage, which are done at once.

    The AUC of a run is higher the larger its learning rate and its fraction are.
    """
    executed = []

    def execute_at_once(stage, settings, *, file, **_):
        executed.append((file, [run.name for run in stage]))
        output_dir = settings.compare.output_dir
        for run in stage:
            auc = 0.5 + run.learning_rate / 2 + run.fraction / 10
            task = TaskMetrics(impressions=7, positives=2, intervals={"auc": None}, auc=auc)
            tasks = tasks_to_json(dict.fromkeys(("ctr", "cvr_clicked", "ctcvr"), task))
            runs.save_result(run, output_dir, "training.json", TRAINED)
            runs.save_result(run, output_dir, file, TRAINED | {"tasks": tasks, "parameters": 3})
            if file == "test.json":
                influences = dict.fromkeys(("ctr", "cvr_clicked", "ctcvr"), np.arange(3.0))
                np.savez(f"{run.directory(output_dir)}/test_influence.npz", **influences)

    monkeypatch.setattr(execute, "execute", execute_at_once)
    return executed


def test_the_ctr_network_comes_first_and_only_chosen_runs_meet_the_test_split(settings, stages):
    plan.run_comparison(settings)

    assert stages == [
        ("validation.json", ["ctr-lr0.1-fraction1-seed1", "ctr-lr0.2-fraction1-seed1"]),
        (
            "validation.json",
            [
                f"{method}-lr{learning_rate}-fraction1-seed1"
                for method in ("base", "esmm")
                for learning_rate in (0.1, 0.2)
            ],
        ),
        ("training.json", ["ctr-lr0.2-fraction0.5-seed1", "ctr-lr0.2-fraction1-seed1"]),
        (
            "test.json",
            [
                f"{method}-lr0.2-fraction{fraction}-seed1"
                for method in ("base", "esmm")
                for fraction in (0.5, 1)
            ],
        ),
    ]


@pytest.mark.usefixtures("stages")
def test_a_comparison_holds_every_method_at_every_fraction(settings):
    tree = plan.run_comparison(settings)

    aucs = {
        fraction: {name: tasks["ctcvr"]["auc"]["values"] for name, tasks in methods.items()}
        for fraction, methods in tree["fractions"].items()
    }
    half, whole = pytest.approx([0.65]), pytest.approx([0.7])
    assert aucs == {"0.5": {"base": half, "esmm": half}, "1": {"base": whole, "esmm": whole}}
    assert tree["methods"]["base"]["tasks"]["ctcvr"]["auc"]["values"] == whole
    assert {name: len(m["candidates"]) for name, m in tree["methods"].items()} == {
        "base": 2,
        "esmm": 2,
    }
    assert len(tree["ctr_network"]["candidates"]) == 2
    assert tree["data"]["splits"]["test"]["impressions"] == 7
