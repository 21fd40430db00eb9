"""Reliability tables, ROC, precision and recall, and histograms of scores."""

import numpy as np
import pytest
from sklearn import metrics as reference

from esmm_tf.metrics import curves
from esmm_tf.metrics.curves import PrecisionRecall, Roc
from esmm_tf.metrics.task import Space


def build_space(logits, labels, weight=None, groups=None):
    """Returns a space; without weights, positives and negatives are counts as small as bytes."""
    labels = np.asarray(labels, np.uint8)
    if weight is None:
        positives, negatives = labels, 1 - labels
    else:
        positives, negatives = weight * labels, weight * (1 - labels)
    return Space(
        logits=np.asarray(logits, np.float32),
        positives=positives,
        negatives=negatives,
        num_positives=float(labels.sum()),
        groups=groups,
    )


def simulate_space(num_rows, seed=0, *, decimals=9, weighted=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, num_rows).round(decimals)
    labels = rng.random(num_rows) < sigmoid(logits)
    return build_space(logits, labels, rng.uniform(0.1, 3, num_rows) if weighted else None)


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def logit(share):
    return np.log(share / (1 - share))


def points(first, second):
    """Returns the points of a curve, rounded as a plot holds them."""
    return list(zip(np.round(first, 6).tolist(), np.round(second, 6).tolist(), strict=True))


def test_a_bin_of_the_reliability_table_holds_mean_prediction_and_mean_label():
    # Two levels of equal mass: the bins of a quarter and of three quarters of all.
    logits = [logit(0.25)] * 4 + [logit(0.75)] * 4

    low, high = curves.reliability(build_space(logits, [0, 0, 0, 1, 1, 1, 0, 1]))

    assert low.mean_prediction == pytest.approx(0.25, rel=1e-6)
    assert low.mean_label == 0.25
    assert high.mean_prediction == pytest.approx(0.75, rel=1e-6)
    assert high.mean_label == 0.75
    assert [(row.impressions, row.weight) for row in (low, high)] == [(4, 4.0), (4, 4.0)]


def test_the_reliability_table_weighs_predictions_and_labels():
    logits = [logit(0.2), logit(0.2), logit(0.9)]
    weight = np.array([3.0, 1.0, 4.0])

    low, high = curves.reliability(build_space(logits, [1, 0, 1], weight))

    assert low.mean_label == 0.75
    assert low.mean_prediction == pytest.approx(0.2, rel=1e-6)
    assert (low.impressions, low.weight) == (2, 4.0)
    assert (high.impressions, high.weight) == (1, 4.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_bins_of_the_reliability_table_rise_and_weigh_about_the_same(weighted):
    space = simulate_space(5000, weighted=weighted)

    table = curves.reliability(space)

    weight = np.array([row.weight for row in table])
    np.testing.assert_allclose(weight, weight.sum() / 20, rtol=0.02)
    assert weight.sum() == pytest.approx((space.positives + space.negatives).sum())
    assert sum(row.impressions for row in table) == 5000
    assert (np.diff([row.mean_prediction for row in table]) > 0).all()
    labelled = sum(row.mean_label * row.weight for row in table)
    assert labelled == pytest.approx(space.positives.sum())
    assert all(low < row.mean_label < high for row in table for low, high in [row.label_interval])


def test_equal_scores_share_a_bin():
    space = build_space([0.5] * 30 + [1.5] * 10, [0, 1] * 20)

    table = curves.reliability(space)

    assert [row.impressions for row in table] == [30, 10]


def test_the_interval_of_a_mean_label_is_that_of_a_share():
    labels = np.tile([1, 0, 0, 0], 100)

    (row,) = curves.reliability(build_space(np.zeros(400), labels))

    # The delta method on the logit of p = 1/4 of n = 400: 1.96 / sqrt(n p (1 - p)).
    step = 1.959964 / np.sqrt(400 * 0.25 * 0.75) * np.sqrt(400 / 399)
    expected = sigmoid([logit(0.25) - step, logit(0.25) + step])
    assert row.label_interval == pytest.approx(expected, rel=1e-6)


def test_groups_of_equal_labels_make_the_interval_of_a_mean_label_wider():
    labels = np.repeat(np.tile([1, 0, 0, 0], 100), 4)
    groups = np.repeat(np.arange(400), 4)

    (alone,) = curves.reliability(build_space(np.zeros(1600), labels))
    (grouped,) = curves.reliability(build_space(np.zeros(1600), labels, groups=groups))

    def width(row):
        low, high = logit(np.array(row.label_interval))
        return high - low

    # 400 draws and not 1,600: twice as wide, but for the factor of n / (n - 1).
    factor = np.sqrt(400 / 399 / (1600 / 1599))
    assert width(grouped) == pytest.approx(2 * factor * width(alone), rel=1e-9)


def test_groups_that_lie_in_several_bins_are_heeded_in_each():
    labels = np.tile([1, 0], 100)
    logits = np.tile([1.0, 1.0, -1.0, -1.0], 50)
    groups = np.repeat(np.arange(50), 4) * 3  # with gaps, as a bin sees them

    table = curves.reliability(build_space(logits, labels, groups=groups))

    # Each group has one positive and one negative in either bin, so that none moves the mean.
    assert [row.mean_label for row in table] == [0.5, 0.5]
    assert [row.label_interval for row in table] == [None, None]


@pytest.mark.parametrize("label", [0, 1])
def test_a_mean_label_of_none_or_all_has_no_interval(label):
    (row,) = curves.reliability(build_space(np.zeros(20), [label] * 20))

    assert row.mean_label == label
    assert row.label_interval is None


def test_rows_without_weight_make_no_bin():
    space = build_space([0.0, 1.0], [1, 0], np.array([0.0, 2.0]))

    (row,) = curves.reliability(space)

    assert (row.mean_label, row.impressions, row.weight) == (0.0, 1, 2.0)


@pytest.mark.parametrize("decimals", [9, 1], ids=["distinct", "ties"])
@pytest.mark.parametrize("weighted", [False, True])
def test_points_of_the_roc_curve_are_those_of_scikit_learn(decimals, weighted):
    space = simulate_space(3000, decimals=decimals, weighted=weighted)

    found = curves.roc(space)

    false, true, _ = reference.roc_curve(
        space.positives > 0,
        space.logits,
        sample_weight=space.positives + space.negatives,
        drop_intermediate=False,
    )
    shown = points(found.false_positive_rate, found.true_positive_rate)
    assert_near_points(shown, points(false, true))
    assert shown[0] == (0.0, 0.0)
    assert shown[-1] == (1.0, 1.0)
    assert 50 < len(shown) <= curves.MAX_POINTS
    assert shown == sorted(shown)


@pytest.mark.parametrize("decimals", [9, 1], ids=["distinct", "ties"])
@pytest.mark.parametrize("weighted", [False, True])
def test_points_of_precision_against_recall_are_those_of_scikit_learn(decimals, weighted):
    space = simulate_space(3000, decimals=decimals, weighted=weighted)

    found = curves.precision_recall(space)

    precision, recall, _ = reference.precision_recall_curve(
        space.positives > 0, space.logits, sample_weight=space.positives + space.negatives
    )
    shown = points(found.recall, found.precision)
    assert_near_points(shown, points(recall, precision))
    # From the highest score alone to all rows, whose precision is the mean label.
    assert_near_points([shown[0]], [(round(recall[-2], 6), round(precision[-2], 6))])
    rate = space.positives.sum() / (space.positives + space.negatives).sum()
    assert shown[-1] == (1.0, pytest.approx(rate, abs=1e-6))
    assert 50 < len(shown) <= curves.MAX_POINTS
    assert found.recall == sorted(found.recall)


def assert_near_points(shown, known):
    """Checks that each point is one of those known, up to the last digit."""
    shown, known = np.array(shown), np.array(known)
    distance = np.abs(shown[:, np.newaxis] - known).max(axis=2).min(axis=1)
    assert distance.max() < 2e-6


def test_the_area_under_the_points_is_about_that_under_the_curve():
    space = simulate_space(20_000)

    found = curves.roc(space)

    area = reference.auc(found.false_positive_rate, found.true_positive_rate)
    exact = reference.roc_auc_score(space.positives, space.logits)
    assert area == pytest.approx(exact, abs=1e-3)


def test_a_short_curve_has_all_its_points():
    space = build_space([3.0, 2.0, 2.0, 1.0], [1, 0, 1, 0])

    assert curves.roc(space) == Roc(
        false_positive_rate=[0.0, 0.0, 0.5, 1.0], true_positive_rate=[0.0, 0.5, 1.0, 1.0]
    )
    assert curves.precision_recall(space) == PrecisionRecall(
        recall=[0.5, 1.0, 1.0], precision=[1.0, round(2 / 3, 6), 0.5]
    )


def test_one_class_alone_has_no_roc_curve_and_without_positives_there_is_no_recall():
    nothing = PrecisionRecall(recall=[], precision=[])
    no_roc = Roc(false_positive_rate=[], true_positive_rate=[])
    positives, negatives = build_space([1.0, 2.0], [1, 1]), build_space([1.0, 2.0], [0, 0])

    assert curves.roc(positives) == no_roc
    assert curves.roc(negatives) == no_roc
    assert curves.precision_recall(negatives) == nothing
    assert curves.precision_recall(positives) == PrecisionRecall(
        recall=[0.5, 1.0], precision=[1.0, 1.0]
    )


def test_no_rows_have_no_curves():
    space = build_space([], [])

    assert curves.reliability(space) == []
    assert curves.roc(space) == Roc(false_positive_rate=[], true_positive_rate=[])
    assert curves.precision_recall(space) == PrecisionRecall(recall=[], precision=[])


@pytest.mark.parametrize("weighted", [False, True])
def test_a_histogram_holds_the_weight_of_clicked_and_unclicked_impressions(weighted):
    rng = np.random.default_rng(2)
    logits = rng.normal(-1, 2, 500).astype(np.float32)
    click = (rng.random(500) < 0.25).astype(np.uint8)
    weight = rng.uniform(0.5, 2, 500).astype(np.float32)

    found = curves.histogram(logits, click, weight if weighted else None)

    edges = np.array(found.logit_edges)
    of_row = np.float64(weight) if weighted else np.ones(500)
    inside = (edges[:-1, np.newaxis] <= logits) & (logits < edges[1:, np.newaxis])
    inside[-1] |= logits == logits.max()
    for name, label in (("clicked", 1), ("unclicked", 0)):
        np.testing.assert_allclose(
            getattr(found, name), inside @ (of_row * (click == label)), rtol=1e-5
        )
        assert sum(getattr(found, name)) == pytest.approx(of_row[click == label].sum(), rel=1e-5)
    assert (edges[0], edges[-1]) == (logits.min(), logits.max())
    assert len(edges) == len(found.clicked) + 1 == curves.HISTOGRAM_BINS + 1


def test_extreme_logits_stand_in_the_outermost_bins():
    logits = np.array([-1e9, -31, 0, 2, 1e9], np.float32)

    found = curves.histogram(logits, np.array([0, 0, 0, 1, 1], np.uint8), None)

    assert (found.logit_edges[0], found.logit_edges[-1]) == (-30.0, 30.0)
    assert (found.unclicked[0], found.clicked[-1]) == (2, 1)
    assert (sum(found.unclicked), sum(found.clicked)) == (3, 2)


def test_equal_logits_stand_in_one_bin():
    found = curves.histogram(np.full(7, 2.5, np.float32), np.ones(7, np.uint8), None)

    assert sorted(found.clicked)[-2:] == [0, 7]
    assert found.logit_edges[0] < 2.5 < found.logit_edges[-1]


@pytest.mark.parametrize("logit", [-30.0, 1.0, 29.99])
def test_logits_that_float32_hardly_tells_apart_stand_in_bins_about_them(logit):
    logits = np.float32([logit, np.nextafter(np.float32(logit), np.float32(0))])

    found = curves.histogram(logits, np.array([1, 0], np.uint8), None)

    assert sum(found.clicked) == sum(found.unclicked) == 1
    assert found.logit_edges[0] < logit < found.logit_edges[-1]


def test_no_logits_make_an_empty_histogram():
    found = curves.histogram(np.zeros(0, np.float32), np.zeros(0, np.uint8), None)

    assert sum(found.clicked) == sum(found.unclicked) == 0
    assert len(found.logit_edges) == curves.HISTOGRAM_BINS + 1
