"""One task measured over the impressions of its space: every metric with its influences."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import numpy as np

from esmm_tf.metrics import exact, intervals
from esmm_tf.metrics.exact import Measured
from esmm_tf.metrics.intervals import DIFFERENCE, RATIO, SHARE, Estimate
from esmm_tf.metrics.ranking import Ranking

NUM_BINS = 20
MIN_CLUSTERS = 10

_KINDS = {
    "auc": SHARE,
    "gauc": SHARE,
    "average_precision": SHARE,
    "log_loss": RATIO,
    "normalized_entropy": RATIO,
    "calibration": RATIO,
    "expected_calibration_error": RATIO,
    "bias": DIFFERENCE,
    "oracle_auc": SHARE,
    "oracle_log_loss": RATIO,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """The impressions that a task is measured over, arrays `[n]`.

    Args:
      logits: logits of the predictions, float32, or their logarithms if `is_log`.
      positives: weight as a positive, float64, or uint8 if every weight is 1.
      negatives: weight as a negative, likewise.
      num_positives: number of positives, unweighted.
      groups: the group of each row, numbered from 0, or None if there are no groups.
      has_gauc: whether to measure GAUC, which needs labels of 0 or 1.
      truth: the true probability, if it is known.
      is_log: whether predictions are ratios, which may exceed 1 and then have no log loss.
    """

    logits: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    num_positives: float
    groups: np.ndarray | None = None
    has_gauc: bool = True
    truth: np.ndarray | None = None
    is_log: bool = False

    @functools.cached_property
    def ranking(self) -> Ranking:
        """Returns the rows in the order of their logits."""
        return Ranking(self.logits, self.positives, self.negatives)

    @functools.cached_property
    def probability(self) -> np.ndarray:
        """Returns the predictions, float64."""
        if self.is_log:
            return np.exp(self.logits, dtype=np.float64)
        return exact.sigmoid(self.logits)

    def losses(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the loss of each row as a positive and as a negative, float64; NaN above 1."""
        if self.is_log:
            return exact.losses_of_probability(
                np.where(self.probability > 1, math.nan, self.probability)
            )
        return exact.losses(self.logits)

    @functools.cached_property
    def bins(self) -> np.ndarray:
        """Returns the reliability bin of each row."""
        return exact.equal_mass_bins(self.ranking, NUM_BINS)

    @functools.cached_property
    def clusters(self) -> intervals.Clusters:
        """Returns the clusters that count as one draw: the groups, or else the rows."""
        rows = np.arange(len(self.logits)) if self.groups is None else self.groups
        return intervals.clusters_of(rows)

    @functools.cached_property
    def has_intervals(self) -> bool:
        """Returns whether at least 10 clusters hold positives, and 10 negatives."""
        return all(
            np.count_nonzero(self.clusters.sum(weights)) >= MIN_CLUSTERS
            for weights in (self.positives, self.negatives)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """The metrics of a space, and its counts."""

    estimates: Mapping[str, Estimate]
    counts: Mapping[str, float]


def measure(space: Space) -> Measurement:
    """Returns every metric of a space; what is not defined is NaN."""
    estimates = _order_metrics(space) | _probability_metrics(space)
    counts: dict[str, float] = {
        "impressions": len(space.logits),
        "positives": space.num_positives,
    }
    if space.is_log:
        counts["predictions_above_1"] = int(np.count_nonzero(space.probability > 1))
    if space.groups is not None and space.has_gauc:
        value, influence, counted, skipped = exact.grouped_auc(space.ranking, space.groups)
        by_cluster = space.clusters.sum_groups(influence)
        estimates["gauc"] = _estimate(space, "gauc", value, by_cluster)
        counts |= {"gauc_groups": counted, "gauc_groups_skipped": skipped}
    if space.truth is not None:
        estimates |= _oracle_metrics(space, space.truth, estimates)
    return Measurement(estimates=estimates, counts=counts)


def _order_metrics(space: Space) -> dict[str, Estimate]:
    return {
        "auc": _by_cluster(space, "auc", exact.auc(space.ranking)),
        "average_precision": _by_cluster(
            space, "average_precision", exact.average_precision(space.ranking)
        ),
    }


def _probability_metrics(space: Space) -> dict[str, Estimate]:
    sides = (space.positives, space.negatives)
    loss = exact.log_loss(space.losses(), *sides)
    estimates = {
        "log_loss": _by_cluster(space, "log_loss", loss),
        "normalized_entropy": _by_cluster(
            space, "normalized_entropy", exact.normalized_entropy(loss, *sides)
        ),
    }
    del loss
    ratio = exact.calibration(space.probability, *sides)
    estimates["calibration"] = _by_cluster(space, "calibration", ratio)
    error = exact.expected_calibration_error(space.probability, *sides, bins=space.bins)
    estimates["expected_calibration_error"] = _by_cluster(
        space, "expected_calibration_error", error
    )
    return estimates


def _oracle_metrics(
    space: Space, truth: np.ndarray, estimates: Mapping[str, Estimate]
) -> dict[str, Estimate]:
    """Returns the metrics that need the true probability of each row."""
    sides = (space.positives, space.negatives)
    weight = space.positives + space.negatives
    best = _by_cluster(space, "oracle_auc", exact.auc(Ranking(truth, *sides)))
    best_loss = _by_cluster(
        space,
        "oracle_log_loss",
        exact.log_loss(exact.losses_of_probability(truth), *sides),
    )
    bias = exact.bias(space.probability, weight * truth, weight * (1 - truth))
    return {
        "oracle_auc": best,
        "way_to_oracle": _way(estimates["auc"], best),
        "oracle_log_loss": best_loss,
        "regret": estimates["log_loss"].minus(best_loss),
        "bias": _by_cluster(space, "bias", bias),
    }


def _way(auc: Estimate, best: Estimate) -> Estimate:
    """Returns which share of the way from 0.5 to the best AUC an AUC covers."""
    whole = best.value - 0.5
    if whole == 0:
        return Estimate(value=math.nan, influence=auc.influence, kind=DIFFERENCE)
    way = (auc.value - 0.5) / whole
    influence = (auc.influence - way * best.influence) / whole
    return Estimate(value=way, influence=influence, kind=DIFFERENCE)


def _by_cluster(space: Space, name: str, measured: Measured) -> Estimate:
    value, influence = measured
    return _estimate(space, name, value, space.clusters.sum(influence))


def _estimate(space: Space, name: str, value: float, by_cluster: np.ndarray) -> Estimate:
    """Returns an estimate; with too few positives or negatives its influences are not known."""
    if not space.has_intervals:
        by_cluster = np.full(len(by_cluster), math.nan)
    return Estimate(value=value, influence=by_cluster, kind=_KINDS[name])
