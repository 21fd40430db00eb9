"""`python -m esmm_tf.compare`: the paper's table and figures, on a data set of one's own."""

import os

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf import files
from esmm_tf.config import flags
from esmm_tf.config.experiments import CompareConfig
from esmm_tf.config.training import InputConfig, ModelConfig
from esmm_tf.experiments import plan
from esmm_tf.experiments.execute import ComparisonSettings
from esmm_tf.reports import comparison_page

RESULT_FILE = "comparison.json"


def main(config: CompareConfig, model_config: ModelConfig, input_config: InputConfig) -> None:
    """Trains and measures the paper's systems, each with several seeds, and writes their table."""
    comparison_page.check_installed()
    result = plan.run_comparison(
        ComparisonSettings(compare=config, model=model_config, input=input_config)
    )
    path = os.path.join(config.output_dir, RESULT_FILE)
    files.write_json(result, path)
    written = comparison_page.write_report(result, config.output_dir)
    print(comparison_page.format_table(result))
    print(f"wrote {', '.join([path, *written])}")


if __name__ == "__main__":
    flags.run(main, CompareConfig, ModelConfig, InputConfig)
