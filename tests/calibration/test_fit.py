"""Fitted calibrations against scikit-learn, and against what made the labels."""

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from esmm_tf.calibration import fit, logistic_line
from esmm_tf.calibration.fit import Block
from esmm_tf.calibration.logistic_line import OFFSET, SLOPE, Sample, fit_line
from esmm_tf.calibration.maps import Isotonic, Platt, Temperature, apply

METHODS = ("platt", "temperature", "isotonic")


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def build_sample(*, number=20_000, slope=0.5, offset=-1.0, weighted=False, seed=0):
    """Returns logits of spread 1.5 around -2 and labels whose true logit is a line of them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2.0, 1.5, number).astype(np.float32)
    labels = (rng.random(number) < sigmoid(slope * logits + offset)).astype(np.uint8)
    weights = rng.uniform(0.1, 4.0, number).astype(np.float32) if weighted else None
    return Sample(logits=logits, labels=labels, weights=weights)


def weights_of(sample):
    return np.ones(len(sample.labels)) if sample.weights is None else sample.weights


def reference_line(sample, targets, *, free):
    """Returns slope and offset as scikit-learn fits them to each row as a positive and negative."""
    weights = weights_of(sample)
    model = LogisticRegression(C=np.inf, fit_intercept=OFFSET in free, tol=1e-12, max_iter=10_000)
    model.fit(
        np.concatenate([sample.logits, sample.logits]).astype(np.float64)[:, np.newaxis],
        np.repeat([1, 0], len(sample.labels)),
        sample_weight=np.concatenate([weights * targets, weights * (1.0 - targets)]),
    )
    return model.coef_[0, 0], np.ravel(model.intercept_)[0]


def mean_loss(sample, logits):
    weights, signs = weights_of(sample), np.where(sample.labels, -1, 1)
    return np.average(np.logaddexp(0, signs * logits), weights=weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("free", [(SLOPE, OFFSET), (SLOPE,)])
def test_a_line_is_that_of_a_logistic_regression(weighted, free):
    sample = build_sample(number=2000, weighted=weighted)

    line = fit_line(sample, sample.labels, free=free)

    assert line == pytest.approx(reference_line(sample, sample.labels, free=free), abs=2e-5)


def test_a_fixed_slope_stays_and_the_mean_prediction_becomes_the_mean_label():
    sample = build_sample(number=2000, weighted=True)

    slope, offset = fit_line(sample, sample.labels, free=(OFFSET,), slope=0.75)

    assert slope == 0.75
    predicted = np.average(sigmoid(0.75 * sample.logits + offset), weights=sample.weights)
    assert predicted == pytest.approx(np.average(sample.labels, weights=sample.weights), rel=1e-6)


def test_a_fit_in_many_chunks_is_the_same(monkeypatch):
    sample = build_sample(number=1000, weighted=True)
    whole = fit_line(sample, sample.labels, free=(SLOPE, OFFSET))

    monkeypatch.setattr(logistic_line, "_CHUNK", 64)
    chunked = fit_line(sample, sample.labels, free=(SLOPE, OFFSET))

    assert chunked == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1000.0])
def test_a_fit_ends_from_far_away(scale):
    sample = build_sample(number=2000)
    far = Sample(logits=sample.logits * np.float32(scale) + 50, labels=sample.labels)

    slope, offset = fit_line(far, far.labels, free=(SLOPE, OFFSET))

    near = fit_line(sample, sample.labels, free=(SLOPE, OFFSET))
    assert slope * scale == pytest.approx(near[0], rel=1e-3)
    assert offset + slope * 50 == pytest.approx(near[1], rel=1e-3)


def test_a_fit_that_does_not_end_is_told(monkeypatch):
    monkeypatch.setattr(logistic_line, "_MAX_STEPS", 1)
    sample = build_sample(number=2000)

    with pytest.raises(ArithmeticError, match=r"^The fit of a line did not end within 1 steps\.$"):
        fit_line(sample, sample.labels, free=(SLOPE, OFFSET))


@pytest.mark.parametrize("weighted", [False, True])
def test_platt_finds_the_line_that_made_the_labels(weighted):
    found = fit.fit_platt(build_sample(number=200_000, weighted=weighted))

    assert isinstance(found, Platt)
    assert (found.slope, found.offset) == pytest.approx((0.5, -1.0), abs=0.03)


def test_platt_has_the_targets_of_his_paper():
    sample = build_sample(number=300)
    positives = sample.labels.sum()
    targets = np.where(sample.labels, (positives + 1) / (positives + 2), 1 / (300 - positives + 2))

    found = fit.fit_platt(sample)

    expected = reference_line(sample, targets, free=(SLOPE, OFFSET))
    assert (found.slope, found.offset) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_scale_of_the_weights_changes_nothing(method, factor):
    sample = build_sample(number=3000, weighted=True)
    scaled = Sample(
        logits=sample.logits, labels=sample.labels, weights=sample.weights.astype("f8") * factor
    )

    found, expected = (fit.fit(method, each) for each in (scaled, sample))

    grid = np.linspace(-8, 4, 50)
    np.testing.assert_allclose(apply(found, grid), apply(expected, grid), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_of_two_is_two_rows(method):
    sample = build_sample(number=3000)
    doubled = Sample(logits=sample.logits, labels=sample.labels, weights=np.full(3000, 2.0))
    twice = Sample(logits=np.repeat(sample.logits, 2), labels=np.repeat(sample.labels, 2))

    found, expected = (fit.fit(method, each) for each in (doubled, twice))

    # Platt's targets and half a positive count rows: 3,000 of weight 2 are not 6,000. The latter
    # moves blocks without positives, which are those of the lowest scores.
    grid = np.quantile(sample.logits, np.linspace(0.3, 0.9, 50))
    np.testing.assert_allclose(apply(found, grid), apply(expected, grid), atol=5e-3)


def test_down_sampled_negatives_that_weigh_more_have_the_map_of_all():
    whole = build_sample(number=400_000)
    kept = (whole.labels == 1) | (np.random.default_rng(5).random(400_000) < 0.1)
    sampled = Sample(
        logits=whole.logits[kept],
        labels=whole.labels[kept],
        weights=np.where(whole.labels[kept], 1.0, 10.0),
    )

    found, expected = (fit.fit_platt(each) for each in (sampled, whole))

    assert (found.slope, found.offset) == pytest.approx((expected.slope, expected.offset), abs=0.02)
    unweighted = fit.fit_platt(Sample(logits=sampled.logits, labels=sampled.labels))
    assert unweighted.offset - expected.offset > 2.0


def test_scores_that_part_the_labels_have_a_finite_map():
    sample = Sample(logits=np.linspace(-1, 1, 40), labels=np.repeat([0, 1], 20).astype(np.uint8))

    platt = fit.fit_platt(sample)
    temperature = fit.fit_temperature(sample)
    isotonic = fit.fit_isotonic(sample)

    assert 1 < platt.slope < 100
    assert temperature.temperature == 0.01
    assert len(isotonic.knots) == 2
    # Half a positive, of 20 rows and one.
    np.testing.assert_allclose(sigmoid(isotonic.values), [0.5 / 21, 20.5 / 21], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_scores_that_fall_with_the_labels_keep_their_order(method):
    sample = build_sample(number=5000, slope=-0.5)

    found = fit.fit(method, sample)

    grid = apply(found, np.linspace(-6, 2, 9))
    assert (np.diff(grid) > 0).all()
    if method != "temperature":
        predicted = sigmoid(apply(found, sample.logits)).mean()
        assert predicted == pytest.approx(sample.labels.mean(), rel=1e-3)
    if method == "platt":
        assert found.slope == fit.MIN_SLOPE


@pytest.mark.parametrize("method", METHODS)
def test_one_score_for_all_has_a_map(method):
    sample = Sample(logits=np.full(50, -1.0), labels=(np.arange(50) < 10).astype(np.uint8))

    found = fit.fit(method, sample)

    assert sigmoid(apply(found, np.array([-1.0])))[0] == pytest.approx(0.2, abs=0.01)


def test_the_temperature_is_the_one_of_least_log_loss():
    sample = build_sample(slope=0.5, offset=0.0, weighted=True)

    found = fit.fit_temperature(sample)

    assert isinstance(found, Temperature)
    assert found.temperature == pytest.approx(2.0, abs=0.1)
    least = mean_loss(sample, apply(found, sample.logits))
    for factor in (0.99, 1.01):
        other = Temperature(temperature=found.temperature * factor)
        assert mean_loss(sample, apply(other, sample.logits)) > least


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_pooled_blocks_are_scikit_learns_isotonic_regression(weighted, seed):
    rng = np.random.default_rng(seed)
    labels = (rng.random(200) < np.linspace(0.1, 0.6, 200)).astype(float)
    weights = rng.uniform(0.5, 3.0, 200) if weighted else np.ones(200)

    blocks = fit.pool(
        (Block(w, w * y, w) for w, y in zip(weights, labels, strict=True)),
        fit.does_not_rise,
    )

    rows = np.searchsorted(np.cumsum([block.weight for block in blocks]) + 1e-9, np.cumsum(weights))
    rates = np.array([block.positives / block.weight for block in blocks])
    expected = IsotonicRegression().fit_transform(np.arange(200), labels, sample_weight=weights)
    np.testing.assert_allclose(rates[rows], expected, rtol=1e-9)
    assert 1 < len(blocks) < 60


def test_isotonic_finds_a_curve_that_no_line_can():
    rng = np.random.default_rng(2)
    logits = rng.normal(-2.0, 1.5, 400_000).astype(np.float32)
    truth = np.where(logits < -2, -2 + 0.3 * (logits + 2), -2 + 1.5 * (logits + 2))
    labels = (rng.random(len(logits)) < sigmoid(truth)).astype(np.uint8)
    sample = Sample(logits=logits, labels=labels)

    found = fit.fit_isotonic(sample)

    assert isinstance(found, Isotonic)
    grid = np.array([-4.0, -3.0, -2.0, -1.0, 0.0, 1.0])
    expected = np.where(grid < -2, -2 + 0.3 * (grid + 2), -2 + 1.5 * (grid + 2))
    np.testing.assert_allclose(apply(found, grid), expected, atol=0.15)
    line = fit.fit_platt(sample)
    losses = [mean_loss(sample, apply(each, logits)) for each in (found, line)]
    assert losses[0] < losses[1] - 0.002


def test_an_isotonic_map_predicts_the_mean_label():
    sample = build_sample(number=5000, weighted=True, slope=0.2)

    found = fit.fit_isotonic(sample)

    predicted = np.average(sigmoid(apply(found, sample.logits)), weights=sample.weights)
    assert predicted == pytest.approx(np.average(sample.labels, weights=sample.weights), rel=1e-6)


def test_a_block_without_positives_has_half_a_one():
    logits = np.repeat([-4.0, -1.0], [50, 50])
    labels = (np.arange(100) >= 80).astype(np.uint8)

    found = fit.fit_isotonic(Sample(logits=logits, labels=labels))

    # Before all points are moved alike, so that 20 of 100 are predicted.
    low, high = sigmoid(found.values)
    offset = np.log(high / (1 - high)) - np.log(20 / 30)
    assert np.log(low / (1 - low)) - offset == pytest.approx(np.log(0.5 / 50.5))
    assert 50 * (low + high) == pytest.approx(20)


def test_equal_scores_share_a_bin_and_a_thousand_bins_are_the_most():
    few = Sample(logits=np.repeat([-2.0, 0.0, 1.0], 100), labels=np.tile([0, 1], 150))
    many = build_sample(number=30_000)

    bins = {"few": list(fit._bins(few)), "many": list(fit._bins(many))}

    assert [block.weight for block in bins["few"]] == [100, 100, 100]
    assert len(bins["many"]) == 1000
    assert max(block.weight for block in bins["many"]) <= 31
    assert sum(block.positives for block in bins["many"]) == many.labels.sum()


def test_rows_that_weigh_nothing_make_no_bin():
    logits = np.array([-3.0, -1.0, 2.0])
    sample = Sample(logits=logits, labels=np.array([0, 1, 1]), weights=np.array([1.0, 0.0, 2.0]))

    assert [block.weight for block in fit._bins(sample)] == [1.0, 2.0]


def test_an_isotonic_map_rises_by_a_hundredth_at_least_where_labels_do_not():
    rng = np.random.default_rng(4)
    sample = Sample(
        logits=rng.normal(0, 2, 50_000), labels=(rng.random(50_000) < 0.1).astype(np.uint8)
    )

    segments = fit.fit_isotonic(sample).segments()

    assert segments.slopes.min() >= fit.MIN_SLOPE * (1 - 1e-9)
    assert np.diff(segments.knots, prepend=-np.inf).min() >= 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("labels", "weights"), [([1, 1], None), ([0, 0], None), ([0, 1], [1.0, 0.0])]
)
def test_a_sample_without_positives_or_negatives_is_refused(method, labels, weights):
    weights = None if weights is None else np.array(weights)
    sample = Sample(logits=np.array([0.0, 1.0]), labels=np.array(labels), weights=weights)

    with pytest.raises(ValueError, match=r"^A calibration needs positives and negatives that"):
        fit.fit(method, sample)


@pytest.mark.parametrize(
    ("weights", "expected"), [(None, 4), ([2, 2, 2, 2, 5], 4), ([1, 0, 0, 0, 5], 1), ([0] * 5, 0)]
)
def test_rows_count_as_many_as_their_weights_make_them(weights, expected):
    weights = None if weights is None else np.array(weights, float)
    sample = Sample(logits=np.zeros(5), labels=np.array([1, 1, 1, 1, 0]), weights=weights)

    assert sample.effective_number(1) == pytest.approx(expected)
