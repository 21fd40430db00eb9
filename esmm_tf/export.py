"""`python -m esmm_tf.export`: writes a trained model as a SavedModel for TF Serving."""

from typing import NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.fields import settings_of
from esmm_tf.config.serving import ExportConfig
from esmm_tf.estimator.estimator import Estimator


def main(config: ExportConfig) -> None:
    """Writes the trained model of --model_dir as the next version in --export_dir."""
    settings = settings_of(config)
    estimator = Estimator.open(settings.pop("model_dir"), verbose=True)
    print(f"wrote {estimator.export(**settings)}")


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(main, ExportConfig)


if __name__ == "__main__":
    run()
