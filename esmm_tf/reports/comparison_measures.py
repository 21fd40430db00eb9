"""What was measured of each method, as columns of a table: their heads and their cells.

`result` is everywhere the content of `comparison.json`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from esmm_tf import keys
from esmm_tf.reports import words
from esmm_tf.reports.tables import Cell, Column, spread
from esmm_tf.reports.words import HIGHER, ONE

TASKS = (keys.CVR_CLICKED, keys.CTCVR, keys.CVR_ENTIRE, keys.CTR)
METHOD = Column(title="Method", is_text=True)

_PAPER = (keys.CVR_CLICKED, keys.CTCVR)

_AUC_HEADS = {
    keys.CVR_CLICKED: ("CVR AUC", "clicked"),
    keys.CTCVR: ("CTCVR AUC", "all"),
    keys.CVR_ENTIRE: ("CVR AUC", "entire space"),
    keys.CTR: ("CTR AUC", "all"),
}
_AUC_DEFINITIONS = {
    keys.CVR_CLICKED: "Chance that, of two clicked impressions, one that converted has a higher "
    "pCVR than one that did not. It says nothing of impressions without a click.",
    keys.CTCVR: "Chance that an impression with a conversion has a higher pCTCVR than one "
    "without, among all impressions.",
    keys.CVR_ENTIRE: "AUC of pCVR over all impressions, clicked or not, each counted as a positive "
    "with its true conversion probability: what no log can show.",
    keys.CTR: "Chance that a clicked impression has a higher pCTR than another.",
}
_SCORES = {keys.CVR_CLICKED: "pCVR", keys.CTCVR: "pCTCVR", keys.CVR_ENTIRE: "pCVR"}

Tasks = Mapping[str, Mapping[str, Any]]  # by task and metric: mean, std, values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """A metric of a task as a column.

    Args:
      task: what is predicted, over which impressions.
      metric: of the task.
      column: its head.
      decimals: how many are shown at least.
      is_percent: whether it is a share.
      has_spread: whether its standard deviation stands beside the mean.
      is_best_bold: whether the highest mean stands out.
    """

    task: str
    metric: str
    column: Column
    decimals: int = 4
    is_percent: bool = False
    has_spread: bool = True
    is_best_bold: bool = False

    @property
    def is_always_shown(self) -> bool:
        """Returns whether the column stands though no method has it: the two AUCs of the paper."""
        return self.metric == "auc" and self.task in _PAPER

    def show(self, tasks: Tasks) -> str:
        """Returns the mean over the seeds, and its standard deviation if that has room."""
        if mean_of(tasks, self.task, self.metric) is None:
            return words.DASH
        values = tasks[self.task][self.metric]
        if not self.has_spread:
            values = {**values, "std": None}
        if self.is_percent:
            return f"{spread(values, self.decimals, 100)} %"
        return spread(values, self.decimals)


def seeds(result: Mapping[str, Any]) -> int:
    """Returns how many models there are of each method."""
    return len(next(iter(result["methods"].values()))["best_epochs"])


def has(result: Mapping[str, Any], task: str, metric: str) -> bool:
    """Returns whether any method has a metric of a task."""
    methods = result["methods"].values()
    return any(mean_of(method["tasks"], task, metric) is not None for method in methods)


def mean_of(tasks: Tasks, task: str, metric: str) -> float | None:
    """Returns the mean of a metric over the seeds, or None where it is not defined."""
    values = tasks.get(task, {}).get(metric)
    return None if values is None else values["mean"]


def compared_tasks(result: Mapping[str, Any]) -> list[str]:
    """Returns the tasks whose AUCs are set against each other: the paper's two, and the truth's."""
    is_known = has(result, keys.CVR_ENTIRE, "auc")
    return [*_PAPER, keys.CVR_ENTIRE] if is_known else list(_PAPER)


def auc_column(task: str) -> Column:
    """Returns the column of a task's AUC."""
    title, note = _AUC_HEADS[task]
    return Column(title=title, note=note, definition=f"{_AUC_DEFINITIONS[task]} ({HIGHER})")


def fractions(result: Mapping[str, Any]) -> list[str]:
    """Returns the fractions as the result names them, in rising order."""
    return sorted(result["fractions"], key=float)


def main_measures() -> Iterator[Measure]:
    """Yields the columns of the main table: the AUCs first, as in the paper's Table 2."""
    for task in TASKS:
        yield Measure(task=task, metric="auc", column=auc_column(task), is_best_bold=True)
    for task, score in _SCORES.items():
        note = f"{score}, {_AUC_HEADS[task][1]}"
        definition = f"Mean {score} / mean label. Above 1 the model promises too much. ({ONE})"
        if task == keys.CVR_ENTIRE:
            definition = f"Mean {score} / mean true conversion probability. ({ONE})"
        column = Column(title="Calibration", note=note, definition=definition)
        yield Measure(task=task, metric="calibration", column=column, decimals=3, has_spread=False)
    for task in (keys.CVR_CLICKED, keys.CVR_ENTIRE):
        column = Column(
            title="Above 1",
            note=f"pCVR, {_AUC_HEADS[task][1]}",
            definition="Share of impressions whose pCVR = pCTCVR / pCTR exceeds 1. Only a method "
            "that divides has such.",
        )
        yield Measure(
            task=task,
            metric="share_above_1",
            column=column,
            decimals=2,
            is_percent=True,
            has_spread=False,
        )


def build_cells(measure: Measure, by_method: Sequence[Tasks]) -> list[Cell]:
    """Returns a column; in bold the highest mean, and those that are shown as equal to it."""
    texts = [measure.show(tasks) for tasks in by_method]
    means = [mean_of(tasks, measure.task, measure.metric) for tasks in by_method]
    known = [round(mean, measure.decimals) for mean in means if mean is not None]
    if not measure.is_best_bold or len(known) < 2:
        return [Cell(text) for text in texts]
    return [
        Cell(text, mean is not None and round(mean, measure.decimals) == max(known))
        for text, mean in zip(texts, means, strict=True)
    ]
