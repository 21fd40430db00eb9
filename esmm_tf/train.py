"""`python -m esmm_tf.train`: trains ESMM, or another method, on TFRecords."""

from typing import NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.fields import settings_of
from esmm_tf.config.training import (
    GuardConfig,
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.estimator.estimator import Estimator


def main(
    train: TrainConfig,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    inputs: InputConfig,
    guards: GuardConfig,
    method: MethodConfig,
) -> None:
    """Trains ESMM, or another --method, on TFRecords and leaves the model in --model_dir."""
    settings = settings_of(train, model, optimizer, inputs, guards, method)
    Estimator(verbose=True, **settings).train()


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(
        main, TrainConfig, ModelConfig, OptimizerConfig, InputConfig, GuardConfig, MethodConfig
    )


if __name__ == "__main__":
    run()
