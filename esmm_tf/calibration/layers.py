"""A trained model with its logits corrected inside the graph: for down-sampling, and by maps."""

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras

from esmm_tf import keys
from esmm_tf.calibration.maps import CalibrationMap
from esmm_tf.model.layers import EntireSpaceOutputs

_LOGITS = {keys.PCTR: keys.CTR_LOGITS, keys.PCVR: keys.CVR_LOGITS}


class PriorCorrection(tf_keras.layers.Layer):
    """Adds `ln(negative_keep_rate)`: from the odds of sampled records to those of all.

    Where each unclicked impression was kept with probability `r`, a model learns odds that are
    `1 / r` times too high.
    """

    def __init__(self, negative_keep_rate: float, *, name: str) -> None:
        super().__init__(name=name, dtype=tf.float32)
        self._offset = math.log(negative_keep_rate)

    def call(self, logits: tf.Tensor) -> tf.Tensor:
        """Maps float32 `[impressions]` to the same."""
        return logits + self._offset


class CalibratedLogits(tf_keras.layers.Layer):
    """Applies a calibration map, as `maps.apply` does in float64."""

    def __init__(self, calibration_map: CalibrationMap, *, name: str) -> None:
        super().__init__(name=name, dtype=tf.float32)
        self._segments = calibration_map.segments()

    def call(self, logits: tf.Tensor) -> tf.Tensor:
        """Maps float32 `[impressions]` to the same."""
        knots, *pieces = (tf.constant(part, tf.float32) for part in self._segments)
        index = tf.zeros_like(logits, tf.int32)
        if knots.shape[0]:
            index = tf.searchsorted(knots, logits, side="right")
        origins, values, slopes = (tf.gather(part, index) for part in pieces)
        return values + slopes * (logits - origins)


def build_calibrated(
    model: Any, maps: Mapping[str, CalibrationMap], *, negative_keep_rate: float = 1.0
) -> Any:
    """Returns a model of the same inputs and outputs with corrected logits and probabilities.

    First the click logit is corrected for down-sampling: clicks are all kept, so that pCVR needs no
    correction. Then each logit goes through its map. pCTCVR is the product of the two results.

    Args:
      model: whose outputs are those of `model.layers.EntireSpaceOutputs`.
      maps: by the probability that each corrects, `pctr` or `pcvr`. With none, and a rate of 1, the
        model itself is returned.
      negative_keep_rate: the probability with which the training records' pipeline kept an
        unclicked impression.
    """
    if not maps and negative_keep_rate == 1:
        return model
    logits = {name: model.output[key] for name, key in _LOGITS.items()}
    if negative_keep_rate != 1:
        correct = PriorCorrection(negative_keep_rate, name="prior_correction")
        logits[keys.PCTR] = correct(logits[keys.PCTR])
    for name, calibration_map in maps.items():
        calibrate = CalibratedLogits(calibration_map, name=f"calibrated_{name}")
        logits[name] = calibrate(logits[name])
    outputs = EntireSpaceOutputs(name="calibrated_outputs")(logits[keys.PCTR], logits[keys.PCVR])
    return tf_keras.Model(inputs=model.input, outputs=outputs, name=model.name)
