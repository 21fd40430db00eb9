"""Intervals from influences: by hand, against a bootstrap by group, and as often right as said."""

import math

import numpy as np
import pytest

from esmm_tf.metrics import exact, intervals
from esmm_tf.metrics.intervals import DIFFERENCE, RATIO, SHARE, Clusters, Estimate
from esmm_tf.metrics.ranking import Ranking

Z = 1.959963984540054


def estimate(value, influence=(0.03, -0.04), kind=DIFFERENCE):
    return Estimate(value=value, influence=np.array(influence), kind=kind)


def simulate(seed, *, num_groups=300, spread=1.0):
    """Returns scores, labels and groups; what a group's impressions share is in both."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), rng.integers(1, 12, num_groups))
    shared = spread * rng.normal(size=num_groups)[groups]
    scores = shared + rng.normal(size=len(groups)) - 1
    labels = (rng.random(len(groups)) < 1 / (1 + np.exp(-scores - 0.5 * shared))).astype(np.uint8)
    return scores, labels, groups


def auc_estimate(scores, labels, groups):
    value, influence = exact.auc(Ranking(scores, labels, 1 - labels))
    clusters = intervals.clusters_of(groups)
    return Estimate(value=value, influence=clusters.sum(influence), kind=SHARE)


def test_a_difference_lies_in_the_middle_of_its_interval():
    low, high = estimate(0.5).interval()

    error = math.sqrt((0.03**2 + 0.04**2) * 2)
    assert estimate(0.5).standard_error == pytest.approx(error, rel=1e-12)
    assert (low, high) == pytest.approx((0.5 - Z * error, 0.5 + Z * error), rel=1e-12)


def test_the_interval_of_a_share_is_symmetric_in_its_logit_and_stays_within_0_and_1():
    low, high = estimate(0.98, kind=SHARE).interval()

    def logit(p):
        return math.log(p / (1 - p))

    assert logit(0.98) - logit(low) == pytest.approx(logit(high) - logit(0.98), rel=1e-9)
    error = estimate(0.98).standard_error
    assert logit(high) - logit(0.98) == pytest.approx(Z * error / (0.98 * 0.02), rel=1e-9)
    assert 0 < low < 0.98 < high < 1


def test_the_interval_of_a_ratio_is_symmetric_in_its_logarithm_and_stays_above_0():
    low, high = estimate(0.1, kind=RATIO).interval()

    assert low * high == pytest.approx(0.1**2, rel=1e-9)
    assert math.log(high / 0.1) == pytest.approx(Z * estimate(0.1).standard_error / 0.1, rel=1e-9)


def test_the_interval_of_an_unlikely_ratio_is_wide_and_finite():
    low, high = estimate(1e-9, kind=RATIO).interval()

    assert 0 <= low < high < math.inf


@pytest.mark.parametrize(
    "unknown",
    [
        estimate(0.5, influence=(0.0, 0.0)),
        estimate(0.5, influence=(0.1,)),
        estimate(0.5, influence=()),
        estimate(math.nan),
        estimate(0.5, influence=(math.nan, 0.1)),
    ],
    ids=["no spread", "one cluster", "no cluster", "no value", "unknown influence"],
)
@pytest.mark.parametrize("kind", [SHARE, RATIO, DIFFERENCE])
def test_what_tells_nothing_of_its_spread_has_neither_interval_nor_p_value(unknown, kind):
    unknown = Estimate(value=unknown.value, influence=unknown.influence, kind=kind)

    assert unknown.interval() is None
    assert unknown.p_value() is None


def test_a_p_value_is_that_of_the_normal_distribution():
    error = estimate(0.0).standard_error

    assert estimate(0.0).p_value() == 1.0
    assert estimate(Z * error).p_value() == pytest.approx(0.05, rel=1e-9)
    assert estimate(-Z * error).p_value() == pytest.approx(0.05, rel=1e-9)


def test_what_two_metrics_share_cancels_out():
    difference = estimate(0.7, (0.5, -0.5), SHARE).minus(estimate(0.6, (0.5, -0.4), SHARE))

    assert difference.value == pytest.approx(0.1, rel=1e-12)
    assert difference.influence == pytest.approx([0.0, -0.1], abs=1e-15)
    assert difference.kind == DIFFERENCE


def test_groups_are_numbered_from_0_without_gaps():
    numbers = intervals.number_groups(np.array([2**62, 5, 5, -9, 2**62, 5]))

    assert numbers.tolist() == [2, 1, 1, 0, 2, 1]
    assert numbers.dtype == np.int32
    assert intervals.number_groups(np.zeros(0, np.int64)).tolist() == []


def test_influences_are_summed_within_groups():
    clusters = intervals.clusters_of(np.array([0, 2, 0, 2, 2]))

    assert clusters.sum(np.arange(5.0)).tolist() == [2.0, 0.0, 8.0]
    assert clusters.sum_groups(np.array([4.0, 5.0, 6.0])).tolist() == [4.0, 5.0, 6.0]


def test_more_groups_than_clusters_are_spread_over_them(monkeypatch):
    monkeypatch.setattr(intervals, "MAX_CLUSTERS", 4)

    clusters = intervals.clusters_of(np.array([0, 1, 2, 3, 4, 9]))

    assert clusters.number == 4
    assert clusters.sum(np.arange(1.0, 7.0)).tolist() == [1 + 5, 2 + 6, 3, 4]
    assert clusters.sum_groups(np.arange(1.0, 7.0)).tolist() == [1 + 5, 2 + 6, 3, 4]


def test_groups_at_the_end_without_an_influence_have_none():
    clusters = Clusters(index=np.array([0, 3]), number=4)

    assert clusters.sum_groups(np.array([7.0, 8.0])).tolist() == [7.0, 8.0, 0.0, 0.0]


def test_spreading_groups_over_fewer_clusters_hardly_changes_the_error(monkeypatch):
    scores, labels, groups = simulate(1, num_groups=5000)
    expected = auc_estimate(scores, labels, groups).standard_error

    monkeypatch.setattr(intervals, "MAX_CLUSTERS", 1000)

    assert auc_estimate(scores, labels, groups).standard_error == pytest.approx(expected, rel=0.1)


def test_the_error_of_an_auc_is_that_of_a_bootstrap_by_group():
    scores, labels, groups = simulate(2)
    rows_of = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    rng = np.random.default_rng(3)

    draws = []
    for _ in range(600):
        rows = np.concatenate([rows_of[group] for group in rng.integers(0, 300, 300)])
        draws.append(exact.weighted_auc(scores[rows], labels[rows], 1 - labels[rows]))

    found = auc_estimate(scores, labels, groups)
    assert found.standard_error == pytest.approx(np.std(draws), rel=0.1)
    one_by_one = auc_estimate(scores, labels, np.arange(len(scores)))
    assert one_by_one.standard_error < 0.9 * found.standard_error


def test_95_of_100_intervals_hold_the_truth():
    truth = np.mean([auc_estimate(*simulate(seed, num_groups=4000)).value for seed in range(20)])

    held = 0
    for seed in range(100, 500):
        low, high = auc_estimate(*simulate(seed)).interval()
        held += low <= truth <= high

    # Four standard deviations of a binomial count of 400 around 95 %.
    assert abs(held / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)
