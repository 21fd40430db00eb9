"""One variable for all embedding tables of one dimension, read with one lookup per side."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from esmm_tf.data.ragged import row_ids
from esmm_tf.model.feature_columns import Tokens
from esmm_tf.schema.schema import Table


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
                _initializer(table, seed=self._seed + index)([num_rows, dim], dtype=dtype)
                for index, (table, num_rows) in enumerate(self._tables)
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
      embedding_dim: the width of every table.
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
        tokens: Sequence[Tokens],
        *,
        tables: Sequence[str],
        combiners: Sequence[str],
    ) -> tf.Tensor:
        """Returns the pooled embeddings, float32 `[rows, features * embedding_dim]`.

        All features are gathered at once and summed by (feature, row). A row pools to zeros if it
        has no values, or if its weights cancel out under `mean` or `sqrtn`; otherwise the result
        is that of `tf.nn.embedding_lookup_sparse`.

        Args:
          tokens: of each feature, all with the same number of rows.
          tables: the name of each feature's table.
          combiners: of each feature, `sum`, `mean` or `sqrtn`.
        """
        flat_ids = [
            ids.flat_values + self._offsets[table]
            for (ids, _), table in zip(tokens, tables, strict=True)
        ]
        lengths = tf.concat([ids.row_lengths() for ids, _ in tokens], axis=0)
        pool = functools.partial(
            tf.math.unsorted_segment_sum,
            segment_ids=row_ids(lengths),
            num_segments=tf.size(lengths),
        )
        embedded = tf.nn.embedding_lookup(self.table, tf.concat(flat_ids, axis=0))
        flat_weights = _concat_weights(tokens)
        if flat_weights is not None:
            embedded *= flat_weights[:, tf.newaxis]
        pooled = tf.reshape(pool(embedded), [len(tokens), -1, self._embedding_dim])
        if set(combiners) != {"sum"}:
            norms = {
                combiner: tf.reshape(
                    _norm(combiner, lengths, flat_weights, pool), [len(tokens), -1]
                )
                for combiner in dict.fromkeys(combiners)
            }
            divisors = [norms[combiner][index] for index, combiner in enumerate(combiners)]
            pooled = tf.math.divide_no_nan(pooled, tf.stack(divisors)[..., tf.newaxis])
        pooled = tf.transpose(pooled, [1, 0, 2])
        return tf.reshape(pooled, [-1, len(tokens) * self._embedding_dim])


def _concat_weights(tokens: Sequence[Tokens]) -> tf.Tensor | None:
    """Returns the weights of all features' values, float32 `[values]`, or None if all are 1."""
    if all(weights is None for _, weights in tokens):
        return None
    return tf.concat(
        [
            tf.ones_like(ids.flat_values, tf.float32) if weights is None else weights.flat_values
            for ids, weights in tokens
        ],
        axis=0,
    )


def _norm(
    combiner: str,
    lengths: tf.Tensor,
    flat_weights: tf.Tensor | None,
    pool: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Returns the number by which a combiner divides the sum of each row, float32 `[rows]`."""
    if combiner == "sum":
        return tf.ones(tf.shape(lengths))
    if flat_weights is None:
        total = tf.cast(lengths, tf.float32)
    else:
        total = pool(flat_weights if combiner == "mean" else flat_weights * flat_weights)
    return total if combiner == "mean" else tf.sqrt(total)
