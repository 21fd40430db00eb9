"""What must be said of an evaluation before any figure."""

import re

import pytest
from evaluation_results import build_result, without_numbers

from esmm_tf import keys
from esmm_tf.reports import remarks
from esmm_tf.reports.evaluation_result import Evaluation
from esmm_tf.reports.remarks import Remark, verdict
from esmm_tf.reports.task_metrics import MetricDifference
from esmm_tf.reports.words import METRICS

BY_NAME = {metric.name: metric for metric in METRICS}


def find(result):
    return remarks.find(Evaluation.from_json(result))


@pytest.mark.parametrize(
    ("name", "baseline", "difference", "expected"),
    [
        ("auc", 0.6, 0.1, "better"),
        ("auc", 0.6, -0.1, "worse"),
        ("log_loss", 0.6, 0.1, "worse"),
        ("log_loss", 0.6, -0.1, "better"),
        ("calibration", 0.8, 0.1, "better"),
        ("calibration", 1.0, 0.1, "worse"),
        ("calibration", 2.0, -1.45, "better"),
        ("calibration", 2.0, -1.5, "changed"),
        ("calibration", 2.0, -1.55, "worse"),
        ("bias", -0.2, 0.1, "better"),
        ("bias", 0.1, 0.1, "worse"),
        ("bias", 0.1, -0.2, "changed"),
        ("bias", None, 0.1, "changed"),
    ],
)
def test_a_difference_is_judged_by_where_the_best_value_lies(name, baseline, difference, expected):
    change = MetricDifference(
        baseline=baseline,
        difference=difference,
        interval=(difference - 0.01, difference + 0.01),
        p_value=0.04,
    )

    assert verdict(BY_NAME[name], change) == expected


@pytest.mark.parametrize("interval", [None, (-0.01, 0.21), (0.0, 0.2)])
def test_a_difference_that_may_be_0_is_unclear(interval):
    change = MetricDifference(baseline=0.6, difference=0.1, interval=interval, p_value=0.3)

    assert verdict(BY_NAME["auc"], change) == "unclear"


def calibrated(**changes):
    """Returns an evaluation whose calibration may be 1 everywhere."""
    result = build_result(**changes)
    for task in result["tasks"].values():
        task |= {"calibration": 1.0}
        task["intervals"]["calibration"] = [0.9, 1.1]
    return result


def test_nothing_is_remarked_on_good_data_and_a_calibrated_model():
    assert find(calibrated()) == []


def test_data_used_in_training_are_warned_of_first():
    result = calibrated(used_in_training=["training", "early stopping"], compared=True)

    first = find(result)[0]

    assert first == Remark(
        kind="warning",
        text="The model has seen these data (training, early stopping). The figures are better "
        "than they will be on new data.",
    )


@pytest.mark.parametrize(
    ("ratio", "interval", "text"),
    [
        (
            1.25,
            [1.1, 1.4],
            "CTR predicts 25 % too high on average: calibration 1.250 [1.100, 1.400].",
        ),
        (
            0.75,
            [0.6, 0.9],
            "CTR predicts 25 % too low on average: calibration 0.750 [0.600, 0.900].",
        ),
    ],
)
def test_a_model_that_promises_too_much_or_too_little_is_warned_of(ratio, interval, text):
    result = calibrated()
    result["tasks"][keys.CTR]["calibration"] = ratio
    result["tasks"][keys.CTR]["intervals"]["calibration"] = interval

    assert find(result) == [Remark(kind="warning", text=text)]


@pytest.mark.parametrize(("positives", "is_few"), [(99, True), (100, False)])
def test_few_positives_are_warned_of(positives, is_few):
    result = calibrated()
    result["tasks"][keys.CTCVR]["positives"] = positives
    text = f"CTCVR has only {positives} positives: its figures say little."

    assert (Remark(kind="warning", text=text) in find(result)) == is_few


def test_a_comparison_names_losses_before_gains():
    found = find(calibrated(compared=True))

    assert [(remark.kind, remark.text) for remark in found] == [
        ("worse", "Clearly worse than the baseline: CTR (Log loss)."),
        (
            "better",
            "Clearly better than the baseline: CTR (AUC, Calibration), CTCVR (Log loss).",
        ),
    ]


def test_a_calibration_on_the_other_side_of_1_is_neither_a_gain_nor_a_loss():
    result = calibrated(compared=True)
    change = {"baseline": 1.65, "difference": -1.0, "interval": [-1.17, -0.84], "p_value": 0.0}
    result["comparison"]["tasks"] = {keys.CTR: {"calibration": change}}

    text = "Clearly not as the baseline, for better or worse: CTR (Calibration)."
    assert find(result) == [Remark(kind="note", text=text)]


def test_a_comparison_without_a_clear_difference_says_so():
    result = without_numbers(build_result(compared=True))

    assert find(result) == [
        Remark(
            kind="note",
            text="No clear difference from the baseline in AUC, GAUC, Average precision, Log loss, "
            "Normalized entropy, Calibration.",
        )
    ]


@pytest.mark.parametrize(("low", "is_coin"), [(0.45, True), (0.5, True), (0.51, False)])
def test_an_order_that_may_be_chance_is_warned_of(low, is_coin):
    result = calibrated()
    result["tasks"][keys.CTR]["auc"] = 0.6
    result["tasks"][keys.CTR]["intervals"]["auc"] = [low, 0.7]
    text = f"CTR may rank no better than a coin: AUC 0.600 [{low:.3f}, 0.700]."

    assert (Remark(kind="warning", text=text) in find(result)) == is_coin


def test_predictions_above_1_are_warned_of():
    result = calibrated()
    task = result["tasks"]["cvr_clicked"]
    task["predictions_above_1"] = task["impressions"] // 4

    texts = [remark.text for remark in find(result)]

    assert any(re.match(r"CVR, clicked exceeds 1 for 25(\.0)? % of the impres", t) for t in texts)
