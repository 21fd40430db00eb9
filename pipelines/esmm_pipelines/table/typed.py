"""A table of impressions, one per row, in the types of a schema, with a reason to reject a row."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from esmm_pipelines.engines.engine import Engine
from esmm_pipelines.table import casts
from esmm_tf import keys
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import FLOAT32, INT64, STRING
from esmm_tf.schema.record_field import IMPRESSION, MANY, ONE, RecordField
from esmm_tf.schema.schema import Schema

_INTEGER, _NUMBER, _STRING = (casts.SQL_TYPES[dtype] for dtype in (INT64, FLOAT32, STRING))
_ANY_KIND = re.compile(r"(tinyint|smallint|int|bigint|float|double|boolean|string|decimal\(.*\))")
_TEXT_ONLY = re.compile(r"(timestamp|timestamp_ntz|date)")
_LIST = re.compile(r"array<(.*)>")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """What a record key is made of.

    Args:
      source: the column of the log.
      name: the column of the typed table; a schema's own names may differ in case alone.
      side: of the context or of the impressions.
      kind: SQL type of one value.
      is_many: whether a row has any number of them.
      is_required: whether a row without a value is rejected.
    """

    source: str
    name: str
    side: str
    kind: str
    is_many: bool = False
    is_required: bool = False

    @property
    def sql_type(self) -> str:
        """Returns the SQL type of the column."""
        return f"array<{self.kind}>" if self.is_many else self.kind

    @property
    def raw_name(self) -> str:
        """Returns the name of the log's column while it is compared with the typed one."""
        return f"raw_{self.name}"


def table_values(schema: Schema) -> dict[str, Value]:
    """Returns what each record key is made of; lengths, which follow from lists, are not listed."""
    values = {field.name: _field_value(field, field.name) for field in schema.fields}
    for feature in schema.features:
        if feature.weighted:
            weight = _field_value(feature, weight_column(feature.name))
            values[feature.weight_key] = dataclasses.replace(
                weight, kind=_NUMBER, is_required=False
            )
    labels = {keys.CLICK: schema.labels.click, keys.CONVERSION: schema.labels.conversion}
    for key, source in labels.items():
        values[key] = Value(source=source, name="", side=IMPRESSION, kind=_INTEGER)
    for key, source in number_columns(schema).items():
        values[key] = Value(source=source, name="", side=IMPRESSION, kind=_NUMBER, is_required=True)
    return {
        key: dataclasses.replace(value, name=f"value_{index}")
        for index, (key, value) in enumerate(values.items())
    }


def weight_column(name: str) -> str:
    """Returns the log's column that holds the weights of a feature's values."""
    return f"{name}_weight"


def number_columns(schema: Schema) -> dict[str, str]:
    """Returns the log's columns of the weight and the truth of an impression, by record key."""
    columns = {}
    if schema.labels.example_weight is not None:
        columns[keys.EXAMPLE_WEIGHT] = schema.labels.example_weight
    if schema.oracle:
        columns |= {name: name for name in (keys.ORACLE_PCTR, keys.ORACLE_PCVR)}
    return columns


def raw_columns(schema: Schema, types: Mapping[str, str]) -> dict[str, str]:
    """Returns the SQL of the log's columns that records need, by a name for each.

    Args:
      schema: of the records.
      types: of the log's columns, from `column_types`.

    Raises:
      UserError: if a column is missing, or its type cannot become that of its feature.
    """
    values = table_values(schema).values()
    for source in sorted(value.source for value in values):
        check_column(source, types, wanted_by=f"schema {schema.name!r}")
    for value in values:
        _check_type(value, types[value.source.lower()], schema)
    return {value.raw_name: casts.quoted(value.source) for value in values}


def typed_columns(schema: Schema, types: Mapping[str, str]) -> dict[str, str]:
    """Returns the SQL of each `Value.name` on `raw_columns`; null where a value does not fit."""
    return {v.name: cast(v, v.raw_name, types) for v in table_values(schema).values()}


def cast(value: Value, sql: str, types: Mapping[str, str]) -> str:
    """Returns the SQL of a value's column in its type.

    Args:
      value: to cast; the type of its source tells whether it is a list.
      sql: of the column before the cast.
      types: of the log's columns.
    """
    if not value.is_many:
        return casts.one(sql, value.kind)
    return casts.many(sql, value.kind, is_list=_is_list(value, types))


def reject_reason(engine: Engine, schema: Schema, types: Mapping[str, str]) -> Any:
    """Returns the column of the first reason to reject a row of raw and typed columns, or null."""
    F = engine.F  # noqa: N806 - its customary name
    rules = _rules(table_values(schema), schema, types)
    return F.coalesce(*(F.when(F.expr(rule), F.lit(reason)) for rule, reason in rules))


def column_types(frame: Any) -> dict[str, str]:
    """Returns the SQL types of the columns of a frame, by their name in lower case."""
    fields = frame.schema.fields  # in sqlframe, a name that needs backticks has them
    return {field.name.strip("`").lower(): field.dataType.simpleString() for field in fields}


def check_column(name: str, types: Mapping[str, str], *, wanted_by: str) -> None:
    """Checks that a table has a column.

    Raises:
      UserError: if it has not.
    """
    if name.lower() not in types:
        raise UserError(
            f"The table has no column {name!r}, which {wanted_by} names. It has {sorted(types)}."
        )


def _field_value(field: RecordField, source: str) -> Value:
    return Value(
        source=source,
        name="",
        side=field.side,
        kind=casts.SQL_TYPES[field.dtype],
        is_many=field.values == MANY,
        is_required=field.values == ONE,
    )


def _check_type(value: Value, sql_type: str, schema: Schema) -> None:
    in_list = _LIST.fullmatch(sql_type)
    if in_list and not value.is_many:
        raise UserError(
            f"Column {value.source!r} holds lists, {sql_type}, and schema {schema.name!r} reads "
            "one value of it. Set values = 'many', or give a column of single values."
        )
    single = in_list[1] if in_list else sql_type
    if not _ANY_KIND.fullmatch(single) and not (
        value.kind == _STRING and _TEXT_ONLY.fullmatch(single)
    ):
        raise UserError(
            f"Column {value.source!r} is of type {sql_type}, which cannot become {value.sql_type}. "
            "Convert it in the table."
        )


def _is_list(value: Value, types: Mapping[str, str]) -> bool:
    return _LIST.fullmatch(types[value.source.lower()]) is not None


def _rules(
    values: Mapping[str, Value], schema: Schema, types: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yields conditions of faulty rows, as SQL on typed and raw columns, and their reasons."""
    for value in values.values():
        if value.is_many:
            if _is_list(value, types):
                yield casts.has_null(value.raw_name), f"{value.source} holds a missing value"
            faulty = casts.has_null(value.name)
        else:
            faulty = f"{value.raw_name} is not null and {value.name} is null"
        yield faulty, f"{value.source} is no {value.sql_type}"
    for feature in schema.features:
        if feature.weighted:
            weights = values[feature.weight_key]
            counts = (_count(value) for value in (values[feature.name], weights))
            yield " <> ".join(counts), f"{feature.name} has another number of weights"
    click, conversion = values[keys.CLICK], values[keys.CONVERSION]
    for label in (click, conversion):
        yield f"not coalesce({label.name} in (0, 1), false)", f"{label.source} is not 0 or 1"
    yield f"{conversion.name} > {click.name}", "conversion without click"
    for value in values.values():
        if value.is_required:
            yield f"{value.name} is null", f"{value.source} is missing"
    for key in number_columns(schema):
        yield f"{values[key].name} < 0", f"{values[key].source} is below 0"


def _count(value: Value) -> str:
    """Returns the SQL of the number of values in a row."""
    if value.is_many:
        return f"coalesce(size({value.name}), 0)"
    return f"(case when {value.name} is null then 0 else 1 end)"
