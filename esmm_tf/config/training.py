"""Settings of a training run, one frozen dataclass per concern.

Each field's `help`, which names its unit, becomes the help text of its flag.
"""

import dataclasses

from esmm_tf.config.fields import check_above, check_at_least_zero, setting
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import check_choice


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the model; the defaults are the paper's."""

    embedding_dim: int = setting(18, help="width of embedding tables that set none in the schema")
    hidden_units: tuple[int, ...] = setting(
        (360, 200, 80), help="units of each hidden layer of a tower, comma-separated"
    )
    ctr_loss_weight: float = setting(1.0, help="weight of the click loss")
    ctcvr_loss_weight: float = setting(1.0, help="weight of the click-and-conversion loss")

    def __post_init__(self) -> None:
        check_above(self, 0, "embedding_dim")
        check_at_least_zero(self, *self.loss_weights)
        if any(units <= 0 for units in self.hidden_units):
            raise UserError(f"--hidden_units is {self.hidden_units}. Give numbers above 0.")

    @property
    def loss_weights(self) -> dict[str, float]:
        """Returns the weights of loss terms by their flags' names; terms without a flag weigh 1."""
        names = (f.name for f in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name.endswith("_loss_weight")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Which system is trained; the default is ESMM."""

    method: str = setting(
        "esmm",
        help="esmm, esmm_ns, base, aman, oversampling, unbias, division, ctr (the network from "
        "which those from base on take pCTR), or the dotted path of a module that defines METHOD",
    )
    ctr_model_dir: str = setting(
        "", help="model directory of a trained --method=ctr, for the methods that take its pCTR"
    )
    sampling_rate: float = setting(
        -1.0,
        help="aman: share of the unclicked impressions that are negatives (0.1); oversampling: "
        "how often a conversion is trained on (2); unbias: a click is rejected with probability "
        "pCTR at 0 (0), and kept with min(1, rate * click_share / pCTR) above; below 0 stands for "
        "the default, in brackets",
    )

    @property
    def rate(self) -> float | None:
        """Returns the sampling rate that is given, or None for the method's default."""
        return None if self.sampling_rate < 0 else self.sampling_rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of row-wise Adam; the defaults are the paper's."""

    learning_rate: float = setting(0.001, help="step size of Adam")
    beta_1: float = setting(0.9, help="decay of Adam's first moment, in [0, 1)")
    beta_2: float = setting(0.999, help="decay of Adam's second moment, in [0, 1)")
    epsilon: float = setting(1e-8, help="Adam's epsilon")

    def __post_init__(self) -> None:
        check_above(self, 0, "learning_rate", "epsilon")
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}. Give a number in [0, 1).")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How records become batches."""

    batch_size: int = setting(1024, help="impressions in a batch, at most; groups stay whole")
    shuffle_buffer: int = setting(10000, help="groups held for shuffling; 0 keeps the file order")
    num_readers: int = setting(4, help="shards read at once")

    def __post_init__(self) -> None:
        check_above(self, 0, "batch_size", "num_readers")
        check_at_least_zero(self, "shuffle_buffer")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train on, for how long, and where to put it."""

    train_files: str = setting(
        help="records to train on: files or globs, comma-separated, or a data set's directory, "
        "which stands for its split 'train'"
    )
    model_dir: str = setting(help="directory for checkpoints, TensorBoard logs and settings")
    validation_files: str = setting(
        "",
        help="records to validate on after each epoch; a directory stands for its split "
        "'validation'",
    )
    schema: str = setting("", help="schema file; by default schema.toml beside the records")
    train_fraction: float = setting(
        1.0,
        help="share of the training groups that is trained on, chosen by a hash of their content, "
        "above 0 and at most 1; a larger share holds the smaller ones",
    )
    epochs: int = setting(1, help="passes over the training records")
    early_stopping_patience: int = setting(
        0,
        help="epochs without a lower validation loss before training stops; 0 trains them all",
    )
    seed: int = setting(1, help="seed of initial values and shuffling")
    deterministic: bool = setting(
        False, help="bit-identical reruns on the same machine, at some cost in speed"
    )

    def __post_init__(self) -> None:
        check_above(self, 0, "epochs", "train_fraction")
        check_at_least_zero(self, "early_stopping_patience", "seed")
        if self.train_fraction > 1:
            raise UserError(f"--train_fraction is {self.train_fraction}. Give at most 1.")
        if self.early_stopping_patience and not self.validation_files:
            raise UserError(
                f"--early_stopping_patience is {self.early_stopping_patience} and there are no "
                "--validation_files to watch. Give some, or leave out the patience."
            )


OFF, WARN, STOP = "off", "warn", "stop"
ACTIONS = (OFF, WARN, STOP)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What training does when something is wrong with the data or the model: off, warn or stop."""

    on_unnested_labels: str = setting(STOP, help="a conversion without a click: off, warn or stop")
    on_collapsed_head: str = setting(
        WARN, help="a head that gives every impression the same logit: off, warn or stop"
    )
    on_non_finite_loss: str = setting(
        STOP, help="a loss or weights that are infinite or NaN: off, warn or stop"
    )
    on_label_like_feature: str = setting(
        WARN, help="a feature that alone predicts a label: off, warn or stop"
    )
    on_miscalibration: str = setting(
        WARN, help="a calibration outside --calibration_band after an epoch: off, warn or stop"
    )
    on_shared_data: str = setting(
        STOP, help="a validation shard that is also trained on: off, warn or stop"
    )
    collapsed_std: float = setting(
        1e-4, help="standard deviation of a head's logits below which it is collapsed"
    )
    leak_auc: float = setting(
        0.95, help="AUC above which a feature that alone predicts a label is like it, 0.5 to 1"
    )
    leak_impressions: int = setting(
        100_000,
        help="training impressions, the first ones, on which the features' AUCs are measured "
        "before training; 0 skips it",
    )
    calibration_band: float = setting(
        2.0, help="factor by which the mean prediction may differ from the mean label, above 1"
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.name.startswith("on_"):
                check_choice(f"--{field.name}", getattr(self, field.name), ACTIONS)
        check_at_least_zero(self, "collapsed_std", "leak_impressions")
        check_above(self, 1, "calibration_band")
        if not 0.5 <= self.leak_auc <= 1:
            raise UserError(f"--leak_auc is {self.leak_auc}. Give a number from 0.5 to 1.")
