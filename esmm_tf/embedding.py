"""One variable for all embedding tables of one dimension, read with one lookup a side."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from esmm_tf.schema import Table


class TableInitializer(tf_keras.initializers.Initializer):
    """Fills each table's rows of the fused variable as its schema says."""

    def __init__(self, tables: Sequence[tuple[Table, int]], seed: int) -> None:
        self._tables = tuple(tables)
        self._seed = seed

    def __call__(
        self, shape: Sequence[int], dtype: tf.DType | None = None, **kwargs: Any
    ) -> tf.Tensor:
        """Returns the initial value, `[rows of all tables, embedding_dim]`."""
        dim = shape[-1]
        return tf.concat(
            [
                _initializer(table, seed=self._seed + place)([num_rows, dim], dtype=dtype)
                for place, (table, num_rows) in enumerate(self._tables)
            ],
            axis=0,
        )


def _initializer(table: Table, *, seed: int) -> tf_keras.initializers.Initializer:
    scale = table.initializer_scale
    if table.initializer == "uniform":
        return tf_keras.initializers.RandomUniform(-scale, scale, seed=seed)
    if table.initializer == "zeros":
        return tf_keras.initializers.Zeros()
    return tf_keras.initializers.TruncatedNormal(stddev=scale, seed=seed)


class FusedEmbedding(tf_keras.layers.Layer):
    """Embedding tables of one dimension, stacked in one variable.

    Args:
      tables: each table and its number of rows.
      embedding_dim: the width of all of them.
      seed: of the initial values.
    """

    def __init__(
        self,
        tables: Sequence[tuple[Table, int]],
        embedding_dim: int,
        *,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        super().__init__(name=name)
        self._embedding_dim = embedding_dim
        self._offsets = {}
        num_rows = 0
        for table, rows in tables:
            self._offsets[table.name] = num_rows
            num_rows += rows
        self.table = self.add_weight(
            name="table",
            shape=[num_rows, embedding_dim],
            dtype=tf.float32,
            initializer=TableInitializer(tables, seed),
        )

    def call(
        self,
        ids: Sequence[tf.RaggedTensor],
        weights: Sequence[tf.RaggedTensor | None],
        *,
        tables: Sequence[str],
        combiners: Sequence[str],
    ) -> tf.Tensor:
        """Returns the pooled embeddings, float32 `[rows, features * embedding_dim]`.

        All features are gathered at once and summed by (feature, row). A row without values, or
        whose weights cancel out under `mean` or `sqrtn`, pools to zeros; otherwise the result is
        that of `tf.nn.embedding_lookup_sparse`.

        Args:
          ids: one ragged int64 `[rows, values]` a feature, all with the same rows.
          weights: its weights, or None for ones.
          tables: the name of its table.
          combiners: `sum`, `mean` or `sqrtn`.
        """
        rows = ids[0].nrows()
        flat_ids, segments, scales = [], [], []
        for place, (one, weight, table, combiner) in enumerate(
            zip(ids, weights, tables, combiners, strict=True)
        ):
            flat_ids.append(one.flat_values + self._offsets[table])
            segments.append(one.value_rowids() + place * rows)
            scales.append(_scales(one, weight, combiner))
        embedded = tf.nn.embedding_lookup(self.table, tf.concat(flat_ids, axis=0))
        if any(scale is not None for scale in scales):
            ones = [tf.ones_like(one, tf.float32) for one in flat_ids]
            scales = [s if s is not None else o for s, o in zip(scales, ones, strict=True)]
            embedded *= tf.concat(scales, axis=0)[:, tf.newaxis]
        pooled = tf.math.unsorted_segment_sum(
            embedded, tf.concat(segments, axis=0), rows * len(ids)
        )
        pooled = tf.reshape(pooled, [len(ids), -1, self._embedding_dim])
        pooled = tf.transpose(pooled, [1, 0, 2])
        return tf.reshape(pooled, [-1, len(ids) * self._embedding_dim])


def _scales(
    ids: tf.RaggedTensor, weights: tf.RaggedTensor | None, combiner: str
) -> tf.Tensor | None:
    """Returns what each value's embedding is multiplied by, `[values]`, or None for ones."""
    if combiner == "sum":
        return None if weights is None else weights.flat_values
    if weights is None:
        total = tf.cast(ids.row_lengths(), tf.float32)
        total = total if combiner == "mean" else tf.sqrt(total)
        return tf.math.divide_no_nan(1.0, tf.gather(total, ids.value_rowids()))
    flat = weights.flat_values
    if combiner == "mean":
        total = tf.reduce_sum(weights, axis=1)
    else:
        total = tf.sqrt(tf.reduce_sum(weights.with_flat_values(tf.square(flat)), axis=1))
    return tf.math.divide_no_nan(flat, tf.gather(total, ids.value_rowids()))
