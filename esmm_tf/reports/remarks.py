"""What a reader of a report must know before any figure, and which differences are clear."""

import dataclasses
import math
from collections.abc import Iterator, Mapping

from esmm_tf.reports.evaluation_result import Evaluation
from esmm_tf.reports.task_metrics import MetricDifference, TaskMetrics
from esmm_tf.reports.words import (
    HIGHER,
    LOWER,
    METRICS,
    ZERO,
    Metric,
    count,
    percent,
    task_title,
)

FEW_POSITIVES = 100

# The others follow from these: regret from log loss, bias from calibration.
_COMPARED = tuple(
    metric
    for metric in METRICS
    if metric.name
    in ("auc", "gauc", "average_precision", "log_loss", "normalized_entropy", "calibration")
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remark:
    """A sentence not to be missed; `kind` is `warning`, `worse`, `better`, `note`."""

    kind: str
    text: str


def verdict(metric: Metric, change: MetricDifference) -> str:
    """Returns what the interval of a difference tells about it.

    `unclear` where the interval holds 0, else `better` or `worse`. A metric with its best value in
    the middle has `changed` where part of the interval is nearer to that value than the baseline
    and part is farther: a model that promised too much may now promise too little.
    """
    interval, baseline = change.interval, change.baseline
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "unclear"
    if metric.aim in (HIGHER, LOWER):
        return "better" if (interval[0] > 0) == (metric.aim == HIGHER) else "worse"
    if baseline is None:
        return "changed"
    nearer = {_miss(metric, baseline + bound) < _miss(metric, baseline) for bound in interval}
    return "changed" if len(nearer) == 2 else "better" if nearer == {True} else "worse"


def _miss(metric: Metric, value: float) -> float:
    """Returns how far a value is from its best one; 2 and 0.5 are equally far from 1."""
    if metric.aim == ZERO:
        return abs(value)
    return abs(math.log(value)) if value > 0 else math.inf


def find(evaluation: Evaluation) -> list[Remark]:
    """Returns what a reader must know before any figure, the gravest first."""
    return [
        *_data_remarks(evaluation),
        *_task_remarks(evaluation.tasks),
        *_comparison_remarks(evaluation),
    ]


def _data_remarks(evaluation: Evaluation) -> Iterator[Remark]:
    used = evaluation.origin.used_in_training if evaluation.origin else None
    if used:
        yield Remark(
            kind="warning",
            text=f"The model has seen these data ({', '.join(used)}). The figures are "
            "better than they will be on new data.",
        )


def _task_remarks(tasks: Mapping[str, TaskMetrics]) -> Iterator[Remark]:
    for task, metrics in tasks.items():
        if metrics.impressions == 0:
            yield Remark(kind="warning", text=f"{task_title(task)} has no impressions.")
        elif metrics.positives < FEW_POSITIVES:
            yield Remark(
                kind="warning",
                text=f"{task_title(task)} has only {count(metrics.positives)} positives: its "
                "figures say little.",
            )
        if metrics.predictions_above_1:
            share = metrics.predictions_above_1 / metrics.impressions
            yield Remark(
                kind="warning",
                text=f"{task_title(task)} exceeds 1 for {percent(share)} of the impressions: it is "
                "a ratio of two models. It has no log loss; a server cuts it off.",
            )
        yield from _order_remarks(task, metrics)
        ratio, interval = metrics.calibration, metrics.intervals.get("calibration")
        if ratio is not None and interval is not None and not interval[0] <= 1 <= interval[1]:
            direction = "high" if ratio > 1 else "low"
            yield Remark(
                kind="warning",
                text=f"{task_title(task)} predicts {percent(abs(ratio - 1))} too {direction} on "
                f"average: calibration {metrics.in_words('calibration')}.",
            )


def _comparison_remarks(evaluation: Evaluation) -> Iterator[Remark]:
    if evaluation.comparison is None:
        return
    by_verdict: dict[str, list[str]] = {"worse": [], "better": [], "changed": []}
    for task, changes in evaluation.comparison.tasks.items():
        verdicts = {m.title: verdict(m, changes[m.name]) for m in _COMPARED if m.name in changes}
        for kind, parts in by_verdict.items():
            titles = ", ".join(title for title, judged in verdicts.items() if judged == kind)
            parts.extend([f"{task_title(task)} ({titles})"] if titles else [])
    for kind in ("worse", "better"):
        if by_verdict[kind]:
            text = f"Clearly {kind} than the baseline: {', '.join(by_verdict[kind])}."
            yield Remark(kind=kind, text=text)
    if by_verdict["changed"]:
        text = (
            f"Clearly not as the baseline, for better or worse: {', '.join(by_verdict['changed'])}."
        )
        yield Remark(kind="note", text=text)
    if not any(by_verdict.values()):
        titles = ", ".join(metric.title for metric in _COMPARED)
        yield Remark(kind="note", text=f"No clear difference from the baseline in {titles}.")


def _order_remarks(task: str, metrics: TaskMetrics) -> Iterator[Remark]:
    interval = metrics.intervals.get("auc")
    if interval is not None and interval[0] <= 0.5:
        yield Remark(
            kind="warning",
            text=f"{task_title(task)} may rank no better than a coin: AUC "
            f"{metrics.in_words('auc')}.",
        )
