"""What is wrong with a data set: each finding with what was received and what to do."""

import dataclasses
from collections.abc import Iterator

from esmm_pipelines.validation.drift import JENSEN_SHANNON, Change, Differences, FeatureDifference
from esmm_pipelines.validation.statistics import DataStatistics, FeatureStatistics, LabelStatistics
from esmm_tf.config.fields import setting
from esmm_tf.data.source import Source
from esmm_tf.errors import UserError

LABELS = "labels"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """The limits beyond which something is a finding."""

    leak_auc: float = setting(
        0.95, help="AUC above which a feature that alone predicts a label is a leak, 0.5 to 1"
    )
    max_drift: float = setting(
        0.05,
        help="distance of a feature's distributions beyond the noise of sampling, 0 to 1: the "
        "largest change of a value's share (L-infinity), or for numbers the Jensen-Shannon "
        "divergence in bits; 0.05 is 5 points of share, or about half a standard deviation",
    )
    max_coverage_drop: float = setting(
        0.1, help="fall of a feature's coverage beyond the noise of sampling, 0 to 1"
    )
    max_rate_change: float = setting(
        0.25,
        help="change of a label's rate beyond the noise of sampling, as a share of the baseline's",
    )
    max_unseen: float = setting(
        1.0,
        help="share of a feature's values that the baseline has not, 0 to 1; 1 allows all, since "
        "ids of users and requests are new each day",
    )

    def __post_init__(self) -> None:
        if not 0.5 <= self.leak_auc <= 1:
            raise UserError(f"--leak_auc is {self.leak_auc}. Give a number from 0.5 to 1.")
        for name in ("max_drift", "max_coverage_drop", "max_unseen"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} is {getattr(self, name)}. Give a number from 0 to 1.")
        if not self.max_rate_change >= 0:
            raise UserError(f"--max_rate_change is {self.max_rate_change}. Give 0 or more.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataFinding:
    """One thing that is wrong: its kind, the feature or `labels`, and a message with a remedy."""

    kind: str
    subject: str
    message: str


def find_all(
    statistics: DataStatistics,
    source: Source,
    differences: Differences | None,
    thresholds: ThresholdConfig,
) -> tuple[DataFinding, ...]:
    """Returns the findings, in the order of the features; none if the data set is healthy."""
    findings = [*_broken_labels(statistics.labels), *_miscounts(statistics.labels, source)]
    findings += _empty_features(statistics, differences)
    for feature in statistics.features:
        findings += _leaks(feature, thresholds)
    if differences is not None:
        for change in differences.labels:
            findings += _rate_changes(change, thresholds)
        for feature_difference in differences.features:
            findings += _losses(feature_difference, thresholds)
            findings += _drifts(feature_difference, thresholds)
    return tuple(findings)


def _broken_labels(labels: LabelStatistics) -> Iterator[DataFinding]:
    if labels.unnested:
        yield DataFinding(
            kind="unnested_labels",
            subject=LABELS,
            message=f"A conversion needs a click, and {labels.unnested:,} of "
            f"{labels.conversions:,} conversions have none. Set click where conversion is, or "
            "leave those rows out.",
        )
    if labels.not_binary:
        yield DataFinding(
            kind="labels_not_binary",
            subject=LABELS,
            message=f"Labels are 0 or 1, and {labels.not_binary:,} are another number. "
            "Convert them and write the data set again.",
        )


def _miscounts(labels: LabelStatistics, source: Source) -> Iterator[DataFinding]:
    for name in ("impressions", "clicks", "conversions"):
        declared = sum(getattr(shard, name) for shard in source.shards)
        read = getattr(labels, name)
        if declared != read:
            yield DataFinding(
                kind="miscounted",
                subject=LABELS,
                message=f"The manifest counts {declared:,} {name}, and the records hold {read:,}. "
                "Shards were changed after they were written: write the data set again.",
            )


def _empty_features(
    statistics: DataStatistics, differences: Differences | None
) -> Iterator[DataFinding]:
    """Yields the features without a value, unless the baseline has values to compare."""
    compared = {
        feature.name
        for feature in (differences.features if differences else ())
        if feature.coverage is not None and feature.coverage.baseline
    }
    for feature in statistics.features:
        if not feature.coverage.value and feature.name not in compared:
            yield DataFinding(
                kind="vanished",
                subject=feature.name,
                message=f"The feature has no value in {feature.rows:,} rows. Mend the pipeline "
                "that writes it, or remove it from the schema.",
            )


def _leaks(feature: FeatureStatistics, thresholds: ThresholdConfig) -> Iterator[DataFinding]:
    high = {
        metric: auc
        for metric, auc in feature.aucs.items()
        if auc is not None and auc > thresholds.leak_auc
    }
    if high:
        received = ", ".join(f"{metric} {auc:.4f}" for metric, auc in high.items())
        yield DataFinding(
            kind="leak",
            subject=feature.name,
            message=f"Alone it predicts a label with {received}, above "
            f"--leak_auc={thresholds.leak_auc}. It knows the answer: remove it from the schema, "
            "or compute it from what is known before the impression.",
        )


def _rate_changes(change: Change, thresholds: ThresholdConfig) -> Iterator[DataFinding]:
    if change.value is None or change.baseline is None:
        return
    if abs(change.beyond_noise) > thresholds.max_rate_change * change.baseline:
        yield DataFinding(
            kind="label_drift",
            subject=LABELS,
            message=f"{change.name} is {change.value:.4g} and was {change.baseline:.4g}: more "
            f"than noise and --max_rate_change={thresholds.max_rate_change}. Check how labels "
            "are joined and which impressions are sampled.",
        )


def _losses(difference: FeatureDifference, thresholds: ThresholdConfig) -> Iterator[DataFinding]:
    if difference.is_gone:
        yield DataFinding(
            kind="vanished",
            subject=difference.name,
            message="The baseline has this feature, and the schema here does not. Write it, or "
            "give a baseline of this schema.",
        )
    coverage = difference.coverage
    if coverage is None or coverage.beyond_noise >= 0:
        return
    received = f"Its coverage is {coverage.value:.2%} and was {coverage.baseline:.2%}"
    if not coverage.value:
        yield DataFinding(
            kind="vanished",
            subject=difference.name,
            message=f"{received}. Mend the pipeline that writes it.",
        )
    elif -coverage.beyond_noise > thresholds.max_coverage_drop:
        yield DataFinding(
            kind="coverage_drop",
            subject=difference.name,
            message=f"{received}: a fall beyond noise and "
            f"--max_coverage_drop={thresholds.max_coverage_drop}. Mend the pipeline that writes "
            "it, or train on data like this.",
        )


def _drifts(difference: FeatureDifference, thresholds: ThresholdConfig) -> Iterator[DataFinding]:
    if difference.is_retyped:
        yield DataFinding(
            kind="retyped",
            subject=difference.name,
            message="Here and in the baseline it has another dtype, or is an id in one and a "
            "number in the other. Give both one schema.",
        )
    distance = difference.distance
    if distance is not None and distance.beyond_noise > thresholds.max_drift:
        if distance.measure == JENSEN_SHANNON:
            received = f"Its numbers diverge by {distance.value:.3f} bits"
        else:
            received = (
                f"The share of its value {distance.where!r} is {distance.share:.2%} and was "
                f"{distance.baseline_share:.2%}"
            )
        yield DataFinding(
            kind="drift",
            subject=difference.name,
            message=f"{received}: beyond noise and --max_drift={thresholds.max_drift}. Check "
            "what computes it on either side, or train on data like this.",
        )
    if difference.unseen is not None and difference.unseen > thresholds.max_unseen:
        yield DataFinding(
            kind="unseen",
            subject=difference.name,
            message=f"{difference.unseen:.2%} of its values are not in the baseline, above "
            f"--max_unseen={thresholds.max_unseen}. Check that both number ids alike.",
        )
