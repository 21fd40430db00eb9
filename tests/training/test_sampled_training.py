"""Runs that train on a sample, or on a fraction, and what they leave."""

import re

import numpy as np
import pytest

from esmm_tf.config.training import (
    GuardConfig,
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.data import input_fn
from esmm_tf.data.source import find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import HashBucketColumn, IdentityColumn
from esmm_tf.schema.schema import Feature, Schema
from esmm_tf.training import model_directory, run, trained_model

pytestmark = pytest.mark.slow

SHELF = Schema(
    name="shelf",
    features=(
        Feature(
            name="user", side="context", dtype="int64", column=HashBucketColumn(hash_buckets=30)
        ),
        Feature(
            name="item", side="impression", dtype="int64", column=IdentityColumn(vocabulary_size=10)
        ),
    ),
)


def write_data(directory, *, num_groups=40, is_clicked=True):
    """Writes groups of 5 impressions, a third of them clicked, in both splits."""
    rng = np.random.default_rng(0)
    with DataSetWriter(str(directory), SHELF, num_shards=2) as writer:
        for split in ("train", "validation"):
            for user in range(num_groups):
                item = rng.integers(0, 10, 5)
                click = is_clicked * (rng.random(5) < np.where(item % 2, 0.15, 0.5)).astype(int)
                conversion = click * (rng.random(5) < np.where(item % 3, 0.3, 0.7))
                labels = {"click": click, "conversion": conversion}
                writer.write(split, {"user": [user], "item": item, **labels})
    return directory


def train(data, model_dir, method, *, validate=True, ctr_model_dir="", **settings):
    if validate:
        settings["validation_files"] = str(data)
    run.train(
        TrainConfig(
            train_files=str(data),
            model_dir=str(model_dir),
            **{"epochs": 1} | settings,
        ),
        ModelConfig(embedding_dim=2, hidden_units=(4,)),
        OptimizerConfig(learning_rate=0.05),
        InputConfig(batch_size=20),
        GuardConfig(leak_impressions=0),
        MethodConfig(method=method, ctr_model_dir=str(ctr_model_dir)),
    )
    return model_directory.load_history(str(model_dir))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("sampled") / "data")


@pytest.fixture(scope="module")
def ctr_dir(data, tmp_path_factory):
    """Returns the directory of a CTR run on a half of the groups."""
    directory = tmp_path_factory.mktemp("ctr") / "model"
    train(data, directory, "ctr", train_fraction=0.5, epochs=2)
    return directory


@pytest.fixture(scope="module")
def base_history(data, ctr_dir, tmp_path_factory):
    """Returns the history of a run of BASE for 2 epochs, and its directory."""
    directory = tmp_path_factory.mktemp("base") / "model"
    history = train(data, directory, "base", ctr_model_dir=ctr_dir, epochs=2, deterministic=True)
    return history, directory


def read_features(data, split="validation"):
    source = find_source(str(data), split=split)
    (batch,) = input_fn.build_dataset(source, SHELF, InputConfig(batch_size=10_000))
    return batch.features


def test_a_run_of_base_trains_on_clicks_and_validates_on_everything(data, base_history):
    history, _ = base_history
    train_labels, labels = (
        find_source(str(data), split=split).labels for split in ("train", "validation")
    )

    for entry in history:
        assert entry["train"]["impressions"] == entry["train"]["clicks"] == train_labels.clicks
        assert entry["train"]["ctr_auc"] is entry["train"]["ctcvr_auc"] is None
        assert entry["train"]["cvr_auc_clicked"] > 0
        assert entry["validation"]["impressions"] == labels.impressions
        assert entry["validation"]["clicks"] == labels.clicks
        assert all(entry["validation"][f"{task}_auc"] > 0 for task in ("ctr", "ctcvr"))
    assert history[1]["train"]["loss"] < history[0]["train"]["loss"]


def test_the_pctr_of_a_run_of_base_is_that_of_the_ctr_run(data, ctr_dir, base_history):
    _, base_dir = base_history
    features = read_features(data)

    ctr, base = (trained_model.load_model(str(d)).model(features) for d in (ctr_dir, base_dir))

    np.testing.assert_array_equal(ctr["pctr"], base["pctr"])
    assert len(np.unique(base["pcvr"])) > 10


def test_the_pcvr_of_a_ctr_run_is_that_of_the_clicks_of_its_training_records(data, ctr_dir):
    labels = find_source(str(data), split="train").labels

    pcvr = trained_model.load_model(str(ctr_dir)).model(read_features(data))["pcvr"]

    assert 0 < labels.conversions < labels.clicks
    np.testing.assert_allclose(pcvr, np.full(200, labels.conversions / labels.clicks), rtol=1e-6)


def test_a_sampled_run_that_is_resumed_ends_as_if_it_had_not_been(
    data, ctr_dir, base_history, tmp_path
):
    expected, base_dir = base_history

    # Validation changes nothing in what is trained.
    settings = {"ctr_model_dir": ctr_dir, "deterministic": True, "validate": False}
    train(data, tmp_path, "base", epochs=1, **settings)
    history = train(data, tmp_path, "base", epochs=2, **settings)

    assert [entry["train"]["loss"] for entry in history] == [e["train"]["loss"] for e in expected]
    found, wanted = (trained_model.load_model(str(d)).model for d in (tmp_path, base_dir))
    for one, other in zip(found.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_on_a_fraction_sees_the_same_groups_in_every_epoch(ctr_dir):
    history = model_directory.load_history(str(ctr_dir))

    first, second = (entry["train"] for entry in history)
    assert first["impressions"] == second["impressions"]
    assert first["clicks"] == second["clicks"]
    assert 60 <= first["impressions"] <= 140
    assert {entry["validation"]["impressions"] for entry in history} == {200}


def test_data_without_a_click_leave_nothing_to_train_on(ctr_dir, tmp_path):
    data = write_data(tmp_path / "data", is_clicked=False)
    message = (
        "BASE on the train data finds nothing that it is trained on: of 200 impressions 0 are "
        "clicked. Give more records, or train another --method."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        train(data, tmp_path / "model", "base", ctr_model_dir=ctr_dir)

    assert not (tmp_path / "model").exists()


def test_a_share_that_holds_no_group_is_refused(data, tmp_path):
    message = (
        "Of the training records, the share --train_fraction=1e-06 and what is sampled of it hold "
        "no impression. Give a larger share or more --train_files."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        train(data, tmp_path, "ctr", train_fraction=1e-6)
