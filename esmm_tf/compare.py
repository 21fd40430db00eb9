"""`python -m esmm_tf.compare`: the paper's table and figures, on a data set of one's own."""

from typing import NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.experiments import CompareConfig
from esmm_tf.config.fields import settings_of
from esmm_tf.config.training import InputConfig, ModelConfig
from esmm_tf.experiments.comparison import compare_methods


def main(config: CompareConfig, model: ModelConfig, inputs: InputConfig) -> None:
    """Trains and measures the paper's systems, each with several seeds, and writes their table."""
    comparison = compare_methods(verbose=True, **settings_of(config, model, inputs))
    print(comparison.table())
    print(f"wrote {', '.join(comparison.written)}")


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(main, CompareConfig, ModelConfig, InputConfig)


if __name__ == "__main__":
    run()
