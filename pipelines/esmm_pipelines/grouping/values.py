"""Rows with any number of values each, back to back in one array."""

import dataclasses
import functools

import numpy as np

from esmm_tf import keys


@dataclasses.dataclass(frozen=True)
class Values:
    """Values of rows: `values[sum(lengths)]`, `lengths[rows]`, and one weight a value if any."""

    values: np.ndarray
    lengths: np.ndarray
    weights: np.ndarray | None = None

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Returns where each row begins, and the end: `[rows + 1]`."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def take(self, rows: np.ndarray) -> "Values":
        """Returns the given rows, in that order."""
        lengths = self.lengths[rows]
        first = np.repeat(self.starts[rows] - np.cumsum(lengths) + lengths, lengths)
        places = first + np.arange(lengths.sum())
        weights = None if self.weights is None else self.weights[places]
        return Values(self.values[places], lengths, weights)

    def entries(self, name: str, first: int, end: int, *, lengths: bool) -> dict[str, np.ndarray]:
        """Returns rows `first` to `end` as a record holds feature `name`."""
        places = slice(self.starts[first], self.starts[end])
        entries = {name: self.values[places]}
        if lengths:
            entries[name + keys.LENGTHS_SUFFIX] = self.lengths[first:end]
        if self.weights is not None:
            entries[name + keys.WEIGHT_SUFFIX] = self.weights[places]
        return entries
