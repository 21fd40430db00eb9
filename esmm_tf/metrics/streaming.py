"""Streaming metrics on logits: AUC, log loss and calibration.

A metric takes labels, logits and weights of shape `[impressions]`. The caller chooses the space by
the weights: ones for all impressions, the click label for the clicked impressions alone.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from esmm_tf import keys

_BINS_PER_UNIT = 1024
_CENTRE, _EVEN, _TAIL = -4.0, 12.0, 4.0
_NUM_BINS = int(2 * (_EVEN + _TAIL)) * _BINS_PER_UNIT
_RECENT_IMPRESSIONS = 10_000.0
_HEADS = {
    keys.CTR: keys.CTR_LOGITS,
    keys.CVR_CLICKED: keys.CVR_LOGITS,
    keys.CTCVR: keys.CTCVR_LOGITS,
}


class _LogitMetric(tf_keras.metrics.Metric):
    """A metric that counts in float64, whatever the precision of the model."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, dtype=tf.float64, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"name": self.name}


class StreamingAUC(_LogitMetric):
    """Area under the ROC curve from two histograms over the logit.

    A bin is 1/1024 wide from -16 to 8, where the logits of rare events lie, and wider outside, out
    to infinity. Beside its weights a bin keeps the mean position of each class within it, by which
    it counts the pairs inside: half of them are won if both classes have the same position, as with
    tied impressions. The result is NaN until both classes have been seen, and after a NaN logit.

    It is within 1e-4 of the exact AUC at base rates from 0.1 down to 1e-5, with as few as 20
    positives, for logits with a smooth density and a standard deviation of 0.01 or more, normal or
    with heavy tails: at most 6e-5 off in 2,000 such sets. At a standard deviation of 0.003 it was
    within 3e-4. The condition is that no bin holds much of both classes: if most logits lie within
    1/1024 of each other, as before a head has learned, it can be 0.04 off.
    """

    def __init__(self, name: str = "auc", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._positives, self._negatives, self._positive_places, self._negative_places = (
            self.add_weight(histogram, [_NUM_BINS], initializer="zeros")
            for histogram in ("positives", "negatives", "positive_places", "negative_places")
        )

    def update_state(
        self, labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Adds a batch; the negatives of a batch without positives count too."""
        labels, logits, weights = _flat(labels, logits, sample_weight)
        weights = tf.where(tf.math.is_nan(logits), logits, weights)
        bins, positions = _bins(logits)
        positives, negatives = weights * labels, weights * (1 - labels)
        for histogram, values in (
            (self._positives, positives),
            (self._negatives, negatives),
            (self._positive_places, positives * positions),
            (self._negative_places, negatives * positions),
        ):
            histogram.assign_add(tf.math.unsorted_segment_sum(values, bins, _NUM_BINS))

    def result(self) -> tf.Tensor:
        """Returns the AUC, float64 scalar."""
        positives, negatives = tf.identity(self._positives), tf.identity(self._negatives)
        below = tf.cumsum(negatives, exclusive=True)
        half = positives * negatives / 2
        ahead = self._positive_places * negatives - self._negative_places * positives
        wins = tf.reduce_sum(positives * below + half + tf.clip_by_value(ahead, -half, half))
        return wins / (tf.reduce_sum(positives) * tf.reduce_sum(negatives))

    def reset_state(self) -> None:
        """Empties the histograms."""
        for histogram in self.weights:
            histogram.assign(tf.zeros_like(histogram))


def _bins(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns each logit's bin, int32, and its position within, from 0 to 1; NaN counts as 0."""
    offset = tf.where(tf.math.is_nan(logits), tf.zeros_like(logits), logits) - _CENTRE
    size = tf.abs(offset)
    tail = _TAIL - _TAIL**2 / (_TAIL + tf.maximum(size - _EVEN, 0))
    squeezed = tf.sign(offset) * (tf.minimum(size, _EVEN) + tail)
    scaled = (squeezed + _EVEN + _TAIL) * _BINS_PER_UNIT
    bins = tf.minimum(tf.floor(scaled), _NUM_BINS - 1)
    return tf.cast(bins, tf.int32), scaled - bins


class StreamingLogLoss(_LogitMetric):
    """Weighted mean cross entropy of labels and `sigmoid(logits)`, in nats."""

    def __init__(self, name: str = "log_loss", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._total = self.add_weight("total", initializer="zeros")
        self._weight = self.add_weight("weight", initializer="zeros")

    def update_state(
        self, labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Adds a batch."""
        labels, logits, weights = _flat(labels, logits, sample_weight)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        self._total.assign_add(tf.reduce_sum(losses * weights))
        self._weight.assign_add(tf.reduce_sum(weights))

    def result(self) -> tf.Tensor:
        """Returns the mean, float64 scalar; NaN before the first weight."""
        return self._total / self._weight


class StreamingCalibration(_LogitMetric):
    """Mean prediction divided by mean label: 1 is calibrated, above 1 is predicted too high."""

    def __init__(self, name: str = "calibration", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._predicted = self.add_weight("predicted", initializer="zeros")
        self._labelled = self.add_weight("labelled", initializer="zeros")

    def update_state(
        self, labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Adds a batch."""
        labels, logits, weights = _flat(labels, logits, sample_weight)
        self._predicted.assign_add(tf.reduce_sum(tf.sigmoid(logits) * weights))
        self._labelled.assign_add(tf.reduce_sum(labels * weights))

    def result(self) -> tf.Tensor:
        """Returns the ratio, float64 scalar; NaN or infinite before the first positive."""
        return self._predicted / self._labelled


class RecentSpread(_LogitMetric):
    """Standard deviation of the logits within a batch, over about the latest 10,000 impressions.

    Deviations are from the mean of the logit's own batch, so that a constant logit which moves from
    step to step has a spread of 0. Earlier batches fade by 1/e in 10,000 impressions.
    """

    def __init__(self, name: str = "logits_std", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._squares = self.add_weight("squares", initializer="zeros")
        self._degrees = self.add_weight("degrees", initializer="zeros")

    def update_state(self, logits: tf.Tensor) -> None:
        """Adds a batch, float `[impressions]`; a batch of one impression tells nothing."""
        logits = tf.cast(logits, tf.float64)
        count = tf.cast(tf.size(logits), tf.float64)
        kept = tf.exp(-count / _RECENT_IMPRESSIONS)
        squares = tf.reduce_sum(tf.square(logits - tf.reduce_mean(logits)))
        self._squares.assign(self._squares * kept + squares)
        self._degrees.assign(self._degrees * kept + count - 1)

    def result(self) -> tf.Tensor:
        """Returns the standard deviation, float64 scalar; NaN before two impressions."""
        return tf.sqrt(self._squares / self._degrees)


class EntireSpaceMetrics:
    """The metrics of a run, each under a name that tells its space.

    A plain object, so that Keras does not count the histograms among a model's weights.
    """

    def __init__(self, *, losses: Sequence[str]) -> None:
        mean = functools.partial(tf_keras.metrics.Mean, dtype=tf.float64)
        count = functools.partial(tf_keras.metrics.Sum, dtype=tf.float64)
        self._losses = {name: mean(name) for name in ("loss", *losses)}
        names = ("impressions", "clicks", "conversions", "unnested_labels", "non_finite_logits")
        self._counts = {name: count(name) for name in names}
        self._spreads = {task: RecentSpread(f"{name}_std") for task, name in _HEADS.items()}
        self._tasks = {
            keys.CTR: _task_metrics("ctr_{}"),
            keys.CVR_CLICKED: _task_metrics("cvr_{}_clicked"),
            keys.CTCVR: _task_metrics("ctcvr_{}"),
        }

    def all(self) -> list[tf_keras.metrics.Metric]:
        """Returns every metric: losses, counts, spreads, then the metrics of each space."""
        tasks = [metric for group in self._tasks.values() for metric in group]
        shared = (self._losses, self._counts, self._spreads)
        return [*(metric for group in shared for metric in group.values()), *tasks]

    def update_losses(self, impressions: tf.Tensor, **values: tf.Tensor) -> None:
        """Adds the mean losses of a batch, given its number of impressions."""
        for name, value in values.items():
            self._losses[name].update_state(value, sample_weight=impressions)

    def update(
        self,
        labels: Mapping[str, tf.Tensor],
        outputs: Mapping[str, tf.Tensor],
        sample_weight: tf.Tensor | None,
        *,
        trained: Sequence[str] = keys.TASKS,
        measured: Sequence[str] | None = None,
    ) -> None:
        """Adds a batch to the counts, the spreads, and the metrics of each space.

        Args:
          labels: `click` and `conversion`, `[impressions]`.
          outputs: logits by their keys, `[impressions]`.
          sample_weight: `[impressions]` or None.
          trained: the tasks that are trained on; the spread of their logits is measured, and their
            non-finite logits are counted.
          measured: the tasks whose metrics are updated; by default the trained tasks.
        """
        click, conversion = labels[keys.CLICK], labels[keys.CONVERSION]
        weight = tf.ones_like(click) if sample_weight is None else sample_weight
        spaces = {
            keys.CTR: (click, weight),
            keys.CVR_CLICKED: (conversion, weight * click),
            keys.CTCVR: (conversion, weight),
        }
        for task in trained if measured is None else measured:
            target, space_weight = spaces[task]
            for metric in self._tasks[task]:
                metric.update_state(target, outputs[_HEADS[task]], space_weight)
        self._counts["impressions"].update_state(tf.ones_like(click))
        self._counts["clicks"].update_state(click)
        self._counts["conversions"].update_state(conversion)
        self._counts["unnested_labels"].update_state(conversion * (1 - click))
        # An infinite logit of the right sign has a loss of 0, and yet spoils the gradients.
        is_finite = [tf.math.is_finite(outputs[_HEADS[task]]) for task in trained]
        self._counts["non_finite_logits"].update_state(~tf.reduce_all(is_finite, axis=0))
        for task in trained:
            self._spreads[task].update_state(outputs[_HEADS[task]])


def _task_metrics(name: str) -> list[tf_keras.metrics.Metric]:
    return [
        StreamingAUC(name.format("auc")),
        StreamingLogLoss(name.format("log_loss")),
        StreamingCalibration(name.format("calibration")),
    ]


def _flat(
    labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns all three as float64 of one shape."""
    labels = tf.cast(labels, tf.float64)
    logits = tf.cast(logits, tf.float64)
    if labels.shape.rank != logits.shape.rank or not labels.shape.is_compatible_with(logits.shape):
        raise ValueError(
            f"labels have shape {labels.shape} and logits have shape {logits.shape}. "
            "Give both the same shape."
        )
    if sample_weight is None:
        return labels, logits, tf.ones_like(labels)
    weights = tf.cast(sample_weight, tf.float64)
    if weights.shape.rank != 0 and not weights.shape.is_compatible_with(labels.shape):
        raise ValueError(
            f"sample_weight has shape {weights.shape} and labels have shape {labels.shape}. "
            "Give both the same shape, or a scalar."
        )
    return labels, logits, weights * tf.ones_like(labels)
