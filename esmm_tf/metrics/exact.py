"""Exact metrics of arrays in float64: no thresholds, ties counted as half.

Each metric returns its value and its influence, `[n]`: by how much a row moves the value, to first
order, if its weight grows a little. Influences add up to 0, and the sum of their squares is the
variance of the value; for the AUC it is the variance of DeLong et al. (Biometrics 1988), except for
a factor of m / (m - 1) for m positives. `esmm_tf.metrics.intervals` makes confidence intervals of
influences. A value that is not defined is NaN.

`positives` and `negatives` are the weights of each row as a positive and as a negative, `[n]`: with
a label `y` and a weight `w`, `w * y` and `w * (1 - y)`; where the truth `p` is known, `w * p` and
`w * (1 - p)`.
"""

import numpy as np

from esmm_tf.metrics.ranking import Ranking, packed_order

Measured = tuple[float, np.ndarray]


def weighted_auc(scores: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
    """Returns the area under the ROC curve, the value of `auc` without its influence."""
    return _auc(Ranking(scores, positives, negatives))


def auc(ranking: Ranking) -> Measured:
    """Returns the probability that a positive scores above a negative, ties counted as half."""
    value = _auc(ranking)
    if np.isnan(value):
        return _undefined(len(ranking.order))
    lost_below = (ranking.negatives_below + ranking.negatives / 2) / ranking.num_negatives
    won_above = 1 - (ranking.positives_below + ranking.positives / 2) / ranking.num_positives
    positive_influence = (lost_below - value) / ranking.num_positives
    negative_influence = (won_above - value) / ranking.num_negatives
    return value, ranking.influence(positive_influence, negative_influence)


def _auc(ranking: Ranking) -> float:
    total = ranking.num_positives * ranking.num_negatives
    if total == 0:
        return float("nan")
    won = ranking.positives * (ranking.negatives_below + ranking.negatives / 2)
    return float(won.sum() / total)


def average_precision(ranking: Ranking) -> Measured:
    """Returns the precision at each positive's score, averaged over the positives.

    It is the precision when every row with this score or a higher score is called positive.
    """
    if ranking.num_positives == 0:
        return _undefined(len(ranking.order))
    true_positives = sums_from_above(ranking.positives)
    called = true_positives + sums_from_above(ranking.negatives)
    precision = np.divide(true_positives, called, out=np.zeros_like(called), where=called > 0)
    value = float((ranking.positives * precision).sum() / ranking.num_positives)
    # A row is called positive at its own score and at every lower score.
    share = np.divide(ranking.positives, called, out=np.zeros_like(called), where=called > 0)
    negative_influence = -np.cumsum(share * precision)
    positive_influence = precision - value + np.cumsum(share) + negative_influence
    positive_influence /= ranking.num_positives
    negative_influence /= ranking.num_positives
    return value, ranking.influence(positive_influence, negative_influence)


def sums_from_above(level_weights: np.ndarray) -> np.ndarray:
    """Returns for each level the sum of its weight and of all higher levels', float64 `[levels]`.

    Summed from the top: subtracting lower levels from a total would lose digits near the top.
    """
    return np.cumsum(level_weights[::-1])[::-1]


def grouped_auc(ranking: Ranking, groups: np.ndarray) -> tuple[float, np.ndarray, int, int]:
    """Returns GAUC, its influence, and the numbers of groups that it counts and skips.

    GAUC is the mean of each group's AUC weighted by the group's weight (its impressions, if all
    weigh 1), over groups with both labels (Zhu et al., arXiv 1703.02091, Eq. 13).

    Args:
      ranking: of the rows.
      groups: the group of each row, numbered from 0, integer `[n]`.

    Returns:
      The influence is one value per group, `[groups]`.
    """
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    won, positives, negatives = _pairs_by_group(ranking, groups, num_groups)
    rows = np.bincount(groups, minlength=num_groups)
    mixed = (positives > 0) & (negatives > 0)
    counted, skipped = int(mixed.sum()), int(((rows > 0) & ~mixed).sum())
    if counted == 0:
        return (*_undefined(num_groups), 0, skipped)
    aucs = np.divide(won, positives * negatives, out=np.zeros(num_groups), where=mixed)
    weights = np.where(mixed, positives + negatives, 0.0)
    value = float((weights * aucs).sum() / weights.sum())
    return value, weights * (aucs - value) / weights.sum(), counted, skipped


def _pairs_by_group(
    ranking: Ranking, groups: np.ndarray, num_groups: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns, by group, the weight of the pairs that a positive wins, positives and negatives."""
    if len(groups) == 0:
        return np.zeros(num_groups), np.zeros(num_groups), np.zeros(num_groups)
    order = packed_order(groups[ranking.order].astype(np.uint32))  # by group, then by score
    rows, level = ranking.order[order], ranking.level[order]
    group = groups[rows]
    starts = np.flatnonzero(np.append(True, (level[1:] != level[:-1]) | (group[1:] != group[:-1])))
    group = group[starts]
    positives = np.add.reduceat(ranking.row_positives[rows], starts, dtype=np.float64)
    negatives = np.add.reduceat(ranking.row_negatives[rows], starts, dtype=np.float64)
    below = np.cumsum(negatives) - negatives
    first = np.append(True, group[1:] != group[:-1])
    below -= np.repeat(below[first], np.diff(np.append(np.flatnonzero(first), len(group))))
    won = np.bincount(group, positives * (below + negatives / 2), minlength=num_groups)
    return (
        won,
        np.bincount(group, positives, minlength=num_groups),
        np.bincount(group, negatives, minlength=num_groups),
    )


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of logits, float64 `[n]`.

    >>> sigmoid(np.array([-1000.0, 0.0])).tolist()
    [0.0, 0.5]
    """
    small = np.exp(-np.abs(logits, dtype=np.float64))
    return np.where(logits >= 0, 1.0, small) / (1 + small)


def losses(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the losses in nats of a positive and of a negative with these logits, float64 `[n]`.

    >>> [loss.round(4).tolist() for loss in losses(np.array([-1000.0, 0.0]))]
    [[1000.0, 0.6931], [0.0, 0.6931]]
    """
    shared = np.log1p(np.exp(-np.abs(logits, dtype=np.float64)))
    return shared + np.maximum(-logits, 0), shared + np.maximum(logits, 0)


def losses_of_probability(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the losses in nats of a positive and of a negative by probability, float64 `[n]`.

    A wrong certainty costs 708 nats, the most that float64 can tell.
    """
    least = np.log(np.finfo(np.float64).tiny)
    probability = probability.astype(np.float64)
    with np.errstate(divide="ignore"):
        log_p, log_not_p = np.log(probability), np.log1p(-probability)
    return -np.maximum(log_p, least), -np.maximum(log_not_p, least)


def log_loss(
    row_losses: tuple[np.ndarray, np.ndarray], positives: np.ndarray, negatives: np.ndarray
) -> Measured:
    """Returns the mean cross entropy in nats; `row_losses` is what `losses` returns."""
    positive_losses, negative_losses = row_losses
    weight = positives + negatives
    total = float(weight.sum(dtype=np.float64))
    if total == 0:
        return _undefined(len(weight))
    loss = positives * positive_losses + negatives * negative_losses
    value = float(loss.sum()) / total
    return value, (loss - value * weight) / total


def normalized_entropy(loss: Measured, positives: np.ndarray, negatives: np.ndarray) -> Measured:
    """Returns a log loss divided by the loss of the mean label (He et al., ADKDD 2014)."""
    value, influence = loss
    weight = positives + negatives
    total = float(weight.sum(dtype=np.float64))
    rate = float(positives.sum(dtype=np.float64)) / total if total else float("nan")
    base = entropy(rate)
    if base == 0 or np.isnan(base):
        return _undefined(len(weight))
    slope = np.log1p(-rate) - np.log(rate)
    rate_influence = (positives - rate * weight) / total
    return value / base, influence / base - value / base**2 * slope * rate_influence


def entropy(rate: float) -> float:
    """Returns the entropy in nats of a coin that falls on one side with probability `rate`."""
    if np.isnan(rate):
        return float("nan")
    if not 0 < rate < 1:
        return 0.0
    return float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))


def calibration(probability: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> Measured:
    """Returns mean prediction / mean label: 1 is calibrated, above 1 is predicted too high."""
    predicted = (positives + negatives) * probability
    total = float(positives.sum(dtype=np.float64))
    if total == 0:
        return _undefined(len(predicted))
    value = float(predicted.sum()) / total
    return value, (predicted - value * positives) / total


def bias(probability: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> Measured:
    """Returns mean prediction - mean label."""
    weight = positives + negatives
    total = float(weight.sum(dtype=np.float64))
    if total == 0:
        return _undefined(len(weight))
    error = weight * probability - positives
    value = float(error.sum()) / total
    return value, (error - value * weight) / total


def expected_calibration_error(
    probability: np.ndarray, positives: np.ndarray, negatives: np.ndarray, *, bins: np.ndarray
) -> Measured:
    """Returns the mean over bins of |mean prediction - mean label|, by weight.

    With few positives it is above 0 even if the model is calibrated: bins err by chance.

    Args:
      probability: `[n]`.
      positives: `[n]`.
      negatives: `[n]`.
      bins: the bin of each row, `[n]`, as `equal_mass_bins` numbers them.
    """
    weight = positives + negatives
    total = float(weight.sum(dtype=np.float64))
    if total == 0:
        return _undefined(len(weight))
    error = weight * probability - positives
    by_bin = np.bincount(bins, error)
    value = float(np.abs(by_bin).sum()) / total
    return value, (np.sign(by_bin)[bins] * error - value * weight) / total


def equal_mass_bins(ranking: Ranking, num_bins: int) -> np.ndarray:
    """Returns a bin for each row, uint8 `[n]`: rising with the score, of about the same weight.

    Equal scores share a bin; if they weigh more than a bin should, some bins have no rows.
    """
    weight = ranking.positives + ranking.negatives
    total = ranking.num_positives + ranking.num_negatives
    if total == 0:
        return np.zeros(len(ranking.order), np.uint8)
    middle = ranking.positives_below + ranking.negatives_below + weight / 2
    bins = np.minimum(middle * (num_bins / total), num_bins - 1)
    return ranking.by_row(bins.astype(np.uint8))


def _undefined(num_rows: int) -> Measured:
    return float("nan"), np.zeros(num_rows)
