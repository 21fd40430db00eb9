"""Ordered rows of a typed table to impression groups."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from esmm_pipelines.grouping import negatives
from esmm_pipelines.grouping.splits import SPLIT
from esmm_pipelines.grouping.values import Values
from esmm_pipelines.grouping.whole_groups import ORDER, WholeGroups, starts
from esmm_pipelines.table.typed import number_columns, table_values
from esmm_tf import keys
from esmm_tf.data import records
from esmm_tf.schema.columns import FLOAT32
from esmm_tf.schema.record_field import RecordField

SIGNATURE = "esmm_tf_signature"
_HASH_DIGITS = 16  # of 64 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupBuilder(WholeGroups):
    """Turns rows of a typed table into groups.

    Rows are ordered by `ORDER`, a seeded hash of their group, and `SIGNATURE`, a hash of what a
    record holds once.

    Args:
      negative_keep_rate: the probability with which a row without click and conversion is kept in
        the splits that are sampled.
    """

    negative_keep_rate: float = 1.0

    def groups(self, rows: pa.Table) -> Iterator[tuple[str, records.Group]]:
        """Yields the groups in `rows`, each of which is there as a whole."""
        if self.negative_keep_rate < 1:
            rows = rows.filter(pa.array(self._is_kept(rows)))
        if not len(rows):
            return
        columns = self._columns(rows)
        per_impression = self._per_impression(rows)
        splits = rows[SPLIT].to_pylist()
        begins = starts(rows, ORDER, SIGNATURE)
        for start, stop in zip(begins, [*begins[1:], len(rows)], strict=True):
            for first in range(start, stop, self.max_group_size):
                end = min(first + self.max_group_size, stop)
                record: dict[str, Any] = {}
                for field in self.schema.fields:
                    last = first + 1 if field.is_context else end
                    record |= columns[field.name].entries(field, first, last)
                record |= {key: values[first:end] for key, values in per_impression.items()}
                yield splits[first], record

    def _is_kept(self, rows: pa.Table) -> np.ndarray:
        """Returns which rows are kept, by a hash of their group and their position in it.

        A hash of what a row holds would keep all rows that are equal, or none of them. The position
        follows from what a row holds; the order of equal rows does not matter.
        """
        begins = np.array(starts(rows, ORDER))
        sizes = np.diff(begins, append=len(rows))
        hashes = [int(order[:_HASH_DIGITS], 16) for order in rows[ORDER].take(begins).to_pylist()]
        sources = table_values(self.schema)
        labels = {key: rows[sources[key].name].to_numpy() for key in (keys.CLICK, keys.CONVERSION)}
        is_sampled = pc.is_in(rows[SPLIT], pa.array(negatives.SAMPLED_SPLITS))
        return negatives.is_kept(
            negatives.hashed_draws(
                np.repeat(np.array(hashes, np.uint64), sizes),
                np.arange(len(rows)) - np.repeat(begins, sizes),
            ),
            rate=self.negative_keep_rate,
            is_sampled=is_sampled.to_numpy(),
            click=labels[keys.CLICK],
            conversion=labels[keys.CONVERSION],
        )

    def _columns(self, rows: pa.Table) -> dict[str, Values]:
        """Returns the values of each feature and key, row by row."""
        sources = table_values(self.schema)
        columns = {}
        for field in self.schema.fields:
            values = _values(rows[sources[field.name].name], field)
            if field.weighted:
                weights = rows[sources[field.weight_key].name]
                numbers = _values(weights, field).values.astype(np.float32)
                values = dataclasses.replace(values, weights=numbers)
            columns[field.name] = values
        return columns

    def _per_impression(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """Returns labels, weight and truth."""
        sources = table_values(self.schema)
        numbers = number_columns(self.schema)
        return {
            key: rows[sources[key].name].to_numpy() for key in (keys.CLICK, keys.CONVERSION)
        } | {key: rows[sources[key].name].to_numpy().astype(np.float32) for key in numbers}


def _values(column: pa.ChunkedArray, field: RecordField) -> Values:
    """Returns a column's values; null is no value."""
    array = column.combine_chunks()
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        array = array.flatten()
    else:
        lengths = array.is_valid().to_numpy(zero_copy_only=False)
        array = array.drop_null()
    values = array.to_numpy(zero_copy_only=False)
    values = values.astype(np.float32) if field.dtype == FLOAT32 else values
    return Values(values, lengths.astype(np.int64))
