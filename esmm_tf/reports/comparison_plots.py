"""Figures of a comparison. `result` is everywhere the content of `comparison.json`.

The AUCs' axes do not begin at 0: what counts is how far apart methods are beside their spread.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from esmm_tf import keys
from esmm_tf.reports import comparison_measures
from esmm_tf.reports.plot_style import (
    BLUE,
    GREY,
    ORANGE,
    STYLE,
    legend_above,
    nothing,
    plain,
    to_png,
)

# The palette of Okabe and Ito, which every kind of colour vision can tell apart, without yellow.
_COLORS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
_LINES = ("-", "--", ":")
_SCORES = {
    keys.CVR_CLICKED: ("pCVR, clicked", BLUE, "o"),
    keys.CTCVR: ("pCTCVR, all", ORANGE, "s"),
    keys.CVR_ENTIRE: ("pCVR, entire space", "#009e73", "^"),
}
_TITLE_LENGTH = 22
_PANEL = 3.3  # inches
_MIDDLE = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
_FINE = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25)

Spread = Mapping[str, Any]  # mean and std, which may be null


def draw_auc_by_fraction(result: Mapping[str, Any]) -> bytes:
    """Returns the PNG of the paper's Figure 3: a panel per task, a line per method."""
    tasks = comparison_measures.compared_tasks(result)
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(_PANEL * len(tasks), 4.2), layout="constrained")
        _title(figure, result, "AUC by share of the training data")
        panels = figure.subplots(1, len(tasks), squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=True):
            axes.set_title(comparison_measures.auc_column(task).name)
            for index, name in enumerate(result["methods"]):
                _draw_line(axes, result, task=task, name=name, index=index)
            _fraction_axis(axes, [float(f) for f in comparison_measures.fractions(result)])
        if not any(len(line.get_xdata()) for axes in panels for line in axes.lines):
            return nothing(figure)
        lines, labels = panels[0].get_legend_handles_labels()
        rows = math.ceil(len(labels) / (7 if len(tasks) > 2 else 4))
        columns = math.ceil(len(labels) / rows)
        figure.legend(lines, labels, loc="outside lower center", ncols=columns)
        return to_png(figure)


def _draw_line(axes: Axes, result: Mapping[str, Any], *, task: str, name: str, index: int) -> None:
    """Draws the AUC of a method over the fractions, with a band of one standard deviation."""
    points = [
        (float(fraction), values)
        for fraction in comparison_measures.fractions(result)
        if (values := _spread(result["fractions"][fraction].get(name, {}), task, "auc"))
    ]
    x = [fraction for fraction, _ in points]
    mean = np.array([values["mean"] for _, values in points])
    std = np.array([values["std"] or 0.0 for _, values in points])
    color = _COLORS[index % len(_COLORS)]
    axes.fill_between(
        x, mean - std, mean + std, facecolor=(color, 0.1), edgecolor=(color, 0.4), linewidth=0.6
    )
    axes.plot(
        x,
        mean,
        color=color,
        marker=_MARKERS[index % len(_MARKERS)],
        linestyle=_LINES[index // len(_COLORS) % len(_LINES)],
        markersize=5,
        linewidth=1.3,
        label=plain(result["methods"][name]["title"], _TITLE_LENGTH),
    )


def _fraction_axis(axes: Axes, fractions: Sequence[float]) -> None:
    """Labels a logarithmic axis at the fractions, but for those that would touch another."""
    axes.set_xscale("log")
    span = math.log(max(fractions) / min(fractions))
    apart: list[float] = []
    for fraction in sorted(fractions, reverse=True):
        if not apart or math.log(apart[-1] / fraction) > span / 10:
            apart.append(fraction)
    axes.xaxis.set_major_locator(FixedLocator(apart))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="share of the training groups, %", ylabel="AUC")


def draw_auc(result: Mapping[str, Any]) -> bytes:
    """Returns the PNG of the AUCs on all training data: a panel per task, a row per method."""
    tasks = comparison_measures.compared_tasks(result)
    with matplotlib.style.context(STYLE):
        figure, panels = _rows_figure(result, num_panels=len(tasks))
        _title(figure, result, "AUC on the test split")
        is_empty = True
        for axes, task in zip(panels, tasks, strict=True):
            column = comparison_measures.auc_column(task)
            axes.set_xlabel(column.name)
            is_empty &= not _draw_rows(axes, result, task=task, metric="auc")
        return nothing(figure) if is_empty else to_png(figure)


def draw_calibration(result: Mapping[str, Any]) -> bytes:
    """Returns the PNG of mean prediction / mean label, a row per method, three scores in each."""
    tasks = [task for task in _SCORES if comparison_measures.has(result, task, "calibration")]
    with matplotlib.style.context(STYLE):
        figure, (axes,) = _rows_figure(result, num_panels=1, row=0.42)
        _title(figure, result, "Calibration on the test split")
        for index, task in enumerate(tasks):
            label, color, marker = _SCORES[task]
            shift = 0.24 * (index - (len(tasks) - 1) / 2)
            look = {"color": color, "marker": marker, "label": label}
            _draw_rows(axes, result, task=task, metric="calibration", shift=shift, **look)
        if not tasks:
            return nothing(figure)
        axes.axvline(1, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
        for edge in range(1, len(result["methods"])):
            axes.axhline(edge - 0.5, color="#e4e4e4", linewidth=0.8, zorder=0)
        _ratio_axis(axes, result, tasks)
        axes.set_xlabel("mean prediction / mean label")
        legend_above(axes, columns=3)
        return to_png(figure)


def draw_bias(result: Mapping[str, Any]) -> bytes:
    """Returns the PNG of mean pCVR less the mean true one over the entire space, by method."""
    with matplotlib.style.context(STYLE):
        figure, (axes,) = _rows_figure(result, num_panels=1)
        _title(figure, result, "Bias of pCVR over the entire space")
        if not _draw_rows(axes, result, task=keys.CVR_ENTIRE, metric="bias"):
            return nothing(figure)
        axes.axvline(0, color=GREY, linestyle="--", linewidth=1.2, zorder=1)
        axes.set_xlabel("mean pCVR - mean true conversion probability")
        return to_png(figure)


def _rows_figure(
    result: Mapping[str, Any], *, num_panels: int, row: float = 0.28
) -> tuple[Figure, Sequence[Axes]]:
    """Returns a figure whose panels share rows, one per method, from top to bottom."""
    titles = [plain(method["title"], _TITLE_LENGTH) for method in result["methods"].values()]
    width = 1.3 + (2.4 * num_panels if num_panels > 1 else 4.4)
    figure = Figure(figsize=(width, 1.4 + row * max(len(titles), 3)), layout="constrained")
    panels = figure.subplots(1, num_panels, sharey=True, squeeze=False)[0]
    panels[0].set_yticks(range(len(titles)), titles)
    panels[0].set_ylim(len(titles) - 0.5, -0.5)
    for axes in panels:
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=4 if num_panels > 1 else 7)
    return figure, panels


def _draw_rows(
    axes: Axes,
    result: Mapping[str, Any],
    *,
    task: str,
    metric: str,
    shift: float = 0.0,
    color: str = BLUE,
    marker: str = "o",
    label: str | None = None,
) -> bool:
    """Draws a metric of each method with its standard deviation; returns whether there is any."""
    points = [
        (row + shift, values)
        for row, method in enumerate(result["methods"].values())
        if (values := _spread(method["tasks"], task, metric))
    ]
    if points:
        axes.errorbar(
            [values["mean"] for _, values in points],
            [row for row, _ in points],
            xerr=[values["std"] or 0.0 for _, values in points],
            fmt=marker,
            color=color,
            markersize=4.5,
            linewidth=1.2,
            label=label,
        )
    return bool(points)


def _ratio_axis(axes: Axes, result: Mapping[str, Any], tasks: Sequence[str]) -> None:
    """Makes the axis logarithmic, with 1 on it and at least from 0.8 to 1.25: noise stays small."""
    spreads = [
        (values["mean"], values["std"] or 0.0)
        for method in result["methods"].values()
        for task in tasks
        if (values := _spread(method["tasks"], task, "calibration"))
    ]
    low = min([0.8, *(mean - std if mean > std else mean / 2 for mean, std in spreads if mean > 0)])
    high = max([1.25, *(mean + std for mean, std in spreads)])
    axes.set_xscale("log", nonpositive="clip")
    room = max(1.05, (high / low) ** 0.03)
    axes.set_xlim(low / room, high * room)
    decades = math.log10(high / low)
    if decades < 0.3:
        axes.xaxis.set_major_locator(FixedLocator(_FINE))
    else:
        subs = (1.0,) if decades > 3 else (1.0, 2.0, 5.0) if decades > 1.2 else _MIDDLE
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.10g}"))


def _title(figure: Figure, result: Mapping[str, Any], what: str) -> None:
    number = comparison_measures.seeds(result)
    how = f": mean ± std over {number} seeds" if number > 1 else ", one seed"
    figure.suptitle(f"{what}{how}", fontsize=10)


def _spread(tasks: Mapping[str, Any], task: str, metric: str) -> Spread | None:
    """Returns mean and standard deviation, or None where there is no mean."""
    known = comparison_measures.mean_of(tasks, task, metric) is not None
    return tasks[task][metric] if known else None
