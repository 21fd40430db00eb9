"""Layers of a network: the encoder, the towers, and the outputs computed from logits."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from esmm_tf import keys
from esmm_tf.config.training import ModelConfig
from esmm_tf.data.feature_values import take_values
from esmm_tf.model import losses
from esmm_tf.model.embedding import FusedEmbedding
from esmm_tf.model.feature_columns import CategoricalReader, scale_numeric
from esmm_tf.model.losses import Outputs
from esmm_tf.schema.columns import NumericColumn
from esmm_tf.schema.record_field import CONTEXT, IMPRESSION
from esmm_tf.schema.schema import Feature, Schema

_HIGHEST_LOG_PCVR = -1e-6
_LEAST_SHARE = 1e-6


class ImpressionEncoder(tf_keras.layers.Layer):
    """Embeds and pools every feature, and concatenates the features of each impression.

    Embedding tables of one dimension share a variable. Context features are pooled once per group;
    the pooled vector, not its tokens, is then gathered for each of the group's impressions.
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
          inputs: under the keys of `feature_columns.build_inputs`.

        Raises:
          ValueError: if a weighted feature comes without its weights.
        """
        parts = []
        context = self._encode_side(inputs, CONTEXT)
        if context:
            parts.append(tf.gather(tf.concat(context, axis=1), inputs[keys.GROUP_INDEX]))
        parts += self._encode_side(inputs, IMPRESSION)
        return tf.concat(parts, axis=1)

    @tf.autograph.experimental.do_not_convert
    def _encode_side(self, inputs: Mapping[str, Any], side: str) -> list[tf.Tensor]:
        features = self._schema.side_features(side)
        parts = []
        for dim, embedding in self._embeddings.items():
            embedded = [f for f in features if f.is_embedded and self._dim(f) == int(dim)]
            if not embedded:
                continue
            parts.append(
                embedding(
                    [self._readers[f.name](take_values(inputs, f)) for f in embedded],
                    tables=[f.table_name for f in embedded],
                    combiners=[f.combiner for f in embedded],
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
            kernel_initializer=tf_keras.initializers.GlorotUniform(seed=seed + index),
            name=f"hidden_{index}",
        )
        for index, units in enumerate(hidden_units)
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


class DividedOutputs(tf_keras.layers.Layer):
    """Outputs of a method that divides: pCVR = pCTCVR / pCTR, which may exceed 1.

    `pcvr` is cut off just below 1, and `cvr_logits` with it, so that a server gives probabilities;
    `cvr_log_ratio` is the logarithm of the ratio without this limit.
    """

    def call(self, ctr_logits: tf.Tensor, ctcvr_logits: tf.Tensor) -> Outputs:
        """Returns the keys of `EntireSpaceOutputs` and `cvr_log_ratio`, `[impressions]` each."""
        log_ratio = tf.math.log_sigmoid(ctcvr_logits) - tf.math.log_sigmoid(ctr_logits)
        log_pcvr = tf.minimum(log_ratio, _HIGHEST_LOG_PCVR)
        return {
            keys.PCTR: tf.sigmoid(ctr_logits),
            keys.PCVR: tf.exp(log_pcvr),
            keys.PCTCVR: tf.sigmoid(ctcvr_logits),
            keys.CTR_LOGITS: ctr_logits,
            keys.CVR_LOGITS: log_pcvr - tf.math.log(-tf.math.expm1(log_pcvr)),
            keys.CTCVR_LOGITS: ctcvr_logits,
            keys.CVR_LOG_RATIO: log_ratio,
        }


class ConstantLogits(tf_keras.layers.Layer):
    """The same logit for every impression: a weight that is not trained."""

    def __init__(self, probability: float, *, name: str) -> None:
        super().__init__(name=name)
        probability = min(max(probability, _LEAST_SHARE), 1 - _LEAST_SHARE)
        self._logit = self.add_weight(
            name="logit",
            shape=[],
            dtype=tf.float32,
            initializer=tf_keras.initializers.Constant(
                math.log(probability) - math.log1p(-probability)
            ),
            trainable=False,
        )

    def call(self, group_index: tf.Tensor) -> tf.Tensor:
        """Returns the logit for each of `[impressions]`."""
        return tf.fill(tf.shape(group_index), tf.identity(self._logit))
