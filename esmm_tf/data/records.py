"""Impression groups as records: encoding, checking and splitting a group.

A group is a mapping from record key to a one-dimensional array, exactly the content of its
`tf.train.Example`. A context feature `f` has its values under `f`; an impression feature `f` has
those of all impressions back to back under `f`, and the number of values per impression under
`f:lengths`, unless each has exactly one. Weights are under `f:weight`, labels under `click` and
`conversion`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import FLOAT32, INT64
from esmm_tf.schema.record_field import ONE, OPTIONAL, RecordField
from esmm_tf.schema.schema import Feature, Schema

Group = Mapping[str, Sequence[Any] | np.ndarray]


def encode_group(group: Group) -> bytes:
    """Returns the serialized `tf.train.Example` of a group, the same bytes every time."""
    example = tf.train.Example()
    feature = example.features.feature
    for key, values in group.items():
        array = np.asarray(values)
        if array.size == 0:
            continue  # an empty list has no dtype, and an absent key means the same
        if array.dtype.kind == "f":
            feature[key].float_list.value.extend(array.tolist())
        elif array.dtype.kind in "iub":
            array = array.astype(np.int64) if array.dtype.kind == "b" else array
            feature[key].int64_list.value.extend(array.tolist())
        else:
            feature[key].bytes_list.value.extend(
                v.encode() if isinstance(v, str) else v for v in values
            )
    return example.SerializeToString(deterministic=True)


def check_group(group: Group, schema: Schema) -> None:
    """Checks a group against the schema before it is written.

    Raises:
      UserError: naming the record key, if a key is unknown or missing, a dtype differs, lengths do
        not add up, a single value is missing or repeated, a number is not finite, or a label is
        neither 0 nor 1.
    """
    num_impressions = len(group.get(keys.CLICK, ()))
    if num_impressions == 0:
        raise UserError("A group without impressions. Give `click` one value per impression.")
    for field in schema.fields:
        _check_field(group, field, num_impressions)
    per_impression = [keys.CLICK, keys.CONVERSION]
    if schema.labels.example_weight is not None:
        per_impression.append(keys.EXAMPLE_WEIGHT)
    if schema.oracle:
        per_impression += [keys.ORACLE_PCTR, keys.ORACLE_PCVR]
    for key in per_impression:
        _check_per_impression(key, np.asarray(group.get(key, ())), num_impressions)
    known = {key for field in schema.fields for key in field.record_keys}
    unknown = sorted(set(group) - known - set(per_impression))
    if unknown:
        raise UserError(f"The schema knows no {unknown[0]!r}. Declare it, or leave it out.")


def _check_per_impression(key: str, values: np.ndarray, num_impressions: int) -> None:
    """Checks a label, the weight or the truth: one value per impression."""
    if len(values) != num_impressions:
        raise UserError(
            f"{key!r} has {len(values)} values for {num_impressions} impressions. Give one each."
        )
    if key in (keys.CLICK, keys.CONVERSION):
        if values.dtype.kind not in "iub" or not ((values == 0) | (values == 1)).all():
            raise UserError(f"{key!r} holds {values.tolist()}. Labels are the integers 0 or 1.")
    elif values.dtype.kind != "f" or not (np.isfinite(values) & (values >= 0)).all():
        raise UserError(f"{key!r} holds {values.tolist()}. Give finite floats of 0.0 or more.")


def _check_field(group: Group, field: RecordField, num_impressions: int) -> None:
    """Checks one feature or key."""
    name = field.name
    values = np.asarray(group.get(name, ()))
    _check_dtype(name, values, field.dtype)
    rows = 1 if field.is_context else num_impressions
    single = field.values == ONE
    if single and len(values) != rows:
        raise UserError(f"{name!r} has {len(values)} values and needs exactly {rows}.")
    most = len(values)
    if field.has_lengths:
        key = field.lengths_key
        lengths = np.asarray(group.get(key, ()))
        _check_dtype(key, lengths, INT64)
        if len(lengths) != rows or lengths.min() < 0 or lengths.sum() != len(values):
            raise UserError(
                f"{key!r} is {lengths.tolist()} for {rows} impressions and {len(values)} values. "
                "Give the number of values of each impression."
            )
        most = lengths.max()
    if field.values == OPTIONAL and most > 1:
        raise UserError(f"{name!r} is optional and has {most} values. Give at most one.")
    if field.weighted:
        key = field.weight_key
        weights = np.asarray(group.get(key, ()))
        _check_dtype(key, weights, FLOAT32)
        if len(weights) != len(values):
            raise UserError(
                f"{key!r} has {len(weights)} weights for {len(values)} values. Give one each."
            )


def _check_dtype(name: str, values: np.ndarray, dtype: str) -> None:
    if values.dtype == np.int64 and dtype == INT64:
        return  # what most columns are
    kinds = {INT64: "iu", FLOAT32: "f"}.get(dtype, "SUO")
    if values.size and values.dtype.kind not in kinds:
        raise UserError(
            f"{name!r} holds {values.dtype}, and needs {dtype}. Convert it before writing."
        )
    if values.dtype.kind == "u" and (values > np.iinfo(np.int64).max).any():
        raise UserError(f"{name!r} holds {values.max()}, which is above int64. Write it as string.")
    if values.dtype.kind == "O" and not all(isinstance(v, str | bytes) for v in values):
        raise UserError(f"{name!r} holds a value that is no string. Leave it out as missing.")
    if dtype == FLOAT32:
        with np.errstate(over="ignore"):  # beyond float32 is infinite: reported below
            is_finite = np.isfinite(values.astype(np.float32, copy=False))
        if not is_finite.all():
            raise UserError(f"{name!r} holds a number that is not finite. Leave it out as missing.")


def split_group(serialized: bytes, schema: Schema) -> tuple[bytes, list[bytes]]:
    """Returns a record's context and each of its impressions, as serialized Examples of features.

    The bytes of a context followed by those of one of its impressions are an Example that holds
    both: the wire format of protocol buffers merges concatenated messages.
    """
    content = tf.train.Example.FromString(serialized).features.feature
    context = tf.train.Example()
    impressions = [tf.train.Example() for _ in content[keys.CLICK].int64_list.value]
    for feature in schema.features:
        if feature.is_context:
            targets, lengths = [context], None
        else:
            targets = impressions
            lengths = _lengths(content, feature)
        for key in feature.value_keys:
            if key in content:
                _deal(content[key], targets, lengths, key)
    return context.SerializeToString(deterministic=True), [
        impression.SerializeToString(deterministic=True) for impression in impressions
    ]


def _lengths(content: Mapping[str, Any], feature: Feature) -> Sequence[int] | None:
    """Returns how many values each impression has, or None if each has exactly one."""
    if not feature.has_lengths:
        return None
    return content[feature.lengths_key].int64_list.value


def _deal(
    values: tf.train.Feature,
    targets: Sequence[tf.train.Example],
    lengths: Sequence[int] | None,
    key: str,
) -> None:
    """Gives each target its own part of the values."""
    kind = values.WhichOneof("kind")
    if kind is None:
        return
    items = getattr(values, kind).value
    if lengths is None:
        lengths = [len(items)] if len(targets) == 1 else [1] * len(targets)
    end = 0
    for target, length in zip(targets, lengths, strict=True):
        start, end = end, end + length
        if length:
            getattr(target.features.feature[key], kind).value.extend(items[start:end])
