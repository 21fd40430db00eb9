"""Settings: their defaults and what they refuse."""

import dataclasses

import pytest

from esmm_tf.config import evaluation, experiments, serving, training
from esmm_tf.config.evaluation import CalibrateConfig, EvaluateConfig, ScoreConfig
from esmm_tf.config.training import (
    GuardConfig,
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.errors import UserError

CONFIGS = [
    item
    for module in (evaluation, experiments, serving, training)
    for item in vars(module).values()
    if dataclasses.is_dataclass(item) and item.__module__ == module.__name__
]


def build(cls, **settings):
    """Returns settings whose required fields are texts."""
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    if cls is CalibrateConfig:
        required.append("files")  # left out only where a calibration is removed
    return cls(**{**dict.fromkeys(required, "text"), **settings})


def build_train_config(**settings):
    return build(TrainConfig, **settings)


def test_the_default_model_is_the_papers():
    model = ModelConfig()

    assert model.embedding_dim == 18
    assert model.hidden_units == (360, 200, 80)
    assert (model.ctr_loss_weight, model.ctcvr_loss_weight) == (1.0, 1.0)


def test_the_default_optimizer_is_the_papers():
    optimizer = OptimizerConfig()

    assert dataclasses.astuple(optimizer) == (0.001, 0.9, 0.999, 1e-8)


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_setting_has_a_help_text(cls):
    helps = [field.metadata.get("help") for field in dataclasses.fields(cls)]

    assert all(helps)


@pytest.mark.parametrize("cls", CONFIGS)
def test_settings_are_frozen(cls):
    item = build(cls)
    name = dataclasses.fields(cls)[0].name

    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(item, name, 1)


def test_a_loss_weight_of_zero_and_a_tower_without_hidden_layers_are_allowed():
    model = ModelConfig(ctr_loss_weight=0.0, hidden_units=())

    assert model.ctr_loss_weight == 0.0
    assert model.hidden_units == ()


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (ModelConfig, {"embedding_dim": 0}, "--embedding_dim is 0. Give a number above 0."),
        (ModelConfig, {"ctr_loss_weight": -1.0}, "--ctr_loss_weight is -1.0. Give 0 or "),
        (ModelConfig, {"ctcvr_loss_weight": -0.5}, "--ctcvr_loss_weight is -0.5. Give 0 "),
        (ModelConfig, {"ctr_loss_weight": float("nan")}, "--ctr_loss_weight is nan"),
        (
            ModelConfig,
            {"hidden_units": (8, 0)},
            r"--hidden_units is \(8, 0\). Give numbers above 0.",
        ),
        (OptimizerConfig, {"learning_rate": 0.0}, "--learning_rate is 0.0. Give a number"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "--learning_rate is nan"),
        (OptimizerConfig, {"epsilon": 0.0}, "--epsilon is 0.0. Give a number above 0."),
        (OptimizerConfig, {"beta_1": 1.0}, r"--beta_1 is 1.0. Give a number in \[0, 1\)."),
        (OptimizerConfig, {"beta_2": -0.1}, r"--beta_2 is -0.1. Give a number in \[0, 1\)."),
        (
            GuardConfig,
            {"on_shared_data": "no"},
            "--on_shared_data is 'no'. Use one of 'off'",
        ),
        (GuardConfig, {"collapsed_std": -1.0}, "--collapsed_std is -1.0. Give 0 or more."),
        (GuardConfig, {"leak_impressions": -1}, "--leak_impressions is -1. Give 0 or more."),
        (GuardConfig, {"leak_auc": 0.4}, "--leak_auc is 0.4. Give a number from 0.5 to 1."),
        (GuardConfig, {"calibration_band": 1.0}, "--calibration_band is 1.0. Give a number"),
        (EvaluateConfig, {"on_used_data": "x"}, "--on_used_data is 'x'. Use one of 'off',"),
        (ScoreConfig, {"batch_size": 0}, "--batch_size is 0. Give a number above 0."),
        (serving.ExportConfig, {"version": -1}, "--version is -1. Give 0 or more."),
        (InputConfig, {"batch_size": 0}, "--batch_size is 0. Give a number above 0."),
        (InputConfig, {"num_readers": 0}, "--num_readers is 0. Give a number above 0."),
        (InputConfig, {"shuffle_buffer": -1}, "--shuffle_buffer is -1. Give 0 or more."),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_flags_name(cls, settings, message):
    with pytest.raises(UserError, match=message):
        build(cls, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "--epochs is 0. Give a number above 0."),
        ({"seed": -1}, "--seed is -1. Give 0 or more."),
        ({"train_fraction": 0.0}, "--train_fraction is 0.0. Give a number above 0."),
        ({"train_fraction": 1.5}, "--train_fraction is 1.5. Give at most 1."),
        ({"train_fraction": float("nan")}, "--train_fraction is nan. Give a number above 0."),
        ({"early_stopping_patience": -2}, "--early_stopping_patience is -2. Give 0 or more."),
        (
            {"early_stopping_patience": 2},
            "--early_stopping_patience is 2 and there are no --validation_files to watch. "
            "Give some, or leave out the patience.",
        ),
    ],
)
def test_a_training_setting_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        build_train_config(**settings)


def test_early_stopping_is_allowed_with_validation_files():
    train = build_train_config(early_stopping_patience=2, validation_files="validation")

    assert train.early_stopping_patience == 2


def test_loss_weights_go_by_the_names_of_their_flags():
    model = ModelConfig(ctr_loss_weight=0.5, ctcvr_loss_weight=3.0)

    assert model.loss_weights == {"ctr_loss_weight": 0.5, "ctcvr_loss_weight": 3.0}


@pytest.mark.parametrize(("given", "rate"), [(-1.0, None), (0.0, 0.0), (0.2, 0.2)])
def test_a_sampling_rate_below_0_stands_for_the_default(given, rate):
    assert MethodConfig(sampling_rate=given).rate == rate
    assert MethodConfig().rate is None
    assert MethodConfig().method == "esmm"


def test_scoring_reads_the_records_once_in_the_order_of_the_files():
    score = build(ScoreConfig, batch_size=7)

    found = score.input_config()

    assert found == InputConfig(batch_size=7, shuffle_buffer=0, num_readers=1)
