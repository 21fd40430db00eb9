"""The CTR network that methods share: refused where it does not fit, copied, and never trained."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from shop_batch import FEATURES, LABELS, SCHEMA, SMALL, build_model, one_batch, towers_of

from esmm_tf.config.training import (
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.errors import UserError
from esmm_tf.methods import load_method
from esmm_tf.model.optimizers import RowwiseAdam
from esmm_tf.training import ctr_network, model_directory, trained_model
from esmm_tf.training.model_directory import Settings

pytestmark = pytest.mark.slow

USERS = pytest.mark.parametrize("name", ["aman", "base", "division", "oversampling", "unbias"])


def build_settings(model_dir, *, method="base", ctr_model_dir="", keep_rate=1.0, **sizes):
    return Settings(
        train=TrainConfig(train_files="data", model_dir=str(model_dir)),
        model=ModelConfig(**SMALL | sizes),
        optimizer=OptimizerConfig(),
        input=InputConfig(),
        method=MethodConfig(method=method, ctr_model_dir=str(ctr_model_dir)),
        negative_keep_rate=keep_rate,
    )


def write_model(directory, model, *, schema=SCHEMA, method="ctr", **settings):
    """Writes a model directory as a finished run leaves it, and returns its path."""
    settings = build_settings(directory, method=method, **settings)
    model_directory.save_settings(settings, schema, str(directory))
    weights = str(directory / model_directory.WEIGHTS)
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), weights, max_to_keep=1).save()
    return directory


@pytest.fixture(scope="module")
def ctr_model():
    """Returns a CTR model whose heads are not zero, as of a training run."""
    return build_model("ctr", seed=7, trained=True, share=0.25)


@pytest.fixture(scope="module")
def ctr_dir(ctr_model, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("ctr") / "model", ctr_model)


@pytest.fixture
def ctr_copy(ctr_dir, tmp_path):
    """Returns the directory of a CTR model that a test may change."""
    return shutil.copytree(ctr_dir, tmp_path / "ctr")


def load(settings, *, schema=SCHEMA):
    method = load_method(settings.method.method)
    return ctr_network.load_ctr_network(method, settings, schema)


@pytest.fixture(scope="module")
def trained(ctr_dir):
    """Returns the CTR network that was taken from `ctr_dir`, for reading only."""
    return load(build_settings("base_dir", ctr_model_dir=ctr_dir))


@USERS
def test_a_method_without_a_ctr_network_of_its_own_needs_one(name, tmp_path):
    title = load_method(name).title
    message = (
        f"--ctr_model_dir is missing, and {title} takes its pCTR from a trained CTR network. Train "
        "one with --method=ctr, and name its --model_dir."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load(build_settings(tmp_path, method=name))


@pytest.mark.parametrize("name", ["ctr", "esmm", "esmm_ns"])
def test_a_method_that_trains_its_own_takes_none(name, tmp_path):
    message = (
        f"--ctr_model_dir is 'some/where', and {load_method(name).title} trains its own pCTR. "
        "Leave it out."
    )

    assert load(build_settings(tmp_path, method=name)) is None
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load(build_settings(tmp_path, method=name, ctr_model_dir="some/where"))


def test_a_network_that_fits_is_loaded(trained, ctr_model):
    np.testing.assert_array_equal(trained.model(FEATURES)["pctr"], ctr_model(FEATURES)["pctr"])


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no config\.json, so it is no model directory"):
        load(build_settings(tmp_path, ctr_model_dir=tmp_path))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"keep_rate": 0.5}, "--negative_keep_rate 0.5 for 1.0"),
        ({"schema": dataclasses.replace(SCHEMA, features=SCHEMA.features[:2])}, "another schema"),
        (
            {"method": "esmm", "embedding_dim": 3, "hidden_units": (8, 4)},
            "--method 'esmm' for 'ctr', --embedding_dim 3 for 4, --hidden_units (8, 4) for (8,)",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused_with_what_differs(tmp_path, changes, told):
    sizes = {name: changes[name] for name in ("embedding_dim", "hidden_units") if name in changes}
    model = build_model(
        changes.get("method", "ctr"), schema=changes.get("schema", SCHEMA), trained=True, **sizes
    )
    directory = write_model(tmp_path / "ctr", model, **changes)
    message = (
        f"--ctr_model_dir is {str(directory)!r}, which does not fit: it has {told}. Train one with "
        "--method=ctr and the same settings."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load(build_settings(tmp_path, ctr_model_dir=directory))


def test_other_loss_weights_and_another_optimizer_fit(tmp_path, ctr_dir):
    settings = build_settings(tmp_path, ctr_model_dir=ctr_dir, ctcvr_loss_weight=3.0)
    settings = dataclasses.replace(settings, optimizer=OptimizerConfig(learning_rate=0.5))

    assert load(settings) is not None


@USERS
def test_the_copy_gives_the_clicks_of_the_trained_network_and_is_left_so(name, trained, ctr_model):
    model = build_model(name, seed=1)
    model.compile(RowwiseAdam(0.1), run_eagerly=True)
    fresh = model(FEATURES)["pctr"].numpy()

    ctr_network.copy_weights(trained, model)
    before = model(FEATURES)
    model.fit(one_batch(FEATURES, LABELS), epochs=2, verbose=0)
    after = model(FEATURES)

    expected = ctr_model(FEATURES)["pctr"]
    assert (fresh != expected).numpy().all()
    np.testing.assert_array_equal(before["pctr"], expected)
    np.testing.assert_array_equal(after["pctr"], expected)
    assert (after["pctcvr"] != before["pctcvr"]).numpy().all()


def test_the_copy_is_no_longer_the_trained_network_itself(trained, ctr_model):
    model = build_model("base")
    ctr_network.copy_weights(trained, model)

    for weight in model.get_layer("ctr_network").weights:
        weight.assign(tf.zeros_like(weight))

    np.testing.assert_array_equal(trained.model(FEATURES)["pctr"], ctr_model(FEATURES)["pctr"])


def test_a_model_can_be_loaded_after_the_network_it_copied_is_gone(
    tmp_path, ctr_copy, trained, ctr_model
):
    model = build_model("base", seed=1, trained=True)
    ctr_network.copy_weights(trained, model)
    base_dir = write_model(tmp_path / "base", model, method="base", ctr_model_dir=ctr_copy)
    shutil.rmtree(ctr_copy)

    loaded = trained_model.load_model(str(base_dir)).model

    np.testing.assert_array_equal(loaded(FEATURES)["pctr"], ctr_model(FEATURES)["pctr"])
    np.testing.assert_array_equal(loaded(FEATURES)["pcvr"], model(FEATURES)["pcvr"])


def test_a_ctr_model_keeps_the_share_of_conversions_it_was_trained_with(trained):
    np.testing.assert_allclose(trained.model(FEATURES)["pcvr"], np.full(8, 0.25), rtol=1e-6)


def test_the_scorer_gives_the_pctr_of_the_trained_network(trained, ctr_model):
    pctr = ctr_network.build_scorer(trained)(FEATURES)

    np.testing.assert_array_equal(pctr, ctr_model(FEATURES)["pctr"])
    assert len(towers_of(trained.model)) == 1


def test_of_down_sampled_records_pctr_is_scored_corrected_and_copied_raw(tmp_path, ctr_model):
    directory = write_model(tmp_path / "ctr", ctr_model, keep_rate=0.25)
    trained = load(build_settings(tmp_path, ctr_model_dir=directory, keep_rate=0.25))
    model = build_model("base")

    ctr_network.copy_weights(trained, model)
    pctr = ctr_network.build_scorer(trained)(FEATURES)

    raw = ctr_model(FEATURES)["ctr_logits"].numpy()
    np.testing.assert_array_equal(model(FEATURES)["ctr_logits"], raw)
    np.testing.assert_allclose(pctr, 1 / (1 + np.exp(-raw) / 0.25), rtol=1e-5)


def test_a_calibration_of_the_network_is_not_taken_along(tmp_path, ctr_copy, ctr_model):
    (ctr_copy / "calibration.json").write_text("fitted for other weights", encoding="utf-8")

    trained = load(build_settings(tmp_path, ctr_model_dir=ctr_copy))

    np.testing.assert_array_equal(trained.model(FEATURES)["pctr"], ctr_model(FEATURES)["pctr"])
