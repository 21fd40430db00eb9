"""Calibration maps fitted to scores and labels, in float64."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from esmm_tf import keys
from esmm_tf.calibration.logistic_line import OFFSET, SLOPE, Sample, fit_line, slope_of_loss
from esmm_tf.calibration.maps import CalibrationMap, Isotonic, Platt, Temperature, apply
from esmm_tf.metrics import exact
from esmm_tf.metrics.ranking import Ranking

MIN_SLOPE = 0.01
MAX_SLOPE = 100.0
MAX_BINS = 1000

_MIN_KNOT_GAP = 1e-3  # nearer knots would lose their slope to float32
_WIDEST_LOGIT = 30.0


class _Side(NamedTuple):
    """The weight of all rows with one label, and that of a single row."""

    total: float
    per_row: float


def fit(method: str, sample: Sample) -> CalibrationMap:
    """Returns the map with the least log loss among those of a method.

    Args:
      method: one of `keys.CALIBRATIONS`.
      sample: with at least one positive and one negative that weigh more than 0.

    Raises:
      ValueError: if the sample lacks either.
    """
    if not sample.effective_number(0) * sample.effective_number(1):
        raise ValueError("A calibration needs positives and negatives that weigh more than 0.")
    return _FITS[method](sample)


def fit_platt(sample: Sample) -> Platt:
    """Returns the line of most likelihood, with Platt's targets in place of 0 and 1.

    With `p` positives and `n` negatives these are `1 / (n + 2)` and `(p + 1) / (p + 2)`, so that
    scores that part the labels have a finite slope. It is kept within 0.01 and 100: scores that do
    not rise with the labels become almost one probability, in the same order.
    """
    targets = _platt_targets(sample)
    slope, offset = fit_line(sample, targets, free=(SLOPE, OFFSET))
    bounded = float(np.clip(slope, MIN_SLOPE, MAX_SLOPE))
    if bounded != slope:
        _, offset = fit_line(sample, targets, slope=bounded, free=(OFFSET,))
    return Platt(slope=bounded, offset=offset)


def fit_temperature(sample: Sample) -> Temperature:
    """Returns the temperature of most likelihood, within 0.01 and 100."""
    if slope_of_loss(MAX_SLOPE, sample) <= 0:
        return Temperature(temperature=1 / MAX_SLOPE)
    if slope_of_loss(MIN_SLOPE, sample) >= 0:
        return Temperature(temperature=1 / MIN_SLOPE)
    slope, _ = fit_line(sample, sample.labels, free=(SLOPE,))
    return Temperature(temperature=1 / slope)


def fit_isotonic(sample: Sample) -> Isotonic:
    """Returns an isotonic regression as a line through its blocks.

    Scores go into at most 1,000 bins of equal weight, equal scores into the same bin, and adjacent
    bins are pooled while the higher one has no higher rate. Each block is a point: the logit of its
    mean prediction, and that of its rate, where a block without positives (negatives) counts half
    of one. Blocks are pooled further while the slope between two is below 0.01. All points are then
    moved by one number, so that the mean prediction is the mean label, as the blocks have it.
    """
    half_a_positive, half_a_negative = (_side(sample, label).per_row / 2 for label in (1, 0))

    def point(block: Block) -> tuple[float, float]:
        positives, weight = block.positives, block.weight
        if not 0 < positives < weight:
            positives += half_a_positive
            weight += half_a_positive + half_a_negative
        return _logit(block.predicted / block.weight), _logit(positives / weight)

    def is_too_flat(low: Block, high: Block) -> bool:
        run, rise = (b - a for a, b in zip(point(low), point(high), strict=True))
        return run < _MIN_KNOT_GAP or rise < MIN_SLOPE * run

    blocks = pool(pool(_bins(sample), does_not_rise), is_too_flat)
    knots, values = zip(*map(point, blocks), strict=True)
    mapped = apply(Isotonic(knots=knots, values=values), sample.logits)
    moved = dataclasses.replace(sample, logits=mapped)
    _, offset = fit_line(moved, sample.labels, free=(OFFSET,))
    return Isotonic(knots=knots, values=tuple(value + offset for value in values))


_FITS: dict[str, Callable[[Sample], CalibrationMap]] = {
    keys.PLATT: fit_platt,
    keys.TEMPERATURE: fit_temperature,
    keys.ISOTONIC: fit_isotonic,
}


class Block(NamedTuple):
    """Sums over rows of adjacent scores: weight, weight of positives, weight times prediction."""

    weight: float
    positives: float
    predicted: float


def does_not_rise(low: Block, high: Block) -> bool:
    """Returns whether the rate of positives of the higher block is no higher."""
    return high.positives * low.weight <= low.positives * high.weight


def pool(blocks: Iterable[Block], is_violation: Callable[[Block, Block], bool]) -> list[Block]:
    """Returns the blocks, from the lowest on, pooled while two adjacent ones are a violation.

    With `does_not_rise` it is the pool-adjacent-violators algorithm (Ayer et al. 1955).

    >>> pool([Block(1, 0, 0), Block(1, 1, 0), Block(1, 0, 0)], does_not_rise)
    [Block(weight=1, positives=0, predicted=0), Block(weight=2, positives=1, predicted=0)]
    """
    pooled: list[Block] = []
    for block in blocks:
        while pooled and is_violation(pooled[-1], block):
            low = pooled.pop()
            block = Block(*(a + b for a, b in zip(low, block, strict=True)))
        pooled.append(block)
    return pooled


def _bins(sample: Sample) -> Iterator[Block]:
    """Yields the bins that weigh more than 0, from the lowest scores to the highest."""
    weights = np.ones(len(sample.labels)) if sample.weights is None else sample.weights
    logits = np.clip(sample.logits, -_WIDEST_LOGIT, _WIDEST_LOGIT)
    ranking = Ranking(logits, weights * sample.labels, weights * (1 - sample.labels))
    scores = logits[ranking.order[np.flatnonzero(np.diff(ranking.level, prepend=-1))]]
    weight = ranking.positives + ranking.negatives
    middle = ranking.positives_below + ranking.negatives_below + weight / 2
    bins = (middle * (MAX_BINS / (ranking.num_positives + ranking.num_negatives))).astype(np.int64)
    sums = [
        np.bincount(bins, values).tolist()
        for values in (weight, ranking.positives, weight * exact.sigmoid(scores))
    ]
    return (Block(*block) for block in zip(*sums, strict=True) if block[0] > 0)


def _logit(probability: float) -> float:
    return float(np.log(probability) - np.log1p(-probability))


def _side(sample: Sample, label: int) -> _Side:
    total = float(sample.weights_of(label).sum())
    return _Side(total=total, per_row=total / sample.effective_number(label))


def _platt_targets(sample: Sample) -> np.ndarray:
    positives, negatives = _side(sample, 1), _side(sample, 0)
    row = positives.per_row  # the same on both sides, so that as much is added as is taken away
    negative_target = row / (negatives.total + 2 * row)
    positive_target = (positives.total + row) / (positives.total + 2 * row)
    return np.where(sample.labels, positive_target, negative_target)
