"""An evaluation: what was measured of a model on which data, as `evaluation.json` holds it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from esmm_tf import keys
from esmm_tf.errors import UserError
from esmm_tf.metrics.curves import LogitHistogram
from esmm_tf.reports import evaluation_text
from esmm_tf.reports.task_metrics import (
    BaselineComparison,
    SliceMetrics,
    TaskMetrics,
    tasks_from_json,
    tasks_to_json,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntervalMethod:
    """The confidence level of all intervals, and how they were made."""

    level: float
    method: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Which model was measured on which files, and what is known of both.

    Args:
      model_dir: of the model.
      weights: that were measured.
      files: that were read.
      negative_keep_rate: share of the unclicked impressions that they hold.
      calibration: method of each map in the model.
      used_in_training: what the files were used for before; None where it is not known.
      trained_impressions_per_second: of the last epoch; None after an epoch of one batch.
    """

    model_dir: str
    weights: str
    files: Sequence[str]
    negative_keep_rate: float
    calibration: Mapping[str, str]
    used_in_training: Sequence[str] | None
    trained_impressions_per_second: float | None


_COUNTS = ("data_hash", "impressions", "clicks", "conversions", "groups")
_ORIGIN = tuple(field.name for field in dataclasses.fields(Origin))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of each task, on all impressions and by slice.

    Args:
      data_hash: of labels and weights in their order.
      impressions: that were scored.
      clicks: of them.
      conversions: of them.
      groups: that they belong to; None where the schema has no group key.
      interval: of all metrics.
      tasks: by name.
      histograms: of the logits of each probability.
      slices: by field and value, the most frequent value first.
      origin: where model and data come from; None for scores alone.
      comparison: with a baseline, if there is one.
      written: files that hold it, `evaluation.json` first.
    """

    data_hash: str
    impressions: int
    clicks: int
    conversions: int
    groups: int | None
    interval: IntervalMethod
    tasks: Mapping[str, TaskMetrics]
    histograms: Mapping[str, LogitHistogram]
    slices: Mapping[str, Mapping[str, SliceMetrics]]
    origin: Origin | None = None
    comparison: BaselineComparison | None = None
    written: tuple[str, ...] = ()

    def table(self) -> str:
        """Returns the metrics as text: by task, beside the truth, by slice and by baseline."""
        parts = [evaluation_text.format_tasks(self.tasks)]
        if truth := evaluation_text.format_truth(self.tasks):
            parts.append(f"\nbeside the truth:\n{truth}\n")
        for field, by_value in self.slices.items():
            shown = evaluation_text.format_slices(by_value, field=field, tasks=self.tasks)
            parts.append(f"\n{shown}")
        if self.comparison is not None:
            parts.append(f"\ndifference from {self.comparison.baseline}:")
            parts.append(evaluation_text.format_comparison(self.comparison.tasks))
        return "\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `evaluation.json`."""
        tree = {
            "format_version": keys.EVALUATION_FORMAT_VERSION,
            "data_hash": self.data_hash,
            "impressions": self.impressions,
            "clicks": self.clicks,
            "conversions": self.conversions,
            "groups": self.groups,
            "interval": dataclasses.asdict(self.interval),
            "tasks": tasks_to_json(self.tasks),
            "histograms": {
                name: dataclasses.asdict(histogram) for name, histogram in self.histograms.items()
            },
            "slices": {
                field: {value: part.to_json() for value, part in by_value.items()}
                for field, by_value in self.slices.items()
            },
        }
        if self.origin is not None:
            tree |= dataclasses.asdict(self.origin)
        if self.comparison is not None:
            tree["comparison"] = dataclasses.asdict(self.comparison)
        return tree

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "Evaluation":
        """Returns the evaluation that `to_json` wrote.

        Raises:
          UserError: if the evaluation has another format.
        """
        version = tree.get("format_version")
        if version != keys.EVALUATION_FORMAT_VERSION:
            raise UserError(
                f"The evaluation has format_version {version!r}; this release reads "
                f"{keys.EVALUATION_FORMAT_VERSION}. Evaluate the model again."
            )
        has_origin, comparison = "model_dir" in tree, tree.get("comparison")
        return cls(
            **{name: tree[name] for name in _COUNTS},
            interval=IntervalMethod(**tree["interval"]),
            tasks=tasks_from_json(tree["tasks"]),
            histograms={
                name: LogitHistogram(**histogram) for name, histogram in tree["histograms"].items()
            },
            slices={
                field: {value: SliceMetrics.from_json(part) for value, part in by_value.items()}
                for field, by_value in tree["slices"].items()
            },
            origin=Origin(**{name: tree[name] for name in _ORIGIN}) if has_origin else None,
            comparison=None if comparison is None else BaselineComparison.from_json(comparison),
        )
