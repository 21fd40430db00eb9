"""`python -m esmm_tf.train`: trains ESMM, or another method, on TFRecords."""

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf import flags, training
from esmm_tf.config import (
    GuardConfig,
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

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
