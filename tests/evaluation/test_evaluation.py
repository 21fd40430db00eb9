"""Tasks measured over their spaces, by slice and from shards, and what the file holds."""

import dataclasses
import json
import math

import numpy as np
import pytest
from sklearn import metrics as reference

from esmm_tf.config.training import InputConfig
from esmm_tf.data.source import find_source
from esmm_tf.evaluation import evaluation, scores
from esmm_tf.evaluation.scores import Scores
from esmm_tf.evaluation.slicing import Slices
from esmm_tf.metrics.curves import NO_CURVES

NUM_ROWS = 400
METRICS = ("auc", "average_precision", "log_loss", "normalized_entropy", "calibration")


def build_scores(seed=0, **changes):
    """Returns simulated impressions; each task has scores of its own, so that a mix-up shows."""
    rng = np.random.default_rng(seed)
    ctr, cvr = rng.normal(-0.5, 1, NUM_ROWS), rng.normal(0.2, 1, NUM_ROWS)
    click = (rng.random(NUM_ROWS) < sigmoid(ctr)).astype(np.uint8)
    conversion = click * (rng.random(NUM_ROWS) < sigmoid(cvr))
    fields = {
        "ctr_logits": ctr.astype(np.float32),
        "cvr_logits": cvr.astype(np.float32),
        "click": click,
        "conversion": conversion.astype(np.uint8),
    }
    return Scores(**fields | changes)


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def expected_metrics(logits, labels, weight):
    """Returns the metrics of 0/1 labels as scikit-learn and arithmetic have them."""
    probabilities = sigmoid(logits)
    loss = reference.log_loss(labels, probabilities, sample_weight=weight)
    rate = np.average(labels, weights=weight)
    base_rate = np.full(len(labels), rate)
    return {
        "auc": reference.roc_auc_score(labels, logits, sample_weight=weight),
        "average_precision": reference.average_precision_score(
            labels, logits, sample_weight=weight
        ),
        "log_loss": loss,
        "normalized_entropy": loss / reference.log_loss(labels, base_rate, sample_weight=weight),
        "calibration": np.average(probabilities, weights=weight) / rate,
    }


def weights(seed=1):
    return np.random.default_rng(seed).uniform(0.25, 3, NUM_ROWS).astype(np.float32)


def oracle(seed=2):
    pctr, pcvr = np.random.default_rng(seed).uniform(0.05, 0.95, (2, NUM_ROWS))
    return {"oracle_pctr": pctr.astype(np.float32), "oracle_pcvr": pcvr.astype(np.float32)}


def tasks_of(found):
    return evaluation.evaluate_scores(found).evaluation.tasks


@pytest.mark.parametrize("weight", [None, weights()], ids=["unweighted", "weighted"])
@pytest.mark.parametrize(
    ("task", "logits", "label", "is_clicked"),
    [
        ("ctr", "ctr_logits", "click", False),
        ("cvr_clicked", "cvr_logits", "conversion", True),
        ("ctcvr", "ctcvr_logits", "conversion", False),
    ],
)
def test_each_task_is_measured_over_its_space(task, logits, label, is_clicked, weight):
    found = build_scores(weight=weight)

    result = tasks_of(found)[task]

    inside = found.click == 1 if is_clicked else np.ones(NUM_ROWS, bool)
    weight = np.ones(NUM_ROWS) if weight is None else weight.astype(np.float64)
    labels = getattr(found, label)[inside]
    expected = expected_metrics(getattr(found, logits)[inside], labels, weight[inside])
    assert {name: getattr(result, name) for name in METRICS} == pytest.approx(expected, rel=1e-12)
    assert result.impressions == inside.sum()
    assert result.positives == labels.sum()
    for name in METRICS:
        low, high = result.intervals[name]
        assert low < getattr(result, name) < high
    assert result.space == ("clicked impressions" if is_clicked else "all impressions")


def test_an_evaluation_counts_what_it_read():
    found = build_scores(groups=np.arange(NUM_ROWS) // 4 * 10**12)

    result = evaluation.evaluate_scores(found).evaluation

    assert (result.impressions, result.groups) == (NUM_ROWS, NUM_ROWS // 4)
    assert result.clicks == found.click.sum()
    assert result.conversions == found.conversion.sum()
    assert result.data_hash == found.data_hash()
    assert result.interval.level == 0.95
    assert list(result.tasks) == ["ctr", "cvr_clicked", "ctcvr"]


def test_the_truth_adds_the_task_that_no_log_can_show():
    found = build_scores(oracle=oracle(), weight=weights())

    result = tasks_of(found)["cvr_entire"]

    # Every impression is a positive with its true conversion probability, and a negative with the
    # rest: twice the rows, with the labels 1 and 0.
    truth = found.oracle["oracle_pcvr"].astype(np.float64)
    labels = np.repeat([1.0, 0.0], NUM_ROWS)
    logits = np.tile(found.cvr_logits, 2)
    weight = np.concatenate([found.weight * truth, found.weight * (1 - truth)])
    expected = expected_metrics(logits, labels, weight)
    assert {name: getattr(result, name) for name in METRICS} == pytest.approx(expected, rel=1e-12)
    best = reference.roc_auc_score(labels, np.tile(truth, 2), sample_weight=weight)
    assert result.oracle_auc == pytest.approx(best, rel=1e-12)
    assert result.positives == pytest.approx(truth.sum(), rel=1e-12)
    assert result.regret > 0
    assert "gauc" not in result.intervals


@pytest.mark.parametrize(
    ("task", "label", "powers"),
    [
        ("ctr", "click", (1, 0)),
        ("cvr_clicked", "conversion", (0, 1)),
        ("ctcvr", "conversion", (1, 1)),
    ],
)
def test_each_task_has_the_truth_of_what_it_predicts(task, label, powers):
    found = build_scores(oracle=oracle())
    inside = found.click == 1 if task == "cvr_clicked" else np.ones(NUM_ROWS, bool)

    result = tasks_of(found)[task]

    pctr, pcvr = (found.oracle[name].astype(np.float64) for name in ("oracle_pctr", "oracle_pcvr"))
    truth = pctr ** powers[0] * pcvr ** powers[1]
    best = reference.roc_auc_score(getattr(found, label)[inside], truth[inside])
    assert result.oracle_auc == pytest.approx(best, rel=1e-12)


def test_gauc_is_taken_within_the_groups_of_the_tasks_space():
    groups = np.random.default_rng(4).integers(0, 60, NUM_ROWS)
    found = build_scores(groups=groups)

    result = tasks_of(found)["cvr_clicked"]

    clicked = found.click == 1
    aucs, sizes, skipped = [], [], 0
    for group in np.unique(groups[clicked]):
        inside = clicked & (groups == group)
        if len(np.unique(found.conversion[inside])) < 2:
            skipped += 1
            continue
        aucs.append(reference.roc_auc_score(found.conversion[inside], found.cvr_logits[inside]))
        sizes.append(inside.sum())
    assert result.gauc == pytest.approx(np.average(aucs, weights=sizes), rel=1e-12)
    assert (result.gauc_groups, result.gauc_groups_skipped) == (len(aucs), skipped)
    assert skipped > 0


def test_there_is_no_gauc_without_groups():
    assert all("gauc" not in task.intervals for task in tasks_of(build_scores()).values())


def test_what_is_not_defined_is_none():
    nothing = np.zeros(NUM_ROWS, np.uint8)
    found = build_scores(click=nothing, conversion=nothing, groups=np.zeros(NUM_ROWS, np.int64))

    tasks = tasks_of(found)

    undefined = {"auc", "gauc", "average_precision", "normalized_entropy", "calibration"}
    assert {n for n in tasks["ctr"].intervals if getattr(tasks["ctr"], n) is None} == undefined
    loss = np.mean(-np.log(1 - sigmoid(found.ctr_logits)))
    assert tasks["ctr"].log_loss == pytest.approx(loss, rel=1e-12)
    # No click, so that the clicked space is empty.
    empty = tasks["cvr_clicked"]
    assert (empty.impressions, empty.positives, empty.gauc_groups) == (0, 0, 0)
    assert empty.log_loss is None
    assert set(empty.intervals.values()) == {None}


def test_scores_of_shards_together_are_measured_as_one():
    found = build_scores(
        weight=weights(), oracle=oracle(), groups=np.random.default_rng(5).integers(0, 60, NUM_ROWS)
    )
    shuffled = np.random.default_rng(6).permutation(NUM_ROWS)

    whole, parts = (tasks_of(s) for s in (found, found.take(shuffled)))

    for task, metrics in whole.items():
        for name in metrics.intervals:
            expected = pytest.approx(getattr(metrics, name), rel=1e-12)
            assert getattr(parts[task], name) == expected, (task, name)


@pytest.mark.parametrize("is_full", [False, True])
def test_a_slice_is_measured_as_if_it_were_alone(is_full):
    rng = np.random.default_rng(7)
    more = {"weight": weights(), "oracle": oracle(), "groups": rng.integers(0, 60, NUM_ROWS)}
    codes = rng.integers(0, 3, NUM_ROWS).astype(np.int32)
    found = build_scores(
        **(more if is_full else {}), slices={"shelf": Slices(codes=codes, values=("x", "y", "z"))}
    )

    slices = evaluation.evaluate_scores(found).evaluation.slices["shelf"]

    assert {v: s.impressions for v, s in slices.items()} == {
        value: (codes == code).sum() for code, value in enumerate("xyz")
    }
    sizes = [part.impressions for part in slices.values()]
    assert sizes == sorted(sizes, reverse=True)
    alone = tasks_of(found.take(np.flatnonzero(codes == 1)))
    for task, metrics in slices["y"].tasks.items():
        assert metrics == dataclasses.replace(alone[task], space="", curves=NO_CURVES)


def test_the_content_is_valid_json_whatever_is_missing():
    nothing = np.zeros(NUM_ROWS, np.uint8)
    found = build_scores(click=nothing, conversion=nothing, oracle=oracle())

    tree = evaluation.evaluate_scores(found).evaluation.to_json()

    assert json.loads(json.dumps(tree, allow_nan=False))["tasks"]["ctr"]["auc"] is None


def test_the_curves_of_a_task_stand_beside_its_metrics():
    result = evaluation.evaluate_scores(build_scores()).evaluation

    curves = result.tasks["ctcvr"].curves
    assert len(curves.reliability) == 20
    assert curves.roc.true_positive_rate[-1] == 1
    assert curves.precision_recall.recall[-1] == 1
    assert list(result.histograms) == ["pctr", "pcvr", "pctcvr"]
    assert sum(result.histograms["pcvr"].clicked) == result.clicks


def test_the_measurements_of_an_evaluation_are_those_of_its_tasks():
    found = build_scores()

    result, measurements = evaluation.evaluate_scores(found)

    for task, measured in evaluation.measure_tasks(found).items():
        for name, estimate in measured.estimates.items():
            assert getattr(result.tasks[task], name) == estimate.value
            np.testing.assert_array_equal(
                measurements[task].estimates[name].influence, estimate.influence
            )


def test_a_trained_model_is_measured_by_its_scores(trained, scored_data):
    source = find_source(str(scored_data), split="test")

    found = scores.collect_scores(trained.model, trained.schema, source, InputConfig())
    tasks = tasks_of(found)

    weight = found.weight.astype(np.float64)
    expected = expected_metrics(found.ctcvr_logits, found.conversion, weight)
    assert {name: getattr(tasks["ctcvr"], name) for name in METRICS} == pytest.approx(
        expected, rel=1e-12
    )
    assert list(tasks) == ["ctr", "cvr_clicked", "ctcvr", "cvr_entire"]


def test_perfect_calibration_is_one_and_predicting_the_base_rate_has_normalized_entropy_one():
    found = build_scores()
    rate = found.click.mean()
    base = np.full(NUM_ROWS, math.log(rate / (1 - rate)), np.float64)

    task = tasks_of(dataclasses.replace(found, ctr_logits=base))["ctr"]

    assert task.calibration == pytest.approx(1.0, rel=1e-12)
    assert task.normalized_entropy == pytest.approx(1.0, rel=1e-12)
    assert task.auc == 0.5
    assert task.expected_calibration_error == pytest.approx(0.0, abs=1e-12)
