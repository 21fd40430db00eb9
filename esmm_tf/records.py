"""Impression groups as records: encoding one, checking one, parsing a batch.

A group is held as a mapping from record key to a one-dimensional array, exactly the content of its
`tf.train.Example`: a context feature `f` under `f`; an impression feature `f` of all impressions
back to back under `f`, with the number of values of each under `f:lengths` unless it has exactly
one; weights under `f:weight`; labels under `click` and `conversion`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.columns import FLOAT32, INT64, NumericColumn
from esmm_tf.errors import UserError
from esmm_tf.schema import CONTEXT, IMPRESSION, ONE, OPTIONAL, Feature, Key, Schema

Group = Mapping[str, Sequence[Any] | np.ndarray]


def needs_lengths(field: Feature | Key) -> bool:
    """Returns whether the records of an impression field hold `f:lengths`."""
    return field.side == IMPRESSION and field.values != ONE


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
        raise UserError("A group without impressions. Give `click` one value an impression.")
    known = set()
    for field in schema.fields:
        known |= _check_field(group, field, num_impressions)
    per_impression = [keys.CLICK, keys.CONVERSION]
    if schema.labels.example_weight is not None:
        per_impression.append(keys.EXAMPLE_WEIGHT)
    if schema.oracle:
        per_impression += [keys.ORACLE_PCTR, keys.ORACLE_PCVR]
    for key in per_impression:
        _check_per_impression(key, np.asarray(group.get(key, ())), num_impressions)
    unknown = sorted(set(group) - known - set(per_impression))
    if unknown:
        raise UserError(f"The schema knows no {unknown[0]!r}. Declare it, or leave it out.")


def _check_per_impression(key: str, values: np.ndarray, num_impressions: int) -> None:
    """Checks a label, the weight or the truth."""
    if len(values) != num_impressions:
        raise UserError(
            f"{key!r} has {len(values)} values for {num_impressions} impressions. Give one each."
        )
    if key in (keys.CLICK, keys.CONVERSION):
        if values.dtype.kind not in "iub" or not ((values == 0) | (values == 1)).all():
            raise UserError(f"{key!r} holds {values.tolist()}. Labels are the integers 0 or 1.")
    elif values.dtype.kind != "f" or not (np.isfinite(values) & (values >= 0)).all():
        raise UserError(f"{key!r} holds {values.tolist()}. Give finite floats of 0.0 or more.")


def _check_field(group: Group, field: Feature | Key, num_impressions: int) -> set[str]:
    """Checks one feature or key; returns the record keys it may use."""
    name, used = field.name, {field.name}
    values = np.asarray(group.get(name, ()))
    _check_dtype(name, values, field.dtype)
    rows = 1 if field.side == CONTEXT else num_impressions
    single = field.values == ONE
    if single and len(values) != rows:
        raise UserError(f"{name!r} has {len(values)} values and needs exactly {rows}.")
    most = len(values)
    if needs_lengths(field):
        key = name + keys.LENGTHS_SUFFIX
        used.add(key)
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
        key = name + keys.WEIGHT_SUFFIX
        used.add(key)
        weights = np.asarray(group.get(key, ()))
        _check_dtype(key, weights, FLOAT32)
        if len(weights) != len(values):
            raise UserError(
                f"{key!r} has {len(weights)} weights for {len(values)} values. Give one each."
            )
    return used


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


def parse_groups(
    serialized: tf.Tensor, schema: Schema, *, labels: bool = True, carry: bool = False
) -> dict[str, Any]:
    """Returns a batch of groups as tensors, context once a group.

    Args:
      serialized: string `[groups]`.
      schema: what the records hold.
      labels: whether to parse labels, weight and truth.
      carry: whether to parse the keys that `predict` copies and the group key.

    Returns:
      A dictionary with `features`, the model's inputs, and on demand `labels`, `example_weight`,
      `oracle` and `carry`, the last four with one value an impression. In `features`, a categorical
      feature is a ragged `[rows, values]` with its weights beside it, a numeric one a float32
      `[rows]` with NaN where it is missing, where rows are groups for a context feature and
      impressions for others; `group_index`, int64 `[impressions]`, is each impression's group.
    """
    carried = _carried_names(schema) if carry else ()
    spec = {f.name: _ragged_feature(f.name, f) for f in schema.features}
    spec |= {name: _ragged_feature(name, schema.field(name)) for name in carried}
    for feature in schema.features:
        if feature.weighted:
            key = feature.name + keys.WEIGHT_SUFFIX
            spec[key] = _ragged_feature(key, feature, dtype=tf.float32)
    spec[keys.CLICK] = _values(keys.CLICK, tf.int64)
    if labels:
        spec |= _label_spec(schema)
    parsed = tf.io.parse_example(serialized, spec)
    group_index = parsed[keys.CLICK].value_rowids()
    features = {keys.GROUP_INDEX: group_index}
    for key in spec:
        field = _field_of(schema, key)
        if field is not None:
            features[key] = _rows(parsed[key], field, key=key, group_index=group_index)
    carry_tensors = {}
    for name in carried:
        rows = features[name].values
        side = schema.field(name).side
        carry_tensors[name] = tf.gather(rows, group_index) if side == CONTEXT else rows
    batch: dict[str, Any] = {"features": _model_inputs(features, schema)}
    if labels:
        batch |= _label_tensors(parsed, schema)
    if carry:
        batch["carry"] = carry_tensors
    return batch


def parse_impressions(serialized: tf.Tensor, schema: Schema) -> dict[str, Any]:
    """Returns the model's inputs from one Example an impression, as a server receives them.

    Each Example is a group of one: `f:lengths`, labels and keys are neither needed nor read, and
    an absent feature is missing.
    """
    spec = {}
    for feature in schema.features:
        spec[feature.name] = _values(feature.name, _tf_dtype(feature.dtype))
        if feature.weighted:
            key = feature.name + keys.WEIGHT_SUFFIX
            spec[key] = _values(key, tf.float32)
    parsed = tf.io.parse_example(serialized, spec)
    parsed[keys.GROUP_INDEX] = tf.range(tf.size(serialized, out_type=tf.int64))
    return _model_inputs(parsed, schema)


def count_impressions(serialized: tf.Tensor) -> tf.Tensor:
    """Returns the number of impressions of each group, int64 `[groups]`."""
    spec = {keys.CLICK: _values(keys.CLICK, tf.int64)}
    return tf.io.parse_example(serialized, spec)[keys.CLICK].row_lengths()


def _carried_names(schema: Schema) -> tuple[str, ...]:
    names = [*schema.carry, *([schema.group_key] if schema.group_key else [])]
    return tuple(dict.fromkeys(names))


def _tf_dtype(dtype: str) -> tf.DType:
    return tf.dtypes.as_dtype(dtype)


def _values(key: str, dtype: tf.DType) -> tf.io.RaggedFeature:
    return tf.io.RaggedFeature(dtype, value_key=key, row_splits_dtype=tf.int64)


def _ragged_feature(
    key: str, field: Feature | Key, dtype: tf.DType | None = None
) -> tf.io.RaggedFeature:
    partitions = []
    if needs_lengths(field):
        partitions = [tf.io.RaggedFeature.RowLengths(field.name + keys.LENGTHS_SUFFIX)]
    return tf.io.RaggedFeature(
        dtype or _tf_dtype(field.dtype),
        value_key=key,
        partitions=partitions,
        row_splits_dtype=tf.int64,
    )


def _label_spec(schema: Schema) -> dict[str, Any]:
    spec = {keys.CONVERSION: _values(keys.CONVERSION, tf.int64)}
    if schema.labels.example_weight is not None:
        spec[keys.EXAMPLE_WEIGHT] = _values(keys.EXAMPLE_WEIGHT, tf.float32)
    if schema.oracle:
        spec[keys.ORACLE_PCTR] = _values(keys.ORACLE_PCTR, tf.float32)
        spec[keys.ORACLE_PCVR] = _values(keys.ORACLE_PCVR, tf.float32)
    return spec


def _label_tensors(parsed: Mapping[str, tf.RaggedTensor], schema: Schema) -> dict[str, Any]:
    tensors: dict[str, Any] = {
        "labels": {
            name: tf.cast(parsed[name].values, tf.float32) for name in (keys.CLICK, keys.CONVERSION)
        }
    }
    if schema.labels.example_weight is not None:
        tensors[keys.EXAMPLE_WEIGHT] = parsed[keys.EXAMPLE_WEIGHT].values
    if schema.oracle:
        tensors["oracle"] = {
            name: parsed[name].values for name in (keys.ORACLE_PCTR, keys.ORACLE_PCVR)
        }
    return tensors


def _field_of(schema: Schema, key: str) -> Feature | Key | None:
    name = key.removesuffix(keys.WEIGHT_SUFFIX)
    return next((f for f in schema.fields if f.name == name), None)


def _rows(
    parsed: tf.RaggedTensor, field: Feature | Key, *, key: str, group_index: tf.Tensor
) -> tf.RaggedTensor:
    """Returns the values as a ragged `[rows, values]`."""
    if field.side == CONTEXT:
        return parsed
    if needs_lengths(field):
        rows = parsed.values
    else:
        rows = tf.RaggedTensor.from_uniform_row_length(parsed.values, 1)
    check = tf.debugging.assert_equal(
        rows.nrows(),
        tf.size(group_index, out_type=tf.int64),
        message=f"A damaged record: {key!r} has not as many entries as impressions.",
    )
    with tf.control_dependencies([check]):
        return tf.RaggedTensor.from_row_splits(
            rows.values, tf.identity(rows.row_splits), validate=False
        )


def _model_inputs(parsed: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    inputs = {keys.GROUP_INDEX: parsed[keys.GROUP_INDEX]}
    for feature in schema.features:
        rows = parsed[feature.name]
        if isinstance(feature.column, NumericColumn):
            rows = tf.cast(rows, tf.float32).to_tensor(np.nan, shape=[None, 1])[:, 0]
        inputs[feature.name] = rows
        if feature.weighted:
            key = feature.name + keys.WEIGHT_SUFFIX
            inputs[key] = parsed[key]
    return inputs
