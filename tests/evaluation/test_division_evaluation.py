"""A pCVR that is a ratio, measured as it is: it may exceed 1."""

import json

import numpy as np
import pytest
from division_scores import NUM_ROWS, build_scores, oracle, sigmoid, tasks_of
from sklearn import metrics as reference

from esmm_tf.evaluation import evaluation
from esmm_tf.evaluation.slicing import Slices


def test_the_auc_of_clicked_impressions_ranks_by_the_ratio_above_1_too():
    scores = build_scores()
    clicked = scores.click == 1
    ratio = scores.divided.cvr_log_ratio[clicked]
    labels = scores.conversion[clicked]

    result = tasks_of(scores)["cvr_clicked"]

    cut_off = reference.roc_auc_score(labels, scores.cvr_logits[clicked])
    assert result.auc == pytest.approx(reference.roc_auc_score(labels, ratio), rel=1e-12)
    assert abs(result.auc - cut_off) > 1e-3
    assert result.calibration == pytest.approx(np.exp(np.float64(ratio)).sum() / labels.sum())
    assert result.impressions == clicked.sum()


def test_predictions_above_1_are_counted_and_have_no_log_loss():
    scores = build_scores()

    result = tasks_of(scores)["cvr_clicked"]

    above = (scores.divided.cvr_log_ratio > 0) & (scores.click == 1)
    assert result.predictions_above_1 == above.sum() > 20
    for name in ("log_loss", "normalized_entropy"):
        assert getattr(result, name) is None
        assert result.intervals[name] is None
    low, high = result.intervals["auc"]
    assert low < result.auc < high


def test_a_ratio_that_never_exceeds_1_has_a_log_loss():
    scores = build_scores(offset=-6.0)
    clicked = scores.click == 1
    ratio = np.exp(scores.divided.cvr_log_ratio[clicked].astype(np.float64))
    labels = scores.conversion[clicked]

    result = tasks_of(scores)["cvr_clicked"]

    assert ratio.max() < 1
    assert result.predictions_above_1 == 0
    assert result.log_loss == pytest.approx(reference.log_loss(labels, ratio), rel=1e-9)


def test_ctcvr_is_measured_by_the_methods_own_pctcvr_and_not_by_the_product():
    scores = build_scores()
    own = scores.divided.ctcvr_logits

    result = tasks_of(scores)["ctcvr"]

    assert result.auc == pytest.approx(reference.roc_auc_score(scores.conversion, own))
    assert result.log_loss == pytest.approx(reference.log_loss(scores.conversion, sigmoid(own)))
    product = sigmoid(scores.ctr_logits) * sigmoid(scores.cvr_logits)
    assert abs(result.auc - reference.roc_auc_score(scores.conversion, product)) > 1e-3
    assert result.predictions_above_1 is None


def test_ctr_is_measured_as_of_any_method():
    scores = build_scores()

    result = tasks_of(scores)["ctr"]

    assert result.auc == pytest.approx(
        reference.roc_auc_score(scores.click, scores.ctr_logits), rel=1e-12
    )
    expected = reference.log_loss(scores.click, sigmoid(scores.ctr_logits))
    assert result.log_loss == pytest.approx(expected)
    assert result.predictions_above_1 is None


def test_the_whole_space_is_measured_by_the_ratio_beside_the_truth():
    scores = build_scores(oracle=oracle())
    truth = scores.oracle["oracle_pcvr"].astype(np.float64)
    ratio = np.exp(scores.divided.cvr_log_ratio.astype(np.float64))

    result = tasks_of(scores)["cvr_entire"]

    expected = reference.roc_auc_score(
        np.repeat([1, 0], NUM_ROWS),
        np.tile(scores.divided.cvr_log_ratio, 2),
        sample_weight=np.concatenate([truth, 1 - truth]),
    )
    assert result.auc == pytest.approx(expected)
    assert result.predictions_above_1 == (ratio > 1).sum()
    assert result.bias == pytest.approx(np.mean(ratio - truth))
    assert result.regret is None
    entropy = -(truth * np.log(truth) + (1 - truth) * np.log1p(-truth))
    assert result.oracle_log_loss == pytest.approx(entropy.mean())


def test_slices_count_their_own_predictions_above_1():
    codes = (np.arange(NUM_ROWS) % 3 == 0).astype(np.int32)
    scores = build_scores(slices={"brand": Slices(codes=codes, values=["a", "b"])})

    found = evaluation.evaluate_scores(scores).evaluation.slices["brand"]

    above = (scores.divided.cvr_log_ratio > 0) & (scores.click == 1)
    counts = [found[v].tasks["cvr_clicked"].predictions_above_1 for v in ("a", "b")]
    assert counts == [above[codes == 0].sum(), above[codes == 1].sum()]
    assert all(
        part.tasks["ctcvr"].auc
        == pytest.approx(
            reference.roc_auc_score(
                scores.conversion[codes == code], scores.divided.ctcvr_logits[codes == code]
            )
        )
        for code, part in ((0, found["a"]), (1, found["b"]))
    )


def test_the_evaluation_of_a_ratio_is_valid_json():
    tree = evaluation.evaluate_scores(build_scores(oracle=oracle())).evaluation.to_json()

    assert json.loads(json.dumps(tree, allow_nan=False)) == json.loads(json.dumps(tree))
