"""A space measured: which metrics there are, their intervals, and what the truth adds."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from esmm_tf.metrics import exact, task
from esmm_tf.metrics.intervals import DIFFERENCE, RATIO, SHARE
from esmm_tf.metrics.ranking import Ranking
from esmm_tf.metrics.task import Space

ALWAYS = {
    "auc": SHARE,
    "average_precision": SHARE,
    "log_loss": RATIO,
    "normalized_entropy": RATIO,
    "calibration": RATIO,
    "expected_calibration_error": RATIO,
}
WITH_TRUTH = {
    "oracle_auc": SHARE,
    "way_to_oracle": DIFFERENCE,
    "oracle_log_loss": RATIO,
    "regret": DIFFERENCE,
    "bias": DIFFERENCE,
}


def build_space(seed=0, *, num_rows=500, weighted=False, **changes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1, num_rows).astype(np.float32)
    truth = exact.sigmoid(logits + 0.3 * rng.normal(size=num_rows))
    labels = (rng.random(num_rows) < truth).astype(np.uint8)
    weight = rng.uniform(0.5, 2, num_rows) if weighted else np.ones(num_rows)
    fields = {
        "logits": logits,
        "positives": weight * labels if weighted else labels,
        "negatives": weight * (1 - labels) if weighted else 1 - labels,
        "num_positives": float(labels.sum()),
    }
    return Space(**fields | changes)


def test_every_space_has_these_metrics():
    measured = task.measure(build_space())

    assert {name: found.kind for name, found in measured.estimates.items()} == ALWAYS
    assert measured.counts == {"impressions": 500, "positives": measured.counts["positives"]}
    assert 100 < measured.counts["positives"] < 200


@pytest.mark.parametrize("weighted", [False, True])
def test_each_metric_stands_under_its_own_name(weighted):
    space = build_space(weighted=weighted)
    labels = space.positives > 0
    weight = space.positives + space.negatives
    probability = exact.sigmoid(space.logits)

    estimates = task.measure(space).estimates

    loss = reference.log_loss(labels, probability, sample_weight=weight)
    rate = np.average(labels, weights=weight)
    expected = {
        "auc": reference.roc_auc_score(labels, space.logits, sample_weight=weight),
        "average_precision": reference.average_precision_score(
            labels, space.logits, sample_weight=weight
        ),
        "log_loss": loss,
        "normalized_entropy": loss / exact.entropy(rate),
        "calibration": np.average(probability, weights=weight) / rate,
    }
    for name, value in expected.items():
        assert estimates[name].value == pytest.approx(value, rel=1e-12), name
        low, high = estimates[name].interval()
        assert low < value < high


def test_the_calibration_error_is_that_of_twenty_bins_of_the_score():
    space = build_space()
    order = np.argsort(space.logits, kind="stable")
    error = (exact.sigmoid(space.logits) - space.positives)[order]

    found = task.measure(space).estimates["expected_calibration_error"]

    by_bin = error.reshape(20, 25).sum(axis=1)
    assert found.value == pytest.approx(np.abs(by_bin).sum() / 500, rel=1e-12)


def test_gauc_needs_groups_and_hard_labels():
    groups = np.arange(500) // 5

    grouped = task.measure(build_space(groups=groups))
    soft = task.measure(build_space(groups=groups, has_gauc=False))

    space = build_space()
    gauc, _, counted, skipped = exact.grouped_auc(space.ranking, groups)
    assert grouped.estimates["gauc"].value == gauc
    assert grouped.estimates["gauc"].interval()[0] < gauc
    assert grouped.counts["gauc_groups"] == counted
    assert grouped.counts["gauc_groups_skipped"] == skipped
    assert "gauc" not in soft.estimates
    assert "gauc_groups" not in soft.counts


def test_groups_that_hold_alike_rows_widen_the_intervals():
    space = build_space(num_rows=200)
    fields = {
        "logits": np.repeat(space.logits, 4),
        "positives": np.repeat(space.positives, 4),
        "negatives": np.repeat(space.negatives, 4),
        "num_positives": 4 * space.num_positives,
    }

    rows = task.measure(Space(**fields)).estimates
    groups = task.measure(Space(**fields, groups=np.arange(800) // 4)).estimates

    # Four copies of a row tell no more than one: the error is twice that of as many real rows.
    for name in ALWAYS:
        assert groups[name].value == rows[name].value
        ratio = groups[name].standard_error / rows[name].standard_error
        assert ratio == pytest.approx(2, rel=0.01), name


@pytest.mark.parametrize(("num_positives", "is_known"), [(9, False), (10, True)])
def test_fewer_than_ten_positives_have_no_interval(num_positives, is_known):
    labels = np.zeros(100, np.uint8)
    labels[:num_positives] = 1
    space = build_space(num_rows=100, positives=labels, negatives=1 - labels)

    estimates = task.measure(space).estimates

    assert all(math.isfinite(found.value) for found in estimates.values())
    assert [found.interval() is not None for found in estimates.values()] == [is_known] * 6


def test_positives_of_one_group_have_no_interval():
    labels = (np.arange(100) < 30).astype(np.uint8)
    groups = np.where(labels == 1, 0, np.arange(100))
    space = build_space(num_rows=100, positives=labels, negatives=1 - labels, groups=groups)

    estimates = task.measure(space).estimates

    assert [found.interval() for found in estimates.values()] == [None] * 7


def test_the_truth_tells_how_far_a_model_is_from_the_best():
    truth = exact.sigmoid(np.random.default_rng(1).normal(-1, 1, 500))
    space = build_space(truth=truth)
    labels = space.positives

    estimates = task.measure(space).estimates

    assert {name: found.kind for name, found in estimates.items()} == ALWAYS | WITH_TRUTH
    best = reference.roc_auc_score(labels, truth)
    value = {name: found.value for name, found in estimates.items()}
    assert value["oracle_auc"] == pytest.approx(best, rel=1e-12)
    assert value["way_to_oracle"] == pytest.approx((value["auc"] - 0.5) / (best - 0.5), rel=1e-12)
    assert value["oracle_log_loss"] == pytest.approx(reference.log_loss(labels, truth), rel=1e-12)
    regret = value["log_loss"] - value["oracle_log_loss"]
    assert value["regret"] == pytest.approx(regret, rel=1e-12)
    bias = exact.sigmoid(space.logits).mean() - truth.mean()
    assert value["bias"] == pytest.approx(bias, rel=1e-12)


def test_the_truth_itself_has_no_regret_and_no_bias():
    space = build_space()
    truth = exact.sigmoid(space.logits)

    estimates = task.measure(build_space(truth=truth)).estimates

    assert estimates["way_to_oracle"].value == 1
    assert estimates["regret"].value == pytest.approx(0, abs=1e-12)
    assert estimates["bias"].value == pytest.approx(0, abs=1e-15)


def test_labels_known_as_probabilities_measure_the_entire_space():
    truth = exact.sigmoid(np.random.default_rng(2).normal(-1, 1, 300))
    space = build_space(
        num_rows=300, positives=truth, negatives=1 - truth, truth=truth, has_gauc=False
    )

    estimates = task.measure(space).estimates

    # The regret is the mean Kullback-Leibler divergence: never below zero.
    p = exact.sigmoid(space.logits)
    divergence = truth * np.log(truth / p) + (1 - truth) * np.log((1 - truth) / (1 - p))
    assert estimates["regret"].value == pytest.approx(divergence.mean(), rel=1e-9)


def test_a_truth_that_ranks_like_chance_leaves_no_way_to_go():
    estimates = task.measure(build_space(truth=np.full(500, 0.5))).estimates

    assert estimates["oracle_auc"].value == 0.5
    assert math.isnan(estimates["way_to_oracle"].value)
    assert estimates["way_to_oracle"].interval() is None


def test_the_influence_of_the_way_is_its_slope():
    truth = exact.sigmoid(np.random.default_rng(3).normal(-1, 1, 80))
    space = build_space(num_rows=80, weighted=True, truth=truth)
    step = 1e-6

    def way(row, factor):
        sides = [side.copy() for side in (space.positives, space.negatives)]
        for side in sides:
            side[row] *= factor
        auc, best = (exact.auc(Ranking(s, *sides))[0] for s in (space.logits, truth))
        return (auc - 0.5) / (best - 0.5)

    found = task.measure(space).estimates["way_to_oracle"].influence

    slopes = [(way(row, 1 + step) - way(row, 1 - step)) / (2 * step) for row in range(80)]
    np.testing.assert_allclose(found, slopes, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("num_rows", [0, 3])
def test_a_space_without_positives_has_counts_and_no_ranking(num_rows):
    nothing = np.zeros(num_rows, np.uint8)
    space = build_space(
        num_rows=num_rows,
        positives=nothing,
        negatives=nothing + 1,
        num_positives=0.0,
        groups=np.zeros(num_rows, np.int32),
    )

    measured = task.measure(space)

    assert measured.counts["impressions"] == num_rows
    assert measured.counts["positives"] == 0
    undefined = {name for name, found in measured.estimates.items() if math.isnan(found.value)}
    expected = {"auc", "average_precision", "normalized_entropy", "calibration", "gauc"}
    if num_rows == 0:
        expected |= {"log_loss", "expected_calibration_error"}
    assert undefined == expected
