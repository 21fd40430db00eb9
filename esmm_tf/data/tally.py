"""Sums by value over a stream of batches: exact, in memory that grows with the distinct values."""

import numpy as np

_MIN_PENDING = 100_000
_SIGNIFICANT_BITS = np.uint32(0xFFFFFF00)  # sign, exponent and 15 bits of the mantissa


class Tally:
    """Adds up rows of integers by value.

    Merged sums take 8 bytes per distinct value, 8 more per column, and for strings their own size.
    Batches wait until they hold as many values as the merged sums, so that a stream of n values
    costs O(n log n). Merging takes up to four times the memory of what is merged.
    """

    def __init__(self, num_columns: int) -> None:
        self._num_columns = num_columns
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._merged = self._pending = 0

    def add(self, values: np.ndarray, sums: np.ndarray) -> None:
        """Adds `sums`, int64 `[n, columns]`, to the sums of `values`, `[n]`."""
        if len(values) == 0:
            return
        part = sum_by_value(values, sums)
        self._parts.append(part)
        self._pending += len(part[0])
        if self._pending > max(self._merged, _MIN_PENDING):
            self._merge()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the distinct values, sorted, and their sums, int64 `[n, columns]`."""
        if not self._parts:
            return np.zeros([0], np.int64), np.zeros([0, self._num_columns], np.int64)
        self._merge()
        return self._parts[0]

    def _merge(self) -> None:
        if len(self._parts) > 1:
            values, sums = zip(*self._parts, strict=True)
            self._parts = [sum_by_value(np.concatenate(values), np.concatenate(sums))]
        self._merged, self._pending = len(self._parts[0][0]), 0


def sum_by_value(values: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct values, sorted, and for each the sum of its rows of `sums`."""
    if len(values) == 0:
        return values, sums
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return ordered[starts], np.add.reduceat(sums[order], starts, axis=0)


def shorten_numbers(values: np.ndarray) -> np.ndarray:
    """Returns the numbers as float32 whose mantissa keeps 15 bits, rounded towards zero.

    The relative error is below 2**-15, and there are at most 32,768 distinct numbers between one
    power of 2 and the next: counting them is a histogram that needs no range and merges exactly.

    >>> shorten_numbers(np.array([0.0, -30.5, 1.000001])).tolist()
    [0.0, -30.5, 1.0]
    """
    bits = np.asarray(values, np.float32).view(np.uint32) & _SIGNIFICANT_BITS
    return bits.view(np.float32) + np.float32(0)  # -0.0 becomes 0.0
