"""Batches of a data set as NumPy rows, with outcomes and a coin for each group."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import console, keys
from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn
from esmm_tf.data.batch import Batch
from esmm_tf.data.feature_values import take_values
from esmm_tf.data.source import Source, check_schema
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import BucketizedColumn, NumericColumn
from esmm_tf.schema.schema import Feature, Schema

_BATCH_SIZE = 8192
_SEED = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureRows:
    """The values of one feature: those of all rows back to back, and how many each row has.

    A row is a group for a context feature and an impression for others. `group` is the index of
    each row's group in the batch; `outcomes`, int64 `[rows, 3]`, counts each row's impressions,
    clicks and conversions; `half`, 0 or 1, is the coin of each row's group.
    """

    values: np.ndarray
    lengths: np.ndarray
    weights: np.ndarray | None
    group: np.ndarray
    outcomes: np.ndarray
    half: np.ndarray

    @property
    def row_index(self) -> np.ndarray:
        """Returns the row of each value, int64 `[values]`."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumpyBatch:
    """Whole groups: labels of each impression, `[impressions]`, and the inputs of the model."""

    features: dict[str, Any]
    group_index: np.ndarray
    click: np.ndarray
    conversion: np.ndarray
    example_weight: np.ndarray | None
    half: np.ndarray

    @property
    def num_groups(self) -> int:
        """Returns the number of groups."""
        return len(self.half)

    def sum_by_group(self, values: np.ndarray) -> np.ndarray:
        """Returns the sums of `[impressions]` within each group, float64 `[groups]`."""
        return np.bincount(self.group_index, weights=values, minlength=self.num_groups)

    def rows(self, feature: Feature) -> FeatureRows:
        """Returns the rows of one feature."""
        outcomes = np.stack([np.ones_like(self.click), self.click, self.conversion], axis=1)
        group = self.group_index
        if feature.is_context:
            outcomes = np.stack([self.sum_by_group(column) for column in outcomes.T], axis=1)
            group = np.arange(self.num_groups)
        tensor, weights = take_values(self.features, feature)
        if isinstance(feature.column, NumericColumn):
            present = ~np.isnan(tensor.numpy())
            values, lengths = tensor.numpy()[present], present.astype(np.int64)
        else:
            values, lengths = tensor.flat_values.numpy(), tensor.row_lengths().numpy()
        return FeatureRows(
            values=values,
            lengths=lengths,
            weights=None if weights is None else weights.flat_values.numpy(),
            group=group,
            outcomes=outcomes.astype(np.int64),
            half=self.half[group],
        )


def is_number(feature: Feature) -> bool:
    """Returns whether the values of a feature are numbers, not ids."""
    return isinstance(feature.column, NumericColumn | BucketizedColumn)


def read_batches(
    source: Source, schema: Schema, *, impressions: int | None = None
) -> Iterator[NumpyBatch]:
    """Yields all batches, in the order of the files, and moves a bar.

    Each group has a coin, drawn from a fixed seed: the same whenever the same files are read.

    Args:
      source: to read.
      schema: of the records.
      impressions: how many to read at least; the batch that reaches it is the last. None reads all.

    Raises:
      UserError: if the records do not fit the schema or cannot be parsed.
    """
    check_schema(source, schema)
    config = InputConfig(batch_size=_BATCH_SIZE, shuffle_buffer=0, num_readers=1)
    dataset = input_fn.build_dataset(source, schema, config)
    coins = np.random.default_rng(_SEED)
    left = source.impressions if impressions is None else min(impressions, source.impressions)
    try:
        with console.build_bar(left) as bar:
            for tensors in dataset:
                batch = _to_numpy(tensors, coins)
                yield batch
                bar.update(len(batch.click))
                left -= len(batch.click)
                if impressions is not None and left <= 0:
                    return
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
        raise UserError(
            f"The records in {source.directory!r} cannot be parsed: {error.message} "
            "Write the data set again."
        ) from None


def _to_numpy(batch: Batch, coins: np.random.Generator) -> NumpyBatch:
    group_index, weight = batch.group_index.numpy(), batch.example_weight
    return NumpyBatch(
        features=batch.features,
        group_index=group_index,
        click=batch.labels[keys.CLICK].numpy(),
        conversion=batch.labels[keys.CONVERSION].numpy(),
        example_weight=None if weight is None else weight.numpy(),
        half=(coins.random(group_index[-1] + 1) < 0.5).astype(np.int64),
    )
