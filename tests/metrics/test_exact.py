"""Exact metrics against scikit-learn, plain loops, arithmetic by hand and small changes of weights.

The checklist that every one of them passes stands at the end.
"""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from esmm_tf.metrics import exact
from esmm_tf.metrics.ranking import Ranking

TIGHT = {"rel": 1e-12, "abs": 0}


def build_rows(seed, *, num_rows=400, ties=False):
    """Returns float64 logits, labels and weights of random rows."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=num_rows)
    logits = np.round(logits * 4) / 4 if ties else logits
    labels = (rng.uniform(size=num_rows) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    return logits, labels, rng.uniform(0.1, 3.0, num_rows)


def pairwise_auc(scores, positives, negatives):
    """Returns the AUC as its definition has it, pair by pair."""
    won = total = 0.0
    for score, positive in zip(scores, positives, strict=True):
        for other, negative in zip(scores, negatives, strict=True):
            total += positive * negative
            won += positive * negative * (1.0 if score > other else 0.5 * (score == other))
    return won / total


def looped_gauc(scores, labels, groups, weights):
    """Returns GAUC and the numbers of counted and skipped groups, group by group."""
    aucs, sizes, skipped = [], [], 0
    for group in sorted(set(groups.tolist())):
        inside = groups == group
        if len(set(labels[inside])) < 2:
            skipped += 1
            continue
        weight = weights[inside]
        aucs.append(reference.roc_auc_score(labels[inside], scores[inside], sample_weight=weight))
        sizes.append(weight.sum())
    return np.average(aucs, weights=sizes), len(aucs), skipped


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_auc_is_that_of_scikit_learn(seed, weighted, ties):
    logits, labels, weights = build_rows(seed, ties=ties)
    weights = weights if weighted else np.ones_like(weights)

    auc = exact.weighted_auc(logits, weights * labels, weights * (1 - labels))

    expected = reference.roc_auc_score(labels, logits, sample_weight=weights)
    assert auc == pytest.approx(expected, **TIGHT)
    assert 0.6 < auc < 0.9


@pytest.mark.parametrize("ties", [False, True])
def test_auc_of_probabilities_as_labels_counts_every_pair(ties):
    logits, _, weights = build_rows(2, num_rows=60, ties=ties)
    truth = np.random.default_rng(3).uniform(size=60)
    positives, negatives = weights * truth, weights * (1 - truth)

    auc = exact.weighted_auc(logits, positives, negatives)

    assert auc == pytest.approx(pairwise_auc(logits, positives, negatives), **TIGHT)


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1.0, 2.0], [0.0, 1.0], 1.0),
        ([2.0, 1.0], [0.0, 1.0], 0.0),
        ([1.0, 1.0], [0.0, 1.0], 0.5),
        ([1.0, 2.0, 2.0, 3.0], [0.0, 1.0, 0.0, 0.0], 0.5),
    ],
)
def test_auc_by_hand(scores, labels, expected):
    labels = np.array(labels)

    auc = exact.weighted_auc(np.array(scores), labels, 1 - labels)

    assert auc == expected


def test_auc_of_many_float32_scores_loses_no_digit_to_float32_sums():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 300_000).astype(np.float32)
    scores = (labels + rng.normal(size=labels.size)).astype(np.float32)

    auc = exact.weighted_auc(scores, labels, 1 - labels)

    assert auc == pytest.approx(reference.roc_auc_score(labels, scores), **TIGHT)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_auc_of_one_class_is_not_defined(label):
    labels = np.full(3, label)

    auc = exact.weighted_auc(np.arange(3.0), labels, 1 - labels)

    assert math.isnan(auc)


def test_auc_of_no_rows_is_not_defined():
    nothing = np.zeros(0)

    assert math.isnan(exact.weighted_auc(nothing, nothing, nothing))


def test_auc_of_a_class_without_weight_is_not_defined():
    labels, weights = np.array([0.0, 1.0]), np.array([1.0, 0.0])

    auc = exact.weighted_auc(np.arange(2.0), weights * labels, weights * (1 - labels))

    assert math.isnan(auc)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_average_precision_is_that_of_scikit_learn(weighted, ties):
    logits, labels, weights = build_rows(12, ties=ties)
    weights = weights if weighted else np.ones_like(weights)

    value, _ = exact.average_precision(Ranking(logits, weights * labels, weights * (1 - labels)))

    expected = reference.average_precision_score(labels, logits, sample_weight=weights)
    assert value == pytest.approx(expected, **TIGHT)


@pytest.mark.parametrize("top", [1.0, 1e-4])
def test_average_precision_of_few_positives_at_the_top_of_many_rows_keeps_its_digits(top):
    rng = np.random.default_rng(14)
    weights = rng.uniform(0.5, 2.0, 1_000_000)
    labels = np.zeros(len(weights), np.uint8)
    labels[[-1, -3, -1000]] = 1
    weights[-5:] *= top
    scores = np.arange(len(weights), dtype=np.float64)

    value, _ = exact.average_precision(Ranking(scores, weights * labels, weights * (1 - labels)))

    expected = reference.average_precision_score(labels, scores, sample_weight=weights)
    assert value == pytest.approx(expected, **TIGHT)


def test_average_precision_by_hand():
    # From above: positive (1/1), negative, positive (2/3), negative.
    labels = np.array([0, 1, 0, 1], np.uint8)

    value, _ = exact.average_precision(Ranking(np.arange(4.0), labels, 1 - labels))

    assert value == pytest.approx((1 + 2 / 3) / 2, **TIGHT)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_gauc_is_that_of_a_loop_over_groups(weighted, ties):
    logits, labels, weights = build_rows(5, ties=ties)
    weights = weights if weighted else np.ones_like(weights)
    groups = np.random.default_rng(6).integers(0, 90, len(logits))
    ranking = Ranking(logits, weights * labels, weights * (1 - labels))

    gauc, influence, counted, skipped = exact.grouped_auc(ranking, groups)

    expected, expected_counted, expected_skipped = looped_gauc(logits, labels, groups, weights)
    assert gauc == pytest.approx(expected, **TIGHT)
    assert (counted, skipped) == (expected_counted, expected_skipped)
    assert len(influence) == groups.max() + 1
    assert counted > 50
    assert skipped > 5


def test_gauc_weighs_a_group_by_its_impressions_and_skips_groups_of_one_label():
    # Group 0 has AUC 1 on 2 impressions, group 1 AUC 3/8 on 4; groups 2 and 4 have one label, and
    # there is no group 3.
    scores = np.array([0.1, 0.9, 0.9, 0.5, 0.2, 0.2, 0.7, 0.8, 0.3])
    labels = np.array([0, 1, 0, 1, 0, 1, 1, 1, 0], np.uint8)
    groups = np.array([0, 0, 1, 1, 1, 1, 2, 2, 4])

    gauc, influence, counted, skipped = exact.grouped_auc(
        Ranking(scores, labels, 1 - labels), groups
    )

    group_1 = (1 + 0.5) / 4
    expected = (2 * 1.0 + 4 * group_1) / 6
    assert gauc == pytest.approx(expected, **TIGHT)
    assert (counted, skipped) == (2, 2)
    by_hand = [2 / 6 * (1 - expected), 4 / 6 * (group_1 - expected), 0, 0, 0]
    assert influence == pytest.approx(by_hand, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("num_rows", "num_groups"), [(0, 0), (3, 3)])
def test_gauc_without_a_group_of_both_labels_is_not_defined(num_rows, num_groups):
    rows = np.arange(num_rows)
    labels = (rows % 2).astype(np.uint8)

    gauc, influence, counted, skipped = exact.grouped_auc(
        Ranking(rows / 2, labels, 1 - labels), rows
    )

    assert math.isnan(gauc)
    assert influence.tolist() == [0.0] * num_groups
    assert (counted, skipped) == (0, num_groups)


@pytest.mark.parametrize("weighted", [False, True])
def test_log_loss_is_that_of_scikit_learn(weighted):
    logits, labels, weights = build_rows(7)
    weights = weights if weighted else np.ones_like(weights)

    loss, _ = exact.log_loss(exact.losses(logits), weights * labels, weights * (1 - labels))

    expected = reference.log_loss(labels, sigmoid(logits), sample_weight=weights)
    assert loss == pytest.approx(expected, **TIGHT)


def test_log_loss_of_probabilities_as_labels_is_their_cross_entropy():
    logits, truth = np.array([0.0, math.log(3.0)]), np.array([0.25, 0.5])

    loss, _ = exact.log_loss(exact.losses(logits), truth, 1 - truth)

    second = -0.5 * math.log(0.75) - 0.5 * math.log(0.25)
    assert loss == pytest.approx((math.log(2.0) + second) / 2, **TIGHT)


def test_losses_of_probabilities_are_those_of_their_logits():
    logits = np.array([-30.0, -1.0, 0.0, 2.0, 9.0])

    of_probability = exact.losses_of_probability(sigmoid(logits))

    for found, expected in zip(of_probability, exact.losses(logits), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_a_certainty_that_fails_costs_much_but_not_all():
    of_positive, of_negative = exact.losses_of_probability(np.array([0.0, 1.0]))

    assert of_positive == pytest.approx([708.4, 0.0], abs=0.1)
    assert of_negative == pytest.approx([0.0, 708.4], abs=0.1)


@pytest.mark.parametrize("weighted", [False, True])
def test_normalized_entropy_is_the_log_loss_over_that_of_the_base_rate(weighted):
    logits, labels, weights = build_rows(8)
    weights = weights if weighted else np.ones_like(weights)
    sides = weights * labels, weights * (1 - labels)

    value, _ = exact.normalized_entropy(exact.log_loss(exact.losses(logits), *sides), *sides)

    base = np.full(len(labels), np.average(labels, weights=weights))
    expected = reference.log_loss(labels, sigmoid(logits), sample_weight=weights)
    expected /= reference.log_loss(labels, base, sample_weight=weights)
    assert value == pytest.approx(expected, **TIGHT)


def test_entropy_is_the_log_loss_of_the_base_rate():
    labels = np.array([1.0, 0.0, 0.0, 0.0, 0.0])

    entropy = exact.entropy(0.2)

    assert entropy == pytest.approx(reference.log_loss(labels, np.full(5, 0.2)), **TIGHT)
    assert exact.entropy(0.5) == pytest.approx(math.log(2.0), **TIGHT)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_entropy_of_certainty_is_zero(rate):
    assert exact.entropy(rate) == 0.0


def test_calibration_and_bias_by_hand():
    probability, weights = np.array([0.5, 0.25, 0.25]), np.array([1.0, 2.0, 1.0])
    positives = weights * [1, 0, 0]

    ratio, _ = exact.calibration(probability, positives, weights - positives)
    bias, _ = exact.bias(probability, positives, weights - positives)

    assert ratio == pytest.approx(1.25 / 1.0, **TIGHT)
    assert bias == pytest.approx((1.25 - 1.0) / 4, **TIGHT)


def test_expected_calibration_error_by_hand():
    # Bin 0: predicted .2 on 2 rows, 0 positives. Bin 1: predicted .5 and .7, both positive.
    probability = np.array([0.2, 0.2, 0.5, 0.7])
    positives = np.array([0, 0, 1, 1], np.uint8)

    value, _ = exact.expected_calibration_error(
        probability, positives, 1 - positives, bins=np.array([0, 0, 1, 1], np.uint8)
    )

    assert value == pytest.approx((2 * 0.2 + 2 * 0.4) / 4, **TIGHT)


def test_bins_rise_with_the_score_and_hold_about_the_same_weight():
    logits, labels, weights = build_rows(9, num_rows=3000)
    ranking = Ranking(logits, weights * labels, weights * (1 - labels))

    bins = exact.equal_mass_bins(ranking, 20)

    assert (np.diff(bins[np.argsort(logits)].astype(int)) >= 0).all()
    mass = np.bincount(bins, weights)
    assert len(mass) == 20
    np.testing.assert_allclose(mass, weights.sum() / 20, rtol=0.03)


def test_equal_scores_share_a_bin():
    scores = np.repeat([1.0, 2.0, 3.0], [70, 10, 20])
    labels = np.ones(100, np.uint8)

    bins = exact.equal_mass_bins(Ranking(scores, labels, 1 - labels), 10)

    assert [set(bins[scores == score].tolist()) for score in (1.0, 2.0, 3.0)] == [{3}, {7}, {9}]


def test_delongs_variance_is_that_of_the_influences():
    logits, labels, _ = build_rows(10)
    positive, negative = logits[labels == 1], logits[labels == 0]
    won = (positive[:, np.newaxis] > negative).astype(np.float64)

    value, influence = exact.auc(Ranking(logits, labels, 1 - labels))

    # DeLong et al. 1988, Eq. 4 to 6, with m and n in place of m - 1 and n - 1.
    variance = won.mean(axis=1).var() / len(positive) + won.mean(axis=0).var() / len(negative)
    assert value == pytest.approx(won.mean(), **TIGHT)
    assert np.square(influence).sum() == pytest.approx(variance, rel=1e-10)


# The checklist. Each metric maps scores, labels and weights to a value and its influences; each
# reference, where scikit-learn has one, maps the same to the value.


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def of_ranking(metric):
    return lambda logits, positives, negatives: metric(Ranking(logits, positives, negatives))


def of_probability(metric):
    return lambda logits, *sides: metric(exact.sigmoid(logits), *sides)


def log_loss(logits, positives, negatives):
    return exact.log_loss(exact.losses(logits), positives, negatives)


def normalized_entropy(logits, positives, negatives):
    loss = log_loss(logits, positives, negatives)
    return exact.normalized_entropy(loss, positives, negatives)


def expected_calibration_error(logits, positives, negatives):
    # The bins are those of the logits alone, so that they stay when a weight changes.
    bins = exact.equal_mass_bins(Ranking(logits, np.ones(len(logits)), np.zeros(len(logits))), 5)
    return exact.expected_calibration_error(exact.sigmoid(logits), positives, negatives, bins=bins)


METRICS = {
    "auc": of_ranking(exact.auc),
    "average_precision": of_ranking(exact.average_precision),
    "log_loss": log_loss,
    "normalized_entropy": normalized_entropy,
    "calibration": of_probability(exact.calibration),
    "bias": of_probability(exact.bias),
    "expected_calibration_error": expected_calibration_error,
}
WITHOUT_BINS = {name: METRICS[name] for name in METRICS if name != "expected_calibration_error"}
every_metric = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
metric_without_bins = pytest.mark.parametrize(
    "metric", WITHOUT_BINS.values(), ids=WITHOUT_BINS.keys()
)


@every_metric
@pytest.mark.parametrize("ties", [False, True])
def test_an_influence_is_the_slope_of_the_value_in_the_weight_of_a_row(metric, ties):
    logits, labels, weights = build_rows(11, num_rows=60, ties=ties)
    value, influence = metric(logits, weights * labels, weights * (1 - labels))
    step = 1e-6

    for row in range(len(logits)):
        moved = []
        for factor in (1 - step, 1 + step):
            changed = weights.copy()
            changed[row] *= factor
            moved.append(metric(logits, changed * labels, changed * (1 - labels))[0])
        slope = (moved[1] - moved[0]) / (2 * step)
        assert influence[row] == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert np.isfinite(value)
    assert np.abs(influence).max() > 1e-4


@every_metric
def test_influences_add_up_to_nothing(metric):
    logits, labels, weights = build_rows(13, ties=True)

    _, influence = metric(logits, weights * labels, weights * (1 - labels))

    assert influence.sum() == pytest.approx(0, abs=1e-12)


@every_metric
def test_a_value_does_not_depend_on_the_scale_of_the_weights(metric):
    logits, labels, weights = build_rows(14)

    value, _ = metric(logits, weights * labels, weights * (1 - labels))
    scaled, _ = metric(logits, 1000 * weights * labels, 1000 * weights * (1 - labels))

    assert scaled == pytest.approx(value, **TIGHT)


@metric_without_bins
def test_a_row_of_weight_zero_counts_for_nothing(metric):
    logits, labels, weights = build_rows(15, num_rows=50)
    weights[::3] = 0
    kept = weights > 0
    sides = weights * labels, weights * (1 - labels)

    value, influence = metric(logits, *sides)
    without, _ = metric(logits[kept], *(side[kept] for side in sides))

    assert value == pytest.approx(without, **TIGHT)
    assert (influence[~kept] == 0).all()


@metric_without_bins
def test_a_weight_of_two_is_a_row_twice(metric):
    logits, labels, _ = build_rows(16, num_rows=50)
    weights = np.random.default_rng(17).integers(1, 4, 50)

    value, _ = metric(logits, weights * labels, weights * (1 - labels))
    repeated = np.repeat(labels, weights)
    expected, _ = metric(np.repeat(logits, weights), repeated, 1 - repeated)

    assert value == pytest.approx(expected, **TIGHT)


@every_metric
def test_small_integers_as_labels_give_what_float64_gives(metric):
    logits, labels, _ = build_rows(18)
    small = labels.astype(np.uint8)

    value, influence = metric(logits.astype(np.float32), small, 1 - small)
    expected = metric(logits.astype(np.float32).astype(np.float64), labels, 1 - labels)

    assert value == pytest.approx(expected[0], **TIGHT)
    np.testing.assert_allclose(influence, expected[1], rtol=1e-9, atol=1e-15)


@every_metric
def test_extreme_logits_give_finite_values(metric):
    logits = np.array([-1000.0, -100.0, 100.0, 1000.0], np.float32)
    labels = np.array([1, 0, 0, 1], np.uint8)

    value, influence = metric(logits, labels, 1 - labels)

    assert np.isfinite(value)
    assert np.isfinite(influence).all()


@every_metric
def test_no_rows_and_no_weight_have_no_value(metric):
    nothing = np.zeros(0)

    assert math.isnan(metric(nothing, nothing, nothing)[0])
    value, influence = metric(np.arange(3.0), np.zeros(3), np.zeros(3))
    assert math.isnan(value)
    assert influence.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", ["auc", "average_precision", "normalized_entropy", "calibration"])
def test_rows_without_positives_have_no_value(name):
    value, influence = METRICS[name](np.arange(3.0), np.zeros(3), np.ones(3))

    assert math.isnan(value)
    assert influence.tolist() == [0, 0, 0]


@every_metric
def test_the_order_of_rows_does_not_matter(metric):
    logits, labels, weights = build_rows(19, ties=True)
    other = np.random.default_rng(20).permutation(len(logits))
    sides = weights * labels, weights * (1 - labels)

    value, influence = metric(logits, *sides)
    moved, moved_influence = metric(logits[other], *(side[other] for side in sides))

    assert moved == pytest.approx(value, **TIGHT)
    np.testing.assert_allclose(moved_influence, influence[other], rtol=1e-9, atol=1e-15)
