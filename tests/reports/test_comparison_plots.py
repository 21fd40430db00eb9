"""Figures of a comparison: what they draw, at the right places, from whatever there is."""

import doctest
import io

import matplotlib
import numpy as np
import pytest
from comparison_results import HOSTILE, build_result, spread
from PIL import Image

from esmm_tf.reports import comparison_plots, plot_style

FRACTIONS = ("0.01", "0.05", "0.1", "0.2", "0.5", "1")
NOTHING = (690, 210)  # pixels of the picture that says that there is nothing to show
DRAWINGS = [
    comparison_plots.draw_auc_by_fraction,
    comparison_plots.draw_auc,
    comparison_plots.draw_calibration,
    comparison_plots.draw_bias,
]


@pytest.fixture
def build_figure(monkeypatch):
    """Returns a function that gives the figure of a drawing, laid out."""
    figures = []

    def keep(figure):
        figure.draw_without_rendering()
        figures.append(figure)

    monkeypatch.setattr(comparison_plots, "to_png", keep)

    def build(draw, result):
        draw(result)
        return figures[-1]

    return build


def size(png):
    with Image.open(io.BytesIO(png)) as image:
        return image.size


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(plot_style).failed == 0


@pytest.mark.parametrize("draw", DRAWINGS)
def test_equal_comparisons_give_equal_pictures_whatever_the_readers_settings_are(draw):
    before = draw(build_result(oracle=True, fractions=FRACTIONS))

    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red"}):
        after = draw(build_result(oracle=True, fractions=FRACTIONS))

    assert after == before
    assert size(before) > NOTHING


@pytest.mark.parametrize("draw", DRAWINGS)
def test_a_figure_of_nothing_says_so(draw):
    result = build_result(fractions=("0.5", "1"))
    for method in result["methods"].values():
        method["tasks"] = {}
    result["fractions"] = {"0.5": {}, "1": {}}

    assert size(draw(result)) == NOTHING


@pytest.mark.parametrize("draw", DRAWINGS)
def test_odd_titles_and_many_methods_are_drawn(draw):
    methods = ("base", HOSTILE, "$\\frac{$", "女装", "x" * 300, "", *(f"m{i}" for i in range(16)))
    result = build_result(methods=methods, seeds=1, oracle=True, fractions=("0.3", "1"))

    assert size(draw(result)) > NOTHING


@pytest.mark.parametrize(("oracle", "panels"), [(False, 2), (True, 3)])
def test_figure_3_has_a_panel_an_auc_and_a_line_a_method(build_figure, oracle, panels):
    result = build_result(oracle=oracle, fractions=FRACTIONS)

    figure = build_figure(comparison_plots.draw_auc_by_fraction, result)

    assert len(figure.axes) == panels
    for axes in figure.axes:
        assert axes.get_xscale() == "log"
        assert sorted(map(float, labels(axes.xaxis))) == [1, 5, 10, 20, 50, 100]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [method["title"] for method in result["methods"].values()]


def test_lines_go_through_the_means_with_a_band_of_one_standard_deviation(build_figure):
    result = build_result(methods=("base",), fractions=("0.1", "1"))
    result["fractions"]["0.1"]["base"]["cvr_clicked"]["auc"] = spread(0.6, 0.01)
    result["fractions"]["1"]["base"]["cvr_clicked"]["auc"] = spread(0.7, 0.02)

    axes = build_figure(comparison_plots.draw_auc_by_fraction, result).axes[0]

    assert axes.lines[0].get_xydata().tolist() == [[0.1, 0.6], [1.0, 0.7]]
    band = axes.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in np.round(band, 6)} >= {
        (0.1, 0.59),
        (0.1, 0.61),
        (1.0, 0.68),
        (1.0, 0.72),
    }


def test_methods_differ_in_colour_and_in_marker(build_figure):
    figure = build_figure(
        comparison_plots.draw_auc_by_fraction, build_result(fractions=("0.1", "1"))
    )

    lines = figure.axes[0].lines
    assert len({line.get_color() for line in lines}) == 7
    assert len({line.get_marker() for line in lines}) == 7


def test_a_fraction_without_a_value_is_left_out_of_the_line(build_figure):
    result = build_result(methods=("base", "esmm"), fractions=("0.1", "0.5", "1"))
    del result["fractions"]["0.5"]["base"]["ctcvr"]["auc"]

    figure = build_figure(comparison_plots.draw_auc_by_fraction, result)

    assert figure.axes[1].lines[0].get_xdata().tolist() == [0.1, 1.0]
    assert figure.axes[1].lines[1].get_xdata().tolist() == [0.1, 0.5, 1.0]


def test_labels_of_fractions_that_would_touch_are_left_out(build_figure):
    result = build_result(methods=("base",), fractions=("0.01", "0.95", "1"))

    axes = build_figure(comparison_plots.draw_auc_by_fraction, result).axes[0]

    assert sorted(map(float, labels(axes.xaxis))) == [1, 100]


def test_methods_go_from_top_to_bottom(build_figure):
    result = build_result(methods=("base", "esmm"))

    axes = build_figure(comparison_plots.draw_auc, result).axes[0]

    assert labels(axes.yaxis) == ["BASE", "ESMM"]
    assert axes.yaxis_inverted()
    assert axes.lines[0].get_xydata().tolist() == [[0.67, 0.0], [0.673, 1.0]]


@pytest.mark.parametrize(("seeds", "title"), [(1, "one seed"), (5, "mean ± std over 5 seeds")])
def test_the_title_tells_how_many_seeds_there_are(build_figure, seeds, title):
    figure = build_figure(comparison_plots.draw_auc, build_result(seeds=seeds))

    assert figure.get_suptitle().endswith(title)


def test_calibration_is_logarithmic_with_1_marked_and_every_value_inside(build_figure):
    result = build_result(methods=("base", "aman"), oracle=True)
    result["methods"]["base"]["tasks"]["cvr_clicked"]["calibration"] = spread(0.02, 0.03)
    result["methods"]["aman"]["tasks"]["ctcvr"]["calibration"] = spread(19.0, 1.0)

    axes = build_figure(comparison_plots.draw_calibration, result).axes[0]

    assert axes.get_xscale() == "log"
    assert any(line.get_xdata()[0] == 1 == line.get_xdata()[-1] for line in axes.lines)
    low, high = axes.get_xlim()
    assert low < 0.02
    assert high > 20.0
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["pCVR, clicked", "pCTCVR, all", "pCVR, entire space"]


def test_small_deviations_of_calibration_look_small(build_figure):
    axes = build_figure(comparison_plots.draw_calibration, build_result()).axes[0]

    low, high = axes.get_xlim()
    assert low <= 0.8
    assert high >= 1.25
    assert "1" in labels(axes.xaxis)


def test_bias_is_that_over_the_entire_space_with_0_marked(build_figure):
    result = build_result(methods=("base", "esmm"), oracle=True)
    result["methods"]["base"]["tasks"]["cvr_entire"]["bias"] = spread(0.05, 0.01)
    result["methods"]["base"]["tasks"]["cvr_clicked"]["bias"] = spread(0.9, 0.01)

    axes = build_figure(comparison_plots.draw_bias, result).axes[0]

    assert axes.lines[0].get_xdata().tolist() == [0.05, 0.0]
    assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines)
