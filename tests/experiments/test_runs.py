"""What a comparison runs, and what it chooses."""

import pytest

from esmm_tf.config.experiments import CompareConfig
from esmm_tf.experiments.runs import (
    Run,
    candidates,
    choose,
    criterion,
    is_done,
    load_result,
    repetitions,
    save_result,
    uses_ctr_network,
)
from esmm_tf.reports.task_metrics import TaskMetrics, tasks_to_json


def make_config(**changes):
    return CompareConfig(
        **({"data_dir": "data", "output_dir": "out", "learning_rates": (0.01, 0.002)} | changes)
    )


def validation(*, ctr=0.6, cvr_clicked=0.6, ctcvr=0.6):
    """Returns the metrics of each task on validation."""
    return {
        task: TaskMetrics(impressions=9, positives=1, intervals={"auc": None}, auc=auc)
        for task, auc in (("ctr", ctr), ("cvr_clicked", cvr_clicked), ("ctcvr", ctcvr))
    }


def test_every_run_has_a_name_of_its_own():
    first = Run(method="aman", learning_rate=0.001, rate=0.1, ctr_learning_rate=0.01)
    others = [
        Run(method="base", learning_rate=0.001),
        Run(method="aman", learning_rate=0.0003, rate=0.1),
        Run(method="aman", learning_rate=0.001, rate=0.2),
        Run(method="aman", learning_rate=0.001, rate=0.1, seed=2),
        Run(method="aman", learning_rate=0.001, rate=0.1, fraction=0.5),
    ]

    assert first.name == "aman-lr0.001-rate0.1-fraction1-seed1"
    assert len({run.name for run in (first, *others)}) == 6
    assert first.directory("/out") == f"/out/runs/{first.name}"


def test_a_method_takes_its_pctr_from_the_ctr_network_of_its_seed_and_fraction():
    run = Run(method="base", learning_rate=0.5, seed=7, fraction=0.2, ctr_learning_rate=0.01)

    assert run.ctr_run() == Run(method="ctr", learning_rate=0.01, seed=7, fraction=0.2)
    assert Run(method="esmm", learning_rate=0.5).ctr_run() is None


@pytest.mark.parametrize(
    ("method", "rates", "ctr"),
    [
        ("base", [None], 0.3),
        ("aman", [0.1, 0.2, 0.5, 1.0], 0.3),
        ("oversampling", [2.0, 3.0, 5.0, 10.0], 0.3),
        ("unbias", [0.0, 0.25, 0.5, 1.0], 0.3),
        ("division", [None], 0.3),
        ("esmm_ns", [None], None),
        ("esmm", [None], None),
    ],
)
def test_every_method_has_the_same_learning_rates_and_the_papers_rates(method, rates, ctr):
    runs = candidates(method, make_config(), ctr_learning_rate=0.3)

    assert [(run.rate, run.learning_rate) for run in runs] == [
        (rate, learning_rate) for rate in rates for learning_rate in (0.01, 0.002)
    ]
    assert {(run.method, run.seed, run.fraction) for run in runs} == {(method, 1, 1.0)}
    assert {run.ctr_learning_rate for run in runs} == {ctr}


def test_the_chosen_candidate_is_run_for_every_fraction_and_seed():
    chosen = Run(method="aman", learning_rate=0.002, rate=0.5, ctr_learning_rate=0.01)

    runs = list(repetitions(chosen, make_config(seeds=2, fractions=(0.1, 1.0))))

    assert [(run.fraction, run.seed) for run in runs] == [(0.1, 1), (0.1, 2), (1.0, 1), (1.0, 2)]
    assert runs[2] == chosen


def test_a_candidate_is_judged_by_the_aucs_of_the_papers_table():
    tasks = validation(ctr=0.9, cvr_clicked=0.6, ctcvr=0.7)

    assert criterion("esmm", tasks) == pytest.approx(0.65)
    assert criterion("ctr", tasks) == 0.9


def test_an_auc_that_is_not_defined_counts_as_the_worst():
    tasks = validation(cvr_clicked=None, ctcvr=0.7)

    assert criterion("base", tasks) == pytest.approx(0.35)


def test_validation_chooses_the_best_and_of_equal_ones_the_first(tmp_path):
    runs = candidates("esmm", make_config(), ctr_learning_rate=0.3)
    third = Run(method="esmm", learning_rate=0.0001)
    for run, auc in zip((*runs, third), (0.61, 0.65, 0.65), strict=True):
        result = {"tasks": tasks_to_json(validation(ctcvr=auc))}
        save_result(run, str(tmp_path), "validation.json", result)

    assert choose([*runs, third], str(tmp_path)) == runs[1]


def test_a_step_is_done_when_its_result_is_there(tmp_path):
    run = Run(method="esmm", learning_rate=0.1)

    before = is_done(run, str(tmp_path), "test.json")
    save_result(run, str(tmp_path), "test.json", {"impressions": 7})

    assert not before
    assert is_done(run, str(tmp_path), "test.json")
    assert load_result(run, str(tmp_path), "test.json") == {"impressions": 7}


@pytest.mark.parametrize(
    ("methods", "uses"), [(("esmm", "esmm_ns"), False), (("esmm", "division"), True)]
)
def test_the_ctr_network_is_trained_if_a_method_takes_its_pctr(methods, uses):
    assert uses_ctr_network(methods) is uses
