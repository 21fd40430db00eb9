"""`python -m esmm_tf.evaluate`: measures a trained model on records."""

from typing import Any, NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.evaluation import EvaluateConfig, ScoreConfig
from esmm_tf.config.fields import settings_of
from esmm_tf.estimator.estimator import Estimator
from esmm_tf.reports import evaluation_text


def main(score: ScoreConfig, config: EvaluateConfig) -> None:
    """Measures a trained model and writes evaluation.json."""
    settings = settings_of(score, config)
    estimator = Estimator.open(settings.pop("model_dir"), verbose=True)
    evaluated = estimator.evaluate(**settings)
    _print(evaluated.tree)
    print(f"wrote {', '.join(evaluated.written)}")


def _print(result: dict[str, Any]) -> None:
    print(evaluation_text.format_tasks(result))
    if truth := evaluation_text.format_truth(result):
        print(f"\nbeside the truth:\n{truth}\n")
    for name in result["slices"]:
        print(f"\n{evaluation_text.format_slices(result, name)}")
    if "comparison" in result:
        print(f"\ndifference from {result['comparison']['baseline']}:")
        print(evaluation_text.format_comparison(result["comparison"]))
    rate = result["trained_impressions_per_second"]
    if rate is not None:
        print(f"trained at {rate:,.0f} impressions/s")


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(main, ScoreConfig, EvaluateConfig)


if __name__ == "__main__":
    run()
