"""The batch at which the loss was no number any more, kept as a data set of its own."""

import os
import shutil
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn, manifest, parsing
from esmm_tf.data.batch import Batch
from esmm_tf.data.feature_values import take_values
from esmm_tf.data.source import ALL, Source, Subset
from esmm_tf.schema import toml_file
from esmm_tf.schema.columns import NumericColumn
from esmm_tf.schema.schema import Schema

DIRECTORY = "offending_batch"


def save_batch(
    source: Source,
    schema: Schema,
    config: InputConfig,
    *,
    seed: int | None,
    index: int,
    split: str,
    model_dir: str,
    subset: Subset = ALL,
) -> str:
    """Saves a batch in `model_dir` and returns where it is and which of its numbers stand out.

    A training batch is saved with the one before it, whose update may have spoilt the weights.

    Args:
      source: that the batch came from.
      schema: of its records.
      config: how the records were read.
      seed: with which they were read, as in `input_fn.build_dataset`; None stands for validation.
      index: of the batch in its epoch, from 0.
      split: of the data set that is saved.
      model_dir: receives the directory `offending_batch` in place of an earlier one.
      subset: which part of the records was read. Groups are saved whole.
    """
    first = index if seed is None else max(index - 1, 0)
    serialized = input_fn.read_groups(
        source, schema, config, seed=seed, batches=range(first, index + 1), subset=subset
    )
    batch = parsing.parse_groups(serialized, schema)
    batch_manifest = _build_manifest(batch, source, split=split, num_records=len(serialized))
    directory = os.path.join(model_dir, DIRECTORY)
    _write(serialized.numpy(), schema, batch_manifest, directory)
    return (
        f"The {batch_manifest.impressions(split):,} impressions of its batch"
        f"{' and the one before' if first < index else ''} are saved in {directory!r}: "
        f"{describe_numbers(batch, schema)}."
    )


def _build_manifest(
    batch: Batch, source: Source, *, split: str, num_records: int
) -> manifest.Manifest:
    labels = {name: values.numpy() for name, values in batch.labels.items()}
    shard = manifest.Shard(
        file=f"{split}-00000-of-00001.tfrecord",
        records=num_records,
        impressions=len(labels[keys.CLICK]),
        clicks=int(labels[keys.CLICK].sum()),
        conversions=int(labels[keys.CONVERSION].sum()),
    )
    keep_rate = source.negative_keep_rate
    return manifest.Manifest(
        schema_hash=source.schema_hash,
        splits={split: (shard,)},
        negative_keep_rate={} if keep_rate == 1 else {split: keep_rate},
        source={"files": list(source.files)},
    )


def _write(
    serialized: np.ndarray, schema: Schema, batch_manifest: manifest.Manifest, directory: str
) -> None:
    """Writes a data set under a temporary name and renames it."""
    temporary = f"{directory}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    for (shard,) in batch_manifest.splits.values():
        with tf.io.TFRecordWriter(os.path.join(temporary, shard.file)) as writer:
            for group in serialized:
                writer.write(group)
    toml_file.save_schema(schema, temporary, keys.SCHEMA_FILE)
    manifest.write_manifest(batch_manifest, temporary)
    shutil.rmtree(directory, ignore_errors=True)
    os.rename(temporary, directory)


def describe_numbers(batch: Batch, schema: Schema) -> str:
    """Returns which numbers of a batch are not finite, or else the largest one."""
    largest, where = 0.0, ""
    for name, values in _numbers(batch, schema):
        if not np.isfinite(values).all():
            return f"{name!r} holds numbers that are not finite"
        if values.size and np.abs(values).max() > largest:
            largest, where = float(np.abs(values).max()), name
    if not where:
        return "it holds no number but 0"
    return f"its largest number is {largest:g}, in {where!r}"


def _numbers(batch: Batch, schema: Schema) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the record keys that hold floats, and their values; a missing one is left out."""
    if batch.example_weight is not None:
        yield keys.EXAMPLE_WEIGHT, batch.example_weight.numpy()
    for feature in schema.features:
        values, weights = take_values(batch.features, feature)
        if isinstance(feature.column, NumericColumn):
            yield feature.name, values.numpy()[~np.isnan(values.numpy())]
        elif values.dtype == tf.float32:
            yield feature.name, values.flat_values.numpy()
        if weights is not None:
            yield feature.weight_key, weights.flat_values.numpy()
