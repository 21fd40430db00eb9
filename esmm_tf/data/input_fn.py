"""Shards to batches: reading, shuffling, cutting and parsing records."""

import functools
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from esmm_tf import console, keys
from esmm_tf.config.fields import build_configs
from esmm_tf.config.training import InputConfig
from esmm_tf.data import parsing
from esmm_tf.data.batch import Batch
from esmm_tf.data.cutting import cut
from esmm_tf.data.sampling import Sampler
from esmm_tf.data.source import ALL, Source, Subset, check_schema, find_source
from esmm_tf.schema import toml_file
from esmm_tf.schema.schema import Schema

_FRACTION_BUCKETS = 1_000_000


_FRACTION_KEY = (0x65736D6D, 0x7466)


def build_dataset(
    source: Source,
    schema: Schema,
    config: InputConfig,
    *,
    seed: int | None = None,
    carry: bool = False,
    subset: Subset = ALL,
) -> tf.data.Dataset:
    """Returns a data set of batches.

    A batch is the longest run of consecutive whole groups that holds at most `batch_size`
    impressions; a group with more is a batch alone. With a seed, shards and groups are shuffled,
    in the same order each time; without a seed, they come in the order of the files.

    With a sampler, a batch holds the impressions drawn from its groups, and a batch from which
    nothing is drawn is left out. Sampling does not make batches fuller: the drawn impressions are
    spread over the steps that an epoch has without a sampler.
    """
    dataset = _serialized_batches(source, config, seed=seed, subset=subset)
    dataset = dataset.map(
        _parser(schema, carry),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    if subset.sampler is not None:
        dataset = _sampled(dataset, subset.sampler)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _sampled(dataset: tf.data.Dataset, sampler: Sampler) -> tf.data.Dataset:
    drawn = dataset.enumerate().map(
        sampler.draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return drawn.filter(_has_impressions)


def _has_impressions(batch: Batch) -> tf.Tensor:
    return tf.size(batch.group_index) > 0


def read_groups(
    source: Source,
    schema: Schema,
    config: InputConfig,
    *,
    seed: int | None,
    batches: range,
    subset: Subset = ALL,
) -> tf.Tensor:
    """Returns the serialized groups of some batches of `build_dataset`, string `[groups]`.

    `batches` counts from 0. Earlier batches are read again, but parsed only if there is a sampler.
    A sampled batch is returned with all the groups that it was drawn from.
    """
    dataset = _serialized_batches(source, config, seed=seed, subset=subset)
    if subset.sampler is not None:
        draw, parse = subset.sampler.draw, _parser(schema, False)

        def is_sampled(index: tf.Tensor, serialized: tf.Tensor) -> tf.Tensor:
            return _has_impressions(draw(index, parse(serialized)))

        dataset = dataset.enumerate().filter(is_sampled).map(lambda _, serialized: serialized)
    return tf.concat(list(dataset.skip(batches.start).take(len(batches))), axis=0)


def training_tuples(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns batches as `fit` takes them: features, labels and, if there are any, weights."""

    def to_tuple(batch: Batch) -> tuple[Any, ...]:
        pair = (batch.features, batch.labels)
        return pair if batch.example_weight is None else (*pair, batch.example_weight)

    return dataset.map(to_tuple)


def open_records(
    files: str,
    *,
    split: str = keys.TRAIN,
    schema: Schema | None = None,
    seed: int | None = None,
    **settings: Any,
) -> tf.data.Dataset:
    """Returns the batches of records, as `fit` takes them: features, labels and maybe weights.

    Features are the inputs of an estimator's `keras_model`; labels are `click` and `conversion`,
    float32 `[impressions]`. The data set does not repeat.

    Args:
      files: a data set's directory, files or globs, comma-separated.
      split: the split that a directory stands for.
      schema: of the records; by default the schema beside them.
      seed: of the shuffling of groups; without a seed, they come in the order of the files.
      settings: `batch_size`, in impressions, `shuffle_buffer`, in groups, and `num_readers`.

    Raises:
      UserError: if there are no such records, or they do not fit the schema.
    """
    source = find_source(files, split=split)
    if schema is None:
        schema = toml_file.load_schema(os.path.join(source.directory, keys.SCHEMA_FILE))
    check_schema(source, schema)
    (config,) = build_configs((InputConfig,), settings)
    return training_tuples(build_dataset(source, schema, config, seed=seed))


def show_progress(
    dataset: tf.data.Dataset, source: Source, *, is_shown: bool = True
) -> Iterator[Batch]:
    """Yields the batches of `build_dataset` and moves a bar by their impressions."""
    with console.build_bar(source.impressions, is_shown=is_shown) as bar:
        for batch in dataset:
            yield batch
            bar.update(len(batch.group_index))


@functools.lru_cache(maxsize=8)
def _parser(schema: Schema, carry: bool) -> Any:
    """Returns the parser as a graph function, traced once for all epochs and splits."""
    return tf.function(
        lambda serialized: parsing.parse_groups(serialized, schema, carry=carry),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


def _serialized_batches(
    source: Source, config: InputConfig, *, seed: int | None, subset: Subset
) -> tf.data.Dataset:
    """Returns the serialized groups of each batch, string `[groups]`."""
    files = tf.data.Dataset.from_tensor_slices(list(source.files))
    if seed is not None:
        files = files.shuffle(len(source.files), seed=seed, reshuffle_each_iteration=False)
    dataset = files.interleave(
        lambda file: tf.data.TFRecordDataset(
            file, compression_type=source.compression, buffer_size=1 << 20
        ),
        cycle_length=config.num_readers if seed is not None else 1,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    if subset.fraction < 1:
        dataset = dataset.filter(functools.partial(_is_within, fraction=subset.fraction))
    if seed is not None and config.shuffle_buffer:
        # Keras makes two iterators and reads the second: it must be that of `read_groups`.
        dataset = dataset.shuffle(config.shuffle_buffer, seed=seed, reshuffle_each_iteration=False)
    return cut(dataset, config.batch_size)


def _is_within(serialized: tf.Tensor, *, fraction: float) -> tf.Tensor:
    """Returns whether a group's hash falls in a share; larger shares contain smaller ones."""
    bucket = tf.strings.to_hash_bucket_strong(serialized, _FRACTION_BUCKETS, key=_FRACTION_KEY)
    return bucket < round(fraction * _FRACTION_BUCKETS)
