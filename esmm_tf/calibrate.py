"""`python -m esmm_tf.calibrate`: fits a trained model's probabilities to records it never saw."""

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf import keys
from esmm_tf.calibration.maps import Calibration, describe
from esmm_tf.calibration.report import EXPLANATION, build_report, count, fit_maps, format_table
from esmm_tf.config import flags
from esmm_tf.config.evaluation import CalibrateConfig
from esmm_tf.data.source import check_schema, find_source
from esmm_tf.evaluation.scores import collect_scores
from esmm_tf.training import data_guards, model_directory, training_data


def main(config: CalibrateConfig) -> None:
    """Fits calibration maps for pCTR and pCVR, which later commands apply."""
    trained = model_directory.load_model(config.model_dir, calibrated=False)
    if config.calibration == keys.NO_CALIBRATION:
        model_directory.remove_calibration(config.model_dir)
        print(f"{config.model_dir} has no calibration now")
        return
    source = find_source(config.files, split=config.split)
    check_schema(source, trained.schema)
    own = (training_data.EARLY_STOPPING, training_data.CALIBRATION)
    data_guards.check_used(config.model_dir, source, config, allowed=own)
    scores = collect_scores(trained.model, trained.schema, source, config.input_config())
    maps = fit_maps(scores, config.calibration)
    report = build_report(scores, maps, config.calibration)
    path = model_directory.save_calibration(
        Calibration(
            maps=maps,
            weights=trained.weights,
            files=source.files,
            fingerprints=tuple(s.fingerprint for s in training_data.identify_shards(source)),
            counts=count(scores),
            report=report,
        ),
        config.model_dir,
    )
    print(format_table(report))
    for name, found in maps.items():
        print(f"{name}: {describe(found)}")
    print(EXPLANATION)
    print(f"wrote {path}")


if __name__ == "__main__":
    flags.run(main, CalibrateConfig)
