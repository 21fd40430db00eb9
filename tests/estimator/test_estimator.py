"""The front door's estimator: what the commands do, returned and not printed."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import esmm_tf
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.training import model_directory

pytestmark = pytest.mark.slow

SMALL = {
    "embedding_dim": 2,
    "hidden_units": [4],
    "batch_size": 8,
    "on_miscalibration": "off",
    "leak_impressions": 0,
}


@pytest.fixture(scope="module")
def shop():
    column = esmm_tf.HashBucketColumn(hash_buckets=50)
    return esmm_tf.Schema(
        name="shop",
        features=(
            esmm_tf.Feature(name="user", side="context", dtype="int64", column=column),
            esmm_tf.Feature(name="item", side="impression", dtype="int64", column=column),
        ),
        carry=("item",),
    )


@pytest.fixture(scope="module")
def records(shop, tmp_path_factory):
    """Returns a data set of 240 impressions a split, half clicked and half of those bought."""
    directory = str(tmp_path_factory.mktemp("records") / "data")
    rng = np.random.default_rng(5)
    with esmm_tf.DataSetWriter(directory, shop, num_shards=1) as writer:
        for split in ("train", "validation", "test"):
            for _ in range(60):
                click = rng.integers(0, 2, 4)
                group = {
                    "user": rng.integers(0, 1000, 1),
                    "item": rng.integers(0, 10, 4),
                    "click": click,
                    "conversion": click * rng.integers(0, 2, 4),
                }
                writer.write(split, group)
    return directory


@pytest.fixture(scope="module")
def estimator(shop, records, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("estimator") / "model")
    estimator = esmm_tf.Estimator(shop, model_dir=directory, **SMALL)
    estimator.train(records, validation_files=records)
    return estimator


@pytest.fixture(scope="module")
def prediction(estimator, records):
    return estimator.predict(records, batch_size=64)


@pytest.fixture(scope="module")
def predicted(prediction):
    """Returns the columns of `prediction`."""
    return prediction.arrays()


def test_training_returns_what_the_history_holds_warns_in_python_and_goes_on_with_more_epochs(
    shop, records, tmp_path, capfd
):
    settings = SMALL | {"on_miscalibration": "warn", "calibration_band": 1.0001}
    estimator = esmm_tf.Estimator(shop, model_dir=str(tmp_path), **settings)

    with pytest.warns(UserWarning, match="calibration"):
        first = estimator.train(records)

    assert [epoch["train"]["impressions"] for epoch in first] == [240.0]
    assert first == json.loads((tmp_path / "history.json").read_text())
    assert capfd.readouterr() == ("", "")

    both = esmm_tf.Estimator.open(str(tmp_path), verbose=True).train(epochs=2)

    assert both[:1] == first
    assert len(both) == 2
    assert both == json.loads((tmp_path / "history.json").read_text())
    assert "epoch 2 of 2, train: loss " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, r"There is no setting 'epoch'. Did you mean 'epochs'\?"),
        ({"epochs": 0}, r"--epochs is 0\. Give a number above 0\."),
    ],
)
def test_a_wrong_setting_is_refused_at_once(settings, message, tmp_path):
    with pytest.raises(esmm_tf.UserError, match=message):
        esmm_tf.Estimator(model_dir=str(tmp_path), **settings)


def test_an_estimator_without_records_says_what_is_missing(tmp_path):
    estimator = esmm_tf.Estimator(model_dir=str(tmp_path))

    with pytest.raises(esmm_tf.UserError, match="--train_files is missing"):
        estimator.train()
    with pytest.raises(esmm_tf.UserError, match="has no schema yet"):
        _ = estimator.schema
    with pytest.raises(esmm_tf.UserError, match="is no model directory"):
        esmm_tf.Estimator.open(str(tmp_path))


def test_an_evaluation_is_returned_kept_and_drawn_for_a_notebook(estimator, records, capfd):
    evaluation = estimator.evaluate(records)

    kept = json.loads(pathlib.Path(estimator.model_dir, "evaluation.json").read_text())
    assert json.loads(json.dumps(evaluation.to_json())) == kept
    assert evaluation.tasks["ctr"].impressions == 240
    assert evaluation.tasks["ctr"].auc == kept["tasks"]["ctr"]["auc"]
    assert evaluation.table().splitlines()[1].split()[0] == "ctr"
    assert capfd.readouterr() == ("", "")

    plots = esmm_tf.plot_evaluation(evaluation)

    assert {"reliability_ctr", "roc_ctcvr", "precision_recall_ctr", "histogram_pcvr"} <= set(plots)
    assert all(plot._repr_png_().startswith(b"\x89PNG") for plot in plots.values())


def test_predictions_are_arrays_or_a_file(prediction, predicted, tmp_path):
    path = tmp_path / "rows.jsonl"

    num_rows = prediction.write(str(path))

    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(predicted) == ["item", "pctr", "pcvr", "pctcvr"]
    assert num_rows == len(rows) == len(predicted["pctr"]) == 240
    np.testing.assert_array_equal(np.float32([row["pctr"] for row in rows]), predicted["pctr"])


def test_an_opened_estimator_predicts_as_the_one_that_was_trained(estimator, records, predicted):
    opened = esmm_tf.Estimator.open(estimator.model_dir)

    assert opened.schema == estimator.schema
    again = opened.predict(records, batch_size=64).arrays()
    np.testing.assert_array_equal(again["pctcvr"], predicted["pctcvr"])


def test_the_keras_model_gives_what_is_predicted(estimator, records, predicted):
    batches = esmm_tf.open_records(records, split="test", batch_size=1000)
    (features, _), *others = batches

    outputs = estimator.keras_model(features)

    assert not others
    assert isinstance(estimator.keras_model, tf_keras.Model)
    np.testing.assert_allclose(outputs["pctr"], predicted["pctr"], rtol=1e-6)


def test_a_model_that_was_tuned_by_hand_is_kept(estimator, records, predicted, tmp_path):
    model_dir = tmp_path / "model"
    shutil.copytree(estimator.model_dir, model_dir)
    tuned = esmm_tf.Estimator.open(str(model_dir))

    tuned.keras_model.fit(esmm_tf.open_records(records, batch_size=8), verbose=0)
    tuned.save_weights()

    after = esmm_tf.Estimator.open(str(model_dir)).predict(records).arrays()["pctr"]
    assert np.abs(after - predicted["pctr"]).max() > 1e-4
    assert len(list((model_dir / model_directory.WEIGHTS).glob("*.index"))) == 1


def test_weights_need_a_model_directory(shop, tmp_path):
    estimator = esmm_tf.Estimator(shop, model_dir=str(tmp_path), **SMALL)

    with pytest.raises(esmm_tf.UserError, match="is no model directory"):
        estimator.save_weights()


class DoubledLoss(EntireSpaceModel):
    """Has twice the loss of its method."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 2 * super().compute_loss(x, y, y_pred, sample_weight)


def test_a_subclass_takes_the_place_of_the_model(shop, records, tmp_path):
    estimator = esmm_tf.Estimator(shop, model_dir=str(tmp_path), model_class=DoubledLoss, **SMALL)
    estimator.train(records)
    batches = list(esmm_tf.open_records(records, batch_size=240))
    features, labels = batches[0]

    model = estimator.keras_model

    assert isinstance(model, DoubledLoss)
    outputs = model(features)
    plain = EntireSpaceModel.compute_loss(model, features, labels, outputs)
    tf.debugging.assert_near(model.compute_loss(features, labels, outputs), 2 * plain)


def test_calibration_is_returned_kept_and_removed(estimator, records):
    maps = estimator.calibrate(records, calibration="temperature", on_used_data="off").maps

    assert set(maps) == {"pctr", "pcvr"}
    assert model_directory.load_calibration(estimator.model_dir).maps == maps
    assert estimator.calibrate(calibration="none") is None
    assert model_directory.load_calibration(estimator.model_dir) is None


def test_an_export_is_the_directory_of_a_version(estimator, records, tmp_path, capfd):
    path = estimator.export(str(tmp_path), files=records, batch_sizes=[1])

    assert path == str(tmp_path / "1")
    assert tf.saved_model.contains_saved_model(path)
    assert capfd.readouterr().out == ""
