"""A trained model calibrated on scores: the maps, and what they change, told honestly."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from esmm_tf import keys
from esmm_tf.calibration import fit
from esmm_tf.calibration.logistic_line import Sample
from esmm_tf.calibration.maps import CalibrationMap, apply
from esmm_tf.errors import UserError
from esmm_tf.evaluation import evaluation
from esmm_tf.evaluation.scores import Scores
from esmm_tf.reports.tables import Column, format_rows

EXPLANATION = (
    "'after' was measured on either half of the groups by maps fitted to the other half; the maps "
    "that are kept were fitted to all."
)
METRICS = ("log_loss", "normalized_entropy", "calibration", "expected_calibration_error")

# How many positives, and how many negatives, a method needs.
_FEWEST = {keys.PLATT: 20, keys.TEMPERATURE: 20, keys.ISOTONIC: 200}
_CLASSES = {
    keys.PCTR: ("clicks", "impressions without a click"),
    keys.PCVR: ("conversions", "clicks without a conversion"),
}

Maps = Mapping[str, CalibrationMap]


def fit_maps(scores: Scores, method: str) -> Maps:
    """Returns the maps of pCTR, fitted on all impressions, and pCVR, fitted on clicked ones.

    Args:
      scores: as the model gives them without maps.
      method: one of `keys.CALIBRATIONS`.

    Raises:
      UserError: if a logit is not finite, or there are too few positives or negatives. Weights
        count: many rows with little weight beside a few with much are few.
    """
    samples = _samples(scores)
    for name, sample in samples.items():
        _check_enough(name, sample, method)
    return {name: fit.fit(method, sample) for name, sample in samples.items()}


def count(scores: Scores) -> dict[str, int]:
    """Returns the number of impressions, clicks and conversions."""
    return {
        "impressions": len(scores),
        "clicks": int(scores.click.sum(dtype=np.int64)),
        "conversions": int(scores.conversion.sum(dtype=np.int64)),
    }


def build_report(scores: Scores, maps: Maps, method: str) -> dict[str, Any]:
    """Returns metrics of each task before and after.

    'after' is out of fold: groups (impressions, where there are none) fall into two halves by a
    fixed hash, and each half is measured by maps fitted to the other. It is null where a half has
    no positives or no negatives.
    """
    calibrated = _out_of_fold(scores, method)
    before = _measured(scores)
    after = {} if calibrated is None else _measured(calibrated)
    return {
        "methods": {name: fitted.method for name, fitted in maps.items()},
        "measured": EXPLANATION,
        "tasks": {
            task: {"before": metrics, "after": after.get(task)} for task, metrics in before.items()
        },
    }


def format_table(report: Mapping[str, Any]) -> str:
    """Returns the metrics before and after, two rows per task."""
    columns = [Column(title="task"), Column(title="", is_text=True)]
    columns += [Column(title=t) for t in ("log_loss", "norm_entropy", "calibration", "ece")]
    rows = []
    for task, times in report["tasks"].items():
        for when, metrics in times.items():
            values = [(metrics or {}).get(name) for name in METRICS]
            cells = ["-" if value is None else f"{value:.5f}" for value in values]
            rows.append([task if when == "before" else "", when, *cells])
    return format_rows(columns, rows)


def _samples(scores: Scores) -> dict[str, Sample]:
    clicked = scores.take(np.flatnonzero(scores.click))
    return {
        keys.PCTR: Sample(logits=scores.ctr_logits, labels=scores.click, weights=scores.weight),
        keys.PCVR: Sample(
            logits=clicked.cvr_logits, labels=clicked.conversion, weights=clicked.weight
        ),
    }


def _check_enough(name: str, sample: Sample, method: str) -> None:
    if not np.isfinite(sample.logits).all():
        raise UserError(
            f"The model gives a {name} that is not a number. Train it again, with a lower "
            "--learning_rate."
        )
    numbers = [sample.effective_number(label) for label in (1, 0)]
    fewest = _FEWEST[method]
    if min(numbers) < fewest:
        counts = " and ".join(
            f"{n:,.0f} {what}" for n, what in zip(numbers, _CLASSES[name], strict=True)
        )
        remedy = "Give more --files"
        if method == keys.ISOTONIC and min(numbers) >= _FEWEST[keys.PLATT]:
            remedy += ", or use --calibration=platt, which needs fewer"
        raise UserError(
            f"To calibrate {name}, --calibration={method} needs at least {fewest} of each, and the "
            f"records hold {counts}, as their weights count. {remedy}."
        )


def _out_of_fold(scores: Scores, method: str) -> Scores | None:
    """Returns each half of the impressions as maps fitted to the other half score them."""
    is_second = in_second_half(scores)
    ctr_logits, cvr_logits = np.empty_like(scores.ctr_logits), np.empty_like(scores.cvr_logits)
    for half in (is_second, ~is_second):
        samples = _samples(scores.take(np.flatnonzero(~half)))
        if not all(sample.effective_number(y) for sample in samples.values() for y in (0, 1)):
            return None
        maps = {name: fit.fit(method, sample) for name, sample in samples.items()}
        ctr_logits[half] = apply(maps[keys.PCTR], scores.ctr_logits[half])
        cvr_logits[half] = apply(maps[keys.PCVR], scores.cvr_logits[half])
    return scores.with_logits(ctr_logits, cvr_logits)


def in_second_half(scores: Scores) -> np.ndarray:
    """Returns whether each impression's group falls into the second half, bool `[impressions]`.

    The bit comes from SplitMix64's mixing (Steele et al., OOPSLA 2014) of the group's number.
    """
    groups = np.arange(len(scores)) if scores.groups is None else scores.groups
    bits = groups.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((bits ^ (bits >> np.uint64(31))) & np.uint64(1)).astype(bool)


def _measured(scores: Scores) -> dict[str, dict[str, float | None]]:
    return {
        task: {
            name: evaluation.finite_or_none(measurement.estimates[name].value) for name in METRICS
        }
        for task, measurement in evaluation.measure_tasks(scores).items()
    }
