"""Corrections inside the graph: the same as in NumPy, in predictions and in the export alike."""

import math

import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.calibration import maps as calibration
from esmm_tf.calibration.layers import CalibratedLogits, build_calibrated
from esmm_tf.calibration.maps import Isotonic, Platt, Temperature
from esmm_tf.config.training import InputConfig
from esmm_tf.data.source import find_source
from esmm_tf.evaluation import prediction, scores
from esmm_tf.serving import requests, saved_model

pytestmark = pytest.mark.slow

MAPS = {
    "platt": Platt(slope=0.8, offset=-0.5),
    "temperature": Temperature(temperature=1.7),
    "isotonic": Isotonic(knots=(-2.0, 0.0, 0.5), values=(-3.0, -0.25, 1.5)),
}
PCVR_MAP = Platt(slope=1.3, offset=0.7)


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


@pytest.fixture(scope="module")
def source(scored_data):
    return find_source(str(scored_data), split="test")


@pytest.fixture(scope="module")
def raw(trained, source):
    """Returns the scores of the model as it was trained."""
    return scores.collect_scores(trained.model, trained.schema, source, InputConfig())


@pytest.mark.parametrize("name", MAPS)
def test_a_map_in_the_graph_is_the_one_in_numpy(name):
    logits = np.concatenate([np.linspace(-30, 30, 401), [-2.0, 0.0, 0.5]]).astype(np.float32)

    mapped = CalibratedLogits(MAPS[name], name="map")(tf.constant(logits))

    np.testing.assert_allclose(
        mapped.numpy(), calibration.apply(MAPS[name], logits), rtol=1e-5, atol=1e-5
    )


def test_no_rows_are_mapped_to_none():
    mapped = CalibratedLogits(MAPS["isotonic"], name="map")(tf.zeros([0]))

    assert mapped.shape == [0]


@pytest.fixture(scope="module")
def calibrated(trained):
    """Returns a model with every correction."""
    maps = {"pctr": MAPS["isotonic"], "pcvr": PCVR_MAP}
    return build_calibrated(trained.model, maps, negative_keep_rate=0.1)


@pytest.fixture(scope="module")
def expected(raw):
    """Returns the probabilities of `calibrated`, as NumPy makes them of raw logits."""
    pctr = sigmoid(calibration.apply(MAPS["isotonic"], raw.ctr_logits + math.log(0.1)))
    pcvr = sigmoid(calibration.apply(PCVR_MAP, raw.cvr_logits))
    return {"pctr": pctr, "pcvr": pcvr, "pctcvr": pctr * pcvr}


def test_a_model_gives_mapped_probabilities_and_their_product(
    calibrated, trained, source, expected
):
    config = InputConfig(shuffle_buffer=0)

    batches = prediction.Prediction(calibrated, trained.schema, source, config)

    found = {key: np.concatenate(parts) for key, parts in _by_column(batches).items()}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4)


def _by_column(batches):
    columns = {}
    for batch in batches:
        for name, values in batch.items():
            columns.setdefault(name, []).append(values)
    return columns


def test_down_sampling_is_corrected_in_pctr_alone(trained, source, raw):
    model = build_calibrated(trained.model, {}, negative_keep_rate=0.25)

    found = scores.collect_scores(model, trained.schema, source, InputConfig())

    # Kept with probability r, p becomes q = p / (p + r (1 - p)).
    p, q = sigmoid(found.ctr_logits), sigmoid(raw.ctr_logits)
    np.testing.assert_allclose(p / (p + 0.25 * (1 - p)), q, rtol=1e-5)
    np.testing.assert_array_equal(found.cvr_logits, raw.cvr_logits)


def test_without_a_correction_the_model_is_the_trained_one(trained):
    assert build_calibrated(trained.model, {}) is trained.model


def test_an_export_is_corrected_as_predictions_are(calibrated, trained, source, expected, tmp_path):
    widths = {"interests": 2, "tags": 2, "visits": 2}
    impressions = list(requests.read_impressions(source, trained.schema))

    saved_model.save(calibrated, trained.schema, str(tmp_path), widths=widths)

    signature = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    served = signature(examples=tf.constant([one.example for one in impressions]))
    assert served.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(served[name], values, rtol=1e-4)
