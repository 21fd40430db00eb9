"""The line `slope * logit + offset` of most likelihood, in float64."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from esmm_tf.metrics import exact

SLOPE, OFFSET = 0, 1

_CHUNK = 1 << 20
_MAX_STEPS = 200
_TOLERANCE = 1e-12  # nats per impression
_RIDGE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Logits, labels (0 or 1) and weights (None stands for 1 each) of the rows to fit, `[n]`."""

    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None

    def weights_of(self, label: int) -> np.ndarray:
        """Returns the weights of the rows with a label, float64."""
        rows = self.labels == label
        if self.weights is None:
            return np.ones(np.count_nonzero(rows))
        return self.weights[rows].astype(np.float64)

    def effective_number(self, label: int) -> float:
        """Returns how many rows of equal weight the label's rows count as: `(sum w)^2 / sum w^2`.

        Kish, Survey Sampling, 1965.
        """
        weights = self.weights_of(label)
        squares = float(weights @ weights)
        return float(weights.sum()) ** 2 / squares if squares else 0.0


def fit_line(
    sample: Sample, targets: np.ndarray, *, free: Sequence[int], slope: float = 1.0
) -> tuple[float, float]:
    """Returns slope and offset of the least weighted log loss.

    Newton's method with halved steps on a convex function. A millionth of the curvature's bound is
    added to it: where every probability is 0 or 1 there is no curvature left.

    Args:
      sample: with finite logits.
      targets: what the probabilities are compared with, within 0 and 1, `[n]`.
      free: what is chosen, of `SLOPE` and `OFFSET`.
      slope: where the search begins, or the slope itself if it is not free; the offset begins at 0.

    Raises:
      ArithmeticError: if the search does not end.
    """
    chosen = list(free)
    line = np.array([slope, 0.0])
    current = _derivatives(line, sample, targets)
    for _ in range(_MAX_STEPS):
        step = np.zeros(2)
        curvature = (current.curvature + _RIDGE * current.bound)[np.ix_(chosen, chosen)]
        step[chosen] = np.linalg.lstsq(curvature, -current.gradient[chosen], rcond=None)[0]
        promise = float(-current.gradient @ step)
        if promise <= _TOLERANCE:
            best = line + step
            return float(best[SLOPE]), float(best[OFFSET])
        candidate = _derivatives(line + step, sample, targets)
        while candidate.loss > current.loss - 1e-4 * promise:
            step, promise = step / 2, promise / 2
            candidate = _derivatives(line + step, sample, targets)
        line, current = line + step, candidate
    raise ArithmeticError(f"The fit of a line did not end within {_MAX_STEPS} steps.")


def slope_of_loss(slope: float, sample: Sample) -> float:
    """Returns the derivative of the mean log loss of `slope * logit` by the slope, in nats."""
    return float(_derivatives(np.array([slope, 0.0]), sample, sample.labels).gradient[SLOPE])


class _Derivatives(NamedTuple):
    """The mean log loss of a line, its gradient `[2]` and its curvature `[2, 2]`.

    `bound` is what the curvature never exceeds (Boehning, Ann. Inst. Stat. Math. 1992).
    """

    loss: np.ndarray
    gradient: np.ndarray
    curvature: np.ndarray
    bound: np.ndarray


def _derivatives(line: np.ndarray, sample: Sample, targets: np.ndarray) -> _Derivatives:
    parts = []
    total = 0.0
    for start in range(0, len(targets), _CHUNK):
        rows = slice(start, start + _CHUNK)
        weights = np.ones(len(targets[rows]))
        if sample.weights is not None:
            weights = sample.weights[rows].astype(np.float64)
        total += float(weights.sum())
        parts.append(_sums(line, sample.logits[rows].astype(np.float64), targets[rows], weights))
    return _Derivatives(*(np.sum(terms, axis=0) / total for terms in zip(*parts, strict=True)))


def _sums(
    line: np.ndarray, logits: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Returns the sums over rows of what `_Derivatives` holds."""
    inputs = np.stack([logits, np.ones(len(logits))])
    outputs = line @ inputs
    positive_losses, negative_losses = exact.losses(outputs)
    probability = exact.sigmoid(outputs)
    spread = weights * probability * (1 - probability)
    return (
        weights @ (targets * positive_losses + (1.0 - targets) * negative_losses),
        inputs @ (weights * (probability - targets)),
        (inputs * spread) @ inputs.T,
        (inputs * weights) @ inputs.T / 4,
    )
