"""Slices of impressions: the value that each has of one feature or key, as a small integer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from esmm_tf.data.batch import Batch
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import BucketizedColumn, NumericColumn
from esmm_tf.schema.record_field import MANY
from esmm_tf.schema.schema import Feature, Key, Schema

MISSING = "(missing)"
MAX_VALUES = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slices:
    """Which value each impression has: `values[codes[i]]`; `codes` is int32 `[impressions]`."""

    codes: np.ndarray
    values: tuple[str, ...]


class SliceReader:
    """Reads the values of one field from batches and numbers them as they come.

    Args:
      schema: that has the field.
      name: of a feature or a carried key with at most one value.

    Raises:
      UserError: if there is no such field, or it has many values.
    """

    def __init__(self, schema: Schema, name: str) -> None:
        self.name = name
        self._field = _find_field(schema, name)
        self._codes: dict[str, int] = {}

    def read(self, batch: Batch) -> np.ndarray:
        """Returns the codes of a batch of `build_dataset(carry=True)`, int32 `[impressions]`.

        Raises:
          UserError: if the field has more than 10,000 values.
        """
        distinct, inverse = np.unique(self._raw_values(batch), return_inverse=True)
        texts = [self._text(value) for value in distinct]
        codes = [self._codes.setdefault(text, len(self._codes)) for text in texts]
        if len(self._codes) > MAX_VALUES:
            raise UserError(
                f"--slices has {self.name!r}, which has more than {MAX_VALUES:,} values. "
                "Name a feature with fewer."
            )
        return np.array(codes, np.int32)[inverse.reshape(-1)]

    @property
    def values(self) -> tuple[str, ...]:
        """Returns the text of each code so far."""
        return tuple(self._codes)

    def _raw_values(self, batch: Batch) -> np.ndarray:
        """Returns the bytes, number or bucket of each impression; `(missing)` or NaN for none."""
        if isinstance(self._field, Key):
            return batch.carry[self.name].numpy()
        values = batch.features[self.name]
        if isinstance(self._field.column, NumericColumn):
            rows = values.numpy() + np.float32(0)  # -0.0 becomes 0.0
        elif isinstance(self._field.column, BucketizedColumn):
            buckets = _buckets(values.flat_values.numpy(), self._field.column)
            rows = _filled(buckets, values.row_lengths().numpy(), np.nan)
        else:
            texts = values.flat_values.numpy().astype("S")
            rows = _filled(texts, values.row_lengths().numpy(), MISSING.encode())
        return rows[batch.group_index.numpy()] if self._field.is_context else rows

    def _text(self, value: Any) -> str:
        if isinstance(value, bytes):
            return value.decode("utf-8", "backslashreplace")
        if value != value:  # NaN differs from itself
            return MISSING
        if isinstance(self._field, Feature) and isinstance(self._field.column, BucketizedColumn):
            return _bucket_text(self._field.column.boundaries, int(value))
        return _number_text(value) if isinstance(value, np.floating) else str(value)


def _find_field(schema: Schema, name: str) -> Feature | Key:
    known = [f.name for f in schema.features if f.values != MANY]
    known += [carried for carried in schema.carry if carried not in known]
    if name not in known:
        raise UserError(
            f"--slices has {name!r}, which is no feature or carried key with at most one value. "
            f"There are {', '.join(known)}."
        )
    return schema.field(name)


def _filled(values: np.ndarray, lengths: np.ndarray, missing: Any) -> np.ndarray:
    """Returns one value per row, `missing` where its length is 0."""
    rows = np.full(len(lengths), missing, dtype=np.result_type(values, np.array(missing)))
    rows[lengths > 0] = values
    return rows


def _buckets(values: np.ndarray, column: BucketizedColumn) -> np.ndarray:
    """Returns how many boundaries are at or below each value, as the model counts them."""
    dtype = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    buckets = np.searchsorted(np.array(column.boundaries, dtype), values, side="right")
    return buckets.astype(np.float64)


def _bucket_text(boundaries: Sequence[float], bucket: int) -> str:
    bounds = [_number_text(bound) for bound in boundaries]
    if bucket == 0:
        return f"< {bounds[0]}"
    if bucket == len(bounds):
        return f">= {bounds[-1]}"
    return f"[{bounds[bucket - 1]}, {bounds[bucket]})"


def _number_text(value: float | np.floating[Any]) -> str:
    """Returns the shortest text that tells a number from all others of its dtype."""
    return np.format_float_positional(value, trim="-")
