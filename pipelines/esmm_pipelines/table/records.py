"""A table of impressions, one per row, to grouped TFRecords: what all logs of that shape share.

Every row is typed and judged in the engine; the rejected ones are listed and counted before
anything is replaced, the others ordered by their group and written.
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any

from esmm_pipelines.engines.engine import Engine
from esmm_pipelines.grouping import splits
from esmm_pipelines.grouping.config import DataSetConfig, SplitConfig
from esmm_pipelines.grouping.rejections import RejectedRows, check_share
from esmm_pipelines.grouping.splits import GROUP, SPLIT
from esmm_pipelines.grouping.whole_groups import ORDER
from esmm_pipelines.table import casts
from esmm_pipelines.table.groups import SIGNATURE, GroupBuilder
from esmm_pipelines.table.typed import (
    cast,
    check_column,
    column_types,
    raw_columns,
    reject_reason,
    table_values,
    typed_columns,
)
from esmm_tf.errors import UserError
from esmm_tf.schema.record_field import CONTEXT
from esmm_tf.schema.schema import Schema

REASON = "esmm_tf_reason"
_SHOWN = "esmm_tf_shown"
_SPLIT_NAME = "esmm_tf_split_name"
_TIMES = ("esmm_tf_time_number", "esmm_tf_time_stamp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Columns of a log that say which rows belong together, and where.

    Args:
      group_by: rows with the same value are a group; if empty, rows with the same context are, or
        each row is, where the schema has no context features.
      time_column: the latest groups are the test; text that is a number or a time will do.
      split_column: names the split of a row; without either column, a hash of the group does.
    """

    group_by: str = ""
    time_column: str = ""
    split_column: str = ""

    def __post_init__(self) -> None:
        if self.time_column and self.split_column:
            raise UserError(
                f"--time_column is {self.time_column!r} and --split_column {self.split_column!r}. "
                "Give one of them."
            )


def write_table(
    engine: Engine,
    frame: Any,
    schema: Schema,
    *,
    layout: Layout,
    split: SplitConfig,
    data_set: DataSetConfig,
    source: Mapping[str, Any],
) -> None:
    """Writes the rows of a table as a data set and prints what became of them.

    Args:
      engine: that the table belongs to.
      frame: one row per impression, with a column for each feature, key, label and weight.
      schema: of the records.
      layout: how rows become groups.
      split: shares of the splits, unless a column names them.
      data_set: what to write.
      source: what the manifest says of the origin.

    Raises:
      UserError: if a column is missing or cannot be converted, too many rows are rejected, all of
        them are, or there is a data set that must not be replaced.
    """
    data_set.check_output()
    table = checked_table(engine, frame, schema, layout=layout, split=split, seed=data_set.seed)
    rejected, good_rows = _reject(engine, table, data_set)
    good = table.where(engine.F.col(REASON).isNull()).drop(REASON, _SHOWN)
    builder = GroupBuilder(
        schema=schema,
        max_group_size=data_set.max_group_size if _has_groups(schema, layout) else 1,
        negative_keep_rate=data_set.negative_keep_rate,
    )
    source = {**source, **dataclasses.asdict(layout), **dataclasses.asdict(split)}
    with data_set.open_writer(schema, source) as writer:
        writer.rejected.update(rejected)
        engine.write_groups(good, order=row_order(schema), to_groups=builder, writer=writer)
        for name in writer.negative_keep_rate:
            writer.sampled_out[name] = good_rows[name] - writer.count_impressions(name)
    data_set.report(writer)


def checked_table(
    engine: Engine, frame: Any, schema: Schema, *, layout: Layout, split: SplitConfig, seed: int
) -> Any:
    """Returns the typed rows with their group, split and order, and the reasons to reject them."""
    F = engine.F  # noqa: N806 - its customary name
    types = column_types(frame)
    for flag, column in dataclasses.asdict(layout).items():
        if column:
            check_column(column, types, wanted_by=f"--{flag}")
    layout = dataclasses.replace(layout, group_by=layout.group_by or schema.group_key or "")
    raw = raw_columns(schema, types)
    table = _select(engine, frame, {**raw, **_row_columns(schema, layout, types)})
    table, unknown = _with_split(engine, engine.named(table), layout=layout, split=split, seed=seed)
    kept = {name: name for name in (GROUP, SPLIT, _SHOWN, *raw)}
    table = _select(engine, engine.named(table), {**kept, **typed_columns(schema, types)})
    reasons = (
        reject_reason(engine, schema, types),
        F.when(F.col(GROUP).isNull(), F.lit(f"{layout.group_by} is missing")),
        F.when(F.col(SPLIT).isNull(), F.lit(unknown)),
    )
    context = F.expr(f"concat({SPLIT}, ':', {_context_text(schema)})")
    checked = engine.named(table).select(
        F.md5(F.concat(F.lit(f"{seed}:"), F.col(GROUP))).alias(ORDER),
        F.md5(context).alias(SIGNATURE),
        F.col(SPLIT),
        *(F.col(value.name) for value in table_values(schema).values()),
        F.col(_SHOWN),
        F.coalesce(*reasons).alias(REASON),
    )
    return engine.named(checked)


def _select(engine: Engine, frame: Any, columns: Mapping[str, str]) -> Any:
    return frame.select(*(engine.F.expr(sql).alias(name) for name, sql in columns.items()))


def _with_split(
    engine: Engine, table: Any, *, layout: Layout, split: SplitConfig, seed: int
) -> tuple[Any, str]:
    """Returns the table with the split of each row, and why a row may have none."""
    if layout.time_column:
        table = splits.with_split_by_time(engine, table, split, times=_TIMES)
        return table, "its time is not known"
    if layout.split_column:
        table = splits.with_split_column(engine, table, column=_SPLIT_NAME)
        return table, f"{layout.split_column} is none of {', '.join(splits.SPLITS)}"
    table = splits.with_random_split(engine, table, split, seed=seed)
    return table, "its split is not known"


def _has_groups(schema: Schema, layout: Layout) -> bool:
    return bool(layout.group_by or schema.group_key or schema.side_features(CONTEXT))


def _row_columns(schema: Schema, layout: Layout, types: Mapping[str, str]) -> dict[str, str]:
    """Returns the SQL of what is needed from the log besides the values of records."""
    columns = {_SHOWN: _shown_text(schema, layout), GROUP: _group_text(schema, layout, types)}
    if layout.time_column:
        time = f"cast({casts.quoted(layout.time_column)} as string)"
        number, stamp = _TIMES
        columns |= {number: casts.number(time), stamp: f"try_cast({time} as timestamp)"}
    if layout.split_column:
        columns[_SPLIT_NAME] = f"cast({casts.quoted(layout.split_column)} as string)"
    return columns


def _group_text(schema: Schema, layout: Layout, types: Mapping[str, str]) -> str:
    """Returns the SQL of a text that the rows of one group share."""
    values = table_values(schema)
    if layout.group_by:
        value = values.get(layout.group_by)
        column = casts.quoted(layout.group_by)
        if value is not None and not value.is_many:
            column = casts.one(column, value.kind)
        return f"cast({column} as string)"
    texts = [
        casts.text(
            cast(value, casts.quoted(value.source), types), value.kind, is_list=value.is_many
        )
        for value in values.values()
        if value.side == CONTEXT
    ] or [casts.text(casts.quoted(name), "", is_list=False) for name in types]
    return f"concat('', {', '.join(texts)})"


def _shown_text(schema: Schema, layout: Layout) -> str:
    """Returns the SQL of a text that names the group of a rejected row to a reader."""
    if layout.group_by:
        return f"cast({casts.quoted(layout.group_by)} as string)"
    single = [value for value in table_values(schema).values() if not value.is_many]
    context = [value.source for value in single if value.side == CONTEXT]
    texts = (
        f"concat({casts.literal(name + '=')}, cast({casts.quoted(name)} as string))"
        for name in context or [value.source for value in single]
    )
    return f"concat_ws(', ', {', '.join(texts)})"


def _context_text(schema: Schema) -> str:
    """Returns the SQL of a text that only rows of equal context share."""
    context = [value for value in table_values(schema).values() if value.side == CONTEXT]
    texts = (casts.text(value.name, value.kind, is_list=value.is_many) for value in context)
    return f"concat('', {', '.join(texts)})" if context else "''"


def row_order(schema: Schema) -> list[str]:
    """Returns the columns that order the rows; chance orders equal rows alone."""
    values = [value for value in table_values(schema).values() if value.side != CONTEXT]
    single = [value.name for value in values if not value.is_many]
    return [ORDER, SIGNATURE, *single, *(value.name for value in values if value.is_many)]


def _count(engine: Engine, table: Any) -> tuple[int, collections.Counter[str]]:
    """Returns the number of all rows, and by split that of rows without a reason to reject them."""
    F = engine.F  # noqa: N806 - its customary name
    # Every column is counted, since a reader leaves out what is not asked for, faults included.
    counts = [F.count(F.col(name)).alias(f"n_{name}") for name in table.columns if name != REASON]
    judged = table.groupBy(REASON, SPLIT).agg(F.count("*").alias("n"), *counts)
    total, good = 0, collections.Counter[str]()
    for batch in engine.stream(judged):
        for row in batch.select([REASON, SPLIT, "n"]).to_pylist():
            total += row["n"]
            if row[REASON] is None:
                good[row[SPLIT]] += row["n"]
    return total, good


def _reject(
    engine: Engine, table: Any, data_set: DataSetConfig
) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Lists the rejected rows; returns their number by reason, and that of the others by split."""
    F = engine.F  # noqa: N806 - its customary name
    total, good = _count(engine, table)
    columns = (F.col(_SHOWN), F.col(REASON))
    faulty = table.where(F.col(REASON).isNotNull()).select(*columns).orderBy(*columns)
    with RejectedRows(data_set.output_dir, ("group",)) as rejected:
        for batch in engine.stream(faulty):
            for group, reason in zip(*(column.to_pylist() for column in batch), strict=True):
                rejected.add((group,), reason)
        for reason, count in engine.rejected_rows().items():
            total += count
            for _ in range(count):
                rejected.add((None,), reason)
    check_share(
        rejected.counts, total=total, max_rejected=data_set.max_rejected, path=rejected.path
    )
    if total == rejected.counts.total():
        raise UserError(
            f"No row of {total:,} is left to write to {data_set.output_dir!r}. Rejected rows: "
            f"{dict(rejected.counts) or 'none'}. Check the input."
        )
    return rejected.counts, good
