"""How well each feature alone predicts the labels: one that does so too well knows the answer.

An id is scored by its rate of the label, which is estimated on the *other* half of the groups (a
fixed coin decides) and smoothed towards the mean by 10 rows, so that ids which occur once tell
nothing. A row of many values has the mean of their rates, by weight; the rates themselves ignore
weights. Numbers are scored by themselves, upwards and downwards, and as if they were ids. A
missing value is a level of its own, and the number of values and the sum of the weights of a row
are numbers like others.
"""

import functools
from collections.abc import Iterable, Mapping

import numpy as np

from esmm_tf.data.numpy_batches import FeatureRows, NumpyBatch, is_number, read_batches
from esmm_tf.data.source import Source
from esmm_tf.data.tally import Tally, shorten_numbers
from esmm_tf.metrics import exact
from esmm_tf.schema.columns import BucketizedColumn
from esmm_tf.schema.record_field import MANY
from esmm_tf.schema.schema import Feature, Schema
from esmm_tf.training.findings import Finding

MIN_POSITIVES = 20

_PRIOR_ROWS = 10.0
_IMPRESSIONS, _CLICKS, _CONVERSIONS = 0, 1, 2
# Metric -> the outcome that it predicts, and the outcome that selects the impressions.
_TASKS = {
    "ctr_auc": (_CLICKS, _IMPRESSIONS),
    "ctcvr_auc": (_CONVERSIONS, _IMPRESSIONS),
    "cvr_auc_clicked": (_CONVERSIONS, _CLICKS),
}
METRICS = tuple(_TASKS)

# By feature and metric; None where positives or negatives are too few.
Aucs = Mapping[str, Mapping[str, float | None]]


def measure_leaks(source: Source, schema: Schema, *, impressions: int) -> Aucs:
    """Returns the AUCs of every feature, as `LeakMeter.result`, on the first impressions.

    Raises:
      UserError: if the records do not fit the schema or cannot be parsed.
    """
    read = functools.partial(read_batches, source, schema, impressions=impressions)
    meter = LeakMeter(schema)
    for batch in read():
        meter.add(batch)
    if meter.needs_scores:
        meter.score(read())
    return meter.result()


def describe_leaks(aucs: Aucs) -> str:
    """Returns one line: for each metric the largest AUC, and the feature that has it."""
    shown = []
    for metric in METRICS:
        known = {
            name: auc for name, by_metric in aucs.items() if (auc := by_metric[metric]) is not None
        }
        best = max(known, key=known.__getitem__, default=None)
        what = "too few positives" if best is None else f"{known[best]:.4f} ({best})"
        shown.append(f"{metric} {what}")
    return f"a feature alone reaches: {' | '.join(shown)}"


def largest_aucs(aucs: Aucs) -> dict[str, float]:
    """Returns the largest AUC of each feature for which one could be measured."""
    known = {
        name: [auc for auc in by_metric.values() if auc is not None]
        for name, by_metric in aucs.items()
    }
    return {name: max(values) for name, values in known.items() if values}


def judge_leaks(aucs: Aucs, leak_auc: float) -> Finding | None:
    """Returns what is wrong if features alone predict a label better than `leak_auc`."""
    leaks = [
        f"{name!r} has {metric} {auc:.4f}"
        for name, by_metric in aucs.items()
        for metric, auc in by_metric.items()
        if auc is not None and auc > leak_auc
    ]
    if not leaks:
        return None
    return Finding(
        guard="label_like_feature",
        message=f"A feature alone predicts a label with an AUC up to --leak_auc={leak_auc}, and "
        f"{', '.join(leaks)}. It knows the answer: remove it from the schema, or compute it from "
        "what is known before the impression.",
    )


class LeakMeter:
    """Measures all features: `add` every batch, then `score` every batch, then `result`.

    Memory: 56 bytes per distinct id of each feature, four times that while merging, and the
    distinct scores, which are shortened to 15 bits.
    """

    def __init__(self, schema: Schema) -> None:
        self._meters = {feature.name: _FeatureMeter(feature) for feature in schema.features}

    @property
    def needs_scores(self) -> bool:
        """Returns whether a feature has rows of many values, so that a second pass is needed."""
        return any(meter.has_many for meter in self._meters.values())

    def add(self, batch: NumpyBatch) -> None:
        """Adds the outcomes of each value."""
        for meter in self._meters.values():
            meter.add(batch)

    def score(self, batches: Iterable[NumpyBatch]) -> None:
        """Scores rows of many values by the outcomes of each; once all batches are added."""
        meters = [meter for meter in self._meters.values() if meter.has_many]
        for meter in meters:
            meter.estimate_rates()
        for batch in batches:
            for meter in meters:
                meter.score(batch)

    def result(self) -> dict[str, dict[str, float | None]]:
        """Returns the AUC of each metric by feature.

        None stands for fewer than 20 positives or negatives in one of the halves.
        """
        return {name: meter.result() for name, meter in self._meters.items()}


class _FeatureMeter:
    """Measures one feature. Outcomes are int64 `[values, 2 * 3]`: three of each half."""

    def __init__(self, feature: Feature) -> None:
        self._feature = feature
        self._is_number = is_number(feature)
        self.has_many = feature.values == MANY
        self._outcomes = Tally(6)
        self._missing = np.zeros([1, 6], np.int64)
        self._lengths, self._weights = Tally(6), Tally(6)
        self._values = np.zeros(0)
        self._rates: dict[tuple[str, int], tuple[np.ndarray, float]] = {}
        self._scored = {(task, half): Tally(2) for task in _TASKS for half in (0, 1)}

    def add(self, batch: NumpyBatch) -> None:
        rows = batch.rows(self._feature)
        outcomes = _by_half(rows)
        self._outcomes.add(self._shortened(rows.values), outcomes[rows.row_index])
        self._missing += outcomes[rows.lengths == 0].sum(axis=0, keepdims=True)
        if self.has_many:
            self._lengths.add(rows.lengths, outcomes)
        if rows.weights is not None:
            sums = np.bincount(rows.row_index, rows.weights, minlength=len(rows.lengths))
            self._weights.add(shorten_numbers(sums), outcomes)

    def estimate_rates(self) -> None:
        """Keeps, by task and half, the rates of values and of a missing one on the other half."""
        self._values, outcomes = self._outcomes.result()
        outcomes = np.concatenate([outcomes, self._missing]).reshape(-1, 2, 3)
        # A row of many values counts in each of them; the mean over rows is in the lengths.
        totals = self._lengths.result()[1].sum(axis=0).reshape(2, 3)
        for task, half in self._scored:
            rates = _rates(outcomes[:, 1 - half], task, mean=_mean(totals[1 - half], task))
            self._rates[task, half] = (rates[:-1], rates[-1])

    def score(self, batch: NumpyBatch) -> None:
        rows = batch.rows(self._feature)
        distinct, inverse = np.unique(self._shortened(rows.values), return_inverse=True)
        indices = np.searchsorted(self._values, distinct)[inverse.reshape(-1)]
        for (task, half), tally in self._scored.items():
            rates, missing_rate = self._rates[task, half]
            scores = _mean_by_row(rows, rates[indices], missing_rate)
            in_half = rows.half == half
            tally.add(shorten_numbers(scores[in_half]), _sides(rows.outcomes[in_half], task))

    def result(self) -> dict[str, float | None]:
        values, outcomes = self._outcomes.result()
        levels = np.concatenate([outcomes, self._missing]).reshape(-1, 2, 3)
        by_task: dict[str, list[float | None]] = {task: [] for task in _TASKS}
        for task, aucs in by_task.items():
            if self.has_many:
                aucs.append(self._scored_auc(task))
                aucs.append(_number_auc(*_numbers(self._lengths), task))
            else:
                aucs.append(_rate_auc(levels, task))
            if self._is_number and not self.has_many:
                aucs.append(_number_auc(values, levels, task))
            if self._feature.weighted:
                aucs.append(_number_auc(*_numbers(self._weights), task))
        return {
            task: max((auc for auc in aucs if auc is not None), default=None)
            for task, aucs in by_task.items()
        }

    def _shortened(self, values: np.ndarray) -> np.ndarray:
        column = self._feature.column
        if self.has_many and isinstance(column, BucketizedColumn):
            return np.searchsorted(column.boundaries, values, side="right")
        return shorten_numbers(values) if self._is_number else values

    def _scored_auc(self, task: str) -> float | None:
        halves = [self._scored[task, half].result() for half in (0, 1)]
        return _mean_auc([(scores, sides[:, 0], sides[:, 1]) for scores, sides in halves])


def _by_half(rows: FeatureRows) -> np.ndarray:
    """Returns the outcomes of rows, int64 `[rows, 6]`, in the three columns of their half."""
    is_second = rows.half[:, np.newaxis]
    return np.concatenate([rows.outcomes * (1 - is_second), rows.outcomes * is_second], axis=1)


def _numbers(tally: Tally) -> tuple[np.ndarray, np.ndarray]:
    """Returns numbers and their outcomes `[n + 1, 2, 3]`; the last, of missing ones, are 0."""
    values, outcomes = tally.result()
    return values, np.concatenate([outcomes, np.zeros([1, 6], np.int64)]).reshape(-1, 2, 3)


def _sides(outcomes: np.ndarray, task: str) -> np.ndarray:
    """Returns positives and negatives, `[..., 2]`, of outcomes `[..., 3]`."""
    positive, space = _TASKS[task]
    positives = outcomes[..., positive]
    negatives = np.maximum(outcomes[..., space] - positives, 0)  # below 0 if labels are unnested
    return np.stack([positives, negatives], axis=-1)


def _mean(outcomes: np.ndarray, task: str) -> float:
    positives, negatives = _sides(outcomes, task)
    return float(positives / max(positives + negatives, 1))


def _rates(outcomes: np.ndarray, task: str, *, mean: float) -> np.ndarray:
    """Returns the rate of positives of each row of `outcomes`, smoothed towards the mean."""
    sides = _sides(outcomes, task)
    return (sides[:, 0] + _PRIOR_ROWS * mean) / (sides.sum(axis=1) + _PRIOR_ROWS)


def _mean_by_row(rows: FeatureRows, rates: np.ndarray, missing_rate: float) -> np.ndarray:
    """Returns the mean of the rates of each row's values, by the absolute value of its weights."""
    num_rows, index = len(rows.lengths), rows.row_index
    weights = np.ones_like(rates) if rows.weights is None else np.abs(rows.weights)
    total = np.bincount(index, weights, minlength=num_rows)
    weights = np.where(total[index] == 0, 1.0, weights)
    total = np.bincount(index, weights, minlength=num_rows)
    sums = np.bincount(index, weights * rates, minlength=num_rows)
    return np.where(rows.lengths == 0, missing_rate, sums / np.maximum(total, 1e-30))


def _rate_auc(levels: np.ndarray, task: str) -> float | None:
    """Returns the AUC of rates of the other half, for values that are alone in their row."""
    halves = []
    for half in (0, 1):
        others = levels[:, 1 - half]
        rates = _rates(others, task, mean=_mean(others.sum(axis=0), task))
        sides = _sides(levels[:, half], task)
        halves.append((rates, sides[:, 0], sides[:, 1]))
    return _mean_auc(halves)


def _mean_auc(halves: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float | None:
    for _, positives, negatives in halves:
        if min(positives.sum(), negatives.sum()) < MIN_POSITIVES:
            return None
    return float(np.mean([exact.weighted_auc(*half) for half in halves]))


def _number_auc(values: np.ndarray, levels: np.ndarray, task: str) -> float | None:
    """Returns the best AUC of numbers, upwards or downwards, missing ones below or above all."""
    by_half = _sides(levels, task)
    if by_half.sum(axis=0).min() < MIN_POSITIVES:
        return None
    positives, negatives = by_half.sum(axis=1).T
    scores = [np.append(values, missing) for missing in (-np.inf, np.inf)]
    aucs = [exact.weighted_auc(score, positives, negatives) for score in scores]
    return max(max(auc, 1 - auc) for auc in aucs)
