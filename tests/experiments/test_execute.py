"""What a run trains with, and the processes of a stage, renewed before they have run many."""

import concurrent.futures
import dataclasses
import pathlib

import pytest

from esmm_tf.config.experiments import CompareConfig
from esmm_tf.config.training import (
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.experiments import execute
from esmm_tf.experiments.execute import ComparisonSettings
from esmm_tf.experiments.runs import (
    TRAINING_FILE,
    VALIDATION_FILE,
    Run,
    load_result,
    save_result,
)
from esmm_tf.training import model_directory


@pytest.fixture
def settings(tmp_path):
    """Returns the settings of a comparison with two processes."""
    return ComparisonSettings(
        compare=CompareConfig(data_dir="data", output_dir=str(tmp_path), processes=2, epochs=7),
        model=ModelConfig(),
        input=InputConfig(),
    )


@pytest.fixture
def pools(monkeypatch):
    """Returns the names of the runs of each pool, which runs threads in place of processes."""
    submitted = []

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, processes, mp_context, initializer):
            super().__init__(processes)
            assert mp_context.get_start_method() == "spawn"
            submitted.append([])

        def submit(self, function, run, *args):
            submitted[-1].append(run.name)
            return super().submit(function, run, *args)

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Pool)
    return submitted


def test_every_run_is_executed_once_and_processes_are_renewed(
    pools, settings, tmp_path, monkeypatch, capsys
):
    runs = [Run(method="base", learning_rate=0.001, seed=seed) for seed in range(45)]
    executed = []
    monkeypatch.setattr(execute, "_run", lambda run, *_: executed.append(run.name))
    save_result(runs[7], str(tmp_path), VALIDATION_FILE, {})

    execute.execute(runs, settings, title="runs", file="validation.json")

    missing = [run.name for run in runs if run != runs[7]]
    assert sorted(executed) == sorted(missing)
    assert [len(names) for names in pools] == [20, 20, 4]
    assert [name for names in pools for name in names] == missing
    shown = [line.split(": ") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in shown] == [f"runs, run {done} of 45" for done in range(2, 46)]
    assert sorted(line[1] for line in shown) == sorted(missing)


@pytest.fixture
def trainings(monkeypatch):
    """Returns the settings of each training, which leaves a checkpoint and a history at once."""
    asked = []

    def train(config, *others):
        asked.append({type(part): part for part in (config, *others)})
        directory = pathlib.Path(config.model_dir)
        (directory / model_directory.CHECKPOINTS).mkdir(parents=True)
        rates = {"impressions": 100, "impressions_per_second": 50.0}
        history = [{"train": rates, "validation": {"loss": loss}} for loss in (0.5, 0.2, 0.3)]
        model_directory.save_history(history, str(directory))

    monkeypatch.setattr(execute, "train", train)
    return asked


def test_a_run_trains_on_its_share_of_the_groups_with_the_ctr_network_of_that_share(
    trainings, settings, tmp_path
):
    run = Run(method="aman", learning_rate=0.5, rate=0.2, seed=3, fraction=0.1)

    execute._train(dataclasses.replace(run, ctr_learning_rate=0.01), settings)
    execute._train(dataclasses.replace(run, method="esmm", rate=None), settings)

    first, second = trainings
    config, method, without_ctr = first[TrainConfig], first[MethodConfig], second[MethodConfig]
    assert (config.train_files, config.validation_files) == ("data", "data")
    assert (config.train_fraction, config.seed, config.epochs) == (0.1, 3, 7)
    assert first[OptimizerConfig].learning_rate == 0.5
    assert (method.method, method.sampling_rate) == ("aman", 0.2)
    assert method.ctr_model_dir == str(tmp_path / "runs/ctr-lr0.01-fraction0.1-seed3/model")
    assert (without_ctr.method, without_ctr.ctr_model_dir) == ("esmm", "")


@pytest.mark.usefixtures("trainings")
def test_a_trained_run_keeps_its_effort_and_no_checkpoints(settings, tmp_path):
    run = Run(method="esmm", learning_rate=0.5)

    execute._train(run, settings)

    found = load_result(run, str(tmp_path), TRAINING_FILE)
    assert {name: value for name, value in found.items() if name != "run"} == {
        "seconds": 6.0,
        "epochs": 3,
        "best_epoch": 2,
        "impressions_an_epoch": 100,
    }
    assert [path.name for path in (tmp_path / "runs" / run.name / "model").iterdir()] == [
        "history.json"
    ]
