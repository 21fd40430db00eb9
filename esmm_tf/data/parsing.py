"""Serialized records, and requests, into tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.data.ragged import row_ids
from esmm_tf.schema.columns import NumericColumn
from esmm_tf.schema.record_field import CONTEXT, IMPRESSION, RecordField
from esmm_tf.schema.schema import Feature, Schema


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
    carried = schema.carried_names if carry else ()
    fields = dict.fromkeys([*schema.features, *map(schema.field, carried)])
    spec = {key: _ragged_feature(key, field) for field in fields for key in field.value_keys}
    spec[keys.CLICK] = _values(keys.CLICK, tf.int64)
    if labels:
        spec |= _label_spec(schema)
    parsed = tf.io.parse_example(serialized, spec)
    group_index = row_ids(parsed[keys.CLICK].row_lengths())
    features = {keys.GROUP_INDEX: group_index}
    for field in fields:
        for key in field.value_keys:
            features[key] = _rows(parsed[key], field, key=key, group_index=group_index)
    carry_tensors = {}
    for name in carried:
        rows = features[name].values
        is_context = schema.field(name).is_context
        carry_tensors[name] = tf.gather(rows, group_index) if is_context else rows
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

    Raises:
      tf.errors.InvalidArgumentError: in the graph, if an Example is malformed, a feature has
        another dtype, or it has not as many weights as values.
    """
    parsed = _parse_features(serialized, schema.features)
    parsed[keys.GROUP_INDEX] = tf.range(tf.size(serialized, out_type=tf.int64))
    return _model_inputs(parsed, schema)


def parse_candidates(
    contexts: tf.Tensor, candidates: tf.Tensor, group_index: tf.Tensor, schema: Schema
) -> dict[str, Any]:
    """Returns the model's inputs from one Example a context and one a candidate.

    Args:
      contexts: serialized Examples of context features, string `[groups]`.
      candidates: serialized Examples of impression features, string `[impressions]`.
      group_index: int64 `[impressions]`, the context of each candidate.
      schema: what they hold.

    Raises:
      tf.errors.InvalidArgumentError: as `parse_impressions` does.
    """
    parsed = _parse_features(contexts, schema.side_features(CONTEXT))
    parsed |= _parse_features(candidates, schema.side_features(IMPRESSION))
    parsed[keys.GROUP_INDEX] = group_index
    return _model_inputs(parsed, schema)


def _parse_features(serialized: tf.Tensor, features: Sequence[Feature]) -> dict[str, Any]:
    """Returns features, and weights, ragged `[rows, values]`, of one Example a row."""
    spec = {key: _values(key, _tf_dtype(f, key)) for f in features for key in f.value_keys}
    if not spec:
        return {}
    parsed = tf.io.parse_example(serialized, spec)
    for feature in features:
        if feature.weighted:
            parsed[feature.weight_key] = _weights_of(parsed, feature)
    return parsed


def _weights_of(parsed: Mapping[str, tf.RaggedTensor], feature: Feature) -> tf.RaggedTensor:
    """Returns the weights, checked to be as many as the values in each row."""
    values, weights = parsed[feature.name], parsed[feature.weight_key]
    check = tf.debugging.assert_equal(
        values.row_splits,
        weights.row_splits,
        message=weights_rule(feature),
    )
    with tf.control_dependencies([check]):
        return values.with_flat_values(tf.identity(weights.flat_values))


def weights_rule(feature: Feature) -> str:
    """Returns what is said of an Example that has not one weight for each value of a feature."""
    # Without quotes, before which TensorFlow would show backslashes.
    return f"Feature {feature.name} needs one weight a value, under {feature.weight_key}."


def count_impressions(serialized: tf.Tensor) -> tf.Tensor:
    """Returns the number of impressions of each group, int64 `[groups]`."""
    spec = {keys.CLICK: _values(keys.CLICK, tf.int64)}
    return tf.io.parse_example(serialized, spec)[keys.CLICK].row_lengths()


def _tf_dtype(field: RecordField, key: str) -> tf.DType:
    """Returns the dtype of what a field has under a key: its own, or that of weights."""
    return tf.dtypes.as_dtype(field.dtype) if key == field.name else tf.float32


def _values(key: str, dtype: tf.DType) -> tf.io.RaggedFeature:
    return tf.io.RaggedFeature(dtype, value_key=key, row_splits_dtype=tf.int64)


def _ragged_feature(key: str, field: RecordField) -> tf.io.RaggedFeature:
    partitions = []
    if field.has_lengths:
        partitions = [tf.io.RaggedFeature.RowLengths(field.lengths_key)]
    return tf.io.RaggedFeature(
        _tf_dtype(field, key),
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


def _rows(
    parsed: tf.RaggedTensor, field: RecordField, *, key: str, group_index: tf.Tensor
) -> tf.RaggedTensor:
    """Returns the values as a ragged `[rows, values]`."""
    if field.is_context:
        return parsed
    if field.has_lengths:
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
            inputs[feature.weight_key] = parsed[feature.weight_key]
    return inputs
