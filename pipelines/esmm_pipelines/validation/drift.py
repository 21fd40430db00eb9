"""The differences between two data sets, each beside the noise of samples of these sizes.

Ids: the L-infinity distance of the shares of their values, the largest change of any share, as
TensorFlow Data Validation takes it, and the share of values that the baseline lacks. Numbers:
the Jensen-Shannon divergence in bits, 0 to 1, over about 20 cells that hold equally many numbers
of the baseline. Both: coverage. Labels: their rates.

A difference counts only as far as it is beyond `NOISE` = 4 standard errors of what two samples of
the same distribution differ by. Samples are drawn by group, not by impression: the impressions of
a group are alike, so that their number says little. The errors of rates and coverage are estimated
from the groups themselves; a share of values has the error of one value per group.
"""

import dataclasses
import math

import numpy as np

from esmm_pipelines.validation.statistics import (
    DataStatistics,
    FeatureStatistics,
    Frequencies,
    Histogram,
    Rate,
    count_cells,
)

NOISE = 4.0

RATES_OF_ALL = ("click_rate", "conversion_rate")
L_INFINITY = "l_infinity"
JENSEN_SHANNON = "jensen_shannon"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One rate in both data sets; `beyond_noise` is the part of its change that is no noise.

    It has the sign of the change. The values are None if there was nothing to divide by.
    """

    name: str
    value: float | None
    baseline: float | None
    beyond_noise: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distance:
    """How far two distributions are apart, in `[0, 1]`.

    `where` is the id whose share changed most beyond noise, with its shares in both data sets.
    """

    measure: str
    value: float
    beyond_noise: float
    where: str | None = None
    share: float | None = None
    baseline_share: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureDifference:
    """How one feature differs. `is_gone`: only the baseline has it; `is_new`: only this set.

    `distance` is None if a side has no values, or if the two are of different kinds (`is_retyped`);
    `unseen` is the share of values that the baseline lacks, None where that is not known.
    """

    name: str
    is_gone: bool = False
    is_new: bool = False
    is_retyped: bool = False
    coverage: Change | None = None
    distance: Distance | None = None
    unseen: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Differences:
    """How a data set differs from a baseline.

    `is_sampled_alike` says that both keep unclicked impressions with one probability. Otherwise
    labels differ by that alone, and only their rates among clicks are compared.
    """

    baseline: str
    is_sampled_alike: bool
    labels: tuple[Change, ...]
    features: tuple[FeatureDifference, ...]


def compare_statistics(statistics: DataStatistics, baseline: DataStatistics) -> Differences:
    """Returns how a data set differs from the baseline, feature by feature.

    `statistics` must hold all values, as the collector gives them; those of the baseline may be
    cut, as a file holds them.
    """
    before = {feature.name: feature for feature in baseline.features}
    now = {feature.name for feature in statistics.features}
    features = [_compare_feature(f, before.get(f.name)) for f in statistics.features]
    features += [FeatureDifference(name=n, is_gone=True) for n in before if n not in now]
    is_sampled_alike = statistics.negative_keep_rate == baseline.negative_keep_rate
    labels = [
        _change(name, getattr(statistics.labels, name), getattr(baseline.labels, name))
        for name in (*(RATES_OF_ALL if is_sampled_alike else ()), "conversion_rate_clicked")
    ]
    return Differences(
        baseline=baseline.files,
        is_sampled_alike=is_sampled_alike,
        labels=tuple(labels),
        features=tuple(features),
    )


def _change(name: str, now: Rate, before: Rate) -> Change:
    errors = (now.standard_error, before.standard_error)
    change, beyond = (now.value or 0.0) - (before.value or 0.0), 0.0
    if None not in (*errors, now.value, before.value):
        noise = NOISE * math.hypot(*(error or 0.0 for error in errors))
        beyond = math.copysign(max(abs(change) - noise, 0.0), change)
    return Change(name=name, value=now.value, baseline=before.value, beyond_noise=beyond)


def _compare_feature(
    feature: FeatureStatistics, before: FeatureStatistics | None
) -> FeatureDifference:
    if before is None:
        return FeatureDifference(name=feature.name, is_new=True)
    coverage = _change("coverage", feature.coverage, before.coverage)
    is_retyped = (feature.dtype, feature.is_number) != (before.dtype, before.is_number)
    distance, unseen = None, None
    if not is_retyped and min(feature.coverage.value or 0, before.coverage.value or 0) > 0:
        distance, unseen = _distance(feature, before)
    return FeatureDifference(
        name=feature.name,
        is_retyped=is_retyped,
        coverage=coverage,
        distance=distance,
        unseen=unseen,
    )


def _distance(
    feature: FeatureStatistics, before: FeatureStatistics
) -> tuple[Distance | None, float | None]:
    """Returns the distance and the share of unseen values."""
    inverse_sizes = 1 / feature.effective_groups + 1 / before.effective_groups
    if feature.frequencies is None:
        return None, None
    if before.histogram is not None:
        return divergence(feature.frequencies, before.histogram, inverse_sizes), None
    if before.frequencies is None:
        return None, None
    distance = largest_change(feature.frequencies, before.frequencies, inverse_sizes)
    return distance, unseen_share(feature.frequencies, before.frequencies)


def largest_change(now: Frequencies, before: Frequencies, inverse_sizes: float) -> Distance:
    """Returns the L-infinity distance of the shares of values.

    A value that the baseline's file leaves out counts with the least change that is possible.

    Args:
      now: all values.
      before: all values, or the most frequent ones.
      inverse_sizes: the sum of 1/n of both, where n is the number of independent values.
    """
    values = np.union1d(now.values, before.values)
    shares, before_shares = _shares(now, values), _shares(before, values)
    if not before.is_complete:
        most = float(before.counts.min()) / before.total
        left_out = ~np.isin(values, before.values)
        before_shares = np.where(left_out, np.minimum(shares, most), before_shares)
    changes = np.abs(shares - before_shares)
    pooled = (shares + before_shares) / 2
    noise = NOISE * np.sqrt(pooled * (1 - pooled) * inverse_sizes)
    index = int(np.argmax(changes - noise))
    value = values[index]
    return Distance(
        measure=L_INFINITY,
        value=float(changes.max()),
        beyond_noise=max(float(changes[index] - noise[index]), 0.0),
        where=value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value),
        share=float(shares[index]),
        baseline_share=float(before_shares[index]),
    )


def unseen_share(now: Frequencies, before: Frequencies) -> float | None:
    """Returns the share of values that the baseline lacks, if all of the baseline's are known."""
    if not before.is_complete:
        return None
    return float(now.counts[~np.isin(now.values, before.values)].sum() / now.total)


def divergence(now: Frequencies, before: Histogram, inverse_sizes: float) -> Distance:
    """Returns the Jensen-Shannon divergence in bits over the cells of the baseline.

    Between samples of one distribution, 8 ln 2 times the divergence, divided by `inverse_sizes`,
    follows the chi-squared distribution, with one degree of freedom less than there are cells.
    """
    pair = [count_cells(now, before.edges), before.counts]
    shares = np.stack([counts / counts.sum() for counts in pair])
    mean = shares.mean(axis=0)
    ratio = np.divide(shares, mean, out=np.ones_like(shares), where=shares > 0)
    value = float(np.sum(shares * np.log2(ratio)) / 2)
    freedom = max(int(np.sum(mean > 0)) - 1, 1)
    noise = (freedom + NOISE * math.sqrt(2 * freedom)) * inverse_sizes / (8 * math.log(2))
    return Distance(
        measure=JENSEN_SHANNON, value=max(value, 0.0), beyond_noise=max(value - noise, 0.0)
    )


def _shares(frequencies: Frequencies, values: np.ndarray) -> np.ndarray:
    """Returns the share of each of `values`, among which are all values of `frequencies`."""
    shares = np.zeros(len(values))
    shares[np.searchsorted(values, frequencies.values)] = frequencies.counts / frequencies.total
    return shares
