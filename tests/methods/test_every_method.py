"""Each method from records to a served model, by the commands' own functions."""

import json

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics

from esmm_tf import evaluate, export, methods
from esmm_tf.config.evaluation import EvaluateConfig, ScoreConfig
from esmm_tf.config.serving import ExportConfig
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
from esmm_tf.schema.columns import HashBucketColumn, IdentityColumn, NumericColumn
from esmm_tf.schema.schema import Feature, Schema
from esmm_tf.serving import saved_model
from esmm_tf.training import model_directory, run, trained_model

PROBABILITIES = ("pctr", "pcvr", "pctcvr")
USES_CTR = ("aman", "base", "division", "oversampling", "unbias")
SAMPLED = ("aman", "oversampling", "unbias")  # they have the network of base, by another sample
NETWORKS = tuple(name for name in methods.names() if name not in SAMPLED)

pytestmark = pytest.mark.slow


SCHEMA = Schema(
    name="shelf",
    features=(
        Feature(
            name="tastes",
            side="context",
            dtype="int64",
            column=HashBucketColumn(hash_buckets=30),
            values="many",
        ),
        Feature(
            name="item", side="impression", dtype="int64", column=IdentityColumn(vocabulary_size=10)
        ),
        Feature(name="price", side="impression", dtype="float32", column=NumericColumn()),
    ),
    oracle=True,
)


def draw_group(rng, size):
    """Returns a group whose items differ in their true rates of clicks and conversions."""
    item = rng.integers(0, 10, size)
    pctr, pcvr = np.where(item % 2, 0.3, 0.6), np.where(item % 3, 0.3, 0.7)
    click = (rng.random(size) < pctr).astype(int)
    return {
        "tastes": rng.integers(0, 99, 3),
        "item": item,
        "price": rng.random(size),
        "click": click,
        "conversion": click * (rng.random(size) < pcvr),
        "oracle_pctr": pctr,
        "oracle_pcvr": pcvr,
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Returns a data set; the groups of its `test` are of one impression, as requests are."""
    directory = tmp_path_factory.mktemp("data") / "data"
    rng = np.random.default_rng(0)
    with DataSetWriter(str(directory), SCHEMA, num_shards=2) as writer:
        for split, num_groups, size in (("train", 20, 5), ("validation", 10, 4), ("test", 60, 1)):
            for _ in range(num_groups):
                writer.write(split, draw_group(rng, size))
    return directory


@pytest.fixture(scope="module")
def batch(data):
    """Returns the impressions of the split `test`, in the order of the file."""
    source = find_source(str(data), split="test")
    (parsed,) = input_fn.build_dataset(source, SCHEMA, InputConfig(batch_size=100))
    return parsed


def train(data, model_dir, method, *, ctr_model_dir="", validation_files=""):
    run.train(
        TrainConfig(
            train_files=str(data), validation_files=str(validation_files), model_dir=str(model_dir)
        ),
        ModelConfig(embedding_dim=2, hidden_units=(4,)),
        OptimizerConfig(learning_rate=0.05),
        InputConfig(batch_size=20),
        GuardConfig(leak_impressions=0),
        MethodConfig(method=method, ctr_model_dir=str(ctr_model_dir)),
    )


@pytest.fixture(scope="module")
def ctr_dir(data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("ctr") / "model"
    train(data, directory, "ctr", validation_files=data)
    return directory


@pytest.fixture(scope="module")
def pctr(ctr_dir, batch):
    """Returns what the network of `ctr_dir` predicts for the impressions of `batch`."""
    return trained_model.load_model(str(ctr_dir)).model(batch.features)["pctr"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_method_is_trained_evaluated_and_served(name, data, batch, ctr_dir, tmp_path, capsys):
    model_dir = ctr_dir if name == "ctr" else tmp_path / "model"
    if name != "ctr":
        ctr_model_dir = ctr_dir if name in USES_CTR else ""
        train(data, model_dir, name, ctr_model_dir=ctr_model_dir, validation_files=data)
    (entry,) = model_directory.load_history(str(model_dir))

    score = ScoreConfig(model_dir=str(model_dir), files=str(data))
    evaluate.main(score, EvaluateConfig())

    assert entry["validation"]["impressions"] == 40
    assert np.isfinite(entry["validation"]["loss"])
    result = json.loads((model_dir / "evaluation.json").read_text(encoding="utf-8"))
    assert list(result["tasks"]) == ["ctr", "cvr_clicked", "ctcvr", "cvr_entire"]
    trained = trained_model.load_model(str(model_dir))
    expected = trained.model(batch.features)
    auc = metrics.roc_auc_score(batch.labels["click"], expected["pctr"])
    assert result["tasks"]["ctr"]["auc"] == pytest.approx(auc, abs=0.01)  # rounding makes ties
    assert "predictions_above_1" not in result["tasks"]["ctr"]
    assert ("predictions_above_1" in result["tasks"]["cvr_clicked"]) == (name == "division")
    assert "cvr_entire" in capsys.readouterr().out
    assert_serves(export_model(trained, model_dir, tmp_path / "export"), expected, data)


@pytest.mark.parametrize("name", SAMPLED)
def test_a_sample_of_the_impressions_trains_the_network_of_base(
    name, data, batch, ctr_dir, pctr, tmp_path
):
    train(data, tmp_path, name, ctr_model_dir=ctr_dir)

    (entry,) = model_directory.load_history(str(tmp_path))
    labels = find_source(str(data), split="train").labels
    drawn, clicks = entry["train"]["impressions"], labels.clicks
    assert {
        "aman": clicks < drawn < labels.impressions / 2 + clicks,
        "oversampling": drawn == clicks + labels.conversions,
        "unbias": 0 < drawn < clicks,
    }[name]
    outputs = trained_model.load_model(str(tmp_path)).model(batch.features)
    np.testing.assert_allclose(outputs["pctr"], pctr, rtol=1e-6)
    assert np.ptp(outputs["pcvr"]) > 0  # before it is trained it is one half everywhere


def export_model(trained, model_dir, directory):
    """Returns the path of a SavedModel: of DIVISION, whose outputs are its own, by the command."""
    if trained.settings.method.method != "division":
        saved_model.save(trained.model, trained.schema, str(directory), widths={"tastes": 3})
        return directory
    export.main(ExportConfig(model_dir=str(model_dir), export_dir=str(directory), batch_sizes=(1,)))
    return directory / "1"


def read_records(data):
    return list(tf.data.TFRecordDataset(list(find_source(str(data), split="test").files)))


def assert_serves(path, expected, data):
    """Asserts that a SavedModel gives what the trained model gives, each in [0, 1]."""
    records = tf.stack(read_records(data))
    served = tf.saved_model.load(str(path)).signatures["serving_default"](records)

    assert set(served) == set(PROBABILITIES)
    for name, values in served.items():
        assert ((values >= 0) & (values <= 1)).numpy().all()
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-6)
