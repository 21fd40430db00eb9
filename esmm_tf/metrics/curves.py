"""Data for the plots of a task: reliability by bin, ROC, precision and recall, histograms."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from esmm_tf.metrics import exact, intervals
from esmm_tf.metrics.intervals import SHARE, Estimate
from esmm_tf.metrics.task import Space

MAX_POINTS = 200
HISTOGRAM_BINS = 60
_WIDEST_LOGIT = 30.0
_NARROWEST_SPAN = 1e-3  # float32 cannot tell the edges of the bins apart within less


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Impressions of similar predictions: what was predicted, and what happened."""

    mean_prediction: float
    mean_label: float
    label_interval: tuple[float, float] | None
    impressions: int
    weight: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roc:
    """Points of a ROC curve, from (0, 0) to (1, 1); no points if either label is absent."""

    false_positive_rate: Sequence[float]
    true_positive_rate: Sequence[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Points of precision against recall, recall rising; no points without positives."""

    recall: Sequence[float]
    precision: Sequence[float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curves:
    """The curves that are drawn for a task."""

    reliability: Sequence[ReliabilityBin]
    roc: Roc
    precision_recall: PrecisionRecall


NO_CURVES = Curves(
    reliability=[],
    roc=Roc(false_positive_rate=[], true_positive_rate=[]),
    precision_recall=PrecisionRecall(recall=[], precision=[]),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogitHistogram:
    """The weight of clicked and of unclicked impressions in each bin between two logit edges."""

    clicked: Sequence[float]
    logit_edges: Sequence[float]
    unclicked: Sequence[float]


def build_curves(space: Space) -> Curves:
    """Returns the curves that are drawn for a space."""
    return Curves(
        reliability=reliability(space), roc=roc(space), precision_recall=precision_recall(space)
    )


def reliability(space: Space) -> list[ReliabilityBin]:
    """Returns mean prediction and mean label of up to 20 bins of about the same weight, rising.

    The interval of the mean label takes groups into account, as the intervals of metrics do.
    """
    weight = space.positives.astype(np.float64) + space.negatives
    predicted = np.bincount(space.bins, weight * space.probability)
    rows = np.bincount(space.bins)
    table = []
    for index in np.flatnonzero(np.bincount(space.bins, weight)):
        inside = np.flatnonzero(space.bins == index)
        total = float(weight[inside].sum())
        label = float(space.positives[inside].sum(dtype=np.float64)) / total
        influence = (space.positives[inside] - label * weight[inside]) / total
        clusters = intervals.clusters_of(intervals.number_groups(space.clusters.index[inside]))
        estimate = Estimate(value=label, influence=clusters.sum(influence), kind=SHARE)
        table.append(
            ReliabilityBin(
                mean_prediction=float(predicted[index]) / total,
                mean_label=label,
                label_interval=estimate.interval(),
                impressions=int(rows[index]),
                weight=total,
            )
        )
    return table


def roc(space: Space) -> Roc:
    """Returns up to 200 points of the ROC curve, from (0, 0) to (1, 1)."""
    ranking = space.ranking
    if ranking.num_positives * ranking.num_negatives == 0:
        return NO_CURVES.roc
    true = np.append(1 - ranking.positives_below / ranking.num_positives, 0.0)[::-1]
    false = np.append(1 - ranking.negatives_below / ranking.num_negatives, 0.0)[::-1]
    chosen = _evenly(true + false)
    return Roc(false_positive_rate=_clean(false[chosen]), true_positive_rate=_clean(true[chosen]))


def precision_recall(space: Space) -> PrecisionRecall:
    """Returns up to 200 points of precision against recall, recall rising."""
    ranking = space.ranking
    if ranking.num_positives == 0:
        return NO_CURVES.precision_recall
    true_positives = exact.sums_from_above(ranking.positives)[::-1]
    called = true_positives + exact.sums_from_above(ranking.negatives)[::-1]
    recall = true_positives / ranking.num_positives
    chosen = _evenly(recall)
    chosen = chosen[called[chosen] > 0]
    return PrecisionRecall(
        recall=_clean(recall[chosen]), precision=_clean(true_positives[chosen] / called[chosen])
    )


def histogram(logits: np.ndarray, click: np.ndarray, weight: np.ndarray | None) -> LogitHistogram:
    """Returns the histogram of the logits of clicked and of unclicked impressions, by weight."""
    logits = np.clip(logits, -_WIDEST_LOGIT, _WIDEST_LOGIT)
    span = (float(logits.min()), float(logits.max())) if len(logits) else (0.0, 1.0)
    if span[1] - span[0] < _NARROWEST_SPAN:
        span = (span[0] - 0.5, span[1] + 0.5)
    heights = {}
    for name, inside in (("clicked", click == 1), ("unclicked", click == 0)):
        chosen = None if weight is None else weight[inside]
        counts, edges = np.histogram(logits[inside], HISTOGRAM_BINS, range=span, weights=chosen)
        heights[name] = counts.tolist()
    return LogitHistogram(logit_edges=edges.tolist(), **heights)


def _evenly(rising: np.ndarray) -> np.ndarray:
    """Returns the indices of up to 200 values, evenly spread from the first to the last."""
    targets = np.linspace(rising[0], rising[-1], MAX_POINTS - 1)
    return np.unique(np.append(np.searchsorted(rising, targets), len(rising) - 1))


def _clean(values: np.ndarray) -> list[float]:
    """Returns the numbers clipped to [0, 1] and rounded to what a plot can show."""
    return np.clip(values, 0, 1).round(6).tolist()
