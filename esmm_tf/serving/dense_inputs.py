"""Dense tensors as a request's inputs: of fixed width, padded, and read back without the padding.

A server that batches requests concatenates their tensors, which needs one width for all of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.data import parsing
from esmm_tf.data.feature_values import take_values
from esmm_tf.model.feature_columns import tensor_names
from esmm_tf.schema.columns import FLOAT32, INT64, STRING, NumericColumn
from esmm_tf.schema.record_field import MANY
from esmm_tf.schema.schema import Feature, Schema

# Stands for "no value". Weights of padding are not read.
PADDING = {INT64: np.iinfo(np.int64).min, FLOAT32: np.nan, STRING: ""}

Widths = Mapping[str, int]


def many_valued(schema: Schema) -> tuple[Feature, ...]:
    """Returns the features that need a width."""
    return tuple(feature for feature in schema.features if feature.values == MANY)


def tensor_specs(schema: Schema, widths: Widths) -> dict[str, tf.TensorSpec]:
    """Returns the dense inputs, keyed as the model's and named as the signature's.

    Args:
      schema: of the model.
      widths: the most values that an impression has, by the name of each feature that has many.
    """
    names = tensor_names(schema)
    specs = {}
    for feature in schema.features:
        shape = [None, widths[feature.name]] if feature.values == MANY else [None]
        specs[feature.name] = tf.TensorSpec(shape, feature.dtype, name=names[feature.name])
        if feature.weighted:
            key = feature.weight_key
            specs[key] = tf.TensorSpec(shape, tf.float32, name=names[key])
    return specs


def count_values(examples: Sequence[tf.train.Example], schema: Schema) -> dict[str, int]:
    """Returns the most values that an impression has, by each feature that needs a width."""
    return {
        feature.name: max((len(_read(example, feature.name)) for example in examples), default=0)
        for feature in many_valued(schema)
    }


def pad(
    examples: Sequence[tf.train.Example], schema: Schema, widths: Widths
) -> dict[str, np.ndarray]:
    """Returns the dense inputs of impressions, by the signature's names.

    Of more values than a width has room for, the first are taken.

    Args:
      examples: one per impression, `[batch]`.
      schema: of the model.
      widths: as `tensor_specs` takes them.

    Raises:
      tf.errors.InvalidArgumentError: if an impression has not as many weights as values.
    """
    names = tensor_names(schema)
    tensors = {}
    for feature in schema.features:
        width = widths[feature.name] if feature.values == MANY else None
        rows = [_read(example, feature.name) for example in examples]
        tensors[names[feature.name]] = _dense(rows, width, feature.dtype, PADDING[feature.dtype])
        if feature.weighted:
            weights = [_read(example, feature.weight_key) for example in examples]
            _check_weights(weights, rows, feature)
            tensors[names[feature.weight_key]] = _dense(weights, width, FLOAT32, 0.0)
    return tensors


def _check_weights(
    weights: Sequence[Sequence[float]], rows: Sequence[Sequence[Any]], feature: Feature
) -> None:
    """Refuses, as the graph does, an impression that has not one weight for each value."""
    if [*map(len, weights)] != [*map(len, rows)]:
        raise tf.errors.InvalidArgumentError(None, None, parsing.weights_rule(feature))


def _read(example: tf.train.Example, key: str) -> Sequence[Any]:
    """Returns the values under a key; none if it is absent."""
    content = example.features.feature
    kind = content[key].WhichOneof("kind") if key in content else None
    return getattr(content[key], kind).value if kind else ()


def _dense(rows: Sequence[Sequence[Any]], width: int | None, dtype: str, padding: Any) -> Any:
    array = np.full((len(rows), width or 1), padding, object if dtype == STRING else dtype)
    for index, values in enumerate(rows):
        kept = values[: width or 1]
        array[index, : len(kept)] = kept
    return array if width else array[:, 0]


def unpad(tensors: Mapping[str, tf.Tensor], schema: Schema) -> dict[str, Any]:
    """Returns the model's inputs from dense ones, padding removed.

    Raises:
      ValueError: if a weighted feature comes without its weights.
    """
    first = tensors[schema.features[0].name]
    inputs: dict[str, Any] = {keys.GROUP_INDEX: tf.range(tf.shape(first, tf.int64)[0])}
    for feature in schema.features:
        dense, weights = take_values(tensors, feature)
        present = _is_present(feature, dense)
        if isinstance(feature.column, NumericColumn):
            inputs[feature.name] = tf.where(present, tf.cast(dense, tf.float32), np.nan)
            continue
        inputs[feature.name] = _ragged(dense, present)
        if weights is not None:
            inputs[feature.weight_key] = _ragged(weights, present)
    return inputs


def _is_present(feature: Feature, dense: tf.Tensor) -> tf.Tensor:
    if feature.dtype == FLOAT32:
        return tf.logical_not(tf.math.is_nan(dense))
    return tf.not_equal(dense, tf.constant(PADDING[feature.dtype], dense.dtype))


def _ragged(dense: tf.Tensor, present: tf.Tensor) -> tf.RaggedTensor:
    if dense.shape.rank == 1:
        dense, present = dense[:, tf.newaxis], present[:, tf.newaxis]
    return tf.ragged.boolean_mask(dense, present)
