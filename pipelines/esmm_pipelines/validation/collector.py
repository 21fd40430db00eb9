"""The statistics of a data set from one pass over its batches."""

import dataclasses
import math

import numpy as np

from esmm_pipelines.validation.statistics import (
    DataStatistics,
    FeatureStatistics,
    Frequencies,
    LabelStatistics,
    Numbers,
    Range,
    Rate,
    build_histogram,
)
from esmm_tf.data.numpy_batches import FeatureRows, NumpyBatch, is_number
from esmm_tf.data.tally import Tally, shorten_numbers
from esmm_tf.schema import vocabulary_file
from esmm_tf.schema.columns import INT64, IdentityColumn, VocabularyColumn
from esmm_tf.schema.schema import Feature, Schema

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Collector:
    """Adds up batches.

    Memory: 16 bytes per distinct id of each feature, four times that while merging.
    """

    def __init__(self, schema: Schema) -> None:
        self._labels = _LabelCollector()
        self._features = [_FeatureCollector(feature) for feature in schema.features]

    def add(self, batch: NumpyBatch) -> None:
        """Adds a batch."""
        self._labels.add(batch)
        for feature in self._features:
            feature.add(batch)

    def result(self, files: str) -> DataStatistics:
        """Returns the statistics of what was added; `files` names the data set in messages."""
        features = tuple(feature.result() for feature in self._features)
        return DataStatistics(files=files, labels=self._labels.result(), features=features)


class _Ratio:
    """The sum of x over groups divided by that of y, with the error of a sample of whole groups."""

    def __init__(self) -> None:
        self._groups = 0
        self._moments = np.zeros([2, 2])  # of x and y
        self.sums = np.zeros(2)

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        pairs = np.stack([x, y]).astype(np.float64)
        self._groups += len(x)
        self._moments += pairs @ pairs.T
        self.sums += pairs.sum(axis=1)

    def rate(self) -> Rate:
        x, y = self.sums
        if y == 0:
            return Rate(value=None, standard_error=None)
        if self._groups < 2:
            return Rate(value=x / y, standard_error=None)
        residual = np.array([1.0, -x / y])
        variance = max(residual @ self._moments @ residual, 0.0) / y**2
        correction = self._groups / (self._groups - 1)
        return Rate(value=x / y, standard_error=math.sqrt(variance * correction))

    def effective_size(self) -> float:
        """Returns the number of groups with equal y that would vary as these do (Kish)."""
        return float(self.sums[1] ** 2 / self._moments[1, 1]) if self._moments[1, 1] else 0.0


class _LabelCollector:
    """Counts labels."""

    def __init__(self) -> None:
        self._click, self._conversion, self._clicked = _Ratio(), _Ratio(), _Ratio()
        self._groups = self._unnested = self._not_binary = 0
        self._weight_sum: float | None = None

    def add(self, batch: NumpyBatch) -> None:
        size = batch.sum_by_group(np.ones_like(batch.click))
        clicks, conversions = batch.sum_by_group(batch.click), batch.sum_by_group(batch.conversion)
        self._groups += batch.num_groups
        self._click.add(clicks, size)
        self._conversion.add(conversions, size)
        self._clicked.add(conversions, clicks)
        self._unnested += int(np.sum((batch.conversion != 0) & (batch.click == 0)))
        labels = np.stack([batch.click, batch.conversion])
        self._not_binary += int(np.sum((labels != 0) & (labels != 1)))
        if batch.example_weight is not None:
            total = float(batch.example_weight.sum(dtype=np.float64))
            self._weight_sum = (self._weight_sum or 0.0) + total

    def result(self) -> LabelStatistics:
        clicks, impressions = self._click.sums
        return LabelStatistics(
            groups=self._groups,
            impressions=int(impressions),
            clicks=int(clicks),
            conversions=int(self._conversion.sums[0]),
            click_rate=self._click.rate(),
            conversion_rate=self._conversion.rate(),
            conversion_rate_clicked=self._clicked.rate(),
            unnested=self._unnested,
            not_binary=self._not_binary,
            weight_sum=self._weight_sum,
        )


class _Spread:
    """Smallest, largest, mean and variance of numbers, merged by Chan et al. (1979)."""

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0
        self._min, self._max = math.inf, -math.inf

    def add(self, values: np.ndarray) -> None:
        if len(values) == 0:
            return
        values = values.astype(np.float64)
        count, mean = self._count + len(values), float(values.mean())
        shift = mean - self._mean
        self._squares += float(np.square(values - mean).sum())
        self._squares += shift**2 * self._count * len(values) / count
        self._mean += shift * len(values) / count
        self._count = count
        self._min = min(self._min, float(values.min()))
        self._max = max(self._max, float(values.max()))

    def range(self) -> Range | None:
        """Returns None if nothing was added."""
        if self._count == 0:
            return None
        return Range(min=self._min, mean=self._mean, max=self._max)

    def stddev(self) -> float:
        return math.sqrt(self._squares / self._count) if self._count else 0.0


class _FeatureCollector:
    """Counts the values of one feature."""

    def __init__(self, feature: Feature) -> None:
        self._feature = feature
        self._is_number = is_number(feature)
        self._tally = Tally(1)
        self._coverage, self._sizes = _Ratio(), _Ratio()
        self._lengths, self._weights, self._numbers = _Spread(), _Spread(), _Spread()

    def add(self, batch: NumpyBatch) -> None:
        rows = batch.rows(self._feature)
        values = shorten_numbers(rows.values) if self._is_number else rows.values
        self._tally.add(values, np.ones([len(values), 1], np.int64))
        present = _sum_by_group(rows, rows.lengths > 0, batch.num_groups)
        num_rows = _sum_by_group(rows, np.ones_like(rows.lengths), batch.num_groups)
        self._coverage.add(present, num_rows)
        self._sizes.add(present, _sum_by_group(rows, rows.lengths, batch.num_groups))
        self._lengths.add(rows.lengths)
        if rows.weights is not None:
            self._weights.add(rows.weights)
        if self._is_number:
            self._numbers.add(rows.values)

    def result(self) -> FeatureStatistics:
        feature = self._feature
        values, sums = self._tally.result()
        frequencies = Frequencies(values, sums[:, 0], int(sums.sum()))
        has_numbers = self._is_number and len(values) > 0
        return FeatureStatistics(
            name=feature.name,
            side=feature.side,
            dtype=feature.dtype,
            is_number=self._is_number,
            rows=int(self._coverage.sums[1]),
            coverage=self._coverage.rate(),
            values_per_row=self._lengths.range() or Range(min=0, mean=0, max=0),
            effective_groups=self._sizes.effective_size(),
            distinct_ids=None if self._is_number else len(values),
            out_of_vocabulary=_out_of_vocabulary(feature, frequencies),
            weights=self._weights.range(),
            numbers=self._distribution(frequencies) if has_numbers else None,
            frequencies=frequencies,
            histogram=build_histogram(frequencies) if has_numbers else None,
        )

    def _distribution(self, frequencies: Frequencies) -> Numbers:
        ends = np.cumsum(frequencies.counts)
        wanted = np.array(_QUANTILES) * frequencies.total
        indices = np.searchsorted(ends, wanted, side="left")
        quantiles = frequencies.values[indices].astype(np.float64)
        return Numbers(
            **dataclasses.asdict(self._numbers.range() or Range(min=0, mean=0, max=0)),
            stddev=self._numbers.stddev(),
            quantiles={str(q): float(v) for q, v in zip(_QUANTILES, quantiles, strict=True)},
        )


def _sum_by_group(rows: FeatureRows, values: np.ndarray, num_groups: int) -> np.ndarray:
    return np.bincount(rows.group, weights=values, minlength=num_groups)


def _out_of_vocabulary(feature: Feature, frequencies: Frequencies) -> float | None:
    """Returns the share of values without a row of their own; None if that is unknown."""
    column, values = feature.column, frequencies.values
    if frequencies.total == 0:
        return None
    if isinstance(column, IdentityColumn):
        known = (values >= 0) & (values < column.vocabulary_size)
    elif isinstance(column, VocabularyColumn):
        known = np.isin(values, _vocabulary(column, feature.dtype))
    else:
        return None
    return float(frequencies.counts[~known].sum() / frequencies.total)


def _vocabulary(column: VocabularyColumn, dtype: str) -> np.ndarray:
    values: list[int | str] = list(column.values)
    if column.file is not None:
        values = list(vocabulary_file.read_values(column.file))
    if dtype == INT64:
        return np.array([int(value) for value in values], np.int64)
    return np.array([str(value).encode() for value in values], dtype=object)
