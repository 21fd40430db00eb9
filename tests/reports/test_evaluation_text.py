"""An evaluation as text: tasks, slices and comparisons, one a row."""

import dataclasses
import re

import numpy as np
import pytest

from esmm_tf.evaluation import baseline, evaluation
from esmm_tf.evaluation.scores import Scores
from esmm_tf.evaluation.slicing import Slices
from esmm_tf.reports import evaluation_text

NUM_ROWS = 600


def build_scores(**changes):
    rng = np.random.default_rng(0)
    click = rng.integers(0, 2, NUM_ROWS).astype(np.uint8)
    fields = {
        "ctr_logits": rng.normal(0, 1, NUM_ROWS).astype(np.float32),
        "cvr_logits": rng.normal(0, 1, NUM_ROWS).astype(np.float32),
        "click": click,
        "conversion": click * rng.integers(0, 2, NUM_ROWS).astype(np.uint8),
        "groups": np.repeat(np.arange(NUM_ROWS // 6), 6),
    }
    return Scores(**fields | changes)


def build_slices(sizes):
    """Returns slices whose value `n` has `sizes[n]` impressions, the last ones of all."""
    codes = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    return {"shop": Slices(codes=codes, values=tuple(f"shop {n}" for n in range(len(sizes))))}


def evaluate(**changes):
    return evaluation.evaluate_scores(build_scores(**changes)).evaluation


def cells_of(table):
    """Returns the cells of each row; they stand two or more spaces apart."""
    assert len({len(line) for line in table.splitlines() if not line.startswith("...")}) == 1
    return [re.split(r" {2,}", line.strip()) for line in table.splitlines()]


def test_the_table_has_one_task_a_row():
    result = evaluate()

    head, *rows = cells_of(evaluation_text.format_tasks(result.tasks))

    assert head == [
        "task",
        "auc",
        "auc_95%",
        "gauc",
        "avg_precision",
        "log_loss",
        "norm_entropy",
        "calibration",
        "ece",
        "positives",
        "impressions",
    ]
    assert [row[0] for row in rows] == ["ctr", "cvr_clicked", "ctcvr"]
    for row in rows:
        task = result.tasks[row[0]]
        low, high = task.intervals["auc"]
        names = ("gauc", "average_precision", "log_loss", "normalized_entropy", "calibration")
        assert row[1:] == [
            f"{task.auc:.4f}",
            f"{low:.4f}..{high:.4f}",
            *(f"{getattr(task, name):.4f}" for name in (*names, "expected_calibration_error")),
            f"{task.positives:.0f}",
            f"{task.impressions}",
        ]


def test_the_distance_from_the_truth_is_shown_where_it_is_known():
    oracle = {
        name: np.linspace(low, 0.9, NUM_ROWS, dtype=np.float32)
        for name, low in (("oracle_pctr", 0.1), ("oracle_pcvr", 0.3))
    }
    result = evaluate(groups=None, oracle=oracle)

    head, *rows = cells_of(evaluation_text.format_truth(result.tasks))

    assert head[1:] == ["oracle_auc", "way_to_oracle", "oracle_log_loss", "regret", "bias"]
    entire = result.tasks["cvr_entire"]
    assert rows[3] == ["cvr_entire", *(f"{getattr(entire, name):.4f}" for name in head[1:])]
    assert evaluation_text.format_truth(evaluate().tasks) == ""


def test_gauc_is_shown_where_there_are_groups():
    (head, *_) = cells_of(evaluation_text.format_tasks(evaluate(groups=None).tasks))

    assert "gauc" not in head
    assert "auc" in head


def test_a_dash_stands_where_nothing_is_defined():
    none = np.zeros(NUM_ROWS, np.uint8)

    rows = cells_of(evaluation_text.format_tasks(evaluate(click=none, conversion=none).tasks))

    ctr, clicked = rows[1], rows[2]
    assert ctr[1:5] == ["-"] * 4
    assert re.fullmatch(r"0\.\d{4}", ctr[5])
    assert clicked[1:] == [*["-"] * 8, "0", "0"]


def test_large_counts_are_shown_in_groups_of_three_digits():
    ctr = evaluate().tasks["ctr"]
    many = dataclasses.replace(ctr, positives=1234567.0, impressions=7654321)

    table = evaluation_text.format_tasks({"ctr": many})

    assert "1,234,567    7,654,321" in table


def test_slices_show_auc_and_calibration_of_each_value_the_most_frequent_first():
    result = evaluate(slices=build_slices([100, 300, 200]))

    head, *rows = cells_of(
        evaluation_text.format_slices(result.slices["shop"], field="shop", tasks=result.tasks)
    )

    assert head == [
        "shop",
        "ctr_auc",
        "ctr_calibration",
        "cvr_clicked_auc",
        "cvr_clicked_calibration",
        "ctcvr_auc",
        "ctcvr_calibration",
        "clicks",
        "conversions",
        "impressions",
    ]
    assert [(row[0], row[-1]) for row in rows] == [
        ("shop 1", "300"),
        ("shop 2", "200"),
        ("shop 0", "100"),
    ]
    scores = build_scores()
    first = result.slices["shop"]["shop 1"].tasks
    assert rows[0][1:-1] == [
        *(
            f"{getattr(first[task], name):.4f}"
            for task in ("ctr", "cvr_clicked", "ctcvr")
            for name in ("auc", "calibration")
        ),
        f"{scores.click[100:400].sum()}",
        f"{scores.conversion[100:400].sum()}",
    ]


@pytest.mark.parametrize(("number", "last"), [(20, "2"), (21, "... and 1 more values")])
def test_twenty_values_of_a_slice_are_shown_and_the_others_counted(number, last):
    sizes = [NUM_ROWS - 2 * (number - 1), *[2] * (number - 1)]
    result = evaluate(slices=build_slices(sizes))

    rows = cells_of(
        evaluation_text.format_slices(result.slices["shop"], field="shop", tasks=result.tasks)
    )

    assert [row[0] for row in rows[1:21]] == [f"shop {n}" for n in range(20)]
    assert rows[-1][-1] == last
    assert len(rows) == number + 1


def test_a_value_of_a_slice_neither_breaks_its_line_nor_steers_the_terminal():
    slices = build_slices([NUM_ROWS])["shop"]
    hostile = dataclasses.replace(slices, values=("shop\n\x1b[2J",))
    result = evaluate(slices={"shop": hostile})

    table = evaluation_text.format_slices(result.slices["shop"], field="shop", tasks=result.tasks)

    assert "\x1b" not in table
    assert [row[0] for row in cells_of(table)] == ["shop", "shop \N{REPLACEMENT CHARACTER}[2J"]


def test_a_comparison_shows_differences_with_their_signs_intervals_and_p_values():
    scores = build_scores()
    other = scores.with_logits(scores.ctr_logits[::-1], scores.cvr_logits[::-1])
    tasks = baseline.compare_with_baseline(
        evaluation.measure_tasks(scores), evaluation.measure_tasks(other)
    )

    head, *rows = cells_of(evaluation_text.format_comparison(tasks))

    assert head == ["task", "metric", "baseline", "difference", "95% interval", "p"]
    shown = ["auc", "gauc", "average_precision", "log_loss", "normalized_entropy", "calibration"]
    assert [row[:2] for row in rows] == [[task, name] for task in tasks for name in shown]
    for task, name, *cells in rows:
        found = tasks[task][name]
        low, high = found.interval
        assert cells == [
            f"{found.baseline:.4f}",
            f"{found.difference:+.4f}",
            f"{low:+.4f}..{high:+.4f}",
            f"{found.p_value:.2g}",
        ]
    assert {cells[3][0] for cells in rows} == {"+", "-"}


def test_models_that_do_not_differ_have_no_interval_to_show():
    measured = evaluation.measure_tasks(build_scores(groups=None))
    tasks = baseline.compare_with_baseline(measured, measured)

    rows = cells_of(evaluation_text.format_comparison(tasks))

    assert "gauc" not in {row[1] for row in rows}
    assert rows[1][3:] == ["+0.0000", "-", "-"]


def test_a_comparison_of_what_is_not_defined_is_dashes():
    none = np.zeros(NUM_ROWS, np.uint8)
    measured = evaluation.measure_tasks(build_scores(click=none, conversion=none))
    tasks = baseline.compare_with_baseline(measured, measured)

    rows = cells_of(evaluation_text.format_comparison(tasks))

    assert rows[1] == ["ctr", "auc", "-", "-", "-", "-"]
