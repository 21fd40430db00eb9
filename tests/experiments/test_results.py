"""What the runs of a comparison say together, by hand."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from esmm_tf.config.experiments import CompareConfig
from esmm_tf.experiments import results, runs
from esmm_tf.experiments.results import Repeated
from esmm_tf.experiments.runs import Run
from esmm_tf.reports.task_metrics import TaskMetrics, tasks_to_json

NUM_CLUSTERS = 4
INFLUENCES = {
    "base": np.array([0.02, -0.01, 0.0, -0.01]),
    "esmm": np.array([0.03, -0.03, 0.01, -0.01]),
}


def build_task(**changes):
    return TaskMetrics(**{"impressions": 50, "positives": 5, "intervals": {}} | changes)


def results_of(aucs, **more):
    """Returns what one run an AUC was measured by."""
    return [{"ctcvr": build_task(auc=auc, **more)} for auc in aucs]


def repeated(method, aucs, **more):
    influences = [{"ctcvr": INFLUENCES[method] * (1 + place)} for place in range(len(aucs))]
    return Repeated(method=method, tests=results_of(aucs, **more), influences=influences)


def test_a_metric_has_its_mean_and_standard_deviation_over_seeds():
    summary = results.summarize(repeated("esmm", [0.6, 0.7, 0.8], log_loss=0.25))

    assert summary["ctcvr"]["auc"]["mean"] == pytest.approx(0.7)
    assert summary["ctcvr"]["auc"]["std"] == pytest.approx(0.1)
    assert summary["ctcvr"]["auc"]["values"] == [0.6, 0.7, 0.8]
    assert summary["ctcvr"]["log_loss"]["std"] == 0
    assert "gauc" not in summary["ctcvr"]


def test_one_seed_has_no_standard_deviation():
    summary = results.summarize(repeated("esmm", [0.6]))

    assert summary["ctcvr"]["auc"] == {"mean": 0.6, "std": None, "values": [0.6]}


def test_a_metric_that_one_seed_does_not_have_is_left_out():
    found = repeated("esmm", [0.6, None], log_loss=0.25)

    assert list(results.summarize(found)["ctcvr"]) == ["log_loss"]
    assert results.compare_runs(found, found) == {}


def test_the_share_of_predictions_above_1_is_told_where_there_are_such():
    summary = results.summarize(repeated("esmm", [0.6, 0.7], predictions_above_1=5))

    assert summary["ctcvr"]["share_above_1"]["mean"] == pytest.approx(0.1)


def test_a_difference_varies_with_the_users_and_with_the_seeds():
    esmm, base = repeated("esmm", [0.70, 0.74, 0.72]), repeated("base", [0.69, 0.70, 0.71])

    found = results.compare_runs(esmm, base)["ctcvr"]

    differences = np.array([0.01, 0.04, 0.01])
    influence = 2 * (INFLUENCES["esmm"] - INFLUENCES["base"])  # the mean of 1, 2 and 3 times it
    of_users = (influence**2).sum() * NUM_CLUSTERS / (NUM_CLUSTERS - 1)
    of_seeds = differences.var(ddof=1) / 3
    error = math.sqrt(of_users + of_seeds)
    student = stats.t(df=2 * (error**2 / of_seeds) ** 2)
    assert found["difference"] == pytest.approx(0.02)
    assert found["p_value"] == pytest.approx(2 * student.sf(0.02 / error))
    reach = student.ppf(0.975) * error
    assert found["interval"] == pytest.approx((0.02 - reach, 0.02 + reach))


def test_with_one_seed_nothing_is_known_of_how_a_difference_varies():
    found = results.compare_runs(repeated("esmm", [0.7]), repeated("base", [0.6]))

    assert found["ctcvr"]["difference"] == pytest.approx(0.1)
    assert found["ctcvr"]["interval"] is None
    assert found["ctcvr"]["p_value"] is None


def test_a_method_beside_itself_has_no_interval():
    same = repeated("esmm", [0.7, 0.8])

    found = results.compare_runs(same, same)["ctcvr"]

    assert found == {"difference": 0.0, "interval": None, "p_value": None}


def test_p_values_are_as_often_small_as_they_say_where_nothing_differs():
    rng = np.random.default_rng(0)
    clusters, seeds, noise = 200, 3, 0.002
    small = 0
    for _ in range(400):
        of_users = rng.normal(0, 0.05, clusters)  # of one method; the other's values are 0
        influences = [{"ctcvr": (of_users - of_users.mean()) / clusters}] * seeds
        aucs = 0.7 + of_users.mean() + rng.normal(0, noise, seeds)
        method = Repeated(method="esmm", tests=results_of(aucs), influences=influences)
        other = Repeated(
            method="base",
            tests=results_of([0.7] * seeds),
            influences=[{"ctcvr": np.zeros(clusters)}] * seeds,
        )
        small += results.compare_runs(method, other)["ctcvr"]["p_value"] < 0.1

    assert 20 <= small <= 62  # 40 of 400, give or take 3.7 standard deviations


@pytest.fixture
def finished(tmp_path):
    """Returns a comparison of three methods whose runs are all done, and their chosen runs."""
    config = CompareConfig(
        data_dir="data",
        output_dir=str(tmp_path),
        methods=("base", "esmm", "esmm_ns"),
        seeds=2,
        fractions=(0.5, 1.0),
        learning_rates=(0.1,),
    )
    chosen = {name: Run(method=name, learning_rate=0.1) for name in config.methods}
    for place, name in enumerate(config.methods):
        for run in runs.repetitions(chosen[name], config):
            auc = 0.6 + 0.01 * place + 0.001 * run.seed - 0.1 * (run.fraction < 1)
            task = build_task(auc=auc, intervals={"auc": None})
            training = {
                "best_epoch": run.seed,
                "epochs": 3,
                "seconds": 10.0,
                "impressions_an_epoch": 1000,
            }
            tasks = tasks_to_json(dict.fromkeys(("cvr_clicked", "ctcvr"), task))
            measured = {"tasks": tasks, "parameters": 100 + place}
            runs.save_result(run, config.output_dir, "training.json", training)
            runs.save_result(run, config.output_dir, "test.json", measured)
            if run == chosen[name]:
                runs.save_result(run, config.output_dir, "validation.json", measured)
            influence = np.arange(3.0) * (1 + place) * 0.001
            directory = tmp_path / "runs" / run.name
            np.savez(directory / "test_influence.npz", cvr_clicked=influence, ctcvr=influence)
    return config, chosen


def test_the_tree_has_each_methods_effort_metrics_and_rivals(finished):
    config, chosen = finished

    tree = results.build_tree(chosen, {n: [r] for n, r in chosen.items()}, config)

    assert list(tree["methods"]) == ["base", "esmm", "esmm_ns"]
    esmm = tree["methods"]["esmm"]
    assert esmm["title"] == "ESMM"
    assert esmm["parameters"] == 101
    assert esmm["best_epochs"] == [1, 2]
    assert esmm["seconds"]["mean"] == 10.0
    assert esmm["tasks"]["ctcvr"]["auc"]["values"] == pytest.approx([0.611, 0.612])
    assert esmm["candidates"][0]["criterion"] == pytest.approx(0.611)
    assert esmm["against_base"]["tasks"]["ctcvr"]["difference"] == pytest.approx(0.01)
    assert esmm["against_best_other"]["method"] == "esmm_ns"
    assert tree["methods"]["esmm_ns"]["against_best_other"]["method"] == "esmm"
    assert "against_base" not in tree["methods"]["base"]
    half = tree["fractions"]["0.5"]["esmm_ns"]["ctcvr"]["auc"]
    assert half["values"] == pytest.approx([0.521, 0.522])
    against_base = tree["fractions_against_base"]
    assert list(against_base["0.5"]) == ["esmm", "esmm_ns"]
    assert against_base["0.5"]["esmm_ns"]["ctcvr"]["difference"] == pytest.approx(0.02)
    assert against_base["1"]["esmm"] == esmm["against_base"]["tasks"]
    assert tree["ctr_network"] is None


def test_without_base_no_fraction_is_compared_with_it(finished):
    config, chosen = finished
    config = dataclasses.replace(config, methods=("esmm", "esmm_ns"))

    tree = results.build_tree(chosen, {n: [r] for n, r in chosen.items()}, config)

    assert tree["fractions_against_base"] == {}
