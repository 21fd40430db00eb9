"""A trained model measured on records, and on demand beside a baseline."""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping

from esmm_tf import files, keys
from esmm_tf.config.evaluation import EvaluateConfig, ScoreConfig
from esmm_tf.data.source import Source, check_schema, find_source
from esmm_tf.evaluation import evaluation
from esmm_tf.evaluation.baseline import (
    check_baseline,
    compare_with_baseline,
    load_scores,
    remove_scores,
    scores_path,
    write_scores,
)
from esmm_tf.evaluation.scores import Scores, collect_scores
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.reports import evaluation_page
from esmm_tf.reports.evaluation_result import Evaluation, Origin
from esmm_tf.reports.task_metrics import BaselineComparison
from esmm_tf.training import data_guards, model_directory, trained_model
from esmm_tf.training.trained_model import TrainedModel


def evaluate_model(
    score: ScoreConfig,
    config: EvaluateConfig,
    *,
    model_class: type[EntireSpaceModel] = EntireSpaceModel,
) -> Evaluation:
    """Measures a trained model on records and writes evaluation.json, scores and a report.

    Raises:
      UserError: if the records do not fit the model, a wrong baseline is named, or the report's
        extra is not installed.
    """
    source = find_source(score.files, split=score.split)
    trained = _load_model(score.model_dir, source, model_class=model_class)
    if config.report_dir:
        evaluation_page.check_installed()
    used = data_guards.check_used(score.model_dir, source, config)
    score_baseline = _prepare_baseline(score, config, source)
    scores = _collect(trained, score, source, slices=config.slices)
    result, measurements = evaluation.evaluate_scores(scores)
    result = dataclasses.replace(result, origin=_origin(score, trained, source, used))
    if score_baseline is not None:
        baseline_measurements = evaluation.measure_tasks(score_baseline(scores))
        compared = BaselineComparison(
            baseline=config.baseline or config.baseline_model_dir,
            tasks=compare_with_baseline(measurements, baseline_measurements),
        )
        result = dataclasses.replace(result, comparison=compared)
    return dataclasses.replace(result, written=_write(result, scores, score.model_dir, config))


def _write(
    result: Evaluation, scores: Scores, model_dir: str, config: EvaluateConfig
) -> tuple[str, ...]:
    """Writes what is kept, and returns the names of the files."""
    path = config.output or os.path.join(model_dir, keys.EVALUATION_FILE)
    remove_scores(path)
    files.write_json(result.to_json(), path)
    written = [path]
    if config.save_scores:
        write_scores(scores, path)
        written.append(scores_path(path))
    if config.report_dir:
        written.append(evaluation_page.write_report(result, config.report_dir))
    return tuple(written)


def _load_model(
    model_dir: str, source: Source, *, model_class: type[EntireSpaceModel] = EntireSpaceModel
) -> TrainedModel:
    trained = trained_model.load_model(model_dir, model_class=model_class)
    check_schema(source, trained.schema)
    return trained


def _prepare_baseline(
    score: ScoreConfig, config: EvaluateConfig, source: Source
) -> Callable[[Scores], Scores] | None:
    """Returns a function that scores the impressions by the baseline, if there is one.

    A wrong baseline is refused here, before the records are scored.
    """
    if config.baseline:
        check_baseline(config.baseline, source.impressions)
        return functools.partial(load_scores, config.baseline)
    if not config.baseline_model_dir:
        return None
    baseline = _load_model(config.baseline_model_dir, source)

    def score_again(scores: Scores) -> Scores:
        again = _collect(baseline, score, source, slices=())
        return scores.with_logits(again.ctr_logits, again.cvr_logits, again.divided)

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
) -> Origin:
    history = model_directory.load_history(score.model_dir)
    rate = history[-1][keys.TRAIN]["impressions_per_second"]  # None after an epoch of one batch
    return Origin(
        model_dir=score.model_dir,
        weights=trained.weights,
        files=list(source.files),
        negative_keep_rate=source.negative_keep_rate,
        calibration=trained.calibration_methods,
        used_in_training=None if used is None else list(used),
        trained_impressions_per_second=rate,
    )
