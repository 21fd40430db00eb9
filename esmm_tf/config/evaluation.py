"""Settings of the commands that read a trained model."""

import dataclasses

from esmm_tf import keys
from esmm_tf.config.fields import check_above, setting
from esmm_tf.config.training import ACTIONS, WARN, InputConfig
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import check_choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Which trained model reads which records."""

    model_dir: str = setting(help="directory of a trained model")
    files: str = setting(
        help="records to read: files or globs, comma-separated, or a data set's directory"
    )
    split: str = setting("test", help="split that a directory in --files stands for")
    batch_size: int = setting(4096, help="impressions in a batch, at most")

    def __post_init__(self) -> None:
        check_above(self, 0, "batch_size")

    def input_config(self) -> InputConfig:
        """Returns how the records are read: once, in the order of the files."""
        return InputConfig(batch_size=self.batch_size, shuffle_buffer=0, num_readers=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrateConfig(ScoreConfig):
    """Which trained model is calibrated on which records, and how."""

    files: str = setting(
        "",
        help="records to fit to, never those of the test: files or globs, comma-separated, or a "
        "data set's directory",
    )
    split: str = setting("validation", help="split that a directory in --files stands for")
    calibration: str = setting(
        keys.PLATT,
        help="platt (a line), temperature (one number), isotonic (needs the most conversions), or "
        "none, which removes the calibration that there is",
    )
    on_used_data: str = setting(WARN, help="shards that were trained on: off, warn or stop")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("--calibration", self.calibration, (*keys.CALIBRATIONS, keys.NO_CALIBRATION))
        check_choice("--on_used_data", self.on_used_data, ACTIONS)
        if not self.files and self.calibration != keys.NO_CALIBRATION:
            raise UserError(
                "--files is missing. Give records that the model was not trained on, such as the "
                "data set's directory, which stands for its split 'validation'."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured beside all impressions, the baseline, and where the results go."""

    output: str = setting("", help="file to write; by default evaluation.json in --model_dir")
    slices: tuple[str, ...] = setting(
        (), help="features or carried keys, comma-separated: every metric also for each value"
    )
    baseline: str = setting(
        "", help="evaluation.json of another model on the same impressions, to compare with"
    )
    baseline_model_dir: str = setting("", help="directory of another model, to compare with")
    report_dir: str = setting(
        "", help="directory for a page with plots, index.html, and the plots as PNG files"
    )
    save_scores: bool = setting(
        True,
        help="keep each impression's logits beside --output, 8 bytes each, so that it can be a "
        "--baseline",
    )
    on_used_data: str = setting(
        WARN,
        help="shards that the model was trained, stopped early or calibrated on: off, warn or stop",
    )

    def __post_init__(self) -> None:
        check_choice("--on_used_data", self.on_used_data, ACTIONS)
        if self.baseline and self.baseline_model_dir:
            raise UserError("--baseline and --baseline_model_dir are both given. Give one of them.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Where predictions go, and in which format."""

    output: str = setting(help="file to write; its ending chooses .jsonl, .csv or .parquet")
