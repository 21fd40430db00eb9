"""Tasks measured over their spaces, and the file and the table that tell of it."""

import json
import math
import os
import re
import types

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics as reference

from esmm_tf import evaluation, input_fn, shards
from esmm_tf.columns import IdentityColumn
from esmm_tf.config import InputConfig, ModelConfig
from esmm_tf.methods import esmm
from esmm_tf.schema import Feature, Schema

CLICK = np.array([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
CONVERSION = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
WEIGHT = np.array([1.0, 2.0, 0.5, 3.0, 1.5, 0.25])
# Each task has scores of its own, so that a mix-up changes every number.
LOGITS = {
    "ctr_logits": np.array([0.5, -0.25, 0.0, 1.0, -2.0, -1.5], np.float32),
    "cvr_logits": np.array([-1.0, 0.75, 3.0, -0.5, 2.5, -2.0], np.float32),
    "ctcvr_logits": np.array([-1.5, -2.5, -0.5, -1.25, -3.0, 0.25], np.float32),
}
ORACLE = {
    "oracle_pctr": np.array([0.9, 0.6, 0.3, 0.7, 0.2, 0.4]),
    "oracle_pcvr": np.array([0.8, 0.1, 0.7, 0.2, 0.5, 0.3]),
}
GROUPS = np.array([1, 1, 1, 2, 2, 2])


def build_scores(**changes):
    fields = {
        "logits": LOGITS,
        "click": CLICK,
        "conversion": CONVERSION,
        "weight": np.ones(6),
        "oracle": {},
        "groups": None,
    }
    return evaluation.Scores(**fields | changes)


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
        "log_loss": loss,
        "normalized_entropy": loss / reference.log_loss(labels, base_rate, sample_weight=weight),
        "calibration": np.average(probabilities, weights=weight) / rate,
        "positives": labels.sum(),
        "impressions": len(labels),
    }


@pytest.fixture
def evaluate(monkeypatch):
    """Returns a function that evaluates hand-made scores."""

    def run(scores):
        monkeypatch.setattr(evaluation, "collect_scores", lambda *_: scores)
        source = types.SimpleNamespace(files=("test-0", "test-1"))
        return evaluation.evaluate(None, None, source, None)

    return run


@pytest.fixture(scope="module")
def scored_source(scored_data):
    return input_fn.find_source(str(scored_data), split="test")


@pytest.fixture(scope="module")
def collected(trained, scored_source):
    """Returns the scores of the 20 impressions, read in batches of at most 3 or one group."""
    config = InputConfig(batch_size=3)
    return evaluation.collect_scores(trained.model, trained.schema, scored_source, config)


@pytest.mark.parametrize("weight", [np.ones(6), WEIGHT])
@pytest.mark.parametrize(
    ("task", "logits", "labels", "space"),
    [
        ("ctr", "ctr_logits", CLICK, np.ones(6)),
        ("cvr_clicked", "cvr_logits", CONVERSION, CLICK),
        ("ctcvr", "ctcvr_logits", CONVERSION, np.ones(6)),
    ],
)
def test_each_task_is_measured_over_its_space(evaluate, task, logits, labels, space, weight):
    result = evaluate(build_scores(weight=weight))

    inside = space == 1
    expected = expected_metrics(LOGITS[logits][inside], labels[inside], weight[inside])
    assert result["tasks"][task] == pytest.approx(expected, rel=1e-12)


def test_an_evaluation_counts_what_it_read(evaluate):
    result = evaluate(build_scores(weight=WEIGHT))

    tasks = result.pop("tasks")
    assert result == {
        "format_version": 1,
        "files": ["test-0", "test-1"],
        "impressions": 6,
        "clicks": 4,
        "conversions": 2,
    }
    assert list(tasks) == ["ctr", "cvr_clicked", "ctcvr"]
    assert tasks["ctr"]["positives"] == 4
    assert tasks["cvr_clicked"]["impressions"] == 4


def test_the_truth_adds_the_task_that_no_log_can_show(evaluate):
    result = evaluate(build_scores(oracle=ORACLE, weight=WEIGHT, groups=GROUPS))

    # Every impression is a positive with its true conversion probability, and a negative with the
    # rest: 12 rows with the labels 1 and 0.
    truth = ORACLE["oracle_pcvr"]
    rows = {
        "labels": np.repeat([1.0, 0.0], 6),
        "logits": np.tile(LOGITS["cvr_logits"], 2),
        "weight": np.concatenate([WEIGHT * truth, WEIGHT * (1 - truth)]),
    }
    expected = expected_metrics(**rows)
    best = reference.roc_auc_score(rows["labels"], np.tile(truth, 2), sample_weight=rows["weight"])
    way = (expected["auc"] - 0.5) / (best - 0.5)
    expected |= {"positives": truth.sum(), "impressions": 6}
    expected |= {"oracle_auc": best, "way_to_oracle": way}
    assert result["tasks"]["cvr_entire"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("task", "logits", "labels", "space", "truth"),
    [
        ("ctr", "ctr_logits", CLICK, np.ones(6), ORACLE["oracle_pctr"]),
        ("cvr_clicked", "cvr_logits", CONVERSION, CLICK, ORACLE["oracle_pcvr"]),
        (
            "ctcvr",
            "ctcvr_logits",
            CONVERSION,
            np.ones(6),
            ORACLE["oracle_pctr"] * ORACLE["oracle_pcvr"],
        ),
    ],
)
def test_way_to_oracle_is_the_share_of_the_truths_auc_above_one_half(
    evaluate, task, logits, labels, space, truth
):
    result = evaluate(build_scores(oracle=ORACLE))["tasks"][task]

    inside = space == 1
    auc = reference.roc_auc_score(labels[inside], LOGITS[logits][inside])
    best = reference.roc_auc_score(labels[inside], truth[inside])
    assert result["oracle_auc"] == pytest.approx(best, rel=1e-12)
    assert result["way_to_oracle"] == pytest.approx((auc - 0.5) / (best - 0.5), rel=1e-12)


def test_gauc_is_taken_within_the_groups_of_the_tasks_space(evaluate):
    tasks = evaluate(build_scores(groups=GROUPS))["tasks"]

    # ctr: group 1 ranks (0.5+, -0.25+) over 0.0-: 1/2; group 2 ranks (1.0+, -1.5+) over -2.0-: 1.
    assert tasks["ctr"]["gauc"] == pytest.approx((3 * 0.5 + 3 * 1.0) / 6, rel=1e-12)
    assert (tasks["ctr"]["gauc_groups"], tasks["ctr"]["gauc_groups_skipped"]) == (2, 0)
    # Clicked only: group 1 has -1.0+ under 0.75-: 0; group 2 has -0.5+ over -2.0-: 1.
    assert tasks["cvr_clicked"]["gauc"] == pytest.approx((2 * 0.0 + 2 * 1.0) / 4, rel=1e-12)


def test_there_is_no_gauc_without_groups(evaluate):
    tasks = evaluate(build_scores())["tasks"]

    assert all("gauc" not in values for values in tasks.values())


def test_perfect_calibration_is_one_and_predicting_the_base_rate_has_normalized_entropy_one(
    evaluate,
):
    base_rate = np.full(6, math.log(4 / 2), np.float64)

    task = evaluate(build_scores(logits=LOGITS | {"ctr_logits": base_rate}))["tasks"]["ctr"]

    assert task["calibration"] == pytest.approx(1.0, rel=1e-12)
    assert task["normalized_entropy"] == pytest.approx(1.0, rel=1e-12)
    assert task["auc"] == 0.5


def test_what_is_not_defined_is_none(evaluate):
    nothing = np.zeros(6)

    tasks = evaluate(build_scores(click=nothing, conversion=nothing, groups=GROUPS))["tasks"]

    undefined = {"auc", "gauc", "normalized_entropy", "calibration"}
    assert {name for name, value in tasks["ctr"].items() if value is None} == undefined
    assert tasks["ctr"]["log_loss"] == pytest.approx(
        np.mean(-np.log(1 - sigmoid(LOGITS["ctr_logits"]))), rel=1e-12
    )
    # No click, so that the clicked space is empty.
    assert tasks["cvr_clicked"] == {
        **dict.fromkeys([*undefined, "log_loss"]),
        "gauc_groups": 0,
        "gauc_groups_skipped": 0,
        "positives": 0.0,
        "impressions": 0,
    }


def test_a_truth_that_ranks_like_chance_leaves_no_way_to_go(evaluate):
    chance = {name: np.full(6, 0.5) for name in ORACLE}

    task = evaluate(build_scores(oracle=chance))["tasks"]["ctr"]

    assert task["oracle_auc"] == 0.5
    assert task["way_to_oracle"] is None


def test_scores_are_those_of_the_impressions_in_the_order_of_the_files(
    trained, scored_source, varied_groups, collected
):
    dataset = input_fn.build_dataset(scored_source, trained.schema, InputConfig())
    (batch,) = dataset

    outputs = trained.model(batch["features"], training=False)

    def joined(key):
        return np.concatenate([group[key] for group in varied_groups])

    for name in LOGITS:
        np.testing.assert_allclose(collected.logits[name], outputs[name], rtol=1e-5, atol=1e-6)
    assert np.unique(collected.logits["cvr_logits"]).size == 20
    np.testing.assert_array_equal(collected.click, joined("click"))
    np.testing.assert_array_equal(collected.conversion, joined("conversion"))
    np.testing.assert_allclose(collected.weight, joined("example_weight"), rtol=1e-6)
    assert list(collected.oracle) == ["oracle_pctr", "oracle_pcvr"]
    for name, truth in collected.oracle.items():
        np.testing.assert_allclose(truth, joined(name), rtol=1e-6)
    requests = [g["request"][0].encode() for g in varied_groups for _ in g["click"]]
    assert collected.groups.tolist() == requests


def test_records_without_weight_truth_and_groups_are_measured_with_weight_one(tmp_path):
    column = IdentityColumn(vocabulary_size=9)
    item = Feature(name="item", side="impression", dtype="int64", column=column)
    plain = Schema(name="plain", features=(item,))
    with shards.DataSetWriter(str(tmp_path), plain, num_shards=1) as writer:
        writer.write("test", {"item": [1, 2, 3], "click": [1, 0, 1], "conversion": [0, 0, 1]})
    model = esmm.build_esmm(plain, ModelConfig(embedding_dim=2, hidden_units=(4,)))
    source = input_fn.find_source(str(tmp_path), split="test")

    scores = evaluation.collect_scores(model, plain, source, InputConfig())

    assert scores.weight.tolist() == [1.0, 1.0, 1.0]
    assert scores.oracle == {}
    assert scores.groups is None


def test_the_evaluation_of_a_model_is_that_of_its_scores(trained, scored_source, collected):
    result = evaluation.evaluate(trained.model, trained.schema, scored_source, InputConfig())

    expected = expected_metrics(
        collected.logits["ctcvr_logits"], collected.conversion, collected.weight
    )
    found = result["tasks"]["ctcvr"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert list(result["tasks"]) == ["ctr", "cvr_clicked", "ctcvr", "cvr_entire"]
    assert result["files"] == list(scored_source.files)


def test_the_file_holds_valid_json_and_null_for_what_is_not_defined(tmp_path, evaluate):
    path = tmp_path / "new" / "evaluation.json"
    result = evaluate(build_scores(click=np.zeros(6), conversion=np.zeros(6)))

    evaluation.write_evaluation(result, str(path))

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse) == result
    assert result["tasks"]["ctr"]["auc"] is None
    assert os.listdir(path.parent) == ["evaluation.json"]


def test_a_file_in_the_current_directory_is_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluation.write_evaluation({"first": 1}, "evaluation.json")

    evaluation.write_evaluation({"second": 2}, "evaluation.json")

    assert json.loads((tmp_path / "evaluation.json").read_text()) == {"second": 2}
    assert os.listdir(tmp_path) == ["evaluation.json"]


def test_a_write_that_fails_keeps_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "evaluation.json"
    evaluation.write_evaluation({"first": 1}, str(path))

    def fail(*_, **__):
        raise OSError("disk is full")

    monkeypatch.setattr(tf.io.gfile, "rename", fail)
    with pytest.raises(OSError, match="disk is full"):
        evaluation.write_evaluation({"second": 2}, str(path))

    assert json.loads(path.read_text(encoding="utf-8")) == {"first": 1}


def test_the_table_has_one_task_a_row(evaluate):
    result = evaluate(build_scores(groups=GROUPS))

    table = evaluation.format_table(result)

    head, *rows = [re.split(r" {2,}", line.strip()) for line in table.splitlines()]
    assert head == [
        "task",
        "auc",
        "gauc",
        "log_loss",
        "normalized_entropy",
        "calibration",
        "positives",
        "impressions",
    ]
    assert [row[0] for row in rows] == ["ctr", "cvr_clicked", "ctcvr"]
    ctr = result["tasks"]["ctr"]
    assert rows[0] == ["ctr", *(f"{ctr[name]:.4f}" for name in head[1:6]), "4", "6"]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_the_table_shows_the_truth_where_it_is_known_and_a_dash_where_nothing_is(evaluate):
    result = evaluate(build_scores(oracle=ORACLE, click=np.zeros(6), conversion=np.zeros(6)))

    head, *rows = [line.split() for line in evaluation.format_table(result).splitlines()]

    assert head[6:8] == ["oracle_auc", "way_to_oracle"]
    assert rows[0][1:3] == ["-", "-"]
    entire = result["tasks"]["cvr_entire"]
    assert rows[3][0] == "cvr_entire"
    assert rows[3][6:8] == [f"{entire['oracle_auc']:.4f}", f"{entire['way_to_oracle']:.4f}"]


def test_large_counts_are_shown_in_groups_of_three_digits(evaluate):
    result = evaluate(build_scores())
    result["tasks"]["ctr"] |= {"positives": 1234567.0, "impressions": 7654321}

    table = evaluation.format_table(result)

    assert "1,234,567    7,654,321" in table
