"""Exact metrics against scikit-learn, plain loops and arithmetic by hand."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from esmm_tf import exact_metrics

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


def looped_gauc(scores, labels, groups):
    """Returns GAUC and the numbers of counted and skipped groups, group by group."""
    aucs, sizes, skipped = [], [], 0
    for group in sorted(set(groups.tolist())):
        inside = groups == group
        if len(set(labels[inside])) < 2:
            skipped += 1
            continue
        aucs.append(reference.roc_auc_score(labels[inside], scores[inside]))
        sizes.append(inside.sum())
    return np.average(aucs, weights=sizes), len(aucs), skipped


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_auc_is_that_of_scikit_learn(seed, weighted, ties):
    logits, labels, weights = build_rows(seed, ties=ties)
    weights = weights if weighted else np.ones_like(weights)

    auc = exact_metrics.weighted_auc(logits, weights * labels, weights * (1 - labels))

    expected = reference.roc_auc_score(labels, logits, sample_weight=weights)
    assert auc == pytest.approx(expected, **TIGHT)
    assert 0.6 < auc < 0.9


@pytest.mark.parametrize("ties", [False, True])
def test_auc_of_probabilities_as_labels_counts_every_pair(ties):
    logits, _, weights = build_rows(2, num_rows=60, ties=ties)
    truth = np.random.default_rng(3).uniform(size=60)
    positives, negatives = weights * truth, weights * (1 - truth)

    auc = exact_metrics.weighted_auc(logits, positives, negatives)

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

    auc = exact_metrics.weighted_auc(np.array(scores), labels, 1 - labels)

    assert auc == expected


def test_auc_of_many_float32_scores_loses_no_digit_to_float32_sums():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 300_000).astype(np.float32)
    scores = (labels + rng.normal(size=labels.size)).astype(np.float32)

    auc = exact_metrics.weighted_auc(scores, labels, 1 - labels)

    assert auc == pytest.approx(reference.roc_auc_score(labels, scores), **TIGHT)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_auc_of_one_class_is_not_defined(label):
    labels = np.full(3, label)

    auc = exact_metrics.weighted_auc(np.arange(3.0), labels, 1 - labels)

    assert math.isnan(auc)


def test_auc_of_no_rows_is_not_defined():
    nothing = np.zeros(0)

    assert math.isnan(exact_metrics.weighted_auc(nothing, nothing, nothing))


def test_auc_of_a_class_without_weight_is_not_defined():
    labels, weights = np.array([0.0, 1.0]), np.array([1.0, 0.0])

    auc = exact_metrics.weighted_auc(np.arange(2.0), weights * labels, weights * (1 - labels))

    assert math.isnan(auc)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("kind", ["numbers", "bytes"])
def test_gauc_is_that_of_a_loop_over_groups(kind, ties):
    logits, labels, _ = build_rows(5, ties=ties)
    groups = np.random.default_rng(6).integers(0, 90, len(logits)) * 1000 - 7
    if kind == "bytes":
        groups = np.array([f"group {group}".encode() for group in groups], dtype=object)

    gauc, counted, skipped = exact_metrics.grouped_auc(logits, labels, groups)

    expected, expected_counted, expected_skipped = looped_gauc(logits, labels, groups)
    assert gauc == pytest.approx(expected, **TIGHT)
    assert (counted, skipped) == (expected_counted, expected_skipped)
    assert counted > 50
    assert skipped > 5


def test_gauc_weighs_a_group_by_its_impressions_and_skips_groups_of_one_label():
    # Group 1 has AUC 1 on 2 impressions, group 2 AUC 1/4 on 4; groups 3 and 4 have one label.
    scores = np.array([0.1, 0.9, 0.9, 0.5, 0.2, 0.2, 0.7, 0.8, 0.3])
    labels = np.array([0, 1, 0, 1, 0, 1, 1, 1, 0])
    groups = np.array([1, 1, 2, 2, 2, 2, 3, 3, 4])

    gauc, counted, skipped = exact_metrics.grouped_auc(scores, labels, groups)

    group_2 = (1 + 0.5) / 4
    assert gauc == pytest.approx((2 * 1.0 + 4 * group_2) / 6, **TIGHT)
    assert (counted, skipped) == (2, 2)


@pytest.mark.parametrize(("num_rows", "num_groups"), [(0, 0), (3, 3)])
def test_gauc_without_a_group_of_both_labels_is_not_defined(num_rows, num_groups):
    rows = np.arange(num_rows)

    gauc, counted, skipped = exact_metrics.grouped_auc(rows / 2, rows % 2, rows)

    assert math.isnan(gauc)
    assert (counted, skipped) == (0, num_groups)


@pytest.mark.parametrize("weighted", [False, True])
def test_log_loss_is_that_of_scikit_learn(weighted):
    logits, labels, weights = build_rows(7)
    weights = weights if weighted else np.ones_like(weights)

    loss = exact_metrics.log_loss(logits, weights * labels, weights * (1 - labels))

    probabilities = 1 / (1 + np.exp(-logits))
    expected = reference.log_loss(labels, probabilities, sample_weight=weights)
    assert loss == pytest.approx(expected, **TIGHT)


def test_log_loss_of_probabilities_as_labels_is_their_cross_entropy():
    logits, truth = np.array([0.0, math.log(3.0)]), np.array([0.25, 0.5])

    loss = exact_metrics.log_loss(logits, truth, 1 - truth)

    second = -0.5 * math.log(0.75) - 0.5 * math.log(0.25)
    assert loss == pytest.approx((math.log(2.0) + second) / 2, **TIGHT)


@pytest.mark.parametrize(("logit", "expected"), [(-1000.0, 1000.0), (1000.0, 0.0)])
def test_log_loss_stays_finite_at_extreme_logits(logit, expected):
    loss = exact_metrics.log_loss(np.array([logit], np.float32), np.ones(1), np.zeros(1))

    assert loss == expected


def test_log_loss_without_weight_is_not_defined():
    assert math.isnan(exact_metrics.log_loss(np.zeros(2), np.zeros(2), np.zeros(2)))


def test_entropy_is_the_log_loss_of_the_base_rate():
    labels = np.array([1.0, 0.0, 0.0, 0.0, 0.0])

    entropy = exact_metrics.entropy(0.2)

    assert entropy == pytest.approx(reference.log_loss(labels, np.full(5, 0.2)), **TIGHT)
    assert exact_metrics.entropy(0.5) == pytest.approx(math.log(2.0), **TIGHT)


@pytest.mark.parametrize("rate", [0.0, 1.0, math.nan])
def test_entropy_of_certainty_is_zero(rate):
    assert exact_metrics.entropy(rate) == 0.0
