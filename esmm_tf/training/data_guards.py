"""Checks of data, before a model trains on it and before it is measured on it."""

import math
import os
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from esmm_tf import console
from esmm_tf.config.training import OFF, GuardConfig
from esmm_tf.data.source import Source
from esmm_tf.schema.schema import Schema
from esmm_tf.training import findings, label_leaks, model_directory, progress, used_shards
from esmm_tf.training.used_shards import TrainingData


def check_shards(data: TrainingData, config: GuardConfig, writer: tf.summary.SummaryWriter) -> None:
    """Checks that no validation shard is trained on.

    Raises:
      UserError: if one is, and `on_shared_data` is `stop`.
    """
    num_shared = len(used_shards.find_shared(data))
    progress.write_guards(writer, {"shared_shards": num_shared}, step=0)
    findings.act(used_shards.judge_shared(data), config)


def check_sampling(train: Source, validation: Source) -> None:
    """Warns if validation keeps another share of the unclicked impressions than training.

    While a model trains, its probabilities are those of the records that it trains on.
    """
    rates = (train.negative_keep_rate, validation.negative_keep_rate)
    if rates[0] != rates[1]:
        console.warn(
            f"Training keeps {rates[0]:g} of the unclicked impressions and validation "
            f"{rates[1]:g}, so that the validation loss and calibration during training are not "
            "comparable, and an early stop by them is off. Write both with one "
            "--negative_keep_rate; AUCs and esmm_tf.evaluate are right all the same."
        )


def check_features(
    source: Source,
    schema: Schema,
    config: GuardConfig,
    writer: tf.summary.SummaryWriter,
) -> None:
    """Shows how well each feature alone predicts the labels of the first impressions.

    Raises:
      UserError: if one does so too well, and `on_label_like_feature` is `stop`.
    """
    if config.on_label_like_feature == OFF or config.leak_impressions == 0:
        return
    aucs = label_leaks.measure_leaks(source, schema, impressions=config.leak_impressions)
    console.say(label_leaks.describe_leaks(aucs))
    largest = label_leaks.largest_aucs(aucs)
    scalars = {f"leak_auc/{name}": auc for name, auc in largest.items()}
    scalars["leak_auc"] = max(largest.values(), default=math.nan)
    progress.write_guards(writer, scalars, step=0)
    findings.act(label_leaks.judge_leaks(aucs, config.leak_auc), config)


def check_used(
    model_dir: str, source: Source, config: Any, *, allowed: Collection[str] = ()
) -> Mapping[str, Collection[str]] | None:
    """Checks that a model is not measured on, or fitted to, shards that it has seen.

    Args:
      model_dir: of the model; its TensorBoard logs receive the number of such shards.
      source: of the records.
      config: whose field `on_used_data` is `off`, `warn` or `stop`.
      allowed: uses that do not matter.

    Returns:
      The files that the model has seen, by their use, as `training_data.used_in_training` does.

    Raises:
      UserError: if there are such shards, and `on_used_data` is `stop`.
    """
    calibration = model_directory.load_calibration(model_dir)
    used = used_shards.used_in_training(
        model_dir, source, calibrated_on=calibration.fingerprints if calibration else ()
    )
    wrong = {use: files for use, files in (used or {}).items() if use not in allowed}
    if os.access(model_dir, os.W_OK):
        logs = os.path.join(model_dir, model_directory.TENSORBOARD, "evaluation")
        writer = tf.summary.create_file_writer(logs)
        progress.write_guards(writer, {"used_shards": sum(map(len, wrong.values()))}, step=0)
        writer.close()
    findings.act(used_shards.judge_used(wrong, source), config)
    return used
