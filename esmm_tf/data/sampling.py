"""Which impressions a method trains on: how many copies of each, drawn anew in every epoch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from esmm_tf import keys
from esmm_tf.data.batch import Batch
from esmm_tf.data.ragged import row_ids
from esmm_tf.schema.record_field import CONTEXT
from esmm_tf.schema.schema import Schema

ScoreClicks = Callable[[Mapping[str, Any]], tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """How many impressions there are, how many of them clicked, and how many converted."""

    impressions: int
    clicks: int
    conversions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How many copies of an impression are trained on, on average, by its labels.

    A whole number is exact. A fraction is the probability of one more copy.

    Args:
      unclicked: copies of an impression without a click.
      clicked: copies of a click without a conversion.
      converted: copies of a conversion.
      acceptance: the probability of keeping a clicked impression, float `[clicks]`, given its pCTR
        (first argument) and the share of clicks in the data (second). None keeps all.
    """

    unclicked: float = 0.0
    clicked: float = 1.0
    converted: float = 1.0
    acceptance: Callable[[tf.Tensor, float], tf.Tensor] | None = None

    def mean_copies(self, labels: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the mean copies of each impression, without `acceptance`, `[impressions]`.

        Args:
          labels: `click` and `conversion`, float `[impressions]`.
        """
        clicked = tf.where(labels[keys.CONVERSION] > 0, self.converted, self.clicked)
        return tf.where(labels[keys.CLICK] > 0, clicked, self.unclicked)

    def count(self, labels: LabelCounts) -> float:
        """Returns the mean number of copies of all impressions together, without `acceptance`."""
        return (
            self.unclicked * (labels.impressions - labels.clicks)
            + self.clicked * (labels.clicks - labels.conversions)
            + self.converted * labels.conversions
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Draws impressions of parsed batches.

    Args:
      sampling: how many copies of which impressions.
      schema: of the batches.
      seed: of the draws; each epoch has its own.
      score_clicks: returns pCTR, float `[impressions]`, from a batch's features; needed where
        `sampling` has an acceptance.
      click_share: clicks / impressions of the data; needed likewise.
    """

    sampling: Sampling
    schema: Schema
    seed: int
    score_clicks: ScoreClicks | None = None
    click_share: float = 1.0

    @tf.autograph.experimental.do_not_convert
    def draw(self, index: tf.Tensor, batch: Batch) -> Batch:
        """Returns the drawn copies of a batch's impressions, in the order of the batch.

        Args:
          index: int64 scalar, the index of the batch in the epoch; the same index gives the same
            draw.
          batch: whole groups or some of their impressions.
        """
        copies = self.sampling.mean_copies(batch.labels)
        if self.sampling.acceptance is not None and self.score_clicks is not None:
            candidates = tf.where(copies > 0)[:, 0]
            batch = take_impressions(batch, candidates, self.schema)
            pctr = self.score_clicks(batch.features)
            copies = tf.gather(copies, candidates)
            copies *= self.sampling.acceptance(pctr, self.click_share)
        chance = tf.random.stateless_uniform(tf.shape(copies), seed=tf.stack([self.seed, index]))
        # Not the floor of copies + chance, a sum that may round up to the next whole number.
        whole = tf.floor(copies)
        drawn = tf.cast(whole, tf.int64) + tf.cast(chance < copies - whole, tf.int64)
        return take_impressions(batch, row_ids(drawn), self.schema)


def take_impressions(batch: Batch, rows: tf.Tensor, schema: Schema) -> Batch:
    """Returns some impressions of a batch; groups without a taken impression are left out.

    A group's context stays one row, however many of the group's impressions are taken.

    Args:
      batch: to take them from.
      rows: indices of impressions, integer `[taken]`, rising; an index may repeat.
      schema: of the batch.
    """
    groups, group_index = tf.unique(tf.gather(batch.group_index, rows), out_idx=tf.int64)
    context = {key for f in schema.side_features(CONTEXT) for key in f.value_keys}
    taken = {
        name: tf.gather(values, groups if name in context else rows)
        for name, values in batch.features.items()
        if name != keys.GROUP_INDEX
    }
    rest = tf.nest.map_structure(
        lambda values: None if values is None else tf.gather(values, rows),
        batch._replace(features={}),
    )
    return rest._replace(features={keys.GROUP_INDEX: group_index, **taken})
