"""`python -m esmm_tf.predict`: scores the impressions of TFRecords."""

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.evaluation import PredictConfig, ScoreConfig
from esmm_tf.data.source import check_schema, find_source
from esmm_tf.evaluation import prediction
from esmm_tf.training import model_directory


def main(score: ScoreConfig, config: PredictConfig) -> None:
    """Writes pCTR, pCVR and pCTCVR of every impression, with the keys that the schema carries."""
    trained = model_directory.load_model(score.model_dir)
    source = find_source(score.files, split=score.split)
    check_schema(source, trained.schema)
    batches = prediction.predict(trained.model, trained.schema, source, score.input_config())
    num_rows = prediction.write_predictions(batches, config.output)
    print(f"wrote {num_rows:,} impressions to {config.output}")


if __name__ == "__main__":
    flags.run(main, ScoreConfig, PredictConfig)
