"""Feature columns: they map a feature's raw values to table rows and weights, or to a number.

Training and the exported graph run the same ops, so that a value has the same row in both.
"""

import collections
import re
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from esmm_tf import keys
from esmm_tf.data.feature_values import FeatureValues
from esmm_tf.data.ragged import row_ids
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import (
    INT64,
    BucketizedColumn,
    HashBucketColumn,
    IdentityColumn,
    NumericColumn,
    VocabularyColumn,
)
from esmm_tf.schema.schema import Feature, Schema


class Tokens(NamedTuple):
    """Table rows of one feature, int64 ragged `[rows, values]`, and their weights if it has any."""

    ids: tf.RaggedTensor
    weights: tf.RaggedTensor | None


def tensor_names(schema: Schema) -> dict[str, str]:
    """Returns the name of each input tensor, by its key in a batch.

    It is the feature's name, or `<name>_weight`, with `_` for characters that TensorFlow refuses.

    Raises:
      UserError: if two inputs would have the same name.
    """
    names = {keys.GROUP_INDEX: keys.GROUP_INDEX}
    for feature in schema.features:
        name = re.sub(r"[^A-Za-z0-9_]", "_", feature.name)
        names[feature.name] = name if name[0] != "_" else f"feature{name}"
        if feature.weighted:
            names[feature.weight_key] = f"{names[feature.name]}_weight"
    counts = collections.Counter(names.values())
    for feature in schema.features:
        for key in feature.value_keys:
            if counts[names[key]] > 1:
                raise UserError(
                    f"Feature {feature.name!r} and another one both need the tensor name "
                    f"{names[key]!r}. Rename one of them in the schema."
                )
    return names


def build_inputs(schema: Schema) -> dict[str, Any]:
    """Returns the model's symbolic inputs, under the keys of a batch's features."""
    # The prefix keeps a feature called `encoder` or `outputs` apart from the layer of that name.
    names = {key: f"input_{name}" for key, name in tensor_names(schema).items()}
    inputs = {keys.GROUP_INDEX: tf_keras.Input((), dtype=tf.int64, name=keys.GROUP_INDEX)}
    for feature in schema.features:
        key = feature.name
        if isinstance(feature.column, NumericColumn):
            inputs[key] = tf_keras.Input((), dtype=tf.float32, name=names[key])
            continue
        inputs[key] = tf_keras.Input((None,), dtype=feature.dtype, name=names[key], ragged=True)
        if feature.weighted:
            key = feature.weight_key
            inputs[key] = tf_keras.Input((None,), dtype=tf.float32, name=names[key], ragged=True)
    return inputs


def scale_numeric(feature: Feature, values: tf.Tensor) -> tf.Tensor:
    """Returns float32 `[rows, 1]`, or `[rows, 2]` with an indicator of missing values.

    Args:
      feature: a feature with a numeric column.
      values: float32 `[rows]`, NaN where missing. A missing value enters as 0 after scaling.
    """
    column = feature.column
    if not isinstance(column, NumericColumn):
        raise TypeError(f"Feature {feature.name!r} has no numeric column.")
    is_missing = tf.math.is_nan(values)
    if column.scaling == "log":
        values = tf.sign(values) * tf.math.log1p(tf.abs(values))
    elif column.scaling == "standard":
        values = (values - column.mean) / column.stddev
    scaled = tf.where(is_missing, 0.0, values)[:, tf.newaxis]
    if feature.missing != "indicator":
        return scaled
    return tf.concat([scaled, tf.cast(is_missing, tf.float32)[:, tf.newaxis]], axis=1)


class CategoricalReader(tf.Module):
    """Reads the values of one categorical feature as tokens."""

    def __init__(self, feature: Feature) -> None:
        super().__init__()
        self._feature = feature
        self._lookup = None
        if isinstance(feature.column, VocabularyColumn):
            self._lookup = _build_lookup(feature.column, feature.dtype)

    def __call__(self, feature_values: FeatureValues) -> Tokens:
        """Returns the tokens of values of the feature's dtype.

        Dropping a value leaves the other values of its row as they are. A row without values stays
        empty, or gets the table row for missing values with weight 1.
        """
        values, weights = feature_values
        ids, known = self._ids(values.flat_values)
        ids = values.with_flat_values(ids)
        if known is not None:
            mask = values.with_flat_values(known)
            ids = tf.ragged.boolean_mask(ids, mask)
            weights = weights if weights is None else tf.ragged.boolean_mask(weights, mask)
        if self._feature.missing == "embed":
            is_empty = tf.equal(values.row_lengths(), 0)
            row = tf.cast(self._feature.num_rows - 1, tf.int64)
            ids = _fill_rows(ids, row, is_empty)
            weights = weights if weights is None else _fill_rows(weights, 1.0, is_empty)
        return Tokens(ids, weights)

    def _ids(self, values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns the table rows of flat values, and a mask of those to keep; None keeps all."""
        column = self._feature.column
        if isinstance(column, IdentityColumn):
            known = (values >= 0) & (values < column.vocabulary_size)
            ids = tf.where(known, values, column.vocabulary_size)
            return ids, known if column.out_of_vocabulary == "drop" else None
        if isinstance(column, HashBucketColumn):
            return _hash(values, column.hash_buckets), None
        if isinstance(column, BucketizedColumn):
            # float32 has too few digits for integers such as epoch seconds.
            values = values if values.dtype.is_floating else tf.cast(values, tf.float64)
            boundaries = tf.constant(column.boundaries, values.dtype)
            buckets = tf.searchsorted(boundaries, values, side="right", out_type=tf.int64)
            return buckets, tf.math.is_finite(values)
        if not isinstance(column, VocabularyColumn) or self._lookup is None:
            raise TypeError(f"Feature {self._feature.name!r} is not categorical.")
        ids = self._lookup.lookup(values)
        if column.out_of_vocabulary == "drop":
            return ids, ids >= 0
        if column.out_of_vocabulary == "hash":
            bucket = column.vocabulary_size + _hash(values, column.oov_buckets)
            return tf.where(ids < 0, bucket, ids), None
        return tf.where(ids < 0, tf.cast(column.vocabulary_size, tf.int64), ids), None


def _build_lookup(column: VocabularyColumn, dtype: str) -> tf.lookup.StaticHashTable:
    if column.file is not None:
        initializer = tf.lookup.TextFileInitializer(
            column.file,
            key_dtype=tf.dtypes.as_dtype(dtype),
            key_index=tf.lookup.TextFileIndex.WHOLE_LINE,
            value_dtype=tf.int64,
            value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
        )
    else:
        initializer = tf.lookup.KeyValueTensorInitializer(
            keys=np.array(column.values, dtype=np.int64 if dtype == INT64 else object),
            values=np.arange(len(column.values), dtype=np.int64),
        )
    return tf.lookup.StaticHashTable(initializer, default_value=-1)


def _hash(values: tf.Tensor, buckets: int) -> tf.Tensor:
    if values.dtype != tf.string:
        values = tf.strings.as_string(values)
    return tf.strings.to_hash_bucket_fast(values, buckets)


def _fill_rows(
    ragged: tf.RaggedTensor, value: tf.Tensor | float, where: tf.Tensor
) -> tf.RaggedTensor:
    """Returns `ragged` with `value` in the empty rows that `where`, bool `[rows]`, marks."""
    lengths = ragged.row_lengths()
    filled = tf.cast(where, lengths.dtype)
    values = ragged.flat_values
    shift = tf.gather(tf.cumsum(filled), row_ids(lengths))
    num_values = tf.size(values, out_type=shift.dtype)
    positions = tf.range(num_values) + shift
    filler = tf.fill([num_values + tf.reduce_sum(filled)], value)
    return tf.RaggedTensor.from_row_lengths(
        tf.tensor_scatter_nd_update(filler, positions[:, tf.newaxis], values),
        lengths + filled,
        validate=False,
    )
