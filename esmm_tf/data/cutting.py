"""Serialized groups into batches of whole groups, counted in impressions."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from esmm_tf.data import parsing


def cut(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Returns the serialized groups of each batch, string `[groups]`.

    Chunks of groups pass through a scan whose state is the groups that do not fill a batch yet;
    an empty chunk at the end flushes them.
    """
    no_groups = tf.zeros([0], tf.string)
    chunks = dataset.batch(max(batch_size, 64)).map(lambda chunk: (chunk, False))
    chunks = chunks.concatenate(tf.data.Dataset.from_tensors((no_groups, True)))
    batches = chunks.scan(no_groups, _cut_chunk(batch_size))
    return batches.flat_map(tf.data.Dataset.from_tensor_slices)


@functools.lru_cache(maxsize=8)
def _cut_chunk(batch_size: int) -> Callable[..., Any]:
    """Returns the step of the scan as a graph function, traced once for all data sets."""

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None], tf.string),
            (tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.bool)),
        ],
    )
    def cut(
        pending: tf.Tensor, chunk: tuple[tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.RaggedTensor]:
        serialized, is_last = chunk
        groups = tf.concat([pending, serialized], axis=0)
        splits = batch_splits(tf.cumsum(parsing.count_impressions(groups)), batch_size)
        # The last batch may still grow, unless this chunk is the last one.
        num_whole = tf.size(splits) - tf.cast(~is_last, tf.int32)
        splits = splits[: tf.maximum(num_whole, 1)]
        done = splits[-1]
        return groups[done:], tf.RaggedTensor.from_row_splits(groups[:done], splits, validate=False)

    return cut


def batch_splits(ends: tf.Tensor, batch_size: int) -> tf.Tensor:
    """Returns where batches begin and end, int64 `[batches + 1]`, from 0 to the number of groups.

    Args:
      ends: int64 `[groups]`, the number of impressions up to the end of each group.
      batch_size: impressions in a batch, at most.
    """
    total = tf.size(ends, out_type=tf.int64)
    starts = tf.concat([[0], ends], axis=0)

    def add_batch(splits: tf.TensorArray, first: tf.Tensor, count: tf.Tensor) -> Any:
        limit = starts[first] + batch_size
        end = tf.searchsorted(ends, [limit], side="right", out_type=tf.int64)[0]
        end = tf.maximum(end, first + 1)
        return splits.write(count + 1, end), end, count + 1

    splits = tf.TensorArray(tf.int64, size=1, dynamic_size=True).write(0, tf.constant(0, tf.int64))
    splits, _, _ = tf.while_loop(
        lambda _, first, __: first < total,
        add_batch,
        (splits, tf.constant(0, tf.int64), tf.constant(0)),
    )
    return splits.stack()
