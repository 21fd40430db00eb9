"""Rows in the order of their scores, sorted once for all metrics that depend on the order."""

import functools

import numpy as np

_INDEX_BITS = np.uint64(32)
_INDEX_MASK = np.uint64(0xFFFFFFFF)
_SIGN = np.uint32(0x80000000)


def packed_order(high: np.ndarray) -> np.ndarray:
    """Returns the stable order of unsigned 32-bit numbers, uint32 `[n]`.

    Each number and its index are packed into one 64-bit word, which halves the time of an argsort.
    """
    words = high.astype(np.uint64)
    words <<= _INDEX_BITS
    words |= np.arange(len(high), dtype=np.uint64)
    words.sort()
    words &= _INDEX_MASK
    return words.astype(np.uint32)


def order_of(scores: np.ndarray) -> np.ndarray:
    """Returns the indices of the rows from lowest to highest score, ties in their first order.

    >>> order_of(np.array([0.5, -1.0, 0.5], np.float32)).tolist()
    [1, 0, 2]
    """
    if scores.dtype != np.float32 or len(scores) > _INDEX_MASK:
        return np.argsort(scores, kind="stable")
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    return packed_order(np.where(bits & _SIGN, ~bits, bits | _SIGN))


class Ranking:
    """Rows from the lowest score to the highest, equal scores as one level.

    Args:
      scores: `[n]`, without NaN.
      positives: the weight of each row as a positive, `[n]`: its label, or its true probability
        if that is known, times its weight if it has one.
      negatives: the weight of each row as a negative, `[n]`.

    Attributes:
      order: the indices of the rows from the lowest to the highest score, `[n]`.
      row_positives, row_negatives: the weights of each row, `[n]`.
      positives, negatives: the sums of each level, float64 `[levels]`.
      positives_below, negatives_below: the sums of all lower levels, float64 `[levels]`.
      num_positives, num_negatives: the sums of all.

    Raises:
      ValueError: if the lengths differ or a score is NaN.
    """

    def __init__(self, scores: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> None:
        if not len(scores) == len(positives) == len(negatives):
            raise ValueError(
                f"There are {len(scores)} scores, {len(positives)} positives and {len(negatives)} "
                "negatives. Give one of each per row."
            )
        if np.isnan(scores).any():
            raise ValueError("A score is NaN and has no rank. Give numbers only.")
        self.order = order_of(scores)
        ordered = scores[self.order]
        self._is_first = np.append(np.ones(min(len(scores), 1), bool), ordered[1:] != ordered[:-1])
        del ordered
        starts = np.flatnonzero(self._is_first)
        self.row_positives, self.row_negatives = positives, negatives
        self.positives, self.positives_below = self._sums(positives, starts)
        self.negatives, self.negatives_below = self._sums(negatives, starts)
        self.num_positives = float(self.positives.sum())
        self.num_negatives = float(self.negatives.sum())

    def _sums(self, weights: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the sum of each level, and the sum of all levels below it."""
        if len(starts) == 0:
            return np.zeros(0), np.zeros(0)
        sums = np.add.reduceat(weights[self.order], starts, dtype=np.float64)
        below = np.cumsum(sums)
        below -= sums
        return sums, below

    @functools.cached_property
    def level(self) -> np.ndarray:
        """Returns the level of each row from the lowest to the highest score, int64 `[n]`."""
        return np.cumsum(self._is_first) - 1

    def by_row(self, level_values: np.ndarray) -> np.ndarray:
        """Returns for each row, in the given order, its level's value of `[levels]`, `[n]`."""
        values = np.empty(len(self.order), level_values.dtype)
        values[self.order] = level_values[self.level]
        return values

    def influence(
        self, positive_influence: np.ndarray, negative_influence: np.ndarray
    ) -> np.ndarray:
        """Returns the influence of each row, in the given order, float64 `[n]`.

        Args:
          positive_influence: the influence of a positive of weight 1, `[levels]`.
          negative_influence: the influence of a negative of weight 1, `[levels]`.
        """
        ordered = self.row_positives[self.order] * positive_influence[self.level]
        ordered += self.row_negatives[self.order] * negative_influence[self.level]
        values = np.empty(len(ordered))
        values[self.order] = ordered
        return values
