"""The runs of a stage are executed in processes that are renewed before they have run many."""

import concurrent.futures

import pytest

from esmm_tf.config.experiments import CompareConfig
from esmm_tf.config.training import InputConfig, ModelConfig
from esmm_tf.experiments import execute
from esmm_tf.experiments.execute import ComparisonSettings
from esmm_tf.experiments.runs import VALIDATION_FILE, Run, save_result


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


def test_every_run_is_executed_once_and_processes_are_renewed(pools, tmp_path, monkeypatch, capsys):
    runs = [Run(method="base", learning_rate=0.001, seed=seed) for seed in range(45)]
    settings = ComparisonSettings(
        compare=CompareConfig(data_dir="data", output_dir=str(tmp_path), processes=2),
        model=ModelConfig(),
        input=InputConfig(),
    )
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
