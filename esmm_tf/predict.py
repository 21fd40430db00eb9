"""`python -m esmm_tf.predict`: scores the impressions of TFRecords."""

from typing import NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.evaluation import PredictConfig, ScoreConfig
from esmm_tf.config.fields import settings_of
from esmm_tf.estimator.estimator import Estimator


def main(score: ScoreConfig, config: PredictConfig) -> None:
    """Writes pCTR, pCVR and pCTCVR of every impression, with the keys that the schema carries."""
    settings = settings_of(score)
    estimator = Estimator.open(settings.pop("model_dir"), verbose=True)
    num_rows = estimator.predict(**settings).write(config.output)
    print(f"wrote {num_rows:,} impressions to {config.output}")


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(main, ScoreConfig, PredictConfig)


if __name__ == "__main__":
    run()
