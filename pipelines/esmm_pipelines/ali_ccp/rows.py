"""Lines of Ali-CCP's raw files as rows: labels, tokens, and why a row is to be rejected.

The format stands in `pipelines/README.md`. A token is one `(field, id, value)`; the tokens of a row
travel through the engine as one binary value, `TOKEN` after `TOKEN`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from esmm_pipelines.ali_ccp import raw_files
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import INT64
from esmm_tf.schema.record_field import CONTEXT, MANY, ONE
from esmm_tf.schema.schema import Schema

TOKEN = np.dtype([("field", "<u2"), ("id", "<i8"), ("value", "<f4")])
ROW = pa.schema(
    [
        ("part", pa.string()),
        ("side", pa.string()),
        ("context", pa.string()),
        ("sample_id", pa.int64()),
        ("click", pa.int64()),
        ("conversion", pa.int64()),
        ("tokens", pa.binary()),
        ("piece", pa.int64()),
        ("line", pa.int64()),
        ("reason", pa.string()),
    ]
)
# What Arrow takes for a number.
_NUMBER = (
    r"^[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
    r"|(?i:nan(?:\([0-9a-z_]*\))?|inf(?:inity)?))$"
)
_MAX_DIGITS = 18  # so many fit into int64, whatever they are
_CONTEXT_COLUMNS = ("context", "feature_num", "features")
_IMPRESSION_COLUMNS = ("sample_id", "click", "conversion", *_CONTEXT_COLUMNS)


def check_schema(schema: Schema) -> None:
    """Raises a `UserError` if a feature is of another type than Ali-CCP's ids."""
    for feature in schema.features:
        if feature.dtype != INT64:
            raise UserError(
                f"Feature {feature.name!r} has dtype {feature.dtype!r}. Ali-CCP's ids are 'int64'."
            )


def parse_piece(
    piece: raw_files.Piece,
    report: Callable[[int], Any] = lambda _: None,
    *,
    schema: Schema,
    ignored: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a piece as batches of schema `ROW`, every line as one row.

    Args:
      piece: of a skeleton or a file of common features, by its side.
      report: is told how many bytes were read.
      schema: whose features say which fields there are, and in which order.
      ignored: fields to leave out.
    """
    first_line = 1
    for block in raw_files.read_blocks(piece, report):
        rows = _parse(block, side=piece.side, schema=schema, ignored=ignored)
        number = len(rows["reason"])
        rows |= {
            "part": pa.repeat(piece.part, number),
            "side": pa.repeat(piece.side, number),
            "piece": np.full(number, piece.number, dtype=np.int64),
            "line": np.arange(first_line, first_line + number),
        }
        yield pa.record_batch([rows[name] for name in ROW.names], schema=ROW)
        first_line += number


def tokens_of(column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of all rows, `TOKEN` `[tokens]`, and how many each has, `[rows]`."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    if not lengths.sum():
        return np.empty(0, TOKEN), lengths.astype(np.int64)
    _, offsets, data = array.buffers()
    wide = pa.types.is_large_binary(array.type)
    first = np.frombuffer(offsets, np.int64 if wide else np.int32)[array.offset]
    tokens = np.frombuffer(data, np.uint8)[first : first + lengths.sum()].view(TOKEN)
    return tokens, (lengths // TOKEN.itemsize).astype(np.int64)


class _Rejects:
    """Why each row is to be rejected: the first reason that was found."""

    def __init__(self, number: int) -> None:
        self.reasons = np.full(number, None, dtype=object)

    @property
    def good(self) -> np.ndarray:
        return np.flatnonzero(self.reasons == None)  # noqa: E711 - element by element

    def mark(self, rows: np.ndarray, reason: str) -> None:
        unmarked = rows[self.reasons[rows] == None]  # noqa: E711 - element by element
        self.reasons[unmarked] = reason


def _parse(
    block: raw_files.Block, *, side: str, schema: Schema, ignored: Sequence[str]
) -> dict[str, Any]:
    """Returns the columns of `ROW` that the text tells; every line is one row."""
    names = _CONTEXT_COLUMNS if side == CONTEXT else _IMPRESSION_COLUMNS
    lines, broken = _lines(block.text)
    rejects = _Rejects(len(lines))
    rejects.mark(broken, "not UTF-8")
    if block.problem:
        rejects.mark(np.array([len(lines) - 1]), block.problem)
    cells = pc.split_pattern(lines, ",")
    width = pc.list_value_length(cells).to_numpy()
    rejects.mark(np.flatnonzero(width != len(names)), "wrong number of columns")
    rows = rejects.good
    cells = cells.take(pa.array(rows)).flatten()
    column = {
        name: cells.take(pa.array(np.arange(index, len(cells), len(names))))
        for index, name in enumerate(names)
    }
    numbers = {}
    if side != CONTEXT:
        numbers["sample_id"], invalid = _integers(column["sample_id"])
        rejects.mark(rows[invalid], "sample_id is no integer")
        for name in ("click", "conversion"):
            numbers[name] = _labels(column[name], rows, rejects, name)
    rejects.mark(rows[_is_empty(column["context"])], "empty common_feature_index")
    feature_num, _ = _integers(column["feature_num"])
    texts, counts = _split(column["features"])
    rejects.mark(rows[counts != feature_num], "feature_num is not the number of features")
    parents = np.repeat(rows, counts)
    tokens = _tokens(texts, parents, rejects, schema=schema, side=side, ignored=ignored)
    kept = np.isin(parents, rejects.good) & (tokens["field"] < len(schema.features))
    sizes = np.bincount(parents[kept], minlength=len(lines))
    return {
        "context": _scatter(column["context"], rows, len(lines)),
        **{
            name: _scatter(numbers[name], rows, len(lines))
            if name in numbers
            else pa.nulls(len(lines), pa.int64())
            for name in ("sample_id", "click", "conversion")
        },
        "tokens": _binary(tokens[kept], sizes),
        "reason": pa.array(rejects.reasons, pa.string()),
    }


def _lines(text: bytes) -> tuple[pa.Array, np.ndarray]:
    """Returns the lines without their ends, and which are not UTF-8; those are left empty."""
    text = text.replace(b"\r\n", b"\n")
    broken = []
    try:
        text.decode()
    except UnicodeDecodeError:
        lines = text.split(b"\n")
        for number, line in enumerate(lines):
            if line != line.decode(errors="ignore").encode():
                broken.append(number)
                lines[number] = b""
        text = b"\n".join(lines)
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    offsets = np.append(0, ends + 1).astype(np.int32)
    whole = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))
    return pc.ascii_rtrim(whole, "\n"), np.array(broken, dtype=np.int64)


def _is_empty(column: pa.Array) -> np.ndarray:
    return pc.equal(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)


def _integers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers, -1 where there is none, and a mask of those rows."""
    length = pc.binary_length(column)
    valid = pc.and_(pc.ascii_is_decimal(column), pc.less_equal(length, _MAX_DIGITS))
    number = pc.cast(column if _all(valid) else pc.if_else(valid, column, "-1"), pa.int64())
    return number.to_numpy(), ~valid.to_numpy(zero_copy_only=False)


def _floats(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers as float32, 0 where there is none, and a mask of those rows."""
    try:
        number, invalid = pc.cast(column, pa.float64()), np.zeros(len(column), dtype=bool)
    except pa.ArrowInvalid:  # does not say which ones are invalid
        valid = pc.match_substring_regex(column, _NUMBER)
        number = pc.cast(pc.if_else(valid, column, "0"), pa.float64())
        invalid = ~valid.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        return number.to_numpy().astype(np.float32), invalid


def _all(mask: pa.Array) -> bool:
    return mask.true_count == len(mask)


def _pairs(column: pa.Array, separator: str) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """Returns the texts before and after the separator, and a mask of rows without exactly one."""
    parts = pc.split_pattern(column, separator)
    invalid = pc.list_value_length(parts).to_numpy() != 2
    if invalid.any():
        parts = pc.split_pattern(pc.if_else(pa.array(~invalid), column, separator), separator)
    cells = parts.flatten()
    evens = np.arange(0, len(cells), 2)
    return cells.take(pa.array(evens)), cells.take(pa.array(evens + 1)), invalid


def _labels(column: pa.Array, rows: np.ndarray, rejects: _Rejects, name: str) -> np.ndarray:
    label = pc.index_in(column, value_set=pa.array(["0", "1"])).fill_null(-1).to_numpy()
    rejects.mark(rows[label < 0], f"{name} is not 0 or 1")
    return label.astype(np.int64)


def _split(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Returns the texts of all tokens, and how many each row has; an empty list has none."""
    lists = pc.split_pattern(column, "\x01")
    counts = pc.list_value_length(lists).to_numpy().astype(np.int64)
    empty = _is_empty(column)
    texts = lists.flatten()
    if empty.any():
        texts = texts.filter(pa.array(~np.repeat(empty, counts)))
        counts[empty] = 0
    return texts, counts


def _tokens(
    texts: pa.Array,
    parents: np.ndarray,
    rejects: _Rejects,
    *,
    schema: Schema,
    side: str,
    ignored: Sequence[str],
) -> np.ndarray:
    """Returns the tokens, `TOKEN`; rows with a token that does not fit the schema are marked.

    The field of a token is the index of its feature, or the number of features if it is ignored.
    """
    fields, rest, no_id = _pairs(texts, "\x02")
    ids, values, no_value = _pairs(rest, "\x03")
    ids, bad_id = _integers(ids)
    values, bad_value = _floats(values)
    malformed = no_id | no_value | bad_id | bad_value
    rejects.mark(parents[malformed], "malformed token")
    rejects.mark(parents[~np.isfinite(values)], "a value is not finite")
    names = [*(feature.name for feature in schema.features), *ignored]
    indices = pc.index_in(fields, value_set=pa.array(names)).fill_null(len(names)).to_numpy()
    rejects.mark(parents[indices == len(names)], "a field is not in the schema")
    tokens = np.empty(len(texts), TOKEN)
    tokens["field"] = np.minimum(indices, len(schema.features))
    tokens["id"], tokens["value"] = ids, values
    _check_fields(tokens, parents, rejects, schema=schema, side=side)
    return tokens


def _check_fields(
    tokens: np.ndarray, parents: np.ndarray, rejects: _Rejects, *, schema: Schema, side: str
) -> None:
    """Marks rows with a field on the wrong side, repeated or missing, or a value to be lost."""
    number = len(rejects.reasons)
    for field, feature in enumerate(schema.features):
        own = np.flatnonzero(tokens["field"] == field)
        if feature.side != side:
            rejects.mark(parents[own], f"field {feature.name} is on the wrong side")
            continue
        if feature.values != MANY:
            counts = np.bincount(parents[own], minlength=number)
            rejects.mark(np.flatnonzero(counts > 1), f"field {feature.name} has several values")
            if feature.values == ONE:
                rejects.mark(np.flatnonzero(counts == 0), f"field {feature.name} is missing")
        if not feature.weighted:
            weighty = own[tokens["value"][own] != 1]
            rejects.mark(parents[weighty], f"field {feature.name} has a value other than 1")


def _scatter(values: Any, rows: np.ndarray, number: int) -> pa.Array:
    """Returns `number` values, null in all but the given rows."""
    indices = np.full(number, -1)
    indices[rows] = np.arange(len(rows))
    return pa.array(values).take(pa.array(indices, mask=indices < 0))


def _binary(tokens: np.ndarray, sizes: np.ndarray) -> pa.Array:
    """Returns the tokens of each row as one binary value."""
    offsets = np.append(0, np.cumsum(sizes) * TOKEN.itemsize).astype(np.int32)
    data = pa.py_buffer(np.ascontiguousarray(tokens).tobytes())
    return pa.Array.from_buffers(pa.binary(), len(sizes), [None, pa.py_buffer(offsets), data])
