"""A page that shows an evaluation: tables and plots in one file that needs no other."""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from esmm_tf import files
from esmm_tf.reports import remarks, words
from esmm_tf.reports.evaluation_result import Evaluation
from esmm_tf.reports.page import Plot, build_environment, load_extra
from esmm_tf.reports.task_metrics import TaskMetrics, shown_metrics
from esmm_tf.reports.words import METRICS, task_title

PAGE = "index.html"
MAX_SLICE_VALUES = 30
SLICE_PLOTS = ("auc", "calibration")
SLICE_COLUMNS = ("auc", "normalized_entropy", "log_loss", "calibration")

SliceRows = Sequence[tuple[str, TaskMetrics]]  # values of a field and the metrics of each


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskSlices:
    """What is shown of one task, by the values of one field."""

    task: str
    plots: Sequence[Plot]
    rows: SliceRows
    outside: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class FieldSlices:
    """What is shown by the values of one field."""

    field: str
    num_values: int
    tasks: Sequence[TaskSlices]


def write_report(evaluation: Evaluation, directory: str) -> str:
    """Returns the path of the page, `index.html`, written last; its plots lie beside it.

    Equal evaluations give equal files. Each is written under a temporary name and renamed.

    Args:
      evaluation: with its origin.
      directory: made if it is missing.

    Raises:
      UserError: if the extra `report` is not installed.
    """
    drawing, jinja2 = _load_extra()
    sections = _draw_sections(drawing, evaluation)
    slices = list(_draw_slices(drawing, evaluation))
    page = _render(jinja2, evaluation, slices=slices, **sections)
    sliced = [plot for field in slices for part in field.tasks for plot in part.plots]
    for plot in (*itertools.chain(*sections.values()), *sliced):
        files.write_bytes(os.path.join(directory, plot.file), plot.png)
    path = os.path.join(directory, PAGE)
    files.write_text(path, page)
    return path


def plot_evaluation(evaluation: Evaluation) -> dict[str, Plot]:
    """Returns pictures of an evaluation, which a notebook shows, by names such as `roc_ctr`.

    They are those of a report, but for the slices: reliability, ROC, precision against recall, and
    how each score is spread.

    Raises:
      UserError: if the extra `report` is not installed.
    """
    drawing, _ = load_extra("evaluation_plots")
    plots = itertools.chain(*_draw_sections(drawing, evaluation).values())
    return {plot.file.removesuffix(".png"): plot for plot in plots}


def _draw_sections(drawing: Any, evaluation: Evaluation) -> dict[str, Sequence[Plot]]:
    return {
        "reliability": list(_draw_reliability(drawing, evaluation)),
        "curves": list(_draw_curves(drawing, evaluation)),
        "histograms": list(_draw_histograms(drawing, evaluation)),
    }


def check_installed() -> None:
    """Checks that a report can be made, so that hours of scoring do not end in an error.

    Raises:
      UserError: if the extra `report` is not installed.
    """
    _load_extra()


def _load_extra() -> tuple[Any, Any]:
    return load_extra("evaluation_plots", otherwise=", or leave out --report_dir")


def _render(jinja2: Any, evaluation: Evaluation, **shown: Any) -> str:
    """Returns the page; `shown` are the plots of its sections, by their names in the template."""
    template = _environment(jinja2).get_template("evaluation.html")
    return template.render(
        evaluation=evaluation,
        origin=evaluation.origin,
        remarks=remarks.find(evaluation),
        metrics=shown_metrics(evaluation.tasks.values()),
        all_metrics=METRICS,
        slice_metrics=[metric for metric in METRICS if metric.name in SLICE_COLUMNS],
        max_slice_values=MAX_SLICE_VALUES,
        **shown,
    )


def _environment(jinja2: Any) -> Any:
    environment = build_environment(jinja2)
    environment.globals["verdict"] = remarks.verdict
    return environment


def _draw_reliability(drawing: Any, evaluation: Evaluation) -> Iterator[Plot]:
    for task, metrics in evaluation.tasks.items():
        histogram = evaluation.histograms.get(words.TASK_SCORES.get(task, task))
        yield Plot(
            file=_file_name("reliability", task),
            png=drawing.draw_reliability(task, metrics, histogram),
            alt=f"Reliability diagram of {task_title(task)}: observed rate against mean prediction "
            f"in {len(metrics.curves.reliability)} bins. Calibration "
            f"{_in_words(metrics, 'calibration')}.",
        )


def _draw_curves(drawing: Any, evaluation: Evaluation) -> Iterator[Plot]:
    for task, metrics in evaluation.tasks.items():
        yield Plot(
            file=_file_name("roc", task),
            png=drawing.draw_roc(task, metrics),
            alt=f"ROC curve of {task_title(task)}. AUC {_in_words(metrics, 'auc')}.",
        )
    for task, metrics in evaluation.tasks.items():
        yield Plot(
            file=_file_name("precision_recall", task),
            png=drawing.draw_precision_recall(task, metrics),
            alt=f"Precision against recall of {task_title(task)}. Average precision "
            f"{_in_words(metrics, 'average_precision')}.",
        )


def _draw_histograms(drawing: Any, evaluation: Evaluation) -> Iterator[Plot]:
    for score, histogram in evaluation.histograms.items():
        yield Plot(
            file=_file_name("histogram", score),
            png=drawing.draw_histogram(score, histogram),
            alt=f"Density of {words.SCORE_TITLES.get(score, score)} among clicked and among "
            "unclicked impressions.",
        )


def _draw_slices(drawing: Any, evaluation: Evaluation) -> Iterator[FieldSlices]:
    for number, (field, by_value) in enumerate(evaluation.slices.items(), start=1):
        ranked = sorted(by_value.items(), key=lambda item: -item[1].impressions)
        tasks = []
        for task, overall in evaluation.tasks.items():
            rows = [(value, part.tasks[task]) for value, part in ranked if task in part.tasks]
            shown = rows[:MAX_SLICE_VALUES]
            plots = []
            for name in SLICE_PLOTS:
                title = f"{words.METRIC_TITLES[name]} of {task_title(task)} by {field}"
                png = _draw_dots(
                    drawing, title, rows=shown, overall=getattr(overall, name), name=name
                )
                file = _file_name("slice", str(number), field, task, name)
                plots.append(Plot(file=file, png=png, alt=_slice_alt(title, shown, name)))
            tasks.append(TaskSlices(task=task, plots=plots, rows=shown, outside=_outside(rows)))
        yield FieldSlices(field=field, num_values=len(ranked), tasks=tasks)


def _draw_dots(
    drawing: Any, title: str, *, rows: SliceRows, overall: float | None, name: str
) -> bytes:
    dots = [
        drawing.Dot(label=value, value=getattr(metrics, name), interval=metrics.intervals.get(name))
        for value, metrics in rows
    ]
    return drawing.draw_slices(title, dots, overall=overall, name=name)


def _slice_alt(title: str, rows: SliceRows, name: str) -> str:
    measured = [(getattr(metrics, name), value) for value, metrics in rows]
    known = sorted(pair for pair in measured if pair[0] is not None)
    if not known:
        return f"{title}: not defined for any value."
    (low, lowest), (high, highest) = known[0], known[-1]
    return f"{title}: from {words.number(low)} ({lowest}) to {words.number(high)} ({highest})."


def _outside(rows: SliceRows) -> str:
    """Returns how many of the intervals of calibration leave out 1; nothing where there is none."""
    intervals = [metrics.intervals.get("calibration") for _, metrics in rows]
    known = [interval for interval in intervals if interval is not None]
    outside = sum(not low <= 1 <= high for low, high in known)
    return f"{outside} of {len(known)} calibration intervals leave out 1." if known else ""


def _in_words(metrics: TaskMetrics, name: str) -> str:
    return "is not defined" if getattr(metrics, name) is None else metrics.in_words(name)


def _file_name(*parts: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', '_'.join(parts))[:120]}.png"
