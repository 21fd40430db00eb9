"""Ordered rows of Ali-CCP to impression groups: a context's row, then those of its impressions."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from esmm_pipelines.ali_ccp.rows import tokens_of
from esmm_pipelines.grouping.splits import SPLIT
from esmm_pipelines.grouping.values import Values
from esmm_pipelines.grouping.whole_groups import ORDER, WholeGroups, starts
from esmm_tf import keys
from esmm_tf.data import records
from esmm_tf.schema.record_field import CONTEXT


class AliCcpGroupBuilder(WholeGroups):
    """Turns rows of Ali-CCP into groups.

    Rows are ordered by `ORDER`, which tells contexts apart, then by side: the row of a context, if
    there is one, comes before its impressions.
    """

    def groups(self, rows: pa.Table) -> Iterator[tuple[str, records.Group]]:
        """Yields the groups in `rows`, each of which is there as a whole."""
        values = self._values(rows)
        key_columns = self._keys(rows)
        labels = {name: _column(rows[name]) for name in self._label_names()}
        is_context = rows["side"].to_numpy() == CONTEXT
        splits = rows[SPLIT].to_numpy()
        begins = starts(rows, ORDER)
        for start, stop in zip(begins, [*begins[1:], len(rows)], strict=True):
            begin = start + int(is_context[start])
            context = slice(start, begin)
            for first in range(begin, stop, self.max_group_size):
                impressions = slice(first, min(first + self.max_group_size, stop))
                record = {name: column[impressions] for name, column in labels.items()}
                for key in self.schema.keys:
                    span = slice(first, first + 1) if key.is_context else impressions
                    record[key.name] = key_columns[key.name][span]
                for feature in self.schema.features:
                    span = context if feature.is_context else impressions
                    record |= values[feature.name].entries(feature, span.start, span.stop)
                yield splits[first], record

    def _values(self, rows: pa.Table) -> dict[str, Values]:
        """Returns the values of each feature, row by row."""
        tokens, lengths = tokens_of(rows["tokens"])
        parents = np.repeat(np.arange(len(lengths)), lengths)
        fields = tokens["field"].copy()
        values = {}
        for field, feature in enumerate(self.schema.features):
            own = np.flatnonzero(fields == field)
            values[feature.name] = Values(
                tokens["id"][own],
                np.bincount(parents[own], minlength=len(lengths)),
                tokens["value"][own] if feature.weighted else None,
            )
        return values

    def _keys(self, rows: pa.Table) -> dict[str, np.ndarray]:
        columns = {"sample_id": "sample_id", "common_feature_index": "context"}
        return {key.name: _column(rows[columns[key.name]]) for key in self.schema.keys}

    def _label_names(self) -> tuple[str, ...]:
        truth = (keys.ORACLE_PCTR, keys.ORACLE_PCVR) if self.schema.oracle else ()
        return (keys.CLICK, keys.CONVERSION, *truth)


def _column(column: pa.ChunkedArray) -> np.ndarray:
    """Returns a column; 0 stands for the sample and the labels that a context lacks."""
    if pa.types.is_primitive(column.type):
        column = pc.fill_null(column, 0)
    return column.to_numpy(zero_copy_only=False)
