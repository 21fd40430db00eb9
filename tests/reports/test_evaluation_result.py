"""An evaluation is read as it was written, and tells all of it in tables."""

import json
import re

import pytest
from evaluation_results import EVERY_METRIC, build_result, without_numbers

from esmm_tf.errors import UserError
from esmm_tf.reports.evaluation_result import Evaluation
from esmm_tf.reports.words import METRIC_TITLES

TREES = {
    "all": build_result(slices={"301": ["1", "2"]}, oracle=True, compared=True),
    "a log without groups": build_result(groups=None),
    "nothing is defined": without_numbers(build_result(slices={"301": ["1"]}, compared=True)),
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_the_tree_of_an_evaluation_is_the_one_that_it_was_read_from(tree):
    evaluation = Evaluation.from_json(tree)

    assert json.loads(json.dumps(evaluation.to_json())) == tree
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_scores_alone_have_neither_origin_nor_comparison():
    tree = Evaluation.from_json(TREES["all"]).to_json()
    for name in ("model_dir", "comparison"):
        del tree[name]

    evaluation = Evaluation.from_json(tree)

    assert evaluation.origin is None
    assert evaluation.comparison is None
    assert not {"files", "weights", "comparison"} & set(evaluation.to_json())


def test_keys_stand_in_the_order_of_the_file():
    tree = Evaluation.from_json(TREES["all"]).to_json()

    assert list(tree) == [
        "format_version",
        *("data_hash", "impressions", "clicks", "conversions", "groups", "interval"),
        *("tasks", "histograms", "slices"),
        *("model_dir", "weights", "files", "negative_keep_rate", "calibration"),
        *("used_in_training", "trained_impressions_per_second", "comparison"),
    ]
    task = list(tree["tasks"]["ctr"])
    counts = ["impressions", "positives", "gauc_groups", "gauc_groups_skipped"]
    curves = ["reliability", "roc", "precision_recall"]
    assert task == ["space", *counts, *EVERY_METRIC, "intervals", *curves]


def test_every_metric_is_an_attribute_that_is_a_number_or_none():
    task = Evaluation.from_json(build_result()).tasks["ctr"]

    values = {name: getattr(task, name) for name in METRIC_TITLES}

    assert values["auc"] == build_result()["tasks"]["ctr"]["auc"]
    assert values["oracle_auc"] is None
    assert set(values) == set(EVERY_METRIC)


def test_an_evaluation_of_another_format_is_refused():
    message = "The evaluation has format_version 1; this release reads 2. Evaluate the model again."

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        Evaluation.from_json({"format_version": 1})


def test_the_tables_show_tasks_truth_slices_and_comparison_in_turn():
    table = Evaluation.from_json(TREES["all"]).table()

    heads = [line.split()[0] for line in table.splitlines() if line.endswith("impressions")]
    assert heads == ["task", "301"]
    parts = ("task", "beside the truth:", "301", "difference from models/base/evaluation.json:")
    places = [re.search(rf"^ *{part}", table, re.M).start() for part in parts]
    assert places == sorted(places)


def test_a_log_alone_has_one_table():
    table = Evaluation.from_json(build_result()).table()

    assert [line.split()[0] for line in table.splitlines()] == [
        "task",
        "ctr",
        "cvr_clicked",
        "ctcvr",
    ]
