"""Serialized records, and requests, into tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.data.batch import Batch
from esmm_tf.data.ragged import row_ids
from esmm_tf.schema.columns import NumericColumn
from esmm_tf.schema.record_field import CONTEXT, IMPRESSION, RecordField
from esmm_tf.schema.schema import Feature, Schema

_LABELS = (keys.CLICK, keys.CONVERSION)
_ORACLE = (keys.ORACLE_PCTR, keys.ORACLE_PCVR)


def parse_groups(serialized: tf.Tensor, schema: Schema, *, carry: bool = False) -> Batch:
    """Returns a batch of groups; context features have one row per group.

    Args:
      serialized: string `[groups]`.
      schema: what the records hold.
      carry: whether to parse the keys that `predict` copies and the group key.
    """
    carried = [schema.field(name) for name in schema.carried_names] if carry else []
    fields = dict.fromkeys([*schema.features, *carried])
    spec = {key: _ragged_feature(key, field) for field in fields for key in field.value_keys}
    parsed = tf.io.parse_example(serialized, spec | _label_spec(schema))
    group_index = row_ids(parsed[keys.CLICK].row_lengths())
    rows = {keys.GROUP_INDEX: group_index}
    for field in fields:
        for key in field.value_keys:
            rows[key] = _rows(parsed[key], field, key=key, group_index=group_index)
    single = {field: rows[field.name].values for field in carried}
    weight = parsed.get(keys.EXAMPLE_WEIGHT)
    return Batch(
        features=_model_inputs(rows, schema),
        labels={name: tf.cast(parsed[name].values, tf.float32) for name in _LABELS},
        example_weight=None if weight is None else weight.values,
        oracle={name: parsed[name].values for name in _ORACLE if name in parsed},
        carry={
            field.name: tf.gather(values, group_index) if field.is_context else values
            for field, values in single.items()
        },
    )


def parse_impressions(serialized: tf.Tensor, schema: Schema) -> dict[str, Any]:
    """Returns the model's inputs from one Example per impression, as a server receives them.

    Each Example is a group of one impression. `f:lengths`, labels and keys are neither needed nor
    read, and an absent feature is missing.

    Raises:
      tf.errors.InvalidArgumentError: in the graph, if an Example is malformed, a feature does not
        have its dtype, or it has not as many weights as values.
    """
    parsed = _parse_features(serialized, schema.features)
    parsed[keys.GROUP_INDEX] = tf.range(tf.size(serialized, out_type=tf.int64))
    return _model_inputs(parsed, schema)


def parse_candidates(
    contexts: tf.Tensor, candidates: tf.Tensor, group_index: tf.Tensor, schema: Schema
) -> dict[str, Any]:
    """Returns the model's inputs from one Example per context and one per candidate.

    Args:
      contexts: serialized Examples of context features, string `[groups]`.
      candidates: serialized Examples of impression features, string `[impressions]`.
      group_index: int64 `[impressions]`, the context of each candidate.
      schema: of contexts and candidates.

    Raises:
      tf.errors.InvalidArgumentError: as `parse_impressions` does.
    """
    parsed = _parse_features(contexts, schema.side_features(CONTEXT))
    parsed |= _parse_features(candidates, schema.side_features(IMPRESSION))
    parsed[keys.GROUP_INDEX] = group_index
    return _model_inputs(parsed, schema)


def _parse_features(serialized: tf.Tensor, features: Sequence[Feature]) -> dict[str, Any]:
    """Returns features and their weights, ragged `[rows, values]`, from one Example per row."""
    spec = {key: _values(key, _tf_dtype(f, key)) for f in features for key in f.value_keys}
    if not spec:
        return {}
    parsed = tf.io.parse_example(serialized, spec)
    for feature in features:
        if feature.weighted:
            parsed[feature.weight_key] = _checked_weights(parsed, feature)
    return parsed


def _checked_weights(parsed: Mapping[str, tf.RaggedTensor], feature: Feature) -> tf.RaggedTensor:
    """Returns the weights of a feature, checked to be as many as the values in each row."""
    values, weights = parsed[feature.name], parsed[feature.weight_key]
    check = tf.debugging.assert_equal(
        values.row_splits,
        weights.row_splits,
        message=weights_rule(feature),
    )
    with tf.control_dependencies([check]):
        return values.with_flat_values(tf.identity(weights.flat_values))


def weights_rule(feature: Feature) -> str:
    """Returns the error message for an Example without one weight per value of a feature."""
    # Without quotes, before which TensorFlow would show backslashes.
    return f"Feature {feature.name} needs one weight per value, under {feature.weight_key}."


def count_impressions(serialized: tf.Tensor) -> tf.Tensor:
    """Returns the number of impressions of each group, int64 `[groups]`."""
    spec = {keys.CLICK: _values(keys.CLICK, tf.int64)}
    return tf.io.parse_example(serialized, spec)[keys.CLICK].row_lengths()


def _tf_dtype(field: RecordField, key: str) -> tf.DType:
    """Returns the dtype of a field's values, or of its weights, by their key."""
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
    """Returns how to parse labels, weight and truth: one value per impression."""
    spec = {name: _values(name, tf.int64) for name in _LABELS}
    if schema.labels.example_weight is not None:
        spec[keys.EXAMPLE_WEIGHT] = _values(keys.EXAMPLE_WEIGHT, tf.float32)
    if schema.oracle:
        spec |= {name: _values(name, tf.float32) for name in _ORACLE}
    return spec


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
