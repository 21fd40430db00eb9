"""A trained model calibrated on records that it never saw."""

from esmm_tf import keys
from esmm_tf.calibration.maps import Calibration
from esmm_tf.calibration.report import build_report, count, fit_maps
from esmm_tf.config.evaluation import CalibrateConfig
from esmm_tf.data.source import check_schema, find_source
from esmm_tf.evaluation.scores import collect_scores
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.training import data_guards, model_directory, trained_model, used_shards

# A calibration may be fitted again to records that early stopping or an older one has seen.
_ALLOWED_USES = (used_shards.EARLY_STOPPING, used_shards.CALIBRATION)


def calibrate_model(
    config: CalibrateConfig, *, model_class: type[EntireSpaceModel] = EntireSpaceModel
) -> Calibration | None:
    """Fits maps for pCTR and pCVR, keeps them in the model directory, and returns them.

    Returns None, after removing the maps that were kept, if `--calibration` is `none`.

    Raises:
      UserError: if the records do not fit the model, or hold too few clicks or conversions.
    """
    trained = trained_model.load_model(config.model_dir, calibrated=False, model_class=model_class)
    if config.calibration == keys.NO_CALIBRATION:
        model_directory.remove_calibration(config.model_dir)
        return None
    source = find_source(config.files, split=config.split)
    check_schema(source, trained.schema)
    data_guards.check_used(config.model_dir, source, config, allowed=_ALLOWED_USES)
    scores = collect_scores(trained.model, trained.schema, source, config.input_config())
    maps = fit_maps(scores, config.calibration)
    calibration = Calibration(
        maps=maps,
        weights=trained.weights,
        files=source.files,
        fingerprints=tuple(s.fingerprint for s in used_shards.identify_shards(source)),
        counts=count(scores),
        report=build_report(scores, maps, config.calibration),
    )
    model_directory.save_calibration(calibration, config.model_dir)
    return calibration
