"""Plots of an evaluation: drawn from what there is, in one style, and without side effects."""

import dataclasses
import doctest
import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from evaluation_results import build_result
from PIL import Image

from esmm_tf.metrics.curves import LogitHistogram, PrecisionRecall, ReliabilityBin, Roc
from esmm_tf.reports import evaluation_plots
from esmm_tf.reports.evaluation_plots import Dot
from esmm_tf.reports.evaluation_result import Evaluation


def pixels(png):
    """Returns the picture as an array `[height, width, 3]`, and its texts."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")), dict(image.text)


def holds(png, color):
    """Returns whether any pixel has this very color."""
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((pixels(png)[0] == wanted).all(axis=-1).any())


def build_task(name="ctr", **changes):
    """Returns the metrics of a task, with some of its curves changed."""
    task = Evaluation.from_json(build_result()).tasks[name]
    return dataclasses.replace(task, curves=dataclasses.replace(task.curves, **changes))


def build_histogram(score="pctr", **changes):
    return dataclasses.replace(Evaluation.from_json(build_result()).histograms[score], **changes)


def draw_reliability(**changes):
    return evaluation_plots.draw_reliability("ctr", build_task(**changes), build_histogram())


@pytest.fixture(scope="module")
def drawn():
    """Returns the reliability plot of an unchanged evaluation."""
    return draw_reliability()


def reliability_bin(prediction, label, interval):
    return ReliabilityBin(
        mean_prediction=prediction,
        mean_label=label,
        label_interval=interval,
        impressions=9,
        weight=9.0,
    )


NOTHING = (210, 690)  # pixels of the picture that says that there is nothing to show


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(evaluation_plots).failed == 0


def test_a_plot_carries_neither_version_nor_date(drawn):
    _, texts = pixels(drawn)

    assert "Software" not in texts
    assert not any("date" in name.lower() for name in texts)


def test_a_plot_is_the_same_whatever_the_readers_settings_are(drawn):
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 5, "axes.facecolor": "red"}):
        after = draw_reliability()

    assert after == drawn


def test_settings_are_left_as_they_were():
    before = dict(matplotlib.rcParams)

    draw_reliability()

    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_imported():
    code = "import sys, esmm_tf.reports.evaluation_plots; print('matplotlib.pyplot' in sys.modules)"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout == "False\n"


def test_a_bin_without_positives_is_marked_at_the_lower_edge():
    known = [reliability_bin(0.1, 0.11, [0.1, 0.12]), reliability_bin(0.2, 0.2, None)]

    without = draw_reliability(reliability=known)
    within = draw_reliability(reliability=[reliability_bin(0.01, 0.0, None), *known])

    assert not holds(without, evaluation_plots.ORANGE)
    assert holds(within, evaluation_plots.ORANGE)


@pytest.mark.parametrize(
    "bins",
    [
        [reliability_bin(0.01, 0.0, None)],
        [reliability_bin(0.3, 0.3, [0.0, 0.6])],
        [reliability_bin(1e-9, 1e-12, None), reliability_bin(1.0, 1.0, [1.0, 1.0])],
        [reliability_bin(0.0, 0.0, None), reliability_bin(0.3, 0.3, None)],
    ],
)
def test_odd_bins_are_drawn(bins):
    shape = pixels(draw_reliability(reliability=bins))[0].shape

    assert shape[:2] == (750, 690)


@pytest.mark.parametrize(
    "histogram", [None, LogitHistogram(logit_edges=[0, 1], clicked=[0], unclicked=[0])]
)
def test_reliability_is_drawn_without_the_spread_of_the_predictions(histogram):
    png = evaluation_plots.draw_reliability("ctr", build_task(), histogram)

    assert holds(png, evaluation_plots.BLUE)


def test_the_spread_below_clicked_cvr_is_that_of_clicked_impressions(drawn):
    task, histogram = build_task("cvr_clicked"), build_histogram("pcvr")
    others = dataclasses.replace(histogram, unclicked=[0] * 60)

    png = evaluation_plots.draw_reliability("cvr_clicked", task, histogram)

    assert png == evaluation_plots.draw_reliability("cvr_clicked", task, others)
    others = dataclasses.replace(build_histogram(), unclicked=[0] * 60)
    assert evaluation_plots.draw_reliability("ctr", build_task(), others) != drawn


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_reliability(reliability=[]),
        lambda: evaluation_plots.draw_roc(
            "ctr", build_task(roc=Roc(false_positive_rate=[], true_positive_rate=[]))
        ),
        lambda: evaluation_plots.draw_precision_recall(
            "ctr", build_task(precision_recall=PrecisionRecall(recall=[], precision=[]))
        ),
        lambda: evaluation_plots.draw_histogram(
            "pctr", LogitHistogram(logit_edges=[0, 1], clicked=[0], unclicked=[0])
        ),
        lambda: evaluation_plots.draw_slices(
            "x", [Dot(label="1", value=None, interval=None)], overall=0.5, name="auc"
        ),
    ],
)
def test_a_plot_of_nothing_is_small_and_says_so(draw):
    assert pixels(draw())[0].shape[:2] == NOTHING


def test_the_base_rate_is_the_precision_when_everything_is_called(monkeypatch):
    drawn = []
    monkeypatch.setattr(evaluation_plots, "_png", drawn.append)
    curve = PrecisionRecall(recall=[0.5, 1.0, 1.0], precision=[0.4, 0.3, 0.125])
    task = dataclasses.replace(
        build_task(precision_recall=curve), average_precision=None, intervals={}
    )

    evaluation_plots.draw_precision_recall("ctr", task)

    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert labels == ["AP —", "base rate 12.5 %"]


def test_the_two_sides_of_a_histogram_have_the_same_area():
    histogram = LogitHistogram(
        logit_edges=[-2, -1, 0, 2], clicked=[0, 6, 0], unclicked=[600, 600, 0]
    )
    more = dataclasses.replace(histogram, unclicked=[6000, 6000, 0])

    once = evaluation_plots.draw_histogram("pctr", histogram)
    tenfold = evaluation_plots.draw_histogram("pctr", more)

    assert once == tenfold


def test_a_histogram_of_one_side_is_drawn():
    histogram = LogitHistogram(logit_edges=[-2, -1, 0], clicked=[0, 0], unclicked=[3, 0])

    png = evaluation_plots.draw_histogram("pctr", histogram)

    assert holds(png, evaluation_plots.GREY)
    assert not holds(png, evaluation_plots.ORANGE)


def test_slices_grow_with_their_values_and_calibration_shows_its_aim():
    dots = [Dot(label=f"v{i}", value=1.0 + i / 99, interval=[0.9, 1.4]) for i in range(30)]

    many = evaluation_plots.draw_slices("x", dots, overall=None, name="calibration")
    few = evaluation_plots.draw_slices("x", dots[:1], overall=None, name="auc")

    assert pixels(many)[0].shape[0] > 2 * pixels(few)[0].shape[0]
    assert holds(many, evaluation_plots.ORANGE)
    assert not holds(few, evaluation_plots.ORANGE)


def test_a_label_that_was_changed_names_its_row_and_one_without_value_has_a_dash():
    dots = [
        Dot(label="plain $x^2$", value=1.0, interval=None),
        Dot(label="女装", value=1.0, interval=None),
        Dot(label="", value=1.0, interval=None),
        Dot(label="x" * 300, value=None, interval=None),
    ]

    labels = evaluation_plots._tick_labels(dots)

    assert labels == [
        "plain $x^2$",
        "\N{REPLACEMENT CHARACTER}" * 2 + " (row 2)",
        " (row 3)",
        "x" * 19 + "… (row 4)  —",
    ]
