import doctest
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.model import losses

EXTREMES = (-1000.0, -100.0, -20.0, -8.0, -1.0, 0.0, 0.5, 3.0, 20.0, 100.0, 1000.0)
GRID = np.array(list(itertools.product(EXTREMES, EXTREMES)))
RARE = np.array([(-3.2, -5.3), (-7, -7), (-10, -10), (-16, -16), (3, -12), (0, -20), (-20, 6)])

CLICK = np.array([1.0, 0.0, 1.0, 0.0])
CONVERSION = np.array([1.0, 0.0, 0.0, 0.0])
CTR_LOGITS = np.array([0.5, -2.0, 1.5, 3.0])
CVR_LOGITS = np.array([-1.0, 0.25, -3.0, 2.0])
WEIGHT = np.array([0.5, 2.0, 0.0, 3.0])


def float32(values):
    return tf.constant(values, tf.float32)


def reference_log_probs(a, b):
    """Returns `log p` and `log(1 - p)` in float64, from the sum form where p is large."""
    log_p = -np.logaddexp(0, -a) - np.logaddexp(0, -b)
    large = np.logaddexp(np.logaddexp(-a, -b), -a - b) + log_p
    small = np.log1p(-np.exp(np.minimum(log_p, -0.1)))
    return log_p, np.where(log_p < -math.log(2), small, large)


def reference_ctr_losses(click=CLICK, a=CTR_LOGITS):
    return np.logaddexp(0, a) - click * a


def reference_ctcvr_losses(conversion=CONVERSION, a=CTR_LOGITS, b=CVR_LOGITS):
    log_p, log_not_p = reference_log_probs(a, b)
    return -conversion * log_p - (1 - conversion) * log_not_p


def ctr(*, rows=slice(None), click=CLICK, sample_weight=None):
    return losses.cross_entropy(float32(click[rows]), float32(CTR_LOGITS[rows]), sample_weight)


def ctcvr(*, rows=slice(None), conversion=CONVERSION, sample_weight=None):
    logits = float32(CTR_LOGITS[rows]), float32(CVR_LOGITS[rows])
    return losses.ctcvr_loss(float32(conversion[rows]), *logits, sample_weight)


BOTH = pytest.mark.parametrize(
    ("loss", "reference"),
    [(ctr, reference_ctr_losses()), (ctcvr, reference_ctcvr_losses())],
    ids=["cross_entropy", "ctcvr_loss"],
)


@pytest.mark.parametrize(("limit", "rtol"), [(20, 2e-6), (1000, 1e-4)])
def test_ctcvr_log_probs_equal_float64(limit, rtol):
    a, b = GRID[np.abs(GRID).max(axis=1) <= limit].T

    log_p, log_not_p = losses.ctcvr_log_probs(float32(a), float32(b))

    expected_p, expected_not_p = reference_log_probs(a, b)
    np.testing.assert_allclose(log_p, expected_p, rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(log_not_p, expected_not_p, rtol=rtol, atol=1e-37)


def test_ctcvr_log_probs_sum_to_one_where_pctcvr_is_one_half():
    a = np.linspace(0.1, 6.0, 300)
    b = -np.log(2 / (1 + np.exp(-a)) - 1) + np.linspace(-1e-3, 1e-3, 300)

    log_p, log_not_p = losses.ctcvr_log_probs(float32(a), float32(b))

    np.testing.assert_allclose(tf.exp(log_p) + tf.exp(log_not_p), np.ones(300), atol=1e-6)


@pytest.mark.parametrize(("a", "b"), RARE)
def test_ctcvr_loss_keeps_its_digits_when_conversions_are_rare(a, b):
    a, b = float(np.float32(a)), float(np.float32(b))

    loss = losses.ctcvr_loss(tf.zeros([1]), float32([a]), float32([b]))

    pctcvr = 1 / ((1 + math.exp(-a)) * (1 + math.exp(-b)))
    np.testing.assert_allclose(loss, -math.log1p(-pctcvr), rtol=2e-6)


@pytest.mark.parametrize(("a", "b"), RARE)
def test_ctcvr_gradients_keep_their_digits_when_conversions_are_rare(a, b):
    logits = float32([a]), float32([b])

    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.ctcvr_loss(tf.zeros([1]), *logits)
    gradients = tape.gradient(loss, logits)

    pctr, pcvr = (1 / (1 + math.exp(-float(logit[0]))) for logit in logits)
    odds = pctr * pcvr / (1 - pctr * pcvr)
    np.testing.assert_allclose(gradients[0], [odds * (1 - pctr)], rtol=2e-6)
    np.testing.assert_allclose(gradients[1], [odds * (1 - pcvr)], rtol=2e-6)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_losses_and_gradients_stay_finite_at_extreme_logits(label):
    labels = tf.fill([len(GRID)], label)
    logits = float32(GRID[:, 0]), float32(GRID[:, 1])

    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = losses.cross_entropy(labels, logits[0]) + losses.ctcvr_loss(labels, *logits)
    gradients = tape.gradient(total, logits)

    assert np.isfinite(total)
    assert np.isfinite(gradients).all()
    assert np.abs(gradients).max() > 0


@BOTH
def test_a_loss_is_the_mean_over_impressions_of_float64_cross_entropy(loss, reference):
    value = loss()

    assert value.shape == ()
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, reference.mean(), rtol=1e-6)


@BOTH
def test_a_sample_weight_scales_each_impression_and_not_the_divisor(loss, reference):
    value = loss(sample_weight=float32(WEIGHT))

    np.testing.assert_allclose(value, (reference * WEIGHT).sum() / 4, rtol=1e-6)


@BOTH
@pytest.mark.parametrize("weight", [3, 3.0, np.float64(3.0), tf.constant(3.0)])
def test_a_scalar_weight_scales_the_loss(loss, reference, weight):
    value = loss(sample_weight=weight)

    np.testing.assert_allclose(value, 3 * reference.mean(), rtol=1e-6)


@BOTH
@pytest.mark.parametrize("weight", [0.0, np.zeros(4, np.float32)])
def test_zero_weights_give_a_loss_of_zero(loss, reference, weight):
    value = loss(sample_weight=weight)

    assert reference.mean() > 0
    assert value == 0.0


def test_a_batch_without_positives_pushes_both_logits_down():
    logits = float32(CTR_LOGITS), float32(CVR_LOGITS)

    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.ctcvr_loss(tf.zeros([4]), *logits)
    gradients = tape.gradient(loss, logits)

    np.testing.assert_allclose(loss, reference_ctcvr_losses(np.zeros(4)).mean(), rtol=1e-6)
    assert (np.array(gradients) > 0).all()


def test_an_unclicked_impression_counts_as_a_negative_of_ctcvr():
    unclicked = slice(3, 4)

    value = ctcvr(rows=unclicked)

    pctcvr = 1 / ((1 + math.exp(-3.0)) * (1 + math.exp(-2.0)))
    np.testing.assert_allclose(value, -math.log(1 - pctcvr), rtol=1e-6)


@pytest.mark.parametrize("conversions", [0, 1, 4])
def test_the_losses_at_step_0_are_those_of_the_docstring(conversions):
    zeros = tf.zeros([4])
    conversion = float32([1.0] * conversions + [0.0] * (4 - conversions))

    total = losses.cross_entropy(float32(CLICK), zeros) + losses.ctcvr_loss(
        conversion, zeros, zeros
    )

    expected = math.log(2) + math.log(4 / 3) + conversions / 4 * math.log(3)
    np.testing.assert_allclose(total, expected, rtol=1e-6)


@BOTH
def test_the_mean_over_shards_is_the_loss_of_all(loss, reference):
    shards = [loss(rows=slice(0, 1)), loss(rows=slice(1, 4))]

    merged = (1 * shards[0] + 3 * shards[1]) / 4

    np.testing.assert_allclose(merged, reference.mean(), rtol=1e-6)


def test_the_losses_are_the_same_in_a_function_that_knows_no_batch_size():
    spec = tf.TensorSpec([None], tf.float32)
    function = tf.function(losses.ctcvr_loss, input_signature=[spec] * 4)

    value = function(*map(float32, (CONVERSION, CTR_LOGITS, CVR_LOGITS, WEIGHT)))

    np.testing.assert_allclose(value, (reference_ctcvr_losses() * WEIGHT).mean(), rtol=1e-6)


@pytest.mark.parametrize("shape", [[4, 1], [3], []])
def test_labels_of_a_wrong_shape_raise(shape):
    labels, logits = tf.zeros(shape), tf.zeros([4])

    with pytest.raises(ValueError, match=r"labels has shape .* logits has shape \(4,\)"):
        losses.cross_entropy(labels, logits)
    with pytest.raises(ValueError, match=r"conversion has shape .* cvr_logits has shape \(4,\)"):
        losses.ctcvr_loss(labels, logits, logits)


@BOTH
@pytest.mark.parametrize("shape", [[4, 1], [3], [1]])
def test_weights_of_a_wrong_shape_raise(loss, reference, shape):
    assert reference.shape == (4,)

    with pytest.raises(ValueError, match=r"sample_weight has shape .* Give both the same shape"):
        loss(sample_weight=tf.ones(shape))


def test_logits_of_different_shapes_raise():
    with pytest.raises(ValueError, match=r"ctr_logits has shape .* cvr_logits has shape"):
        losses.ctcvr_log_probs(tf.zeros([4]), tf.zeros([4, 1]))


def test_the_examples_in_the_docstrings_run():
    results = doctest.testmod(losses, extraglobs={"tf": tf})

    assert results.attempted > 0
    assert results.failed == 0
