"""Requests in the JSON of TF Serving's REST API, read as tensors: in rows or in columns.

The rules and the words of the errors are those of its `json_tensor.cc`. In rows, `instances` is
answered with `predictions`; in columns, `inputs` is answered with `outputs`.
"""

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from esmm_tf.serving.refusal import invalid_argument

INSTANCES = "instances"
INPUTS = "inputs"
_BASE64 = "b64"

Dtypes = Mapping[str, tf.DType]


class JsonRequest(NamedTuple):
    """A signature, `""` where none is named, its inputs, and whether they came in rows."""

    signature: str
    inputs: dict[str, np.ndarray]
    in_rows: bool


class _Item(NamedTuple):
    """A dense JSON value: its shape, and its leaves in row-major order."""

    shape: list[int]
    leaves: list[Any]


def read_request(body: bytes, find_dtypes: Callable[[str], Dtypes]) -> JsonRequest:
    """Returns the request of a body.

    Args:
      body: JSON, in which NaN, Infinity and -Infinity are numbers too.
      find_dtypes: returns the inputs' dtypes of the signature of a name.

    Raises:
      tf.errors.InvalidArgumentError: if it is not JSON, or not of the signature's inputs.
    """
    try:
        document = _parse(body)
        signature = document.get("signature_name", "")
        if not isinstance(signature, str):
            raise invalid_argument(
                f"JSON Value: {_text(document)} not formatted correctly. "
                "'signature_name' key must be a string value."
            )
        dtypes = find_dtypes(signature)
        if not dtypes:
            raise invalid_argument(
                f"Failed to get input map for signature: {signature or 'DEFAULT'}"
            )
        return JsonRequest(signature, _read_inputs(document, dtypes), INSTANCES in document)
    except RecursionError:
        raise invalid_argument("JSON Parse error: Nested too deeply.") from None


def _parse(body: bytes) -> dict[str, Any]:
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except json.JSONDecodeError as error:
        raise invalid_argument(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise invalid_argument(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {_text(document)} Is not object")
    return document


def _read_inputs(document: Mapping[str, Any], dtypes: Dtypes) -> dict[str, np.ndarray]:
    if INSTANCES in document and INPUTS in document:
        raise invalid_argument(
            f"JSON Value: {_text(document)} Not formatted correctly expecting only one of "
            f"'{INPUTS}' or '{INSTANCES}' keys to exist "
        )
    if INPUTS in document:
        return _read_columns(document[INPUTS], dtypes)
    if INSTANCES not in document:
        raise invalid_argument(f"Missing '{INPUTS}' or '{INSTANCES}' key")
    rows = document[INSTANCES]
    if not isinstance(rows, list):
        raise invalid_argument(
            f"JSON Value: {_text(document)} Excepting '{INSTANCES}' to be an list/array"
        )
    if not rows:
        raise invalid_argument(f"JSON Value: {_text(document)} No values in '{INSTANCES}' array")
    return _read_rows(rows, dtypes)


def _read_columns(columns: Any, dtypes: Dtypes) -> dict[str, np.ndarray]:
    if not _is_named(columns):
        if len(dtypes) > 1:
            raise invalid_argument(
                f"{INPUTS} is a plain value/list, but expecting an object as multiple input "
                "tensors required as per tensorinfo_map"
            )
        columns = dict.fromkeys(dtypes, columns)
    tensors = {}
    for name, dtype in dtypes.items():
        if name not in columns:
            raise invalid_argument(f"Missing named input: {name} in '{INPUTS}' object.")
        item = _read_item(columns[name], dtype)
        tensors[name] = _build_array(item.leaves, item.shape, dtype)
    return tensors


def _read_rows(rows: Sequence[Any], dtypes: Dtypes) -> dict[str, np.ndarray]:
    if not isinstance(rows[0], dict) and len(dtypes) > 1:
        raise invalid_argument(
            f"{INSTANCES} is a plain list, but expecting list of objects as multiple input "
            "tensors required as per tensorinfo_map"
        )
    are_named = _is_named(rows[0])
    items: dict[str, list[_Item]] = {}
    for index, row in enumerate(rows):
        if _is_named(row) != are_named:
            kinds = "object but got list" if are_named else "value/list but got object"
            raise invalid_argument(f"Expecting {kinds} at item {index} of input list")
        named = row if are_named else {next(iter(dtypes)): row}
        for name, value in named.items():
            try:
                _add_item(value, name, dtypes, items)
            except tf.errors.InvalidArgumentError as error:
                key = f" key: {name}" if are_named else ""
                raise invalid_argument(
                    f"Failed to process element: {index}{key} of '{INSTANCES}' list. "
                    f"Error: INVALID_ARGUMENT: {error.message}"
                ) from None
        if are_named and row.keys() != dtypes.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of '{INSTANCES}' list. "
                f"JSON object: {_text(row)} must only have keys: {','.join(sorted(dtypes))}"
            )
    return {
        name: _build_array(
            [leaf for item in column for leaf in item.leaves],
            [len(rows), *column[0].shape],
            dtypes[name],
        )
        for name, column in items.items()
    }


def _add_item(value: Any, name: str, dtypes: Dtypes, items: dict[str, list[_Item]]) -> None:
    """Appends a row's value to those of its input, which are all of one shape."""
    if name not in dtypes:
        raise invalid_argument(f"JSON object: does not have named input: {name}")
    item = _read_item(value, dtypes[name])
    column = items.setdefault(name, [])
    column.append(item)
    if len(item.leaves) != len(column[0].leaves):
        raise invalid_argument(
            f"Expecting tensor size: {len(column[0].leaves)} but got: {len(item.leaves)}"
        )
    if item.shape != column[0].shape:
        expected, given = (",".join(map(str, shape)) for shape in (column[0].shape, item.shape))
        raise invalid_argument(f"Expecting shape [{expected}] but got: [{given}]")


def _read_item(value: Any, dtype: tf.DType) -> _Item:
    shape = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    item = _Item(shape, [])
    _add_leaves(value, dtype, item, level=0)
    return item


def _add_leaves(value: Any, dtype: tf.DType, item: _Item, *, level: int) -> None:
    rank = len(item.shape)
    if not isinstance(value, list):
        if level != rank:
            raise invalid_argument(
                f"JSON Value: {_text(value)} found at incorrect level: {level + 1} in the JSON "
                f"DOM. Expected at level: {rank}"
            )
        item.leaves.append(_read_leaf(value, dtype))
        return
    if level >= rank:
        raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {rank}")
    if len(value) != item.shape[level]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} at level: {level} "
            f"expected size: {item.shape[level]}"
        )
    for element in value:
        _add_leaves(element, dtype, item, level=level + 1)


def _read_leaf(value: Any, dtype: tf.DType) -> Any:
    is_integer = type(value) is int  # and not bool
    if dtype == tf.string and isinstance(value, dict):
        return _decode_base64(value)
    if dtype == tf.string and isinstance(value, str):
        return value.encode(errors="surrogatepass")
    if dtype.is_integer and is_integer and dtype.min <= value <= dtype.max:
        return value
    if dtype.is_floating and (is_integer or isinstance(value, float)):
        return _check_decimal(value, dtype)
    raise invalid_argument(
        f"JSON Value: {_text(value)} Type: {_type_name(value)} is not of expected type: "
        f"{_dtype_name(dtype)}"
    )


def _decode_base64(value: Mapping[str, Any]) -> bytes:
    if not _is_base64(value):
        raise invalid_argument(
            f"JSON Value: {_text(value)} not formatted correctly for base64 data"
        )
    text = "".join(value[_BASE64].split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument("Unable to base64 decode") from None


def _check_decimal(value: float, dtype: tf.DType) -> float:
    info = np.finfo(dtype.as_numpy_dtype)
    most = 2 ** (info.nmant + 1) - 1 if isinstance(value, int) else float(info.max)
    if most < abs(value) < math.inf:
        raise invalid_argument(
            f"Cannot convert JSON value: {_text(value)} to {_dtype_name(dtype)} "
            "without loss of precision."
        )
    return value


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {_BASE64} and isinstance(value[_BASE64], str)


def _is_named(value: Any) -> bool:
    """Returns whether it is an object of values by their inputs' names."""
    return isinstance(value, dict) and not _is_base64(value)


def _build_array(leaves: list[Any], shape: Sequence[int], dtype: tf.DType) -> np.ndarray:
    kind = object if dtype == tf.string else dtype.as_numpy_dtype
    return np.array(leaves, kind).reshape(shape)


def _type_name(value: Any) -> str:
    names = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
    return {**names, bool: str(value), type(None): "Null"}[type(value)]


def _dtype_name(dtype: tf.DType) -> str:
    return types_pb2.DataType.Name(dtype.as_datatype_enum).removeprefix("DT_").lower()


def _text(value: Any) -> str:
    return json.dumps(value)
