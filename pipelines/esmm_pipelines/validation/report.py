"""The report of a validation as text: tables of labels, features and differences, and findings."""

from collections.abc import Iterable, Sequence

from esmm_pipelines.validation.drift import RATES_OF_ALL, Change, Differences, FeatureDifference
from esmm_pipelines.validation.findings import DataFinding
from esmm_pipelines.validation.statistics import (
    DataStatistics,
    FeatureStatistics,
    LabelStatistics,
    Numbers,
    Range,
    Rate,
)
from esmm_tf.reports.tables import Column, format_rows, one_line
from esmm_tf.training.label_leaks import METRICS

_NUM_TOP_VALUES = 3
_VALUE_WIDTH = 16
_NONE = "-"


def format_report(
    statistics: DataStatistics, differences: Differences | None, findings: Sequence[DataFinding]
) -> str:
    """Returns the tables and the findings."""
    parts = [
        statistics.files,
        *_sampling_notes(statistics),
        _label_table(statistics.labels),
        _feature_table(statistics.features),
    ]
    if differences is not None:
        parts += [
            f"differences from {differences.baseline}",
            *_comparison_notes(differences),
            _change_table(differences.labels),
            _difference_table(differences.features),
        ]
    return "\n\n".join([*parts, _format_findings(findings)])


def _sampling_notes(statistics: DataStatistics) -> list[str]:
    rate = statistics.negative_keep_rate
    return [f"unclicked impressions are sampled: --negative_keep_rate={rate:g}"] if rate < 1 else []


def _comparison_notes(differences: Differences) -> list[str]:
    if differences.is_sampled_alike:
        return []
    return [f"{' and '.join(RATES_OF_ALL)} are not compared: --negative_keep_rate differs"]


def _format_findings(findings: Sequence[DataFinding]) -> str:
    if not findings:
        return "no findings"
    lines = [f"{finding.kind}: {finding.subject}: {finding.message}" for finding in findings]
    return "\n".join([f"{len(findings)} finding{'s' * (len(findings) > 1)}", *map(one_line, lines)])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns aligned columns, the first and the last aligned to the left."""
    outer = (0, len(head) - 1)
    columns = [Column(title=title, is_text=index in outer) for index, title in enumerate(head)]
    return format_rows(columns, rows)


def _label_table(labels: LabelStatistics) -> str:
    counts = ("groups", "impressions", "clicks", "conversions", "unnested", "not_binary")
    rates = ("click_rate", "conversion_rate", "conversion_rate_clicked")
    rows = [[name, f"{getattr(labels, name):,}"] for name in counts]
    rows += [[name, _rate(getattr(labels, name))] for name in rates]
    return _table(["label", "value"], [*rows, ["weight_sum", _number(labels.weight_sum)]])


def _feature_table(features: Sequence[FeatureStatistics]) -> str:
    head = ["feature", "side", "dtype", "rows", "coverage", "values/row", "distinct"]
    head += ["oov", *METRICS, "weight", "top values, or range, mean +- stddev and median"]
    return _table(head, map(_feature_row, features))


def _feature_row(feature: FeatureStatistics) -> list[str]:
    return [
        feature.name,
        feature.side,
        feature.dtype,
        f"{feature.rows:,}",
        _share(feature.coverage.value),
        _range(feature.values_per_row),
        _NONE if feature.distinct_ids is None else f"{feature.distinct_ids:,}",
        _share(feature.out_of_vocabulary),
        *(_auc(feature.aucs.get(metric)) for metric in METRICS),
        _range(feature.weights),
        _top_values(feature) if feature.numbers is None else _distribution(feature.numbers),
    ]


def _change_table(changes: Sequence[Change]) -> str:
    rows = [
        [change.name, *map(_number, (change.value, change.baseline, change.beyond_noise))]
        for change in changes
    ]
    return _table(["label", "value", "baseline", "beyond noise"], rows)


def _difference_table(differences: Sequence[FeatureDifference]) -> str:
    head = ["feature", "coverage", "baseline", "distance", "beyond noise", "unseen", "measure"]
    return _table(head, map(_difference_row, differences))


def _difference_row(difference: FeatureDifference) -> list[str]:
    coverage, distance = difference.coverage, difference.distance
    notes = {
        "gone": difference.is_gone,
        "new": difference.is_new,
        "retyped": difference.is_retyped,
        distance.measure if distance else _NONE: True,
    }
    return [
        difference.name,
        _share(coverage.value if coverage else None),
        _share(coverage.baseline if coverage else None),
        _auc(distance.value if distance else None),
        _auc(distance.beyond_noise if distance else None),
        _share(difference.unseen),
        next(note for note, holds in notes.items() if holds),
    ]


def _top_values(feature: FeatureStatistics) -> str:
    top = [
        f"{_shown_value(item['value'])} {item['share']:.1%}"
        for item in feature.top_values()[:_NUM_TOP_VALUES]
    ]
    return ", ".join(top) or _NONE


def _shown_value(value: str | int) -> str:
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _VALUE_WIDTH else f"{text[: _VALUE_WIDTH - 1]}…"


def _distribution(numbers: Numbers) -> str:
    return (
        f"{numbers.min:.4g} to {numbers.max:.4g}, {numbers.mean:.4g} +- {numbers.stddev:.4g}, "
        f"median {numbers.quantiles['0.5']:.4g}"
    )


def _range(numbers: Range | None) -> str:
    if numbers is None:
        return _NONE
    if numbers.min == numbers.max:
        return f"{numbers.min:.4g}"
    return f"{numbers.min:.4g} < {numbers.mean:.4g} < {numbers.max:.4g}"


def _rate(rate: Rate) -> str:
    if rate.standard_error is None:
        return _number(rate.value)
    return f"{_number(rate.value)} +- {rate.standard_error:.2g}"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value + 0:.5g}"  # -0.0 becomes 0.0


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2%}"


def _auc(value: float | None) -> str:
    return _NONE if value is None else f"{value:.4f}"
