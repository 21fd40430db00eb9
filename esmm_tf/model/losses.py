"""Losses on logits, in log space: means over impressions, with optional sample weights."""

import math
from collections.abc import Callable, Mapping

import tensorflow as tf

from esmm_tf import keys

Labels = Mapping[str, tf.Tensor]
Outputs = Mapping[str, tf.Tensor]
LossTerm = Callable[[Labels, Outputs, tf.Tensor | None], tf.Tensor]

_LOG_HALF = -math.log(2.0)


def ctcvr_log_probs(ctr_logits: tf.Tensor, cvr_logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `log pCTCVR` and `log(1 - pCTCVR)`, where `pCTCVR = pCTR * pCVR` (Eq. 2).

    With click logit `a` and conversion logit `b`, the first is `-softplus(-a) - softplus(-b)`. The
    second is `log1p(-pCTCVR)` where pCTCVR is below one half, which keeps its digits when
    conversions are rare; above, it is `softplus(a - softplus(b)) - softplus(a)`, which stays finite
    when pCTCVR rounds to one. In float32, with a = 3 and b = -12, the relative error is 1e-8 with
    `log1p`, 2e-2 with softplus, and 2e-3 with `log(1 - pCTR * pCVR)`.

    Args:
      ctr_logits: float `[...]`.
      cvr_logits: float, the same shape.

    Raises:
      ValueError: if the shapes differ.

    >>> log_p, log_not_p = ctcvr_log_probs(tf.zeros([1]), tf.zeros([1]))
    >>> tf.exp(log_p).numpy(), tf.exp(log_not_p).numpy()
    (array([0.25], dtype=float32), array([0.75], dtype=float32))
    """
    _check_same_shape(ctr_logits=ctr_logits, cvr_logits=cvr_logits)
    log_p = -tf.nn.softplus(-ctr_logits) - tf.nn.softplus(-cvr_logits)
    log_not_large = tf.nn.softplus(ctr_logits - tf.nn.softplus(cvr_logits))
    log_not_large -= tf.nn.softplus(ctr_logits)
    log_not_small = tf.math.log1p(-tf.exp(tf.minimum(log_p, _LOG_HALF)))
    return log_p, tf.where(log_p < _LOG_HALF, log_not_small, log_not_large)


def cross_entropy(
    labels: tf.Tensor, logits: tf.Tensor, sample_weight: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns the mean over impressions of the cross entropy of label and `sigmoid(logits)`.

    For the click label and the click logit it is the first term of Eq. 3. At step 0 it is `ln 2`.

    Args:
      labels: float `[impressions]`, 0 or 1.
      logits: float `[impressions]`.
      sample_weight: float `[impressions]`, a scalar, or None. It scales each impression's loss;
        the sum is divided by the number of impressions, not by the sum of the weights.

    Raises:
      ValueError: if the shapes differ.
    """
    _check_same_shape(labels=labels, logits=logits)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    return _weighted_mean(losses, sample_weight)


def ctcvr_loss(
    conversion: tf.Tensor,
    ctr_logits: tf.Tensor,
    cvr_logits: tf.Tensor,
    sample_weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the mean over impressions of the cross entropy of conversion and pCTCVR (Eq. 3).

    No label is masked: an impression without a click is a negative of "clicked and converted".

    Args:
      conversion: float `[impressions]`, 1 where clicked and converted.
      ctr_logits: float `[impressions]`.
      cvr_logits: float `[impressions]`.
      sample_weight: as in `cross_entropy`.

    Raises:
      ValueError: if the shapes differ.
    """
    log_p, log_not_p = ctcvr_log_probs(ctr_logits, cvr_logits)
    _check_same_shape(conversion=conversion, cvr_logits=cvr_logits)
    losses = -conversion * log_p - (1.0 - conversion) * log_not_p
    return _weighted_mean(losses, sample_weight)


def cross_entropy_of(label: str, logits: str) -> LossTerm:
    """Returns the loss term of a label and a model's logits, given by their keys."""
    return lambda labels, outputs, weight: cross_entropy(labels[label], outputs[logits], weight)


def product_loss(
    labels: Labels, outputs: Outputs, sample_weight: tf.Tensor | None = None
) -> tf.Tensor:
    """Returns the second term of Eq. 3: the loss of the product of pCTR and pCVR."""
    return ctcvr_loss(
        labels[keys.CONVERSION],
        outputs[keys.CTR_LOGITS],
        outputs[keys.CVR_LOGITS],
        sample_weight,
    )


# Eq. 3: the weighted sum of these terms is the loss of ESMM.
ENTIRE_SPACE_LOSSES: Mapping[str, LossTerm] = {
    "ctr_loss": cross_entropy_of(keys.CLICK, keys.CTR_LOGITS),
    "ctcvr_loss": product_loss,
}


def _weighted_mean(losses: tf.Tensor, sample_weight: tf.Tensor | None) -> tf.Tensor:
    if sample_weight is None:
        return tf.reduce_mean(losses)
    sample_weight = tf.convert_to_tensor(sample_weight, losses.dtype)
    if sample_weight.shape.rank != 0:
        _check_same_shape(sample_weight=sample_weight, losses=losses)
    return tf.reduce_mean(losses * sample_weight)


def _check_same_shape(**tensors: tf.Tensor) -> None:
    (first, a), (second, b) = tensors.items()
    shape_a, shape_b = tf.convert_to_tensor(a).shape, tf.convert_to_tensor(b).shape
    if shape_a.rank != shape_b.rank or not shape_a.is_compatible_with(shape_b):
        raise ValueError(
            f"{first} has shape {shape_a} and {second} has shape {shape_b}. "
            "Give both the same shape: broadcasting would hide a mistake."
        )
