"""What is known of a data set: the statistics of its labels and features, and their JSON form."""

import dataclasses
from typing import Any

import numpy as np

from esmm_tf import files
from esmm_tf.schema.columns import STRING

FORMAT_VERSION = 1
NUM_TOP_VALUES = 10

_NUM_FREQUENT = 1000
_NUM_BINS = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    """A ratio of two sums over groups, and its standard error if there are two groups or more.

    The error is that of a sample of whole groups, so that it holds however alike the impressions of
    a group are. `value` is None if there is nothing to divide by.
    """

    value: float | None
    standard_error: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelStatistics:
    """Counts and rates of the labels.

    `conversion_rate` is over all impressions, `conversion_rate_clicked` over clicks;
    `unnested` counts conversions without a click, `not_binary` labels other than 0 and 1.
    """

    groups: int
    impressions: int
    clicks: int
    conversions: int
    click_rate: Rate
    conversion_rate: Rate
    conversion_rate_clicked: Rate
    unnested: int
    not_binary: int
    weight_sum: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Smallest, mean and largest of some numbers."""

    min: float
    mean: float
    max: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers:
    """The distribution of numbers; `quantiles` are exact to a relative 2**-15."""

    min: float
    mean: float
    max: float
    stddev: float
    quantiles: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Frequencies:
    """Distinct values, sorted, and how often each occurs.

    `total` also counts values that were left out; `is_complete` says that there are none.
    """

    values: np.ndarray
    counts: np.ndarray
    total: int
    is_complete: bool = True

    def most_frequent(self, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the values that occur most often and their counts, the most frequent first."""
        order = np.argsort(-self.counts, kind="stable")[:limit]
        return self.values[order], self.counts[order]


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of numbers in the cells that rising edges divide, one cell more than edges.

    The first and the last cell are open. A number equal to an edge is in the cell above it.
    """

    edges: np.ndarray
    counts: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FeatureStatistics:
    """What is known of one feature.

    A row is a group on the context side, an impression on the other. `coverage` is the share of
    rows with a value; `effective_groups` the number of equally long groups whose shares of values
    scatter as these do (Kish). `distinct_ids` and `out_of_vocabulary`, a share of the values, are
    None where a value is a number; `numbers` and `histogram` where it is an id. `frequencies` of
    numbers count shortened numbers, and stay out of the JSON form. `aucs` tell how well the feature
    alone predicts each label: None where too few rows have it, empty if not measured.
    """

    name: str
    side: str
    dtype: str
    is_number: bool
    rows: int
    coverage: Rate
    values_per_row: Range
    effective_groups: float
    distinct_ids: int | None
    out_of_vocabulary: float | None
    weights: Range | None
    numbers: Numbers | None
    frequencies: Frequencies | None
    histogram: Histogram | None
    aucs: dict[str, float | None] = dataclasses.field(default_factory=dict)

    def top_values(self) -> list[dict[str, Any]]:
        """Returns the most frequent ids, each with its count and share of all values."""
        if self.frequencies is None or self.is_number:
            return []
        values, counts = self.frequencies.most_frequent(NUM_TOP_VALUES)
        return [
            {"value": _to_json(value), "count": int(count), "share": count / self.frequencies.total}
            for value, count in zip(values, counts, strict=True)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DataStatistics:
    """What is known of one data set; `files` names it in messages.

    `negative_keep_rate` is the probability with which its unclicked impressions were kept.
    """

    files: str
    labels: LabelStatistics
    features: tuple[FeatureStatistics, ...]
    negative_keep_rate: float = 1.0


def build_histogram(frequencies: Frequencies) -> Histogram:
    """Returns a histogram of about 20 cells with equally many numbers each.

    A number that is as frequent as a cell has a cell of its own. Edges are numbers that occur, and
    one just above the largest: the two open cells are empty, and hold what is outside of this range
    in another data set.
    """
    ends = np.cumsum(frequencies.counts)
    wanted = np.arange(_NUM_BINS) * frequencies.total / _NUM_BINS
    frequent = np.flatnonzero(frequencies.counts * _NUM_BINS >= frequencies.total)
    starts = np.searchsorted(ends, wanted, side="right")
    starts = np.unique(np.concatenate([starts, frequent, frequent + 1]))
    starts = starts[starts < len(ends)]
    above = np.nextafter(frequencies.values[-1:], np.float32(np.inf), dtype=np.float32)
    edges = np.append(frequencies.values[starts], above).astype(np.float64)
    return Histogram(edges, count_cells(frequencies, edges))


def count_cells(frequencies: Frequencies, edges: np.ndarray) -> np.ndarray:
    """Returns how many of the numbers are in each cell between `edges`, int64."""
    cells = np.searchsorted(edges, frequencies.values, side="right")
    counts = np.zeros(len(edges) + 1, np.int64)
    np.add.at(counts, cells, frequencies.counts)
    return counts


def to_tree(statistics: DataStatistics) -> dict[str, Any]:
    """Returns the JSON form; it keeps the 1,000 most frequent ids of each feature."""
    return {
        "files": statistics.files,
        "negative_keep_rate": statistics.negative_keep_rate,
        "labels": dataclasses.asdict(statistics.labels),
        "features": [_feature_tree(feature) for feature in statistics.features],
    }


def write_json(tree: dict[str, Any], path: str) -> None:
    """Writes the JSON file under a temporary name and renames it."""
    files.write_json({"format_version": FORMAT_VERSION, **tree}, path)


def load_json(path: str) -> DataStatistics:
    """Returns the statistics that an earlier run wrote.

    Raises:
      UserError: if the file cannot be read, is damaged or is of another format.
    """
    remedy = "Write statistics with --output, or give --baseline a data set's directory."
    tree = files.read_json(path, version=FORMAT_VERSION, remedy=remedy)
    with files.told_as_damaged(path, remedy=remedy):
        return DataStatistics(
            files=tree["files"],
            labels=_labels(tree["labels"]),
            features=tuple(_feature(feature) for feature in tree["features"]),
            negative_keep_rate=tree.get("negative_keep_rate", 1.0),
        )


def _feature_tree(feature: FeatureStatistics) -> dict[str, Any]:
    tree: dict[str, Any] = {
        field.name: _plain(getattr(feature, field.name)) for field in dataclasses.fields(feature)
    }
    tree["top_values"] = feature.top_values()
    tree["frequencies"] = None
    if feature.frequencies is not None and not feature.is_number:
        values, counts = feature.frequencies.most_frequent(_NUM_FREQUENT)
        tree["frequencies"] = {
            "values": [_to_json(value) for value in values],
            "counts": counts.tolist(),
            "total": feature.frequencies.total,
            "is_complete": len(values) == len(feature.frequencies.values),
        }
    if feature.histogram is not None:
        tree["histogram"] = {
            "edges": feature.histogram.edges.tolist(),
            "counts": feature.histogram.counts.tolist(),
        }
    return tree


def _plain(item: Any) -> Any:
    return dataclasses.asdict(item) if isinstance(item, Rate | Range | Numbers) else item


def _labels(tree: dict[str, Any]) -> LabelStatistics:
    rates = ("click_rate", "conversion_rate", "conversion_rate_clicked")
    return LabelStatistics(**(tree | {name: Rate(**tree[name]) for name in rates}))


def _feature(tree: dict[str, Any]) -> FeatureStatistics:
    tree = {name: value for name, value in tree.items() if name != "top_values"}
    parts = {name: kind(**tree[name]) for name, kind in _PARTS.items() if tree[name] is not None}
    if tree["frequencies"] is not None:
        parts["frequencies"] = _frequencies(**tree["frequencies"], dtype=tree["dtype"])
    if tree["histogram"] is not None:
        counts = np.array(tree["histogram"]["counts"], np.int64)
        parts["histogram"] = Histogram(np.array(tree["histogram"]["edges"], np.float64), counts)
    return FeatureStatistics(**(tree | parts))


_PARTS = {"coverage": Rate, "values_per_row": Range, "weights": Range, "numbers": Numbers}


def _frequencies(
    *, values: list[Any], counts: list[int], total: int, is_complete: bool, dtype: str
) -> Frequencies:
    if dtype == STRING:
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        array = np.array(encoded, dtype=object)
    else:
        array = np.array(values, np.int64)
    order = np.argsort(array, kind="stable")
    return Frequencies(array[order], np.array(counts, np.int64)[order], total, is_complete)


def _to_json(value: Any) -> str | int:
    """Returns an id as JSON holds it; bytes that are not UTF-8 survive as lone surrogates."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else int(value)
