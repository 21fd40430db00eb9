"""The Keras model that trains a method's towers: loss, metrics and steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from esmm_tf import keys
from esmm_tf.data.sampling import Sampling
from esmm_tf.metrics import streaming
from esmm_tf.model.losses import Labels, LossTerm, Outputs


class EntireSpaceModel(tf_keras.Model):
    """A functional Keras model with a method's loss, and metrics whose names tell their space.

    The loss is the weighted sum of its terms, each a mean over impressions with sample weights. The
    terms of ESMM (Eq. 3) are the cross entropies of click and pCTR, and of conversion and pCTCVR:
    no label is masked and pCVR has no loss of its own. At step 0, with all probabilities one half,
    ESMM's loss is `ln 2 + ln(4/3) + share_of_conversions * ln 3`, for task weights of 1.

    Args:
      losses: the terms, by name.
      loss_weights: the weight of the term `<name>` under `<name>_weight`, a flag's name; by
        default 1.
      tasks: whose metrics a training step updates. An evaluation step, which sees all impressions,
        updates the metrics of all tasks.
      sampling: which impressions a training step is given. An evaluation step weighs each
        impression by its copies, so that both losses are means over the same population, except
        for `acceptance`.
    """

    def __init__(
        self,
        *args: Any,
        losses: Mapping[str, LossTerm],
        loss_weights: Mapping[str, float],
        tasks: Sequence[str],
        sampling: Sampling | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._losses_by_name = losses
        self._loss_weights = loss_weights
        self._trained_tasks = tasks
        self._sampling = sampling
        self._metrics_of_spaces = streaming.EntireSpaceMetrics(losses=tuple(losses))

    @property
    def trained_tasks(self) -> Sequence[str]:
        """Returns the tasks that the model is trained on."""
        return self._trained_tasks

    @property
    def metrics(self) -> list[tf_keras.metrics.Metric]:
        """Returns every metric, for Keras to reset between epochs."""
        return self._metrics_of_spaces.all()

    def compute_loss(
        self,
        x: Any = None,
        y: Labels | None = None,
        y_pred: Outputs | None = None,
        sample_weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the scalar loss of a batch; `y` holds `click` and `conversion`."""
        if y is None or y_pred is None:
            raise ValueError("The loss needs labels and outputs.")
        return self._loss(y, y_pred, sample_weight, tf.size(y[keys.CLICK]))

    def _loss(
        self, labels: Labels, outputs: Outputs, weight: tf.Tensor | None, count: tf.Tensor
    ) -> tf.Tensor:
        """Returns the loss, and adds it to the mean losses as that of `count` impressions."""
        terms = {name: term(labels, outputs, weight) for name, term in self._losses_by_name.items()}
        loss = tf.add_n(
            [self._loss_weights.get(f"{name}_weight", 1.0) * term for name, term in terms.items()]
        )
        self._metrics_of_spaces.update_losses(count, loss=loss, **terms)
        return loss

    def compute_metrics(
        self, x: Any, y: Labels, y_pred: Outputs, sample_weight: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Updates the metrics of the trained tasks with a batch and returns all metrics."""
        self._metrics_of_spaces.update(y, y_pred, sample_weight, trained=self._trained_tasks)
        return self.get_metrics_result()

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Updates weights and metrics with a batch and returns the metrics."""
        return super().train_step(data)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Updates the metrics of every task with a batch of all impressions and returns them."""
        features, labels, weight = tf_keras.utils.unpack_x_y_sample_weight(data)
        outputs = self(features, training=False)
        loss_weight, count = weight, tf.size(labels[keys.CLICK])
        if self._sampling is not None:
            copies = self._sampling.mean_copies(labels)
            count = tf.reduce_sum(copies)
            # The terms divide by the number of impressions; this makes them means over copies.
            loss_weight = copies * tf.math.divide_no_nan(
                tf.cast(tf.size(copies), tf.float32), count
            )
            loss_weight = loss_weight if weight is None else loss_weight * weight
        self._loss(labels, outputs, loss_weight, count)
        self._metrics_of_spaces.update(
            labels, outputs, weight, trained=self._trained_tasks, measured=keys.TASKS
        )
        return self.get_metrics_result()


def build_scorer(model: tf_keras.Model, features_spec: Any) -> Any:
    """Returns a graph function that maps a batch's features to the model's outputs.

    Args:
      model: as a method builds it.
      features_spec: `dataset.element_spec.features`, so that batches of any size share a graph.
    """
    return tf.function(
        lambda features: model(features, training=False),
        input_signature=[features_spec],
        autograph=False,
    )
