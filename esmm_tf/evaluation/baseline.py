"""Two models on the same impressions: the difference of each metric, and what of it may be chance.

The influences of the two are subtracted group by group, so that what makes an impression easy or
hard for both cancels out: the interval is far narrower than those of the two models.
"""

import contextlib
import dataclasses
import os
import zipfile
from collections.abc import Mapping

import numpy as np

from esmm_tf import files, keys
from esmm_tf.errors import UserError
from esmm_tf.evaluation.evaluation import finite_or_none
from esmm_tf.evaluation.scores import DIVIDED, Scores, find_divided
from esmm_tf.metrics.intervals import Estimate
from esmm_tf.metrics.task import Measurement
from esmm_tf.reports.task_metrics import MetricDifference


def compare_with_baseline(
    measurements: Mapping[str, Measurement], baseline: Mapping[str, Measurement]
) -> dict[str, dict[str, MetricDifference]]:
    """Returns the differences by task and metric.

    Args:
      measurements: of the model, by task.
      baseline: of the other model, on the same impressions and groups.
    """
    return {
        task: {
            name: _difference(estimate, baseline[task].estimates[name])
            for name, estimate in measurement.estimates.items()
            if not name.startswith("oracle_")
        }
        for task, measurement in measurements.items()
    }


def _difference(estimate: Estimate, baseline: Estimate) -> MetricDifference:
    difference = estimate.minus(baseline)
    return MetricDifference(
        baseline=finite_or_none(baseline.value),
        difference=finite_or_none(difference.value),
        interval=difference.interval(),
        p_value=difference.p_value(),
    )


def scores_path(path: str) -> str:
    """Returns the path of the scores behind an `evaluation.json`, which lie beside it."""
    return f"{os.path.splitext(path)[0]}.scores.npz"


def write_scores(scores: Scores, path: str) -> None:
    """Writes the logits of each impression beside the evaluation at `path`: 8 bytes each."""
    files.write_arrays(
        scores_path(path),
        data_hash=scores.data_hash(),
        ctr_logits=scores.ctr_logits,
        cvr_logits=scores.cvr_logits,
        **({} if scores.divided is None else dataclasses.asdict(scores.divided)),
    )


def remove_scores(path: str) -> None:
    """Removes the scores of an older evaluation at `path`, which are not those of a new one."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(scores_path(path))


def load_scores(path: str, scores: Scores) -> Scores:
    """Returns the impressions of `scores` as they were scored for the evaluation at `path`.

    Raises:
      UserError: if `check_baseline` raises it, or the evaluation is of other impressions.
    """
    check_baseline(path, len(scores))
    saved = _load_arrays(path, "data_hash", "ctr_logits", "cvr_logits", optional=DIVIDED)
    if str(saved["data_hash"]) != scores.data_hash():
        raise _other_impressions(path)
    return scores.with_logits(saved["ctr_logits"], saved["cvr_logits"], find_divided(saved))


def check_baseline(path: str, impressions: int) -> None:
    """Checks that the evaluation at `path` is of that many impressions and has its scores.

    Raises:
      UserError: if there is no such evaluation, its scores are missing, or it is of other
        impressions.
    """
    remedy = "Evaluate that model again, or give --baseline another evaluation.json."
    tree = files.read_json(
        path,
        version=keys.EVALUATION_FORMAT_VERSION,
        remedy=remedy,
        missing=f"--baseline is {path!r}, which is not there. Name an evaluation.json.",
    )
    with files.told_as_damaged(path, remedy=remedy):
        measured = tree["impressions"]
    if measured != impressions:
        raise _other_impressions(path)
    _load_arrays(path, "data_hash")


def _load_arrays(path: str, *names: str, optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Returns some of what `write_scores` wrote beside the evaluation at `path`."""
    try:
        with open(scores_path(path), "rb") as file, np.load(file) as saved:
            wanted = (*names, *(name for name in optional if name in saved))
            return {name: saved[name] for name in wanted}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(
            f"--baseline is {path!r}, and its scores are not in {scores_path(path)!r}. Keep the "
            "two files together, or give --baseline_model_dir to score the impressions again."
        ) from None


def _other_impressions(path: str) -> UserError:
    return UserError(
        f"--baseline is {path!r}, an evaluation of other impressions. Evaluate both models on "
        "the same --files and --split, written once."
    )
