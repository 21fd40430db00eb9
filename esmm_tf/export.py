"""`python -m esmm_tf.export`: writes a trained model as a SavedModel for TF Serving."""

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.serving import ExportConfig
from esmm_tf.serving import exporter
from esmm_tf.training import model_directory


def main(config: ExportConfig) -> None:
    """Writes the trained model of --model_dir as the next version in --export_dir."""
    trained = model_directory.load_model(config.model_dir)
    print(f"wrote {exporter.export(trained, config)}")


if __name__ == "__main__":
    flags.run(main, ExportConfig)
