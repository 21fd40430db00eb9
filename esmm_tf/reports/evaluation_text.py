"""An evaluation as text: one row a task, and what differs from a baseline."""

from collections.abc import Sequence
from typing import Any

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
_SHOWN_VALUES = 20


def format_tasks(result: dict[str, Any]) -> str:
    """Returns the metrics as a table, one task a row, with the AUC's 95 % interval."""
    names = [name for name in _METRICS if any(name in t for t in result["tasks"].values())]
    rows = [["task", *(_SHORT.get(name, name) for name in names), "positives", "impressions"]]
    rows[0].insert(2, "auc_95%")
    for task, values in result["tasks"].items():
        rows.append([task, *_cells(values, names)])
    return _aligned(rows)


def _cells(values: dict[str, Any], names: Sequence[str]) -> list[str]:
    cells = [_number(values.get(name)) for name in names]
    interval = values["intervals"].get("auc")
    cells.insert(1, "-" if interval is None else f"{interval[0]:.4f}..{interval[1]:.4f}")
    return [*cells, f"{values['positives']:,.0f}", f"{values['impressions']:,}"]


def format_truth(result: dict[str, Any]) -> str:
    """Returns how far each task is from the truth, one a row; nothing where it is not known."""
    tasks = {task: values for task, values in result["tasks"].items() if _TRUTH[0] in values}
    if not tasks:
        return ""
    rows = [[task, *(_number(values[name]) for name in _TRUTH)] for task, values in tasks.items()]
    return _aligned([["task", *_TRUTH], *rows])


def format_slices(result: dict[str, Any], name: str) -> str:
    """Returns AUC and calibration by the value of a field, for its 20 most frequent values."""
    tasks = list(result["tasks"])
    shown = ("auc", "calibration")
    head = [name, *(f"{task}_{metric}" for task in tasks for metric in shown)]
    rows = [[*head, "clicks", "conversions", "impressions"]]
    values = result["slices"][name]
    for value, found in list(values.items())[:_SHOWN_VALUES]:
        parts = found["tasks"]
        cells = [_number(parts[task].get(metric)) for task in tasks for metric in shown]
        counts = [parts[task]["positives"] for task in ("ctr", "ctcvr")]
        counts.append(found["impressions"])
        rows.append([value, *cells, *(f"{count:,.0f}" for count in counts)])
    left = len(values) - _SHOWN_VALUES
    return _aligned(rows) + (f"\n... and {left:,} more values" if left > 0 else "")


def format_comparison(comparison: dict[str, Any]) -> str:
    """Returns the differences from the baseline, their 95 % intervals and their p-values."""
    rows = [["task", "metric", "baseline", "difference", "95% interval", "p"]]
    for task, metrics in comparison["tasks"].items():
        for name in _COMPARED:
            if name not in metrics:
                continue
            found = metrics[name]
            interval = found["interval"]
            bounds = "-" if interval is None else f"{interval[0]:+.4f}..{interval[1]:+.4f}"
            difference = found["difference"]
            signed = "-" if difference is None else f"{difference:+.4f}"
            p_value = "-" if found["p_value"] is None else f"{found['p_value']:.2g}"
            rows.append([task, name, _number(found["baseline"]), signed, bounds, p_value])
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
