"""`python -m esmm_tf.evaluate`: measures a trained model on records."""

from typing import NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.evaluation import EvaluateConfig, ScoreConfig
from esmm_tf.config.fields import settings_of
from esmm_tf.estimator.estimator import Estimator


def main(score: ScoreConfig, config: EvaluateConfig) -> None:
    """Measures a trained model and writes evaluation.json."""
    settings = settings_of(score, config)
    estimator = Estimator.open(settings.pop("model_dir"), verbose=True)
    evaluation = estimator.evaluate(**settings)
    print(evaluation.table())
    rate = evaluation.origin and evaluation.origin.trained_impressions_per_second
    if rate is not None:
        print(f"trained at {rate:,.0f} impressions/s")
    print(f"wrote {', '.join(evaluation.written)}")


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(main, ScoreConfig, EvaluateConfig)


if __name__ == "__main__":
    run()
