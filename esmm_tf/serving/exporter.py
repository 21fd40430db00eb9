"""A trained model exported: a version with all that a server and its operator want beside it."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Mapping, Sequence

import tensorflow as tf

from esmm_tf import console, files, keys
from esmm_tf.config.serving import ExportConfig
from esmm_tf.data.source import Source, check_schema, find_source
from esmm_tf.errors import UserError
from esmm_tf.reports.evaluation_result import Evaluation
from esmm_tf.schema import toml_file
from esmm_tf.serving import (
    dense_inputs,
    golden,
    model_card,
    requests,
    saved_model,
    server_config,
    warmup,
)
from esmm_tf.serving.loaded_version import LoadedVersion
from esmm_tf.serving.requests import Impression
from esmm_tf.serving.versions import list_versions
from esmm_tf.training.model_directory import Settings
from esmm_tf.training.trained_model import TrainedModel

_SAMPLED_IMPRESSIONS = 10_000


def export(trained: TrainedModel, config: ExportConfig) -> str:
    """Writes `<export_dir>/<version>/` and returns its path.

    The directory appears whole or not at all. Beside it stand the server's configuration files.
    Only the highest versions are kept.

    Raises:
      UserError: if the version exists or would not be kept, or there are no held-out records.
    """
    warmup.check_batch_sizes(config.batch_sizes)
    source = find_held_out(config, trained.settings)
    check_schema(source, trained.schema)
    version = _choose_version(config)
    path = os.path.join(config.export_dir, str(version))
    temporary = os.path.join(config.export_dir, f".{version}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    _write_version(temporary, trained, config, version=version, source=source)
    os.replace(temporary, path)
    kept = server_config.write_configs(
        config.export_dir, model_name=config.model_name, batch_sizes=config.batch_sizes
    )
    for name in kept:
        own_file = os.path.join(config.export_dir, name)
        console.say(f"kept {own_file}, which is not what this export writes")
    for old in list_versions(config.export_dir)[: -config.keep_versions]:
        shutil.rmtree(os.path.join(config.export_dir, str(old)))
    return path


def find_held_out(config: ExportConfig, settings: Settings) -> Source:
    """Returns the records for requests, on which the model was not trained.

    Raises:
      UserError: if --files names none and those of the training are not found.
    """
    if config.files:
        return find_source(config.files, split=config.split)
    train = settings.train
    options = [(train.validation_files, keys.VALIDATION)] if train.validation_files else []
    if tf.io.gfile.isdir(train.train_files):
        options += [(train.train_files, split) for split in (keys.TEST, keys.VALIDATION)]
    for patterns, split in options:
        with contextlib.suppress(UserError):
            return find_source(patterns, split=split)
    raise UserError(
        "Warm-up and golden requests are made of held-out records, and neither --validation_files "
        "nor a split 'test' of the training data set is found. Name some with --files."
    )


def _choose_version(config: ExportConfig) -> int:
    """Returns the number of the version to write."""
    versions = list_versions(config.export_dir)
    version = config.version or max(versions, default=0) + 1
    if os.path.exists(os.path.join(config.export_dir, str(version))):
        raise UserError(
            f"{os.path.join(config.export_dir, str(version))!r} exists. Give another --version, or "
            "0 for the next free one."
        )
    higher = sum(number > version for number in versions)
    if higher >= config.keep_versions:
        raise UserError(
            f"--version is {version}, and {higher} higher ones are there: with "
            f"--keep_versions={config.keep_versions} it would be removed at once. Give a "
            "higher one."
        )
    return version


def _write_version(
    directory: str,
    trained: TrainedModel,
    config: ExportConfig,
    *,
    version: int,
    source: Source,
) -> None:
    schema = trained.schema
    sample = requests.read_impressions(source, schema)
    impressions = list(itertools.islice(sample, _SAMPLED_IMPRESSIONS))
    widths = _choose_widths(trained, config.export_dir, impressions)
    saved_model.save(trained.model, schema, directory, widths=widths)
    os.makedirs(os.path.join(directory, "assets.extra"))
    score = LoadedVersion(directory, version).predict
    num_requests = warmup.write_warmup(
        os.path.join(directory, warmup.FILE),
        impressions,
        schema,
        widths=widths,
        batch_sizes=config.batch_sizes,
        model_name=config.model_name,
        score=score,
    )
    _write_golden(directory, trained, impressions, score)
    toml_file.save_schema(schema, os.path.join(directory, "assets.extra"), keys.SCHEMA_FILE)
    card = model_card.build_card(
        trained,
        model_dir=config.model_dir,
        model_name=config.model_name,
        version=version,
        evaluation=load_evaluation(trained, config.model_dir),
        serving={
            "signatures": list(saved_model.SIGNATURES),
            "widths": widths,
            "warm-up requests": num_requests,
            "warm-up files": list(source.files),
            "batch sizes": list(config.batch_sizes),
        },
    )
    model_card.write_card(card, directory)


def _choose_widths(
    trained: TrainedModel, export_dir: str, impressions: Sequence[Impression]
) -> dict[str, int]:
    """Returns the widths of `predict_tensors`.

    They are powers of two that hold the sampled impressions, and no smaller than those of the
    version before, so that its clients can go on.
    """
    before = _widths_before(export_dir)
    examples = requests.parse_examples(impressions)
    counts = dense_inputs.count_values(examples, trained.schema)
    return {
        name: max(1 << max(count - 1, 0).bit_length(), before.get(name, 1))
        for name, count in counts.items()
    }


def _widths_before(export_dir: str) -> Mapping[str, int]:
    for version in reversed(list_versions(export_dir)):
        path = os.path.join(export_dir, str(version), f"{model_card.FILE}.json")
        if os.path.exists(path):
            remedy = "Move that version away, or export into another --export_dir."
            card = files.read_json(path, version=model_card.FORMAT_VERSION, remedy=remedy)
            with files.told_as_damaged(path, remedy=remedy):
                return card["serving"]["widths"]
    return {}


def _write_golden(
    directory: str,
    trained: TrainedModel,
    impressions: Sequence[Impression],
    score: warmup.Score,
) -> None:
    few = impressions[: golden.NUM_IMPRESSIONS]
    request = requests.build_request(saved_model.SERVING_DEFAULT, few, trained.schema, widths={})
    golden.write_golden(directory, few, score(saved_model.SERVING_DEFAULT, request))


def load_evaluation(trained: TrainedModel, model_dir: str) -> Evaluation | None:
    """Returns what `evaluate` measured, if it was these weights with this calibration."""
    path = os.path.join(model_dir, keys.EVALUATION_FILE)
    if not os.path.exists(path):
        return None
    remedy = "Evaluate the model again, or remove that file to export without it."
    tree = files.read_json(path, remedy=remedy)
    expected = (trained.weights, trained.calibration_methods)
    if (tree.get("weights"), tree.get("calibration")) != expected:
        console.say(
            f"{path} is of other weights or another calibration: the model card is without it"
        )
        return None
    with files.told_as_damaged(path, remedy=remedy):
        return Evaluation.from_json(tree)
