"""A trained model measured on records, and on demand beside a baseline."""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from esmm_tf import files, keys
from esmm_tf.config.evaluation import EvaluateConfig, ScoreConfig
from esmm_tf.data.source import Source, check_schema, find_source
from esmm_tf.evaluation import comparison, evaluation
from esmm_tf.evaluation.scores import Scores, collect_scores
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.reports import evaluation_page
from esmm_tf.training import data_guards, model_directory
from esmm_tf.training.model_directory import TrainedModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The content of `evaluation.json`, and the files that were written."""

    tree: dict[str, Any]
    written: tuple[str, ...]


def evaluate_model(
    score: ScoreConfig,
    config: EvaluateConfig,
    *,
    model_class: type[EntireSpaceModel] = EntireSpaceModel,
) -> Evaluated:
    """Measures a trained model on records and writes evaluation.json, scores and a report.

    Raises:
      UserError: if the records do not fit the model, a wrong baseline is named, or the report's
        extra is not installed.
    """
    path = config.output or os.path.join(score.model_dir, keys.EVALUATION_FILE)
    source = find_source(score.files, split=score.split)
    trained = _load_model(score.model_dir, source, model_class=model_class)
    if config.report_dir:
        evaluation_page.check_installed()
    used = data_guards.check_used(score.model_dir, source, config)
    score_baseline = _prepare_baseline(score, config, source)
    scores = _collect(trained, score, source, slices=config.slices)
    evaluated = evaluation.evaluate_scores(scores)
    tree = {**evaluated.tree, **_origin(score, trained, source, used)}
    if score_baseline is not None:
        measured = evaluation.measure_tasks(score_baseline(scores))
        tree["comparison"] = {
            "baseline": config.baseline or config.baseline_model_dir,
            "tasks": comparison.compare(evaluated.measurements, measured),
        }
    return Evaluated(tree=tree, written=_write(tree, scores, path, config))


def _write(
    tree: dict[str, Any], scores: Scores, path: str, config: EvaluateConfig
) -> tuple[str, ...]:
    """Writes what is kept, and returns the names of the files."""
    comparison.remove_scores(path)
    files.write_json(tree, path)
    written = [path]
    if config.save_scores:
        comparison.write_scores(scores, path)
        written.append(comparison.scores_path(path))
    if config.report_dir:
        written.append(evaluation_page.write_report(tree, config.report_dir))
    return tuple(written)


def _load_model(
    model_dir: str, source: Source, *, model_class: type[EntireSpaceModel] = EntireSpaceModel
) -> TrainedModel:
    trained = model_directory.load_model(model_dir, model_class=model_class)
    check_schema(source, trained.schema)
    return trained


def _prepare_baseline(
    score: ScoreConfig, config: EvaluateConfig, source: Source
) -> Callable[[Scores], Scores] | None:
    """Returns what gives the impressions as the baseline scores them, if there is one.

    A wrong baseline is refused here, before the records are scored.
    """
    if config.baseline:
        comparison.check_baseline(config.baseline, source.impressions)
        return functools.partial(comparison.load_scores, config.baseline)
    if not config.baseline_model_dir:
        return None
    other = _load_model(config.baseline_model_dir, source)

    def score_again(scores: Scores) -> Scores:
        theirs = _collect(other, score, source, slices=())
        return scores.with_logits(theirs.ctr_logits, theirs.cvr_logits, theirs.divided)

    return score_again


def _collect(
    trained: TrainedModel, score: ScoreConfig, source: Source, *, slices: tuple[str, ...]
) -> Scores:
    return collect_scores(
        trained.model, trained.schema, source, score.input_config(), slices=slices
    )


def _origin(
    score: ScoreConfig,
    trained: TrainedModel,
    source: Source,
    used: Mapping[str, Collection[str]] | None,
) -> dict[str, Any]:
    """Returns which model was measured on which files, and what it knows of them."""
    history = model_directory.load_history(score.model_dir)
    rate = history[-1][keys.TRAIN]["impressions_per_second"]  # None after an epoch of one batch
    return {
        "model_dir": score.model_dir,
        "weights": trained.weights,
        "files": list(source.files),
        "negative_keep_rate": source.negative_keep_rate,
        "calibration": trained.calibration_methods,
        "used_in_training": None if used is None else list(used),
        "trained_impressions_per_second": rate,
    }
