"""Figures of an evaluation. Rates are small, so axes of probabilities are logarithmic."""

import dataclasses
import math
from collections.abc import Sequence

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from esmm_tf import keys
from esmm_tf.metrics.curves import LogitHistogram, ReliabilityBin
from esmm_tf.reports import words
from esmm_tf.reports.plot_style import BLUE, GREY, ORANGE, STYLE, legend_above, nothing, plain
from esmm_tf.reports.plot_style import to_png as _png
from esmm_tf.reports.task_metrics import TaskMetrics

_SIZE = (4.6, 3.9)  # inches
_LABEL_LENGTH = 20
_PROBABILITIES = (1e-6, 1e-5, 1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dot:
    """A value of a slice field: its label, the metric and the metric's interval."""

    label: str
    value: float | None
    interval: Sequence[float] | None


def draw_reliability(task: str, metrics: TaskMetrics, histogram: LogitHistogram | None) -> bytes:
    """Returns the PNG of a reliability diagram, with the spread of the predictions below.

    Args:
      task: its name.
      metrics: of the task.
      histogram: of the task's score, or None.
    """
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(4.6, 5.0), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        above.set_title(f"{words.task_title(task)}: reliability")
        bins = [part for part in metrics.curves.reliability if part.mean_prediction]
        if not bins:
            return nothing(figure)
        sides = ("clicked",) if task == keys.CVR_CLICKED else ("clicked", "unclicked")
        edges, heights = _trimmed(histogram, sides, tail=1e-3)
        edges = 1 / (1 + np.exp(-edges))
        limits = _log_limits([*(part.mean_prediction for part in bins), *edges])
        _draw_bins(above, bins)
        below.set_xscale("log")
        if len(heights):
            below.stairs(heights, edges, fill=True, color=GREY)
        below.set(xlabel="mean prediction", ylabel="impressions", xlim=limits)
        below.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
        _percent_axis(below.xaxis, limits)
        return _png(figure)


def _draw_bins(axes: Axes, bins: Sequence[ReliabilityBin]) -> None:
    """Draws mean label against mean prediction; a bin without positives lies at the lower edge."""
    seen = [part for part in bins if part.mean_label > 0]
    rates = np.array([part.mean_label for part in seen])
    spans = [part.label_interval or (part.mean_label,) * 2 for part in seen]
    low, high = np.array(spans).reshape(-1, 2).T
    limits = _log_limits([*rates, *low, *high, *(part.mean_prediction for part in bins)])
    axes.axline((1e-9, 1e-9), (1, 1), linestyle="--", color=GREY, linewidth=1, label="calibrated")
    axes.errorbar(
        [part.mean_prediction for part in seen],
        rates,
        np.clip([rates - low, high - rates], 0, None),
        fmt="o",
        color=BLUE,
        markersize=4,
        linewidth=1.2,
        label="bins of equal weight",
    )
    empty = [part.mean_prediction for part in bins if part.mean_label <= 0]
    if empty:
        floor = [limits[0] * 1.1] * len(empty)
        axes.plot(empty, floor, "v", color=ORANGE, mfc="white", label="no positives", clip_on=False)
    axes.set_yscale("log", nonpositive="clip")
    axes.set(ylabel="observed rate", ylim=limits)
    _percent_axis(axes.yaxis, limits)
    axes.legend(loc="upper left")


def draw_roc(task: str, metrics: TaskMetrics) -> bytes:
    """Returns the PNG of the ROC curve of a task."""
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.set_title(f"{words.task_title(task)}: ROC")
        curve = metrics.curves.roc
        x, y = curve.false_positive_rate, curve.true_positive_rate
        if not x:
            return nothing(figure)
        axes.plot(x, y, color=BLUE, label=f"AUC {metrics.in_words('auc')}")
        axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="random order")
        axes.set(xlabel="false positive rate", ylabel="true positive rate")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.legend(loc="lower right")
        return _png(figure)


def draw_precision_recall(task: str, metrics: TaskMetrics) -> bytes:
    """Returns the PNG of precision against recall; the base rate is the last precision."""
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        figure.suptitle(f"{words.task_title(task)}: precision and recall", fontsize=10)
        axes = figure.subplots()
        x, y = metrics.curves.precision_recall.recall, metrics.curves.precision_recall.precision
        if not x:
            return nothing(figure)
        label = f"AP {metrics.in_words('average_precision')}"
        axes.plot(x, y, color=BLUE, label=label)
        label = f"base rate {words.percent(y[-1])}"
        axes.axhline(y[-1], linestyle="--", color=GREY, linewidth=1, label=label)
        limits = _log_limits(y)
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01))
        axes.set(yscale="log", ylim=limits)
        _percent_axis(axes.yaxis, limits)
        legend_above(axes)
        return _png(figure)


def draw_histogram(score: str, histogram: LogitHistogram) -> bytes:
    """Returns the PNG of how a score is spread among clicked and among unclicked impressions."""
    title = words.SCORE_TITLES.get(score, score)
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.set_title(f"{title} of clicked and unclicked impressions")
        for side, color in (("unclicked", GREY), ("clicked", ORANGE)):
            edges, heights = _trimmed(histogram, (side,))
            if len(heights):
                density = heights / heights.sum() / np.diff(edges)
                axes.stairs(density, edges, fill=True, color=color, alpha=0.25)
                axes.stairs(density, edges, color=color, label=side, linewidth=1.4)
        if not axes.get_legend_handles_labels()[1]:
            return nothing(figure)
        _logit_axis(axes)
        axes.set(xlabel=f"{title}, on the logit scale", ylabel="density")
        axes.legend(loc="best")
        return _png(figure)


def draw_slices(title: str, dots: Sequence[Dot], *, overall: float | None, name: str) -> bytes:
    """Returns the PNG of the metric `name` by the value of a field; a dash where it is undefined.

    The `dots` go from top to bottom. The line is the metric on all impressions, `overall`.
    """
    with matplotlib.style.context(STYLE):
        height = 1.4 + 0.19 * max(len(dots), 3)
        figure = Figure(figsize=(4.6, height), layout="constrained")
        figure.suptitle(plain(title, 52), fontsize=10)
        axes = figure.subplots()
        if all(dot.value is None for dot in dots):
            return nothing(figure)
        for row, dot in enumerate(dots):
            if dot.value is not None:
                low, high = dot.interval or (dot.value, dot.value)
                axes.plot([low, high], [row, row], color=BLUE, linewidth=1.2)
                axes.plot(dot.value, row, "o", color=BLUE, markersize=4)
        if name == "calibration":
            axes.axvline(1, color=ORANGE, linewidth=1, label="calibrated")
        if overall is not None:
            axes.axvline(overall, linestyle="--", color=GREY, linewidth=1, label="all impressions")
        legend_above(axes)
        axes.set_yticks(range(len(dots)), _tick_labels(dots))
        axes.set_ylim(len(dots) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(words.METRIC_TITLES[name])
        return _png(figure)


def _tick_labels(dots: Sequence[Dot]) -> list[str]:
    """Returns what the font can show of labels; a shortened one names its row of the table."""
    labels = []
    for row, dot in enumerate(dots, start=1):
        label = plain(dot.label, _LABEL_LENGTH)
        if label != dot.label or not label.strip():
            label = f"{label} (row {row})"
        labels.append(label if dot.value is not None else f"{label}  {words.DASH}")
    return labels


def _trimmed(
    histogram: LogitHistogram | None, sides: Sequence[str], *, tail: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns logit edges and heights summed over the sides, less the share `tail` at each end."""
    if histogram is None:
        return np.zeros(0), np.zeros(0)
    edges = np.array(histogram.logit_edges)
    heights = np.sum([getattr(histogram, side) for side in sides], axis=0)
    below, above = np.cumsum(heights), np.cumsum(heights[::-1])[::-1]
    inside = np.flatnonzero(np.minimum(below, above) > tail * heights.sum())
    if not len(inside):
        return np.zeros(0), np.zeros(0)
    return edges[inside[0] : inside[-1] + 2], heights[inside[0] : inside[-1] + 1]


def _log_limits(values: Sequence[float]) -> tuple[float, float]:
    """Returns limits of a logarithmic axis, with room around the values, for probabilities."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    room = max((high / low) ** 0.06, 1.25)
    return low / room, min(high * room, 1.1)


def _percent_axis(axis: Axis, limits: tuple[float, float]) -> None:
    """Labels a logarithmic axis in percent, with about as many ticks at any span."""
    decades = math.log10(limits[1] / limits[0])
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 3 else subs))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.10g} %"))
    axis.set_minor_locator(NullLocator())


def _logit_axis(axes: Axes) -> None:
    """Labels an axis of logits with probabilities that stand apart from each other."""
    low, high = axes.get_xlim()
    probabilities = {math.log(p / (1 - p)): p for p in _PROBABILITIES}
    apart: list[float] = []
    for logit in sorted(probabilities):
        if low <= logit <= high and (not apart or logit - apart[-1] > (high - low) / 7):
            apart.append(logit)
    axes.xaxis.set_major_locator(FixedLocator(apart))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, index: f"{100 * probabilities[apart[index]]:.10g} %")
    )
