"""Streaming metrics on logits: AUC, log loss and calibration.

A metric takes labels, logits and weights of shape `[impressions]`. The space it is taken over is
the caller's choice of weights: all ones for every impression, the click label for clicked ones.
"""

import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from esmm_tf import keys

_LOWEST_LOGIT, _HIGHEST_LOGIT = -20.0, 12.0
_NUM_BINS = 32768
_RECENT_IMPRESSIONS = 10_000.0


class _LogitMetric(tf_keras.metrics.Metric):
    """A metric that counts in float64, whatever the precision of the model."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, dtype=tf.float64, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"name": self.name}


class StreamingAUC(_LogitMetric):
    """Area under the ROC curve from two histograms over the logit.

    Thresholds are even in logit space, 1/1024 apart from -20 to 12, so that they stay dense where
    rare events put their scores. Impressions in one bin count as tied. The result is NaN until
    both classes have been seen.

    It is within 1e-4 of the exact AUC at base rates from 0.1 down to 1e-5, with as few as 30
    positives, while the logits have a standard deviation of 0.3 or more; at one of 0.05 within
    5e-4 (tests/test_metrics.py).
    """

    def __init__(self, name: str = "auc", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._positives = self.add_weight("positives", [_NUM_BINS], initializer="zeros")
        self._negatives = self.add_weight("negatives", [_NUM_BINS], initializer="zeros")

    def update_state(
        self, labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Adds a batch. One without positives counts: its negatives are kept."""
        labels, logits, weights = _flat(labels, logits, sample_weight)
        place = (logits - _LOWEST_LOGIT) * (_NUM_BINS / (_HIGHEST_LOGIT - _LOWEST_LOGIT))
        bins = tf.cast(tf.clip_by_value(place, 0, _NUM_BINS - 1), tf.int32)
        self._positives.assign_add(tf.math.unsorted_segment_sum(weights * labels, bins, _NUM_BINS))
        self._negatives.assign_add(
            tf.math.unsorted_segment_sum(weights * (1 - labels), bins, _NUM_BINS)
        )

    def result(self) -> tf.Tensor:
        """Returns the AUC, float64 scalar."""
        below = tf.cumsum(self._negatives, exclusive=True)
        wins = tf.reduce_sum(self._positives * (below + self._negatives / 2))
        return wins / (tf.reduce_sum(self._positives) * tf.reduce_sum(self._negatives))

    def reset_state(self) -> None:
        """Empties the histograms."""
        for histogram in (self._positives, self._negatives):
            histogram.assign(tf.zeros_like(histogram))


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
    """Mean prediction divided by mean label: 1 is calibrated, above 1 predicts too much."""

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

    Within: from the mean of the own batch, so that a constant which moves from step to step has
    none. The squares of earlier batches fade by 1/e in 10,000 impressions.
    """

    def __init__(self, name: str = "logits_std", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._squares = self.add_weight("squares", initializer="zeros")
        self._degrees = self.add_weight("degrees", initializer="zeros")

    def update_state(self, logits: tf.Tensor) -> None:
        """Adds a batch, float `[impressions]`; one of a single impression tells nothing."""
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

    def __init__(self) -> None:
        mean = functools.partial(tf_keras.metrics.Mean, dtype=tf.float64)
        count = functools.partial(tf_keras.metrics.Sum, dtype=tf.float64)
        self._losses = {name: mean(name) for name in ("loss", "ctr_loss", "ctcvr_loss")}
        names = ("impressions", "clicks", "conversions", "unnested_labels", "non_finite_logits")
        self._counts = {name: count(name) for name in names}
        self._spreads = {
            name: RecentSpread(f"{name}_std") for name in (keys.CTR_LOGITS, keys.CVR_LOGITS)
        }
        self._tasks = {
            keys.CTR: _task_metrics("ctr_{}"),
            keys.CVR_CLICKED: _task_metrics("cvr_{}_clicked"),
            keys.CTCVR: _task_metrics("ctcvr_{}"),
        }

    def all(self) -> list[tf_keras.metrics.Metric]:
        """Returns every metric: losses, counts, spreads, then those of each space."""
        tasks = [metric for group in self._tasks.values() for metric in group]
        whole = (self._losses, self._counts, self._spreads)
        return [*(metric for group in whole for metric in group.values()), *tasks]

    def update_losses(self, impressions: tf.Tensor, **values: tf.Tensor) -> None:
        """Adds the mean losses of a batch of so many impressions."""
        for name, value in values.items():
            self._losses[name].update_state(value, sample_weight=impressions)

    def update(
        self,
        labels: Mapping[str, tf.Tensor],
        outputs: Mapping[str, tf.Tensor],
        sample_weight: tf.Tensor | None,
    ) -> None:
        """Adds a batch to the metrics of every space, to the counts and to the spreads."""
        click, conversion = labels[keys.CLICK], labels[keys.CONVERSION]
        weight = tf.ones_like(click) if sample_weight is None else sample_weight
        spaces = {
            keys.CTR: (click, outputs[keys.CTR_LOGITS], weight),
            keys.CVR_CLICKED: (conversion, outputs[keys.CVR_LOGITS], weight * click),
            keys.CTCVR: (conversion, outputs[keys.CTCVR_LOGITS], weight),
        }
        for task, arguments in spaces.items():
            for metric in self._tasks[task]:
                metric.update_state(*arguments)
        self._counts["impressions"].update_state(tf.ones_like(click))
        self._counts["clicks"].update_state(click)
        self._counts["conversions"].update_state(conversion)
        self._counts["unnested_labels"].update_state(conversion * (1 - click))
        # An infinite logit of the right sign has no loss, and yet spoils the gradients.
        is_finite = [tf.math.is_finite(outputs[name]) for name in self._spreads]
        self._counts["non_finite_logits"].update_state(~tf.reduce_all(is_finite, axis=0))
        for name, spread in self._spreads.items():
            spread.update_state(outputs[name])


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
