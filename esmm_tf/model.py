"""Tensors into towers: the encoder, a tower, and the Keras model that trains two tasks at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from esmm_tf import keys, losses, metrics
from esmm_tf.columns import NumericColumn
from esmm_tf.config import ModelConfig
from esmm_tf.embedding import FusedEmbedding
from esmm_tf.feature_columns import CategoricalReader, scale_numeric
from esmm_tf.schema import CONTEXT, IMPRESSION, Feature, Schema

Labels = Mapping[str, tf.Tensor]
Outputs = dict[str, tf.Tensor]


class ImpressionEncoder(tf_keras.layers.Layer):
    """Embeds and pools every feature, and concatenates them an impression.

    Embedding tables of one dimension share a variable. Context features are pooled once a group;
    the pooled vector, not its tokens, is then gathered to the group's impressions.
    """

    def __init__(
        self, schema: Schema, config: ModelConfig, *, seed: int = 0, name: str = "encoder"
    ) -> None:
        super().__init__(name=name)
        self._schema = schema
        self._default_dim = config.embedding_dim
        embedded = [feature for feature in schema.features if feature.is_embedded]
        self._readers = {feature.name: CategoricalReader(feature) for feature in embedded}
        self._embeddings = {}
        for dim in sorted({self._dim(feature) for feature in embedded}):
            rows = {f.table_name: f.num_rows for f in embedded if self._dim(f) == dim}
            self._embeddings[str(dim)] = FusedEmbedding(
                [(schema.table(table), num_rows) for table, num_rows in rows.items()],
                dim,
                seed=seed,
                name=f"embedding_{dim}",
            )

    def _dim(self, feature: Feature) -> int:
        return self._schema.table(feature.table_name).embedding_dim or self._default_dim

    def call(self, inputs: Mapping[str, Any]) -> tf.Tensor:
        """Returns the towers' input, float32 `[impressions, width]`.

        Args:
          inputs: as `feature_columns.build_inputs` names them.
        """
        parts = []
        context = self._encode_side(inputs, CONTEXT)
        if context:
            parts.append(tf.gather(tf.concat(context, axis=1), inputs[keys.GROUP_INDEX]))
        parts += self._encode_side(inputs, IMPRESSION)
        return tf.concat(parts, axis=1)

    def _encode_side(self, inputs: Mapping[str, Any], side: str) -> list[tf.Tensor]:
        features = self._schema.side_features(side)
        parts = []
        for dim, embedding in self._embeddings.items():
            chosen = [f for f in features if f.is_embedded and self._dim(f) == int(dim)]
            if not chosen:
                continue
            tokens = [
                self._readers[f.name](inputs[f.name], inputs.get(f.name + keys.WEIGHT_SUFFIX))
                for f in chosen
            ]
            parts.append(
                embedding(
                    [token.ids for token in tokens],
                    [token.weights for token in tokens],
                    tables=[f.table_name for f in chosen],
                    combiners=[f.combiner for f in chosen],
                )
            )
        numeric = [f for f in features if isinstance(f.column, NumericColumn)]
        return parts + [scale_numeric(f, inputs[f.name]) for f in numeric]


def build_tower(name: str, hidden_units: Sequence[int], *, seed: int = 0) -> tf_keras.Sequential:
    """Returns a tower: hidden ReLU layers and a softmax head of two units, as in the paper.

    The head starts at zero, so that every probability is one half at step 0.
    """
    layers = [
        tf_keras.layers.Dense(
            units,
            activation="relu",
            kernel_initializer=tf_keras.initializers.GlorotUniform(seed=seed + place),
            name=f"hidden_{place}",
        )
        for place, units in enumerate(hidden_units)
    ]
    head = tf_keras.layers.Dense(2, kernel_initializer="zeros", name="head")
    return tf_keras.Sequential([*layers, head], name=name)


class TowerLogits(tf_keras.layers.Layer):
    """Returns the logit of the head's second class, `l1 - l0`, float32 `[impressions]`.

    `sigmoid(l1 - l0)` is the probability that softmax gives the second class.
    """

    def call(self, head: tf.Tensor) -> tf.Tensor:
        """Maps `[impressions, 2]` to `[impressions]`."""
        return head[:, 1] - head[:, 0]


class EntireSpaceOutputs(tf_keras.layers.Layer):
    """Logits and probabilities of click, conversion after a click, and both (Eq. 1 and 2)."""

    def call(self, ctr_logits: tf.Tensor, cvr_logits: tf.Tensor) -> Outputs:
        """Returns `pctr`, `pcvr`, `pctcvr = pctr * pcvr` and their logits, `[impressions]` each."""
        log_p, log_not_p = losses.ctcvr_log_probs(ctr_logits, cvr_logits)
        pctr, pcvr = tf.sigmoid(ctr_logits), tf.sigmoid(cvr_logits)
        return {
            keys.PCTR: pctr,
            keys.PCVR: pcvr,
            keys.PCTCVR: pctr * pcvr,
            keys.CTR_LOGITS: ctr_logits,
            keys.CVR_LOGITS: cvr_logits,
            keys.CTCVR_LOGITS: log_p - log_not_p,
        }


class EntireSpaceModel(tf_keras.Model):
    """A functional Keras model with the ESMM loss and metrics whose names tell their space.

    Loss (Eq. 3): the mean over impressions of the cross entropy of click and pCTR, plus that of
    conversion and pCTCVR, each times its task weight and the sample weight. No label is masked and
    pCVR has no loss of its own. At step 0, with all probabilities one half, it is
    `ln 2 + ln(4/3) + share_of_conversions * ln 3`, for task weights of 1.
    """

    def __init__(self, *args: Any, config: ModelConfig | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._config = config or ModelConfig()
        self._metrics_of_spaces = metrics.EntireSpaceMetrics()

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
        ctr = losses.ctr_loss(y[keys.CLICK], y_pred[keys.CTR_LOGITS], sample_weight)
        ctcvr = losses.ctcvr_loss(
            y[keys.CONVERSION], y_pred[keys.CTR_LOGITS], y_pred[keys.CVR_LOGITS], sample_weight
        )
        loss = self._config.ctr_loss_weight * ctr + self._config.ctcvr_loss_weight * ctcvr
        self._metrics_of_spaces.update_losses(
            tf.size(y[keys.CLICK]), loss=loss, ctr_loss=ctr, ctcvr_loss=ctcvr
        )
        return loss

    def compute_metrics(
        self, x: Any, y: Labels, y_pred: Outputs, sample_weight: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Updates the metrics with a batch and returns all of them."""
        self._metrics_of_spaces.update(y, y_pred, sample_weight)
        return self.get_metrics_result()


def build_scorer(model: tf_keras.Model, features_spec: Any) -> Any:
    """Returns a graph function that maps a batch's features to the model's outputs.

    Args:
      model: as `methods` build it.
      features_spec: `dataset.element_spec["features"]`, so that batches of any size share a graph.
    """
    return tf.function(
        lambda features: model(features, training=False), input_signature=[features_spec]
    )
