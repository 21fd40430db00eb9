"""`python -m esmm_tf.train`: trains ESMM, or another method, on TFRecords."""

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.training import (
    GuardConfig,
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.training import training

if __name__ == "__main__":
    flags.run(
        training.train,
        TrainConfig,
        ModelConfig,
        OptimizerConfig,
        InputConfig,
        GuardConfig,
        MethodConfig,
    )
