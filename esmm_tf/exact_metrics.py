"""Exact metrics of arrays in float64: no bins, no thresholds, ties counted as half."""

import numpy as np


def weighted_auc(scores: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
    """Returns the probability that a positive scores above a negative, ties counted half.

    Args:
      scores: `[n]`.
      positives: weight of each row as a positive, `[n]`: the label, or, where the truth is known,
        its probability.
      negatives: weight of each row as a negative, `[n]`.

    Returns:
      NaN if either class has no weight.
    """
    total = positives.sum(dtype=np.float64) * negatives.sum(dtype=np.float64)
    if total == 0:
        return float("nan")
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    last_of_tie = np.append(ordered[1:] != ordered[:-1], True)
    won = np.cumsum(positives[order], dtype=np.float64)[last_of_tie]
    lost = np.cumsum(negatives[order], dtype=np.float64)[last_of_tie]
    positives_here = np.diff(won, prepend=0.0)
    negatives_here = np.diff(lost, prepend=0.0)
    return float(np.sum(positives_here * (lost - negatives_here / 2)) / total)


def grouped_auc(
    scores: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> tuple[float, int, int]:
    """Returns GAUC, the groups it counts and the groups it skips.

    GAUC is the mean of each group's AUC weighted by its impressions, over groups that hold both
    labels (Zhu et al., arXiv 1703.02091, Eq. 13). It is NaN if there is none.

    Args:
      scores: `[n]`.
      labels: 0 or 1, `[n]`.
      groups: any values that tell groups apart, `[n]`.
    """
    _, group = np.unique(groups, return_inverse=True)
    num_groups = int(group.max()) + 1 if len(group) else 0
    size = np.bincount(group, minlength=num_groups).astype(np.float64)
    positives = np.bincount(group, weights=labels, minlength=num_groups)
    order = np.lexsort((scores, group))
    rank = _average_ranks(scores[order], group[order])
    rank_sum = np.bincount(group[order], weights=rank * labels[order], minlength=num_groups)
    mixed = (positives > 0) & (positives < size)
    if not mixed.any():
        return float("nan"), 0, num_groups
    pairs = positives[mixed] * (size - positives)[mixed]
    start = (np.cumsum(size) - size)[mixed]
    won = rank_sum[mixed] - positives[mixed] * start - positives[mixed] * (positives[mixed] + 1) / 2
    gauc = float(np.average(won / pairs, weights=size[mixed]))
    return gauc, int(mixed.sum()), int(num_groups - mixed.sum())


def _average_ranks(scores: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Returns 1-based ranks of rows sorted by group and score, ties sharing their mean rank."""
    starts = np.append(True, (scores[1:] != scores[:-1]) | (group[1:] != group[:-1]))
    tie = np.cumsum(starts) - 1
    count = np.bincount(tie)
    first = np.flatnonzero(starts) + 1
    return (first + (count - 1) / 2)[tie]


def log_loss(logits: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
    """Returns the mean cross entropy in nats of `sigmoid(logits)`; arguments as `weighted_auc`."""
    logits = logits.astype(np.float64)
    losses = positives * np.logaddexp(0, -logits) + negatives * np.logaddexp(0, logits)
    total = positives.sum(dtype=np.float64) + negatives.sum(dtype=np.float64)
    return float(losses.sum() / total) if total else float("nan")


def entropy(rate: float) -> float:
    """Returns the entropy in nats of a coin that falls on one side at this rate."""
    if not 0 < rate < 1:
        return 0.0
    return float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))
