"""`python -m esmm_tf.evaluate`: measures a trained model on records."""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf import files, keys
from esmm_tf.config import flags
from esmm_tf.config.evaluation import EvaluateConfig, ScoreConfig
from esmm_tf.data.source import Source, check_schema, find_source
from esmm_tf.evaluation import comparison, evaluation, scores
from esmm_tf.evaluation.scores import Scores
from esmm_tf.reports import evaluation_page
from esmm_tf.reports.evaluation_result import Origin
from esmm_tf.reports.task_metrics import BaselineComparison
from esmm_tf.training import data_guards, model_directory
from esmm_tf.training.model_directory import TrainedModel


def main(score: ScoreConfig, config: EvaluateConfig) -> None:
    """Measures a trained model and writes evaluation.json."""
    path = config.output or os.path.join(score.model_dir, keys.EVALUATION_FILE)
    source = find_source(score.files, split=score.split)
    trained = _load_model(score.model_dir, source)
    if config.report_dir:
        evaluation_page.check_installed()
    used = data_guards.check_used(score.model_dir, source, config)
    score_baseline = _prepare_baseline(score, config, source)
    collected = _collect(trained, score, source, slices=config.slices)
    result, measurements = evaluation.evaluate_scores(collected)
    origin = _origin(score, trained, source, used)
    result = dataclasses.replace(result, origin=origin)
    if score_baseline is not None:
        of_baseline = evaluation.measure_tasks(score_baseline(collected))
        compared = BaselineComparison(
            baseline=config.baseline or config.baseline_model_dir,
            tasks=comparison.compare(measurements, of_baseline),
        )
        result = dataclasses.replace(result, comparison=compared)
    comparison.remove_scores(path)
    files.write_json(result.to_json(), path)
    written = [path]
    if config.save_scores:
        comparison.write_scores(collected, path)
        written.append(comparison.scores_path(path))
    if config.report_dir:
        written.append(evaluation_page.write_report(result, config.report_dir))
    print(result.table())
    if origin.trained_impressions_per_second is not None:
        print(f"trained at {origin.trained_impressions_per_second:,.0f} impressions/s")
    print(f"wrote {', '.join(written)}")


def _load_model(model_dir: str, source: Source) -> TrainedModel:
    trained = model_directory.load_model(model_dir)
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

    def score_again(scored: Scores) -> Scores:
        found = _collect(other, score, source, slices=())
        return scored.with_logits(found.ctr_logits, found.cvr_logits, found.divided)

    return score_again


def _collect(
    trained: TrainedModel, score: ScoreConfig, source: Source, *, slices: tuple[str, ...]
) -> Scores:
    return scores.collect_scores(
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


if __name__ == "__main__":
    flags.run(main, ScoreConfig, EvaluateConfig)
