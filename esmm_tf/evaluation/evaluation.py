"""A trained model measured: exact metrics with intervals for each task, over the space it names."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from esmm_tf import console, keys
from esmm_tf.evaluation.scores import Scores
from esmm_tf.metrics import curves, intervals
from esmm_tf.metrics.curves import LogitHistogram
from esmm_tf.metrics.ranking import packed_order
from esmm_tf.metrics.task import Measurement, Space, measure
from esmm_tf.reports.evaluation_result import Evaluation, IntervalMethod
from esmm_tf.reports.task_metrics import SliceMetrics, TaskMetrics

INTERVAL_METHOD = (
    "influence functions (for the AUC those of DeLong et al. 1988), summed within groups where the "
    "schema has a group key (Obuchowski 1997), normal on the logit scale for shares and on the log "
    "scale for ratios; null below 10 groups with a positive or with a negative"
)

SPACES = {
    keys.CTR: "all impressions",
    keys.CVR_CLICKED: "clicked impressions",
    keys.CTCVR: "all impressions",
    keys.CVR_ENTIRE: "all impressions, each a positive with its true conversion probability",
}


class MeasuredScores(NamedTuple):
    """An evaluation, and the measurements of its tasks, by which it is compared with another."""

    evaluation: Evaluation
    measurements: Mapping[str, Measurement]


def evaluate_scores(scores: Scores) -> MeasuredScores:
    """Returns the metrics of each task, on all impressions and by slice.

    The task `cvr_entire`, which no log can show, is there where the data holds the truth: it takes
    every impression as a positive with its true conversion probability.
    """
    measurements, tasks = {}, {}
    for task, build_space in _spaces(scores).items():
        space = build_space()
        measurements[task] = measure(space)
        tasks[task] = dataclasses.replace(
            _task_metrics(measurements[task]),
            space=SPACES[task],
            curves=curves.build_curves(space),
        )
    evaluation = Evaluation(
        data_hash=scores.data_hash(),
        impressions=len(scores),
        clicks=int(scores.click.sum(dtype=np.int64)),
        conversions=int(scores.conversion.sum(dtype=np.int64)),
        groups=scores.num_groups,
        interval=IntervalMethod(level=intervals.LEVEL, method=INTERVAL_METHOD),
        tasks=tasks,
        histograms=_histograms(scores),
        slices={name: _slice_metrics(scores, name) for name in scores.slices},
    )
    return MeasuredScores(evaluation, measurements)


def measure_tasks(scores: Scores) -> dict[str, Measurement]:
    """Returns the metrics of each task."""
    return {task: measure(build()) for task, build in _spaces(scores).items()}


def _spaces(scores: Scores) -> dict[str, Callable[[], Space]]:
    """Returns by task what builds its space: one at a time, since each takes memory."""
    build = functools.partial(_build_space, scores)
    spaces = {
        keys.CTR: lambda: build(scores.ctr_logits, scores.click, truth=_true(scores, keys.CTR)),
        keys.CVR_CLICKED: lambda: _clicked_space(scores),
        keys.CTCVR: lambda: build(
            scores.ctcvr_logits, scores.conversion, truth=_true(scores, keys.CTCVR)
        ),
    }
    truth = _true(scores, keys.CVR_ENTIRE)
    if truth is not None:
        spaces[keys.CVR_ENTIRE] = lambda: _cvr_space(scores, truth, truth=truth)
    return spaces


def _clicked_space(scores: Scores) -> Space:
    clicked = scores.take(np.flatnonzero(scores.click))
    truth = _true(clicked, keys.CVR_CLICKED)
    return _cvr_space(clicked, clicked.conversion, truth=truth)


def _cvr_space(scores: Scores, labels: np.ndarray, *, truth: np.ndarray | None) -> Space:
    if scores.divided is None:
        return _build_space(scores, scores.cvr_logits, labels, truth=truth)
    return _build_space(scores, scores.divided.cvr_log_ratio, labels, truth=truth, is_log=True)


def _build_space(
    scores: Scores,
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    truth: np.ndarray | None,
    is_log: bool = False,
) -> Space:
    """Returns the space of all the impressions, with one score and one label of each."""
    is_hard = labels.dtype == np.uint8
    if scores.weight is None and is_hard:
        positives, negatives = labels, 1 - labels
    else:
        weight = np.float64(1) if scores.weight is None else scores.weight.astype(np.float64)
        positives = weight * labels
        negatives = weight * (1 - labels.astype(np.float64))
    return Space(
        logits=logits,
        positives=positives,
        negatives=negatives,
        num_positives=float(labels.sum(dtype=np.float64)),
        groups=scores.group_numbers,
        has_gauc=is_hard,
        truth=truth,
        is_log=is_log,
    )


def _true(scores: Scores, task: str) -> np.ndarray | None:
    """Returns the true probability of what a task predicts, float64, where it is known."""
    if not scores.oracle:
        return None
    pctr, pcvr = (
        scores.oracle[name].astype(np.float64) for name in (keys.ORACLE_PCTR, keys.ORACLE_PCVR)
    )
    return {keys.CTR: pctr, keys.CTCVR: pctr * pcvr}.get(task, pcvr)


def _task_metrics(measurement: Measurement) -> TaskMetrics:
    estimates = measurement.estimates
    values: dict[str, Any] = {
        name: finite_or_none(estimate.value) for name, estimate in estimates.items()
    }
    values |= measurement.counts
    bounds = {name: estimate.interval() for name, estimate in estimates.items()}
    return TaskMetrics(**values, intervals=bounds)


def _histograms(scores: Scores) -> dict[str, LogitHistogram]:
    logits = {
        keys.PCTR: scores.ctr_logits,
        keys.PCVR: scores.cvr_logits,
        keys.PCTCVR: scores.ctcvr_logits,
    }
    return {name: curves.histogram(x, scores.click, scores.weight) for name, x in logits.items()}


def _slice_metrics(scores: Scores, name: str) -> dict[str, SliceMetrics]:
    """Returns counts and metrics by the value of a field, the most frequent value first."""
    by_value: dict[str, SliceMetrics] = {}
    with console.build_bar(len(scores), f"slices of {name}") as bar:
        for value, rows in _slice_rows(scores, name):
            part = scores.take(rows)
            tasks = {task: _task_metrics(m) for task, m in measure_tasks(part).items()}
            by_value[value] = SliceMetrics(impressions=len(rows), tasks=tasks)
            bar.update(len(rows))
    return dict(sorted(by_value.items(), key=lambda item: -item[1].impressions))


def _slice_rows(scores: Scores, name: str) -> Iterator[tuple[str, np.ndarray]]:
    slices = scores.slices[name]
    order = packed_order(slices.codes.astype(np.uint32))
    bounds = np.cumsum(np.bincount(slices.codes, minlength=len(slices.values)))[:-1]
    yield from zip(slices.values, np.split(order, bounds), strict=True)


def finite_or_none(value: float) -> float | None:
    """Returns what JSON can hold."""
    return value if math.isfinite(value) else None
