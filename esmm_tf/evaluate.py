"""`python -m esmm_tf.evaluate`: measures a trained model on records."""

import os

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf import evaluation, flags, input_fn, keys, model_directory
from esmm_tf.config import EvaluateConfig, ScoreConfig


def main(score: ScoreConfig, config: EvaluateConfig) -> None:
    """Measures a trained model and writes evaluation.json."""
    trained = model_directory.load_model(score.model_dir)
    source = input_fn.find_source(score.files, split=score.split)
    input_fn.check_schema(source, trained.schema)
    result = evaluation.evaluate(trained.model, trained.schema, source, score.input_config())
    history = model_directory.load_history(score.model_dir)
    rate = history[-1][keys.TRAIN]["impressions_per_second"]  # None after an epoch of one batch
    result["trained_impressions_per_second"] = rate
    path = config.output or os.path.join(score.model_dir, keys.EVALUATION_FILE)
    evaluation.write_evaluation(result, path)
    print(evaluation.format_table(result))
    if rate is not None:
        print(f"trained at {rate:,.0f} impressions/s")
    print(f"wrote {path}")


if __name__ == "__main__":
    flags.run(main, ScoreConfig, EvaluateConfig)
