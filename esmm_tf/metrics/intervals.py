"""Confidence intervals of metrics from their influences, summed within groups.

The impressions of a user are not independent, and intervals that treated them so would be too
narrow. So the influences are summed within each group first, and the variance of the value is the
sum of squares of the groups' sums (for the AUC: DeLong et al., Biometrics 1988, and for groups
Obuchowski, Biometrics 1997; in general the infinitesimal jackknife of clusters).
"""

import dataclasses
import math
import statistics

import numpy as np

LEVEL = 0.95
MAX_CLUSTERS = 1 << 20

# The kind of a metric: the interval of a share stays within 0 and 1, that of a ratio above 0.
SHARE = "share"
RATIO = "ratio"
DIFFERENCE = "difference"

_QUANTILE = statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clusters:
    """The rows that count as one draw: the cluster of each row, int `[n]`, and how many there are.

    More than a million groups, or rows without groups, are spread over a million clusters: sums of
    independent draws are independent too, and an estimate stays small in memory.
    """

    index: np.ndarray
    number: int

    def sum(self, influence: np.ndarray) -> np.ndarray:
        """Returns the sums of `[n]` within each cluster, float64 `[number]`."""
        return np.bincount(self.index, influence, minlength=self.number)

    def sum_groups(self, influence: np.ndarray) -> np.ndarray:
        """Returns the sums of `[groups]` within each cluster, for groups numbered from 0."""
        if len(influence) <= self.number:
            return np.append(influence, np.zeros(self.number - len(influence)))
        return np.bincount(np.arange(len(influence)) % self.number, influence)


def number_groups(groups: np.ndarray) -> np.ndarray:
    """Returns the same groups numbered from 0 without gaps, int32 `[n]`.

    Rows of a group mostly stand together; therefore runs of rows are sorted instead of rows.

    >>> number_groups(np.array([70, 70, -3, 70])).tolist()
    [1, 1, 0, 1]
    """
    if len(groups) == 0:
        return np.zeros(0, np.int32)
    starts = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    numbers = np.unique(groups[starts], return_inverse=True)[1].reshape(-1).astype(np.int32)
    return np.repeat(numbers, np.diff(np.append(starts, len(groups))))


def clusters_of(groups: np.ndarray) -> Clusters:
    """Returns the clusters of rows whose groups are numbered from 0, `[n]`."""
    number = min(int(groups.max()) + 1 if len(groups) else 0, MAX_CLUSTERS)
    index = groups % MAX_CLUSTERS if number == MAX_CLUSTERS else groups
    return Clusters(index=index, number=number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A metric's value and the influence of each cluster on it, float64 `[clusters]`."""

    value: float
    influence: np.ndarray
    kind: str

    @property
    def standard_error(self) -> float:
        """Returns the standard deviation of the value; NaN with fewer than two clusters."""
        number = len(self.influence)
        if number < 2 or math.isnan(self.value):
            return math.nan
        return math.sqrt(float(np.square(self.influence).sum()) * number / (number - 1))

    def interval(self) -> tuple[float, float] | None:
        """Returns the 95 % confidence interval; None if the standard error is 0 or not known.

        It is symmetric on the scale of its kind: the logit of a share, the logarithm of a ratio.
        """
        error = self.standard_error
        if not error > 0:
            return None
        step = _QUANTILE * error
        if self.kind == SHARE and 0 < self.value < 1:
            odds = math.log(self.value / (1 - self.value))
            step /= self.value * (1 - self.value)
            return _sigmoid(odds - step), _sigmoid(odds + step)
        if self.kind == RATIO and self.value > 0:
            factor = math.exp(min(step / self.value, 700.0))
            return self.value / factor, self.value * factor
        return self.value - step, self.value + step

    def p_value(self) -> float | None:
        """Returns the two-sided p-value against a value of 0, by the normal distribution."""
        error = self.standard_error
        if not error > 0:
            return None
        return math.erfc(abs(self.value) / error / math.sqrt(2))

    def minus(self, other: "Estimate") -> "Estimate":
        """Returns the difference of two metrics of the same rows; shared noise cancels out."""
        return Estimate(
            value=self.value - other.value,
            influence=self.influence - other.influence,
            kind=DIFFERENCE,
        )


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
