"""A table of impressions, one a row, to impression groups.

The table is typed by the schema, ordered by group in the engine, and streamed: no more than the
rows of one batch and of one group are held at once.
"""

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from esmm_tf import keys, records
from esmm_tf.columns import FLOAT32, INT64, STRING
from esmm_tf.errors import UserError
from esmm_tf.schema import CONTEXT, MANY, ONE, Feature, Key, Schema
from pipelines.engine import DuckDBEngine, F
from pipelines.ragged import Values

SPLIT = "esmm_tf_split"
_REJECT = "esmm_tf_reject"
_ORDER = "esmm_tf_order"
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_SQL_TYPES = {INT64: "bigint", FLOAT32: "double", STRING: "string"}


def typed_table(frame: Any, schema: Schema) -> Any:
    """Returns the columns that the schema names, in its dtypes, and why a row is to be rejected.

    Args:
      frame: a DataFrame with one column for each feature, key and label, and `SPLIT`.
      schema: whose labels name the columns that hold them.

    Raises:
      UserError: if a column is missing.
    """
    types = {field.name: _sql_type(field) for field in schema.fields}
    types |= {schema.labels.click: "bigint", schema.labels.conversion: "bigint"}
    missing = sorted(set(types) - set(frame.columns))
    if missing:
        raise UserError(
            f"The table has no column {missing[0]!r}, which schema {schema.name!r} names. "
            f"It has {sorted(frame.columns)}."
        )
    casts = {name: _cast(name, kind) for name, kind in types.items()}
    reasons = [
        F.when(F.col(name).isNotNull() & cast.isNull(), F.lit(f"{name} is no {types[name]}"))
        for name, cast in casts.items()
    ]
    click, conversion = casts[schema.labels.click], casts[schema.labels.conversion]
    reasons += [
        F.when(~F.coalesce(label.isin(0, 1), F.lit(False)), F.lit(f"{name} is not 0 or 1"))
        for name, label in ((schema.labels.click, click), (schema.labels.conversion, conversion))
    ]
    reasons.append(F.when(conversion > click, F.lit("conversion without click")))
    single = [field for field in schema.fields if field.values == ONE]
    reasons += [F.when(casts[f.name].isNull(), F.lit(f"{f.name} is missing")) for f in single]
    reasons.append(F.when(F.col(SPLIT).isNull(), F.lit("its time is not known")))
    columns = [cast.alias(name) for name, cast in casts.items()]
    return frame.select(*columns, F.col(SPLIT), F.coalesce(*reasons).alias(_REJECT))


def read_groups(
    engine: DuckDBEngine,
    table: Any,
    schema: Schema,
    *,
    group_by: str,
    seed: int,
    max_group_size: int,
    rejected: collections.Counter[str],
) -> Iterator[tuple[str, records.Group]]:
    """Yields the groups of a typed table with their split, in a seeded random order.

    Args:
      engine: that the table belongs to.
      table: from `typed_table`.
      schema: of the records.
      group_by: the column whose value tells contexts apart.
      seed: of the order.
      max_group_size: impressions at which a group is cut.
      rejected: receives the number of rows left out, by reason.
    """
    hashed = F.md5(F.concat(F.lit(f"{seed}:"), F.col(group_by).cast("string")))
    # All single values, so that rows have one order: equal rows aside, nothing depends on chance.
    single = [f.name for f in schema.fields if f.values != MANY and f.name != group_by]
    order = [_ORDER, group_by, *single, schema.labels.click, schema.labels.conversion]
    ordered = table.withColumn(_ORDER, hashed).orderBy(*order)
    for rows in _whole_groups(engine.stream(ordered), group_by):
        reasons = rows[_REJECT].drop_null().to_pylist()
        rejected.update(reasons)
        if reasons:
            rows = rows.filter(pa.compute.is_null(rows[_REJECT]))
        if len(rows):
            yield from _groups(rows, schema, group_by=group_by, limit=max_group_size)


def finite_number(name: str) -> Any:
    """Returns a column as a double that float32 can hold; null if it is none."""
    number = F.expr(f"try_cast(`{name}` as double)")
    return F.when(F.abs(number) <= _MAX_FLOAT32, number)


def _cast(name: str, kind: str) -> Any:
    """Returns a column in that type, null if it does not fit; the engine alone would round 1.5."""
    if kind == _SQL_TYPES[FLOAT32]:
        return finite_number(name)
    cast = F.expr(f"try_cast(`{name}` as {kind})")
    return F.when(finite_number(name) == cast, cast) if kind == _SQL_TYPES[INT64] else cast


def _sql_type(field: Feature | Key) -> str:
    kind = _SQL_TYPES[field.dtype]
    return f"array<{kind}>" if field.values == MANY else kind


def _whole_groups(batches: Iterator[pa.RecordBatch], group_by: str) -> Iterator[pa.Table]:
    """Yields the rows again, never a group in two pieces."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(pa.Table.from_batches([batch]))
        rows = pa.concat_tables(held)
        group = rows[group_by].to_numpy()
        different = np.flatnonzero(group != group[-1])
        last = int(different[-1]) + 1 if len(different) else 0
        if last:
            yield rows.slice(0, last)
        held = [rows.slice(last)]
    if held:
        yield pa.concat_tables(held)


def _groups(
    rows: pa.Table, schema: Schema, *, group_by: str, limit: int
) -> Iterator[tuple[str, records.Group]]:
    fields = schema.fields
    columns = {field.name: _column(rows[field.name], field) for field in fields}
    labels = {
        keys.CLICK: rows[schema.labels.click].to_numpy(),
        keys.CONVERSION: rows[schema.labels.conversion].to_numpy(),
    }
    group = rows[group_by].to_numpy()
    splits = rows[SPLIT].to_pylist()
    starts = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    for start, stop in zip(starts, np.append(starts[1:], len(group)), strict=True):
        for first in range(start, stop, limit):
            end = min(first + limit, stop)
            record: dict[str, Any] = {}
            for field in fields:
                last = first + 1 if field.side == CONTEXT else end
                record |= columns[field.name].entries(
                    field.name, first, last, lengths=records.needs_lengths(field)
                )
            yield splits[first], record | {name: v[first:end] for name, v in labels.items()}


def _column(column: pa.ChunkedArray, field: Feature | Key) -> Values:
    """Returns a column's values; null is no value."""
    array = column.combine_chunks()
    if field.values == MANY:
        lengths = pa.compute.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        array = array.flatten()
    else:
        lengths = array.is_valid().to_numpy(zero_copy_only=False).astype(np.int64)
        array = array.drop_null()
    values = array.to_numpy(zero_copy_only=False)
    return Values(values.astype(np.float32) if field.dtype == FLOAT32 else values, lengths)
