"""SQL of Spark for typed values: null where a value does not fit, and never a rounded one.

sqlframe has no `Column.try_cast`; `F.expr` reads this SQL on every engine.
"""

import numpy as np

from esmm_tf.schema.columns import FLOAT32, INT64, STRING

SQL_TYPES = {INT64: "bigint", FLOAT32: "double", STRING: "string"}
_MAX_FLOAT32 = float(np.finfo(np.float32).max)
_MAX_EXACT_DOUBLE = 2**53


def quoted(name: str) -> str:
    """Returns the SQL of a column."""
    return "`" + name.replace("`", "``") + "`"


def literal(text: str) -> str:
    """Returns the SQL of a text."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def number(value: str) -> str:
    """Returns the SQL of a value as a double that float32 can hold."""
    double = f"try_cast({value} as double)"
    return f"case when abs({double}) <= {_MAX_FLOAT32!r} then {double} end"


def integer(value: str) -> str:
    """Returns the SQL of a value as a bigint; whole numbers may be written in any way."""
    exact, double = f"try_cast({value} as bigint)", f"try_cast({value} as double)"
    return (
        f"case when {double} = {exact} then {exact} "
        f"when abs({double}) <= {_MAX_EXACT_DOUBLE} and {double} = floor({double}) "
        f"then cast({double} as bigint) end"
    )


def one(value: str, kind: str) -> str:
    """Returns the SQL of one value in one of `SQL_TYPES`."""
    if kind == SQL_TYPES[INT64]:
        return integer(value)
    return number(value) if kind == SQL_TYPES[FLOAT32] else f"cast({value} as {kind})"


def many(value: str, kind: str, *, is_list: bool) -> str:
    """Returns the SQL of a list; a single value becomes a list of one."""
    if is_list:
        return f"transform({value}, e -> {one('e', kind)})"
    return f"case when {value} is not null then array({one(value, kind)}) end"


def has_null(value: str) -> str:
    """Returns the SQL of whether a list holds a null."""
    return f"size(filter({value}, e -> e is null)) > 0"


def text(value: str, kind: str, *, is_list: bool) -> str:
    """Returns the SQL of a text that only equal values share; a missing list equals an empty one.

    Every string has its length before it, so that nothing after it is taken for a part of it.
    """
    if is_list:
        element = _with_length("e") if kind == SQL_TYPES[STRING] else "cast(e as string)"
        value = f"coalesce(array_join(transform({value}, e -> {element}), ','), '')"
    else:
        value = f"cast({value} as string)"
    return f"coalesce({_with_length(value)}, '-')"


def _with_length(value: str) -> str:
    return f"concat(cast(length({value}) as string), ':', {value})"
