"""What was measured of a task, and how it differs from a baseline: numbers with their intervals."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from esmm_tf.metrics.curves import NO_CURVES, Curves, PrecisionRecall, ReliabilityBin, Roc
from esmm_tf.reports import words
from esmm_tf.reports.words import METRIC_TITLES, METRICS, Metric

Interval = tuple[float, float]

_COUNTS = ("predictions_above_1", "gauc_groups", "gauc_groups_skipped")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskMetrics:
    """The metrics of a task over the impressions of its space.

    A metric is None where it is not defined, such as an AUC without positives, and where it was not
    measured, such as GAUC without groups.

    Args:
      impressions: of the space.
      positives: of them; a sum of probabilities where the truth stands for labels.
      intervals: of each metric that was measured, None where nothing tells how far it varies.
      space: in words; nothing for a slice, which has no curves either.
      predictions_above_1: of a pCVR that is a ratio.
      gauc_groups: with positives and negatives, over which GAUC is averaged.
      gauc_groups_skipped: with only positives or only negatives.
      curves: what is drawn.
    """

    impressions: int
    positives: float
    intervals: Mapping[str, Interval | None]
    space: str = ""
    predictions_above_1: int | None = None
    gauc_groups: int | None = None
    gauc_groups_skipped: int | None = None
    auc: float | None = None
    average_precision: float | None = None
    log_loss: float | None = None
    normalized_entropy: float | None = None
    calibration: float | None = None
    expected_calibration_error: float | None = None
    gauc: float | None = None
    oracle_auc: float | None = None
    way_to_oracle: float | None = None
    oracle_log_loss: float | None = None
    regret: float | None = None
    bias: float | None = None
    curves: Curves = NO_CURVES

    def in_words(self, name: str) -> str:
        """Returns a metric and its interval with as many decimals as it makes meaningful."""
        value, interval = getattr(self, name), self.intervals.get(name)
        return f"{words.number(value, interval)} {words.bounds(value, interval)}".strip()

    def to_json(self) -> dict[str, Any]:
        """Returns the task as `evaluation.json` holds it: what was not measured is left out."""
        counts = {name: getattr(self, name) for name in _COUNTS}
        return {
            **({"space": self.space} if self.space else {}),
            "impressions": self.impressions,
            "positives": self.positives,
            **{name: count for name, count in counts.items() if count is not None},
            **{name: getattr(self, name) for name in self.intervals},
            "intervals": dict(self.intervals),
            **(dataclasses.asdict(self.curves) if self.space else {}),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "TaskMetrics":
        """Returns the task that `to_json` wrote."""
        optional = ("space", *_COUNTS, *METRIC_TITLES)
        return cls(
            impressions=tree["impressions"],
            positives=tree["positives"],
            intervals={name: _interval(bounds) for name, bounds in tree["intervals"].items()},
            curves=_curves(tree) if "space" in tree else NO_CURVES,
            **{name: tree[name] for name in optional if name in tree},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SliceMetrics:
    """What was measured of one value of a field."""

    impressions: int
    tasks: Mapping[str, TaskMetrics]

    def to_json(self) -> dict[str, Any]:
        """Returns the slice as `evaluation.json` holds it."""
        return {"impressions": self.impressions, "tasks": tasks_to_json(self.tasks)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "SliceMetrics":
        """Returns the slice that `to_json` wrote."""
        return cls(impressions=tree["impressions"], tasks=tasks_from_json(tree["tasks"]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricDifference:
    """A metric of a baseline, and what is to be added to it; None where it is not defined."""

    baseline: float | None
    difference: float | None
    interval: Interval | None
    p_value: float | None

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "MetricDifference":
        """Returns the difference that `dataclasses.asdict` made a tree of."""
        return cls(**{**tree, "interval": _interval(tree["interval"])})


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaselineComparison:
    """How the metrics of each task differ from those of a baseline, which is named by its path."""

    baseline: str
    tasks: Mapping[str, Mapping[str, MetricDifference]]

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "BaselineComparison":
        """Returns the comparison that `dataclasses.asdict` made a tree of."""
        tasks = {
            task: {name: MetricDifference.from_json(change) for name, change in changes.items()}
            for task, changes in tree["tasks"].items()
        }
        return cls(baseline=tree["baseline"], tasks=tasks)


def tasks_to_json(tasks: Mapping[str, TaskMetrics]) -> dict[str, Any]:
    """Returns tasks, by their names, as `evaluation.json` holds them."""
    return {name: metrics.to_json() for name, metrics in tasks.items()}


def tasks_from_json(tree: Mapping[str, Any]) -> dict[str, TaskMetrics]:
    """Returns the tasks that `tasks_to_json` wrote."""
    return {name: TaskMetrics.from_json(task) for name, task in tree.items()}


def shown_metrics(tasks: Iterable[TaskMetrics]) -> list[Metric]:
    """Returns the metrics that were measured of any of the tasks, defined or not."""
    measured = {name for task in tasks for name in task.intervals}
    return [metric for metric in METRICS if metric.name in measured]


def _curves(tree: Mapping[str, Any]) -> Curves:
    return Curves(
        reliability=[
            ReliabilityBin(**{**row, "label_interval": _interval(row["label_interval"])})
            for row in tree["reliability"]
        ],
        roc=Roc(**tree["roc"]),
        precision_recall=PrecisionRecall(**tree["precision_recall"]),
    )


def _interval(bounds: Sequence[float] | None) -> Interval | None:
    if bounds is None:
        return None
    low, high = bounds
    return low, high
