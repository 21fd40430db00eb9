import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
import tf_keras

from esmm_tf.metrics import exact as exact_metrics
from esmm_tf.metrics.streaming import (
    EntireSpaceMetrics,
    RecentSpread,
    StreamingAUC,
    StreamingCalibration,
    StreamingLogLoss,
)
from esmm_tf.model import losses


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def reference_auc(labels, logits, weights=None):
    return sklearn.metrics.roc_auc_score(labels, logits, sample_weight=weights)


def reference_log_loss(labels, logits, weights=None):
    return sklearn.metrics.log_loss(labels, sigmoid(logits), sample_weight=weights)


def reference_calibration(labels, logits, weights=None):
    predicted = np.average(sigmoid(logits), weights=weights)
    return predicted / np.average(np.asarray(labels, np.float64), weights=weights)


REFERENCES = {
    StreamingAUC: reference_auc,
    StreamingLogLoss: reference_log_loss,
    StreamingCalibration: reference_calibration,
}
EVERY = pytest.mark.parametrize("metric_class", REFERENCES)


def sample(seed=0, size=600):
    """Returns labels, logits on a grid of 1/8 (so with ties) and weights."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(-1.0, 1.5, size) * 8) / 8
    labels = (rng.random(size) < sigmoid(logits)).astype(np.float32)
    weights = rng.integers(0, 4, size).astype(np.float32)
    return labels, logits.astype(np.float32), weights


def measure(metric_class, *batches):
    metric = metric_class()
    for batch in batches:
        metric.update_state(*batch)
    return metric.result().numpy()


@EVERY
def test_a_metric_equals_scikit_learn(metric_class):
    labels, logits, _ = sample()

    value = measure(metric_class, (labels, logits))

    assert value.dtype == np.float64
    np.testing.assert_allclose(value, REFERENCES[metric_class](labels, logits), rtol=1e-9)


@EVERY
def test_a_metric_over_batches_equals_scikit_learn_with_weights_over_all(metric_class):
    labels, logits, weights = sample()

    value = measure(
        metric_class,
        (labels[:100], logits[:100], weights[:100]),
        (labels[100:], logits[100:], weights[100:]),
    )

    expected = REFERENCES[metric_class](labels, logits, weights)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert not np.isclose(value, REFERENCES[metric_class](labels, logits), rtol=1e-4)


@EVERY
def test_a_scalar_weight_weighs_one_batch_against_another(metric_class):
    first, second = sample(1)[:2], sample(2)[:2]

    value = measure(metric_class, (*first, 3.0), second)

    expected = REFERENCES[metric_class](
        np.concatenate([first[0], second[0]]),
        np.concatenate([first[1], second[1]]),
        np.repeat([3.0, 1.0], 600),
    )
    np.testing.assert_allclose(value, expected, rtol=1e-9)


@EVERY
@pytest.mark.parametrize("weight", [0.0, np.zeros(600)])
def test_a_batch_of_zero_weights_changes_nothing(metric_class, weight):
    first, second = sample(1)[:2], sample(2)[:2]

    value = measure(metric_class, first, (*second, weight))

    assert value == measure(metric_class, first)


@EVERY
def test_a_metric_without_any_weight_is_nan(metric_class):
    labels, logits, _ = sample()

    assert np.isnan(measure(metric_class))
    assert np.isnan(measure(metric_class, (labels, logits, 0.0)))


@EVERY
def test_a_batch_without_positives_counts(metric_class):
    labels, logits, _ = sample(1)
    negatives = np.zeros(50, np.float32), np.full(50, 1.5, np.float32)

    value = measure(metric_class, negatives, (labels, logits))

    expected = REFERENCES[metric_class](
        np.concatenate([negatives[0], labels]), np.concatenate([negatives[1], logits])
    )
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    assert not np.isclose(value, REFERENCES[metric_class](labels, logits), rtol=1e-4)


@EVERY
def test_an_empty_batch_changes_nothing(metric_class):
    labels, logits, _ = sample()

    value = measure(metric_class, (labels, logits), (labels[:0], logits[:0], labels[:0]))

    assert value == measure(metric_class, (labels, logits))


@EVERY
def test_reset_state_forgets_what_was_seen(metric_class):
    metric = metric_class()
    metric.update_state(*sample(1))

    metric.reset_state()

    assert np.isnan(metric.result())
    metric.update_state(*sample(2))
    assert metric.result() == measure(metric_class, sample(2))


@EVERY
def test_merging_two_shards_equals_one_metric_over_all(metric_class):
    shards = [metric_class(), metric_class()]
    shards[0].update_state(*sample(1))
    shards[1].update_state(*sample(2))

    shards[0].merge_state([shards[1]])

    value = shards[0].result()
    np.testing.assert_allclose(value, measure(metric_class, sample(1), sample(2)), rtol=1e-12)
    assert not np.isclose(value, measure(metric_class, sample(1)), rtol=1e-6)


@EVERY
def test_a_metric_is_built_anew_from_its_config(metric_class):
    metric = metric_class(name="ctr_something")

    again = metric_class.from_config(metric.get_config())

    assert again.name == "ctr_something"
    assert again.dtype == metric.dtype
    again.update_state(*sample())
    assert again.result() == measure(metric_class, sample())


@EVERY
def test_a_metric_counts_in_float64_under_a_policy_of_mixed_precision(metric_class):
    tf_keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        value = measure(metric_class, sample())
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")

    assert value == measure(metric_class, sample())


@EVERY
@pytest.mark.parametrize("shape", [[4, 1], [3], []])
def test_labels_of_a_wrong_shape_raise(metric_class, shape):
    metric = metric_class()

    with pytest.raises(ValueError, match=r"labels have shape .* logits have shape \(4,\)"):
        metric.update_state(tf.zeros(shape), tf.zeros([4]))


@EVERY
@pytest.mark.parametrize("shape", [[4, 1], [3], [1]])
def test_weights_of_a_wrong_shape_raise(metric_class, shape):
    metric = metric_class()

    with pytest.raises(ValueError, match=r"sample_weight has shape .* labels have shape \(4,\)"):
        metric.update_state(tf.zeros([4]), tf.zeros([4]), tf.ones(shape))


def test_auc_separates_at_extreme_logits():
    labels = np.array([0, 0, 1, 1, 1])
    logits = np.array([-1000.0, -100.0, 100.0, 1000.0, np.inf])

    assert measure(StreamingAUC, (labels, logits)) == 1.0
    assert measure(StreamingAUC, (1 - labels, logits)) == 0.0
    assert measure(StreamingAUC, ([0, 1], [100.0, 1000.0])) == 1.0
    assert measure(StreamingAUC, ([0, 1], [np.inf, np.inf])) == 0.5


@pytest.mark.parametrize(("ahead", "expected"), [(0.0, 0.5), (0.25, 0.75), (0.5, 1.0), (0.9, 1.0)])
def test_auc_within_a_bin_goes_by_how_far_one_class_lies_ahead_on_average(ahead, expected):
    width = 1 / 1024
    logits = width * np.array([0.05, 0.05 + ahead, 0.05 + ahead])

    assert measure(StreamingAUC, ([0, 1, 1], logits)) == pytest.approx(expected)
    assert measure(StreamingAUC, ([1, 0, 0], logits)) == pytest.approx(1 - expected)


def test_auc_is_nan_after_a_logit_that_is_nan():
    assert np.isnan(measure(StreamingAUC, ([0, 1], [0.0, 1.0]), ([0, 1], [np.nan, 1.0])))


def test_log_loss_and_calibration_are_exact_at_extreme_logits():
    batch = np.array([1, 0, 1]), np.array([-1000.0, 1000.0, 100.0])

    log_loss = measure(StreamingLogLoss, batch)
    calibration = measure(StreamingCalibration, batch)

    np.testing.assert_allclose(log_loss, 2000 / 3, rtol=1e-12)
    np.testing.assert_allclose(calibration, 1.0, rtol=1e-12)


def test_ties_count_one_half():
    labels = [1, 0, 1, 0]

    auc = measure(StreamingAUC, (labels, [0.5, 0.5, 2.0, -1.0]))

    assert auc == (0.5 + 1 + 1 + 1) / 4
    assert measure(StreamingAUC, (labels, [0.5] * 4)) == 0.5


@pytest.mark.parametrize("logit", [-19.9, -9.0, 0.0, 11.9])
def test_logits_a_512th_apart_are_told_apart(logit):
    logits = np.array([logit, logit + 1 / 512])

    assert measure(StreamingAUC, ([0, 1], logits)) == 1.0
    assert measure(StreamingAUC, ([1, 0], logits)) == 0.0


@pytest.mark.parametrize("label", [0, 1])
def test_auc_is_nan_until_both_classes_are_seen(label):
    metric = StreamingAUC()
    metric.update_state([label, label], [0.0, 1.0])

    before = metric.result().numpy()
    metric.update_state([1 - label], [0.5])

    assert np.isnan(before)
    assert metric.result() == 0.5


def test_log_loss_of_one_class_is_a_number():
    log_loss = measure(StreamingLogLoss, ([0, 0], [0.0, 0.0]))

    np.testing.assert_allclose(log_loss, np.log(2), rtol=1e-12)


@pytest.mark.parametrize(("shift", "expected"), [(np.log(1 / 3), 0.5), (np.log(3), 1.5)])
def test_calibration_tells_too_low_from_too_high(shift, expected):
    labels = np.array([1, 0, 1, 0])

    calibration = measure(StreamingCalibration, (labels, np.full(4, shift)))

    np.testing.assert_allclose(calibration, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("spread", "tolerance"), [(3.0, 1e-4), (1.0, 1e-4), (0.3, 1e-4), (0.05, 5e-4)]
)
@pytest.mark.parametrize("rate", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_auc_equals_the_exact_one_at_any_base_rate(rate, spread, tolerance):
    rng = np.random.default_rng(7)
    number = 3_000_000 if rate < 1e-3 else 300_000
    # A model may see that impressions differ and not how much: its logits spread otherwise.
    truth = rng.standard_normal(number, np.float32)
    labels = (rng.random(number) < sigmoid(np.log(rate) - 0.5 + truth)).astype(np.float32)
    logits = np.float32(np.log(rate)) + np.float32(spread) * truth
    metric = StreamingAUC()

    for part in np.split(np.arange(number), 10):
        metric.update_state(labels[part], logits[part])

    exact = exact_metrics.weighted_auc(logits, labels, 1 - labels)
    assert labels.sum() >= 20
    assert 0.65 < exact < 0.85
    assert abs(metric.result() - exact) < tolerance


def test_metrics_inside_fit_and_evaluate_equal_their_references():
    labels, logits, weights = sample(3)
    other_labels, other_logits, _ = sample(4)
    model = tf_keras.Sequential([tf_keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(
        tf_keras.optimizers.SGD(0.0),
        tf_keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[StreamingAUC(name="auc")],
        weighted_metrics=[StreamingLogLoss(), StreamingCalibration()],
    )

    history = model.fit(
        logits[:, None], labels, sample_weight=weights, batch_size=100, verbose=0
    ).history
    evaluated = model.evaluate(other_logits[:, None], other_labels, verbose=0, return_dict=True)

    np.testing.assert_allclose(history["auc"], [reference_auc(labels, logits)])
    expected = reference_log_loss(labels, logits, weights)
    np.testing.assert_allclose(history["log_loss"], [expected], rtol=1e-6)
    expected = reference_calibration(labels, logits, weights)
    np.testing.assert_allclose(history["calibration"], [expected], rtol=1e-6)
    np.testing.assert_allclose(evaluated["auc"], reference_auc(other_labels, other_logits))


CLICK = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.float32)
CONVERSION = np.array([1, 0, 1, 0, 0, 0, 0, 0], np.float32)
CTR_LOGITS = np.array([2.0, 1.0, -0.5, 0.25, 0.5, -1.0, -2.0, 1.5], np.float32)
CVR_LOGITS = np.array([0.6, -1.5, 0.5, 0.75, 2.0, 1.0, -2.0, 0.0], np.float32)
WEIGHT = np.array([1, 2, 3, 1, 2, 0, 1, 4], np.float32)
CLICKED = CLICK == 1


def ctcvr_logits(cvr_logits=CVR_LOGITS):
    log_p, log_not_p = losses.ctcvr_log_probs(tf.constant(CTR_LOGITS), tf.constant(cvr_logits))
    return (log_p - log_not_p).numpy()


def measure_spaces(*, cvr_logits=CVR_LOGITS, weight=None, repeats=None):
    repeats = np.ones(8, int) if repeats is None else repeats
    repeated = {
        "labels": {"click": CLICK, "conversion": CONVERSION},
        "outputs": {
            "ctr_logits": CTR_LOGITS,
            "cvr_logits": cvr_logits,
            "ctcvr_logits": ctcvr_logits(cvr_logits),
        },
    }
    for tensors in repeated.values():
        for name, value in tensors.items():
            tensors[name] = tf.constant(np.repeat(value, repeats))
    metrics = EntireSpaceMetrics(losses=("ctr_loss", "ctcvr_loss"))
    metrics.update(**repeated, sample_weight=weight if weight is None else tf.constant(weight))
    return {metric.name: float(metric.result()) for metric in metrics.all()}


def expected_spaces(weight=None):
    """Returns the three measures of the three spaces, by scikit-learn."""
    spaces = {
        "ctr_{}": (CLICK, CTR_LOGITS, weight),
        "cvr_{}_clicked": (
            CONVERSION[CLICKED],
            CVR_LOGITS[CLICKED],
            weight if weight is None else weight[CLICKED],
        ),
        "ctcvr_{}": (CONVERSION, ctcvr_logits(), weight),
    }
    measures = {
        "auc": reference_auc,
        "log_loss": reference_log_loss,
        "calibration": reference_calibration,
    }
    return {
        name.format(measure): reference(*space)
        for name, space in spaces.items()
        for measure, reference in measures.items()
    }


def test_names_state_the_space():
    names = [metric.name for metric in EntireSpaceMetrics(losses=("ctr_loss", "ctcvr_loss")).all()]

    assert names == [
        *("loss", "ctr_loss", "ctcvr_loss"),
        *("impressions", "clicks", "conversions", "unnested_labels", "non_finite_logits"),
        *("ctr_logits_std", "cvr_logits_std", "ctcvr_logits_std"),
        *("ctr_auc", "ctr_log_loss", "ctr_calibration"),
        *("cvr_auc_clicked", "cvr_log_loss_clicked", "cvr_calibration_clicked"),
        *("ctcvr_auc", "ctcvr_log_loss", "ctcvr_calibration"),
    ]


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_each_space_equals_scikit_learn_on_its_own_labels_logits_and_impressions(weight):
    expected = expected_spaces(weight)

    measured = measure_spaces(weight=weight)

    assert len(set(expected.values())) == 9
    for name, value in expected.items():
        np.testing.assert_allclose(measured[name], value, rtol=1e-6, err_msg=name)


def test_clicked_metrics_ignore_unclicked_impressions():
    other = np.where(CLICKED, CVR_LOGITS, 5.0).astype(np.float32)

    measured, changed = measure_spaces(), measure_spaces(cvr_logits=other)

    clicked = [name for name in measured if name.endswith("_clicked")]
    assert len(clicked) == 3
    assert [measured[name] for name in clicked] == [changed[name] for name in clicked]
    assert measured["ctcvr_auc"] != changed["ctcvr_auc"]


def test_a_weight_of_n_is_the_same_impression_n_times():
    weighted = measure_spaces(weight=WEIGHT)

    repeated = measure_spaces(repeats=WEIGHT.astype(int))

    for name in expected_spaces():
        np.testing.assert_allclose(weighted[name], repeated[name], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_counts_are_of_impressions_whatever_their_weights(weight):
    measured = measure_spaces(weight=weight)

    names = ("impressions", "clicks", "conversions", "unnested_labels")
    assert [measured[name] for name in names] == [8.0, 4.0, 2.0, 0.0]


def test_conversions_without_a_click_are_counted():
    metrics = EntireSpaceMetrics(losses=("ctr_loss", "ctcvr_loss"))
    outputs = dict.fromkeys(("ctr_logits", "cvr_logits", "ctcvr_logits"), tf.zeros(4))
    labels = {
        "click": tf.constant([1.0, 0.0, 0.0, 1.0]),
        "conversion": tf.constant([1.0] * 3 + [0]),
    }

    metrics.update(labels, outputs, None)

    measured = {metric.name: float(metric.result()) for metric in metrics.all()}
    assert measured["unnested_labels"] == 2.0


def test_impressions_whose_logits_are_not_finite_are_counted():
    metrics = EntireSpaceMetrics(losses=("ctr_loss", "ctcvr_loss"))
    outputs = {
        "ctr_logits": tf.constant([0.0, np.inf, 1.0, -np.inf]),
        "cvr_logits": tf.constant([0.0, 1.0, np.nan, np.inf]),
        "ctcvr_logits": tf.zeros(4),
    }

    metrics.update({"click": tf.ones(4), "conversion": tf.ones(4)}, outputs, None)

    measured = {metric.name: float(metric.result()) for metric in metrics.all()}
    assert measured["non_finite_logits"] == 3.0


def test_the_spread_of_each_head_is_its_own():
    measured = measure_spaces()

    expected = {
        "ctr_logits_std": CTR_LOGITS,
        "cvr_logits_std": CVR_LOGITS,
        "ctcvr_logits_std": ctcvr_logits(),
    }
    for name, logits in expected.items():
        np.testing.assert_allclose(measured[name], np.std(np.float64(logits), ddof=1), rtol=1e-12)


def test_the_recent_spread_is_within_batches_so_that_a_moving_constant_has_none():
    spread = RecentSpread()

    for step in range(5):
        spread.update_state(tf.fill([7], 0.25 * step))

    assert float(spread.result()) == 0.0


def test_the_recent_spread_pools_small_batches_and_learns_nothing_from_one_impression():
    spread = RecentSpread()

    for logits in ([1.0, 3.0], [100.0], [10.0, 11.0, 15.0]):
        spread.update_state(tf.constant(logits))

    # Squares of 2 within the first batch, of 14 within the last one; 1 + 2 degrees of freedom.
    np.testing.assert_allclose(spread.result(), np.sqrt(16 / 3), rtol=1e-3)


def test_the_recent_spread_forgets_batches_that_are_long_ago():
    spread = RecentSpread()

    spread.update_state(tf.constant([-5.0, 5.0] * 1000))
    for _ in range(100):
        spread.update_state(tf.constant([-0.1, 0.1] * 1000))

    np.testing.assert_allclose(spread.result(), 0.1, rtol=1e-3)


def test_the_recent_spread_of_no_two_impressions_is_not_defined():
    spread = RecentSpread()

    spread.update_state(tf.constant([1.0]))

    assert np.isnan(spread.result())


def test_mean_losses_weigh_batches_by_their_impressions():
    metrics = EntireSpaceMetrics(losses=("ctr_loss", "ctcvr_loss"))

    metrics.update_losses(tf.constant(1), loss=5.0, ctr_loss=4.0, ctcvr_loss=1.0)
    metrics.update_losses(tf.constant(3), loss=1.0, ctr_loss=0.0, ctcvr_loss=9.0)

    values = [float(metric.result()) for metric in metrics.all()[:3]]
    assert values == [2.0, 1.0, 7.0]
