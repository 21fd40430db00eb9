"""A pCVR that is a ratio: cut off where it is served, kept as it is where it is measured."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from division_scores import NUM_ROWS, build_scores, divide, log_sigmoid, sigmoid, tasks_of
from shop_batch import FEATURES, build_model

from esmm_tf import files, keys
from esmm_tf.calibration import layers
from esmm_tf.calibration import report as calibration_report
from esmm_tf.calibration.maps import Platt
from esmm_tf.config.training import InputConfig
from esmm_tf.data.source import find_source
from esmm_tf.errors import UserError
from esmm_tf.evaluation import baseline, evaluation
from esmm_tf.evaluation.scores import collect_scores
from esmm_tf.model.layers import DividedOutputs


@pytest.mark.parametrize(("ctr", "ctcvr"), [(0.0, -2.0), (-3.0, -5.5), (4.0, 3.0), (-20.0, -21.0)])
def test_a_ratio_below_1_is_served_as_it_is(ctr, ctcvr):
    outputs = divide([ctr], [ctcvr])

    log_ratio = log_sigmoid(ctcvr) - log_sigmoid(ctr)
    expected = {
        "pctr": sigmoid(ctr),
        "pcvr": np.exp(log_ratio),
        "pctcvr": sigmoid(ctcvr),
        "ctr_logits": ctr,
        "cvr_logits": log_ratio - np.log(-np.expm1(log_ratio)),
        "ctcvr_logits": ctcvr,
        "cvr_log_ratio": log_ratio,
    }
    assert sorted(outputs) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], [value], rtol=2e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize(("ctr", "ctcvr"), [(-2.0, 0.0), (-5.0, -5.0), (-300.0, 200.0)])
def test_a_ratio_from_1_on_is_cut_off_only_where_it_is_served(ctr, ctcvr):
    outputs = divide([ctr], [ctcvr])

    assert 0.99999 < outputs["pcvr"][0] < 1
    assert 13 < outputs["cvr_logits"][0] < 15
    assert outputs["cvr_log_ratio"][0] == pytest.approx(log_sigmoid(ctcvr) - log_sigmoid(ctr))
    assert outputs["pctcvr"][0] == pytest.approx(sigmoid(ctcvr))


@pytest.mark.parametrize("ctr", [-1000.0, -100.0, 0.0, 100.0, 1000.0])
@pytest.mark.parametrize("ctcvr", [-1000.0, -100.0, 0.0, 100.0, 1000.0])
def test_outputs_stay_finite_at_extreme_logits(ctr, ctcvr):
    outputs = divide([ctr], [ctcvr])

    assert all(np.isfinite(value).all() for value in outputs.values())
    assert 0 <= outputs["pcvr"][0] < 1


def test_some_of_the_impressions_keep_their_ratios():
    scores, rows = build_scores(), np.array([5, 0, 17])

    part = scores.take(rows)

    np.testing.assert_array_equal(part.divided.cvr_log_ratio, scores.divided.cvr_log_ratio[rows])
    np.testing.assert_array_equal(part.ctcvr_logits, scores.divided.ctcvr_logits[rows])


def test_other_logits_have_the_ratio_of_their_own_model_or_none():
    scores, other = build_scores(), build_scores(1)

    product = scores.with_logits(other.ctr_logits, other.cvr_logits)
    ratio = scores.with_logits(other.ctr_logits, other.cvr_logits, other.divided)

    assert product.divided is None
    assert ratio.divided is other.divided
    np.testing.assert_array_equal(ratio.ctcvr_logits, other.divided.ctcvr_logits)
    assert (product.ctcvr_logits != ratio.ctcvr_logits).any()


@pytest.fixture
def save(tmp_path):
    """Returns a function that keeps an evaluation and its scores, and returns its path."""

    def write(scores):
        path = str(tmp_path / "evaluation.json")
        files.write_json(evaluation.evaluate_scores(scores).evaluation.to_json(), path)
        baseline.write_scores(scores, path)
        return path

    return write


def test_scores_that_were_saved_keep_what_a_ratio_is(save):
    scores, other = build_scores(), build_scores(1)
    path = save(scores)

    loaded = baseline.load_scores(
        path, scores.with_logits(other.ctr_logits, other.cvr_logits, None)
    )

    for name in ("ctcvr_logits", "cvr_log_ratio"):
        np.testing.assert_array_equal(getattr(loaded.divided, name), getattr(scores.divided, name))
    np.testing.assert_array_equal(loaded.cvr_logits, scores.cvr_logits)
    assert loaded.data_hash() == scores.data_hash()
    assert tasks_of(loaded)["cvr_clicked"] == tasks_of(scores)["cvr_clicked"]


def test_a_baseline_without_a_ratio_is_loaded_for_a_model_that_has_one(save):
    scores = build_scores()
    product = scores.with_logits(scores.ctr_logits, scores.cvr_logits)
    path = save(product)

    loaded = baseline.load_scores(path, scores)

    assert loaded.divided is None
    np.testing.assert_array_equal(loaded.ctcvr_logits, product.ctcvr_logits)


def test_a_ratio_is_compared_with_a_probability_where_both_have_the_metric():
    scores = build_scores()
    product = scores.with_logits(scores.ctr_logits, scores.cvr_logits)

    found = baseline.compare_with_baseline(
        evaluation.measure_tasks(scores), evaluation.measure_tasks(product)
    )

    of_cvr = found["cvr_clicked"]
    aucs = [tasks_of(s)["cvr_clicked"].auc for s in (scores, product)]
    assert of_cvr["auc"].difference == pytest.approx(aucs[0] - aucs[1])
    low, high = of_cvr["auc"].interval
    assert low < of_cvr["auc"].difference < high
    expected = tasks_of(product)["cvr_clicked"].log_loss
    assert of_cvr["log_loss"].baseline == pytest.approx(expected)
    assert of_cvr["log_loss"].difference is None
    assert of_cvr["log_loss"].interval is None
    assert found["ctr"]["auc"].difference == 0
    assert found["ctcvr"]["auc"].difference != 0


@pytest.fixture(scope="module")
def many_scores():
    """Returns impressions with more than the 200 conversions that an isotonic map needs."""
    return build_scores(groups=None).take(np.tile(np.arange(NUM_ROWS), 10))


@pytest.mark.parametrize("method", keys.CALIBRATIONS)
def test_maps_of_every_kind_give_a_ratio_the_log_loss_that_it_has_not(many_scores, method):
    maps = calibration_report.fit_maps(many_scores, method)
    report = calibration_report.build_report(many_scores, maps, method)

    before, after = (report["tasks"]["cvr_clicked"][when] for when in ("before", "after"))
    assert before["log_loss"] is None
    assert after["log_loss"] > 0
    before_row, after_row = calibration_report.format_table(report).splitlines()[3:5]
    assert before_row.split()[:4] == ["cvr_clicked", "before", "-", "-"]
    assert after_row.split()[:2] == ["after", f"{after['log_loss']:.5f}"]


def test_a_line_brings_a_ratio_to_its_labels(many_scores):
    maps = calibration_report.fit_maps(many_scores, "platt")

    after = calibration_report.build_report(many_scores, maps, "platt")["tasks"]["cvr_clicked"]

    assert after["after"]["log_loss"] < np.log(2)
    assert after["after"]["calibration"] == pytest.approx(1, abs=0.02)
    assert after["before"]["calibration"] > 1.2


def test_a_calibrated_ratio_is_a_probability_whose_product_with_pctr_is_pctcvr():
    model = build_model("division", trained=True)

    calibrated = layers.build_calibrated(
        model, {"pctr": Platt(slope=0.8, offset=-0.5), "pcvr": Platt(slope=0.5, offset=0.1)}
    )
    outputs = calibrated(FEATURES)

    raw = model(FEATURES)
    assert (raw["cvr_log_ratio"] > 0).numpy().any()
    np.testing.assert_allclose(
        outputs["pcvr"], sigmoid(0.5 * raw["cvr_logits"].numpy() + 0.1), rtol=1e-5
    )
    np.testing.assert_allclose(
        outputs["pctcvr"], outputs["pctr"].numpy() * outputs["pcvr"].numpy(), rtol=1e-6
    )
    assert "cvr_log_ratio" not in outputs


@pytest.fixture(scope="module")
def scored_source(scored_data):
    return find_source(str(scored_data), split="test")


def ratio_model(log_ratio):
    """Returns what stands for a model with this ratio, and a pCTCVR of one half."""

    def call(features, training):
        assert not training
        zeros = tf.cast(0 * features["group_index"], tf.float32)
        return DividedOutputs()(zeros - 2.0, zeros) | {"cvr_log_ratio": zeros + log_ratio}

    return call


def test_scores_are_collected_with_what_a_ratio_is(schema, scored_source):
    found = collect_scores(ratio_model(1.5), schema, scored_source, InputConfig(batch_size=3))

    assert found.divided.cvr_log_ratio.tolist() == [1.5] * 20
    assert found.divided.ctcvr_logits.tolist() == [0.0] * 20
    assert found.ctcvr_logits is found.divided.ctcvr_logits
    assert {array.dtype for array in dataclasses.asdict(found.divided).values()} == {
        np.dtype(np.float32)
    }


def test_a_ratio_that_is_not_finite_is_refused(schema, scored_source):
    message = r"'cvr_log_ratio' of the model must be finite .* 20 of 20 .* a lower --learning_rate"

    with pytest.raises(UserError, match=message):
        collect_scores(ratio_model(np.inf), schema, scored_source, InputConfig())
