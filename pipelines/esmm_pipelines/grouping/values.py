"""Rows with any number of values each, back to back in one array."""

import dataclasses
import functools

import numpy as np

from esmm_tf.schema.record_field import RecordField


@dataclasses.dataclass(frozen=True)
class Values:
    """Values of rows: `values[sum(lengths)]`, `lengths[rows]`, and one weight per value if any."""

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
        indices = first + np.arange(lengths.sum())
        weights = None if self.weights is None else self.weights[indices]
        return Values(self.values[indices], lengths, weights)

    def entries(self, field: RecordField, first: int, end: int) -> dict[str, np.ndarray]:
        """Returns rows `first` to `end` as a record holds them for a field."""
        span = slice(self.starts[first], self.starts[end])
        entries = {field.name: self.values[span]}
        if field.has_lengths:
            entries[field.lengths_key] = self.lengths[first:end]
        if self.weights is not None:
            entries[field.weight_key] = self.weights[span]
        return entries
