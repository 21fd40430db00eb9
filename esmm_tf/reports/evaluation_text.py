"""An evaluation as text: one row per task, and what differs from a baseline."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from esmm_tf import keys
from esmm_tf.reports.tables import Column, format_rows
from esmm_tf.reports.task_metrics import Interval, MetricDifference, SliceMetrics, TaskMetrics

_METRICS = (
    "auc",
    "gauc",
    "average_precision",
    "log_loss",
    "normalized_entropy",
    "calibration",
    "expected_calibration_error",
)
_TRUTH = ("oracle_auc", "way_to_oracle", "oracle_log_loss", "regret", "bias")
_SHORT = {
    "average_precision": "avg_precision",
    "normalized_entropy": "norm_entropy",
    "expected_calibration_error": "ece",
}
_COMPARED = ("auc", "gauc", "average_precision", "log_loss", "normalized_entropy", "calibration")
_SLICED = ("auc", "calibration")
_SHOWN_VALUES = 20


def format_tasks(tasks: Mapping[str, TaskMetrics]) -> str:
    """Returns the metrics as a table, one row per task, with the AUC's 95 % interval."""
    names = [name for name in _METRICS if any(name in t.intervals for t in tasks.values())]
    head = ["task", *(_SHORT.get(name, name) for name in names), "positives", "impressions"]
    head.insert(2, "auc_95%")
    return _table(head, [[task, *_cells(metrics, names)] for task, metrics in tasks.items()])


def _cells(task: TaskMetrics, names: Sequence[str]) -> list[str]:
    cells = [_number(getattr(task, name)) for name in names]
    cells.insert(1, _bounds(task.intervals.get("auc")))
    return [*cells, f"{task.positives:,.0f}", f"{task.impressions:,}"]


def format_truth(tasks: Mapping[str, TaskMetrics]) -> str:
    """Returns how far each task is from the truth, a row each; nothing where it is not known."""
    known = {task: metrics for task, metrics in tasks.items() if _TRUTH[0] in metrics.intervals}
    if not known:
        return ""
    rows = [[task, *(_number(getattr(known[task], name)) for name in _TRUTH)] for task in known]
    return _table(["task", *_TRUTH], rows)


def format_slices(
    by_value: Mapping[str, SliceMetrics], *, field: str, tasks: Collection[str]
) -> str:
    """Returns AUC and calibration by the value of a field, for its 20 most frequent values."""
    head = [field, *(f"{task}_{metric}" for task in tasks for metric in _SLICED)]
    head += ["clicks", "conversions", "impressions"]
    rows = []
    for value, part in list(by_value.items())[:_SHOWN_VALUES]:
        cells = [_number(getattr(part.tasks[task], n)) for task in tasks for n in _SLICED]
        counts = [part.tasks[task].positives for task in (keys.CTR, keys.CTCVR)]
        counts.append(part.impressions)
        rows.append([value, *cells, *(f"{count:,.0f}" for count in counts)])
    left = len(by_value) - _SHOWN_VALUES
    return _table(head, rows) + (f"\n... and {left:,} more values" if left > 0 else "")


def format_comparison(tasks: Mapping[str, Mapping[str, MetricDifference]]) -> str:
    """Returns the differences from the baseline, their 95 % intervals and their p-values."""
    head = ["task", "metric", "baseline", "difference", "95% interval", "p"]
    rows = [
        [task, name, *_change_cells(changes[name])]
        for task, changes in tasks.items()
        for name in _COMPARED
        if name in changes
    ]
    return _table(head, rows)


def _change_cells(change: MetricDifference) -> list[str]:
    return [
        _number(change.baseline),
        _number(change.difference, "+.4f"),
        _bounds(change.interval, "+.4f"),
        _number(change.p_value, ".2g"),
    ]


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns aligned columns, all of them to the right."""
    return format_rows([Column(title=title) for title in head], rows)


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def _bounds(interval: Interval | None, form: str = ".4f") -> str:
    return "-" if interval is None else "..".join(format(bound, form) for bound in interval)
