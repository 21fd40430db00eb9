"""What is checked of the data before a model trains: validation shards, and label-like features."""

import math

import tensorflow as tf

from esmm_tf import callbacks, findings, input_fn, label_leaks, training_data
from esmm_tf.config import OFF, GuardConfig
from esmm_tf.schema import Schema
from esmm_tf.training_data import TrainingData


def check_shards(data: TrainingData, config: GuardConfig, writer: tf.summary.SummaryWriter) -> None:
    """Checks that no validation shard is trained on.

    Raises:
      UserError: if one is, and `on_shared_data` is `stop`.
    """
    num_shared = len(training_data.find_shared(data))
    callbacks.write_guards(writer, {"shared_shards": num_shared}, step=0)
    findings.act(training_data.judge_shared(data), config)


def check_features(
    source: input_fn.Source,
    schema: Schema,
    config: GuardConfig,
    writer: tf.summary.SummaryWriter,
) -> None:
    """Prints what a feature alone predicts, on the first impressions, and checks that it is little.

    Raises:
      UserError: if it is too much, and `on_label_like_feature` is `stop`.
    """
    if config.on_label_like_feature == OFF or config.leak_impressions == 0:
        return
    aucs = label_leaks.measure_leaks(source, schema, impressions=config.leak_impressions)
    print(label_leaks.describe_leaks(aucs), flush=True)
    largest = label_leaks.largest_aucs(aucs)
    scalars = {f"leak_auc/{name}": auc for name, auc in largest.items()}
    scalars["leak_auc"] = max(largest.values(), default=math.nan)
    callbacks.write_guards(writer, scalars, step=0)
    findings.act(label_leaks.judge_leaks(aucs, config.leak_auc), config)
