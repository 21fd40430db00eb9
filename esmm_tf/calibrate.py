"""`python -m esmm_tf.calibrate`: fits a trained model's probabilities to records it never saw."""

import os
from typing import NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf import keys
from esmm_tf.calibration.maps import describe
from esmm_tf.calibration.report import EXPLANATION, format_table
from esmm_tf.config import flags
from esmm_tf.config.evaluation import CalibrateConfig
from esmm_tf.config.fields import settings_of
from esmm_tf.estimator.estimator import Estimator


def main(config: CalibrateConfig) -> None:
    """Fits calibration maps for pCTR and pCVR, which later commands apply."""
    settings = settings_of(config)
    estimator = Estimator.open(settings.pop("model_dir"), verbose=True)
    calibration = estimator.calibrate(**settings)
    if calibration is None:
        print(f"{config.model_dir} has no calibration now")
        return
    print(format_table(calibration.report))
    for name, calibration_map in calibration.maps.items():
        print(f"{name}: {describe(calibration_map)}")
    print(EXPLANATION)
    print(f"wrote {os.path.join(config.model_dir, keys.CALIBRATION_FILE)}")


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(main, CalibrateConfig)


if __name__ == "__main__":
    run()
