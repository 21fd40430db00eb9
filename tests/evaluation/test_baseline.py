"""Two models on the same impressions: paired differences, and the files that keep scores."""

import math
import os
import statistics

import numpy as np
import pytest
from sklearn import metrics as reference

from esmm_tf import files
from esmm_tf.errors import UserError
from esmm_tf.evaluation import baseline, evaluation
from esmm_tf.evaluation.baseline import (
    check_baseline,
    compare_with_baseline,
    load_scores,
    remove_scores,
    write_scores,
)
from esmm_tf.evaluation.scores import Scores
from esmm_tf.metrics import task
from esmm_tf.metrics.task import Space
from esmm_tf.reports.task_metrics import MetricDifference

NUM_GROUPS = 200
RESAMPLES = 250
SCIKIT_LEARN = {
    "auc": reference.roc_auc_score,
    "average_precision": reference.average_precision_score,
}


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def simulate(seed, *, num_groups=NUM_GROUPS, noise=(0.6, 0.9)):
    """Returns labels, groups and the logits of two models; impressions of a group are alike."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), rng.integers(1, 12, num_groups))
    truth = rng.normal(-1, 1, num_groups)[groups] + rng.normal(0, 1, len(groups))
    labels = (rng.random(len(groups)) < sigmoid(truth)).astype(np.uint8)
    models = [(truth + rng.normal(0, s, len(groups))).astype(np.float32) for s in noise]
    return labels, groups, models


def measure(logits, labels, groups):
    space = Space(
        logits=logits,
        positives=labels,
        negatives=1 - labels,
        num_positives=float(labels.sum()),
        groups=groups,
    )
    return {"ctr": task.measure(space)}


def metric_of(name, logits, labels, groups):
    """Returns a function from weights to a metric, by scikit-learn and by arithmetic."""
    probability = sigmoid(logits)
    losses = np.logaddexp(0, np.where(labels, -1.0, 1.0) * logits)
    if name in SCIKIT_LEARN:
        return lambda weight: SCIKIT_LEARN[name](labels, logits, sample_weight=weight)
    if name == "calibration":
        return lambda weight: (weight * probability).sum() / (weight * labels).sum()
    if name == "log_loss":
        return lambda weight: np.average(losses, weights=weight)
    inside = [groups == group for group in np.unique(groups)]
    mixed = [rows for rows in inside if 0 < labels[rows].sum() < rows.sum()]
    aucs = [reference.roc_auc_score(labels[rows], logits[rows]) for rows in mixed]
    return lambda weight: np.average(aucs, weights=[weight[rows].sum() for rows in mixed])


def standard_error(found):
    low, high = found.interval
    return (high - low) / 2 / statistics.NormalDist().inv_cdf(0.975)


def build_scores(seed=0, **changes):
    """Returns impressions of 100 groups with all tasks."""
    rng = np.random.default_rng(seed)
    ctr, cvr = rng.normal(-0.5, 1, (2, 600)).astype(np.float32)
    click = (rng.random(600) < sigmoid(ctr)).astype(np.uint8)
    fields = {
        "ctr_logits": ctr,
        "cvr_logits": cvr,
        "click": click,
        "conversion": click & (rng.random(600) < sigmoid(cvr)),
        "groups": np.repeat(np.arange(100), 6),
    }
    return Scores(**fields | changes)


@pytest.fixture
def saved(tmp_path):
    """Returns scores and the path of their evaluation, both written."""
    scores, path = build_scores(), str(tmp_path / "evaluation.json")
    files.write_json(evaluation.evaluate_scores(scores).evaluation.to_json(), path)
    write_scores(scores, path)
    return scores, path


@pytest.mark.parametrize("name", ["auc", "average_precision", "log_loss", "calibration", "gauc"])
def test_the_interval_of_a_difference_is_that_of_a_bootstrap_of_groups(name):
    labels, groups, models = simulate(3)

    found = compare_with_baseline(*(measure(logits, labels, groups) for logits in models))["ctr"][
        name
    ]

    metrics = [metric_of(name, logits, labels, groups) for logits in models]
    first, second = (metric(np.ones(len(labels))) for metric in metrics)
    assert found.baseline == pytest.approx(second, rel=1e-9)
    assert found.difference == pytest.approx(first - second, rel=1e-6)
    rng = np.random.default_rng(4)
    differences = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, NUM_GROUPS, NUM_GROUPS)
        weight = np.bincount(drawn, minlength=NUM_GROUPS)[groups]
        differences.append(metrics[0](weight) - metrics[1](weight))
    assert standard_error(found) == pytest.approx(np.std(differences, ddof=1), rel=0.15)
    assert np.mean(found.interval) == pytest.approx(found.difference)


def test_the_interval_of_a_difference_is_narrower_than_those_of_the_two_values():
    labels, groups, models = simulate(5)
    first, second = (measure(logits, labels, groups) for logits in models)

    found = compare_with_baseline(first, second)["ctr"]

    for name in ("auc", "log_loss", "normalized_entropy"):
        errors = [m["ctr"].estimates[name].standard_error for m in (first, second)]
        assert 0 < standard_error(found[name]) < 0.7 * math.hypot(*errors)


def test_the_p_value_is_that_of_the_normal_distribution():
    labels, groups, models = simulate(6)

    found = compare_with_baseline(*(measure(logits, labels, groups) for logits in models))["ctr"][
        "log_loss"
    ]

    ratio = abs(found.difference) / standard_error(found)
    expected = 2 * statistics.NormalDist().cdf(-ratio)
    assert found.p_value == pytest.approx(expected, rel=1e-6)
    assert found.difference < 0  # the first model has less noise
    assert found.p_value < 0.05


@pytest.mark.parametrize("name", ["auc", "log_loss"])
def test_of_equally_good_models_p_values_are_uniform(name):
    found = []
    for seed in range(200):
        labels, groups, models = simulate(100 + seed, num_groups=80, noise=(0.7, 0.7))
        result = compare_with_baseline(*(measure(logits, labels, groups) for logits in models))
        found.append(result["ctr"][name].p_value)

    # Of 200 draws at 5 %, 2 to 20 with a probability of 99.8 %; the mean lies in .5 +- 3 * .0204.
    p_values = np.array(found)
    assert 2 <= (p_values < 0.05).sum() <= 20
    assert 0.44 < p_values.mean() < 0.56


def test_a_model_does_not_differ_from_itself():
    scores = build_scores()

    found = compare_with_baseline(
        evaluation.measure_tasks(scores), evaluation.measure_tasks(scores)
    )

    assert list(found) == ["ctr", "cvr_clicked", "ctcvr"]
    assert {"auc", "gauc", "average_precision", "log_loss", "calibration"} <= set(found["ctr"])
    for metrics in found.values():
        for values in metrics.values():
            assert values.difference == 0
            assert values.interval is None
            assert values.p_value is None


def test_what_the_truth_alone_gives_is_not_compared():
    truth = np.full(600, 0.25, np.float32)
    scores = build_scores(oracle={"oracle_pctr": truth, "oracle_pcvr": truth})
    other = scores.with_logits(scores.cvr_logits, scores.ctr_logits)

    found = compare_with_baseline(evaluation.measure_tasks(scores), evaluation.measure_tasks(other))

    assert "cvr_entire" in found
    assert {"regret", "bias"} <= set(found["ctr"])
    assert not [name for name in found["ctr"] if name.startswith("oracle_")]


def test_a_difference_of_what_is_not_defined_is_none():
    none = np.zeros(600, np.uint8)
    scores = build_scores(click=none, conversion=none)
    other = scores.with_logits(scores.cvr_logits, scores.ctr_logits)

    found = compare_with_baseline(evaluation.measure_tasks(scores), evaluation.measure_tasks(other))

    nothing = MetricDifference(baseline=None, difference=None, interval=None, p_value=None)
    assert found["ctr"]["auc"] == nothing
    assert found["cvr_clicked"]["log_loss"] == nothing
    # Without ten groups with a click the loss has a value, but nothing tells how far it varies.
    assert found["ctr"]["log_loss"].difference == pytest.approx(
        np.logaddexp(0, scores.ctr_logits.astype(np.float64)).mean()
        - np.logaddexp(0, scores.cvr_logits.astype(np.float64)).mean()
    )
    assert found["ctr"]["log_loss"].interval is None


def test_scores_are_read_as_they_were_written(saved):
    scores, path = saved
    now = scores.with_logits(scores.cvr_logits, scores.ctr_logits)

    before = load_scores(path, now)

    np.testing.assert_array_equal(before.ctr_logits, scores.ctr_logits)
    np.testing.assert_array_equal(before.cvr_logits, scores.cvr_logits)
    assert before.ctr_logits.dtype == np.float32
    assert before.click is now.click
    assert before.groups is now.groups


def test_scores_take_8_bytes_an_impression_beside_the_evaluation(saved, tmp_path):
    scores, _ = saved

    size = (tmp_path / "evaluation.scores.npz").stat().st_size

    assert sorted(os.listdir(tmp_path)) == ["evaluation.json", "evaluation.scores.npz"]
    assert 0 < size - 8 * len(scores) < 2000


@pytest.mark.parametrize("content", ["no json", "{}", "[]", '{"format_version": 2}'])
def test_a_baseline_that_is_no_evaluation_is_refused(tmp_path, content):
    path = tmp_path / "evaluation.json"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(
        UserError, match=r"evaluation\.json is damaged \(.*\)\. Evaluate that model"
    ):
        load_scores(str(path), build_scores())


def test_a_baseline_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"which is not there\. Name an evaluation\.json\.$"):
        load_scores(str(tmp_path / "evaluation.json"), build_scores())


def test_a_baseline_of_another_format_is_refused(saved):
    scores, path = saved
    files.write_json({"format_version": 1, "impressions": 600}, path)

    with pytest.raises(UserError, match=r"has format_version 1; this release reads 2\. Evaluate"):
        load_scores(path, scores)


@pytest.mark.parametrize("content", [None, b"", b"no archive", "cut short", "of other arrays"])
def test_a_baseline_without_its_scores_is_refused(saved, content):
    scores, path = saved
    file = baseline.scores_path(path)
    if content is None:
        os.remove(file)
    elif content == "cut short":
        os.truncate(file, 1000)
    elif content == "of other arrays":
        np.savez(file, ctr_logits=scores.ctr_logits)
    else:
        with open(file, "wb") as empty:
            empty.write(content)
    message = r"its scores are not in '.*evaluation\.scores\.npz'\. Keep .* --baseline_model_dir"

    with pytest.raises(UserError, match=message):
        load_scores(path, scores)


@pytest.mark.parametrize("changes", [{"click": np.ones(600, np.uint8)}, {"weight": np.ones(600)}])
def test_a_baseline_of_as_many_other_impressions_is_refused(saved, changes):
    _, path = saved

    with pytest.raises(UserError, match=r"an evaluation of other impressions\. Evaluate both"):
        load_scores(path, build_scores(**changes))


def test_what_is_wrong_with_a_baseline_is_known_without_the_scores_of_the_model(saved):
    _, path = saved
    check_baseline(path, 600)

    with pytest.raises(UserError, match=r"an evaluation of other impressions"):
        check_baseline(path, 601)
    remove_scores(path)
    with pytest.raises(UserError, match=r"its scores are not in"):
        check_baseline(path, 600)


def test_scores_that_are_not_there_are_removed_without_a_word(tmp_path):
    remove_scores(str(tmp_path / "evaluation.json"))

    assert os.listdir(tmp_path) == []


def test_a_write_that_fails_keeps_the_older_scores(saved, monkeypatch):
    scores, path = saved
    other = scores.with_logits(scores.cvr_logits, scores.ctr_logits)

    def fail(file, **_):
        file.write(b"the first bytes")
        raise OSError("disk is full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_scores(other, path)

    np.testing.assert_array_equal(load_scores(path, other).ctr_logits, scores.ctr_logits)
