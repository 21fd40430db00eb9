"""A version appears whole, with all that a server and its operator want beside it."""

import json
import os
import pathlib
import re
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf
from evaluation_results import build_result
from google.protobuf import text_format
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from esmm_tf.config.serving import ExportConfig
from esmm_tf.config.training import InputConfig
from esmm_tf.data.source import find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.evaluation import prediction
from esmm_tf.reports.evaluation_result import Evaluation
from esmm_tf.schema import toml_file
from esmm_tf.serving import exporter, saved_model
from esmm_tf.training import model_directory

pytestmark = pytest.mark.slow

SIGNATURES = ("serving_default", "pctr", "pcvr", "pctcvr", "predict_tensors", "rank", "regress")


def config_of(model_dir, export_dir, data, **more):
    settings = {"batch_sizes": (1, 3, 30), "model_name": "shop"} | more
    return ExportConfig(
        model_dir=str(model_dir), export_dir=str(export_dir), files=str(data), **settings
    )


@pytest.fixture
def export(trained, model_dir, scored_data, tmp_path, monkeypatch):
    """Returns a function that exports without tracing or scoring, into `tmp_path`."""

    def save(_model, _schema, path, *, widths):
        os.makedirs(path)
        pathlib.Path(path, "widths.json").write_text(json.dumps(widths), encoding="utf-8")

    def score(_signature, request):
        rows = len(next(iter(request.values())))
        return dict.fromkeys(("pctr", "pcvr", "pctcvr"), np.zeros(rows, np.float32))

    monkeypatch.setattr(saved_model, "save", save)
    monkeypatch.setattr(exporter, "LoadedVersion", lambda *_: types.SimpleNamespace(predict=score))

    def run(**more):
        return exporter.export(trained, config_of(model_dir, tmp_path, scored_data, **more))

    return run


def read_warmup(path):
    records = tf.data.TFRecordDataset(str(path / "assets.extra" / "tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(one) for one in records.as_numpy_iterator()]
    return [log.predict_log for log in logs]


def test_a_version_holds_the_model_and_what_belongs_to_it(exported):
    found = sorted(str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file())

    assert found == [
        "assets.extra/golden_request.json",
        "assets.extra/golden_response.json",
        "assets.extra/model_card.json",
        "assets.extra/model_card.md",
        "assets.extra/schema.toml",
        "assets.extra/tf_serving_warmup_requests",
        "assets.extra/vocabularies/query.txt",
        "assets/query.txt",
        "fingerprint.pb",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert sorted(os.listdir(exported.parent)) == [
        "7",
        "batching.config",
        "models.config",
        "monitoring.config",
    ]


def test_the_schema_beside_the_model_is_the_models(exported, trained):
    schema = toml_file.load_schema(str(exported / "assets.extra" / "schema.toml"))

    assert model_directory.is_same_schema(schema, trained.schema)


def test_each_signature_is_warmed_up_with_each_batch_size(exported):
    logs = read_warmup(exported)

    found = [
        (
            log.request.model_spec.signature_name,
            {tensor.tensor_shape.dim[0].size for tensor in log.request.inputs.values()},
        )
        for log in logs
    ]
    assert found == [(name, {size}) for name in SIGNATURES for size in (1, 3, 30)]
    assert {log.request.model_spec.name for log in logs} == {"shop"}


def test_warm_up_requests_get_their_recorded_responses(exported, signatures):
    for log in read_warmup(exported):
        inputs = {name: tf.make_ndarray(value) for name, value in log.request.inputs.items()}
        signature = signatures[log.request.model_spec.signature_name]
        outputs = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        assert set(outputs) == set(log.response.outputs)
        for name, value in log.response.outputs.items():
            np.testing.assert_allclose(outputs[name], tf.make_ndarray(value), rtol=0, atol=1e-6)


def test_the_golden_request_has_the_golden_response(exported, predicted_rows):
    request, response = (
        json.loads((exported / "assets.extra" / f"golden_{name}.json").read_text(encoding="utf-8"))
        for name in ("request", "response")
    )

    assert request["signature_name"] == "serving_default"
    assert [list(instance) for instance in request["instances"]] == [["b64"]] * 3
    assert [list(row) for row in response["predictions"]] == [["pctr", "pcvr", "pctcvr"]] * 3
    for row, expected in zip(response["predictions"], predicted_rows, strict=True):
        assert row == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def predicted_rows(trained, scored_data):
    """Returns what `predict` gives for the first three impressions of the records."""
    source = find_source(str(scored_data), split="test")
    batch = next(iter(prediction.Prediction(trained.model, trained.schema, source, InputConfig())))
    names = ("pctr", "pcvr", "pctcvr")
    return [{name: float(batch[name][place]) for name in names} for place in range(3)]


def test_the_server_is_told_where_the_model_lies(exported):
    text = (exported.parent / "models.config").read_text(encoding="utf-8")

    (found,) = text_format.Parse(
        text, model_server_config_pb2.ModelServerConfig()
    ).model_config_list.config

    assert (found.name, found.base_path) == ("shop", "/models/shop")
    assert found.model_platform == "tensorflow"
    assert found.model_version_policy.latest.num_versions == 1


def test_batches_have_the_sizes_that_are_warmed_up(exported):
    text = (exported.parent / "batching.config").read_text(encoding="utf-8")

    assert re.findall(r"allowed_batch_sizes: (\d+)", text) == ["1", "3", "30"]
    assert "max_batch_size { value: 30 }" in text


def test_a_config_that_was_changed_is_kept_and_told(export, tmp_path, capsys):
    export()
    (tmp_path / "models.config").write_text("# mine\n", encoding="utf-8")
    capsys.readouterr()

    export(batch_sizes=(1, 3, 30))

    assert (tmp_path / "models.config").read_text(encoding="utf-8") == "# mine\n"
    message = f"kept {tmp_path}/models.config, which is not what this export writes\n"
    assert capsys.readouterr().out == message


def test_widths_hold_the_records_and_do_not_shrink(export, tmp_path):
    first = json.loads(pathlib.Path(export(), "widths.json").read_text(encoding="utf-8"))
    card = tmp_path / "1" / "assets.extra" / "model_card.json"
    tree = json.loads(card.read_text(encoding="utf-8"))
    tree["serving"]["widths"]["tags"] = 64
    card.write_text(json.dumps(tree), encoding="utf-8")

    second = json.loads(pathlib.Path(export(), "widths.json").read_text(encoding="utf-8"))

    assert first == {"interests": 2, "tags": 4, "visits": 4}
    assert second == first | {"tags": 64}


def test_versions_count_up_from_the_highest(export, tmp_path):
    for name in ("3", "12", "not_a_version", ".99.tmp"):
        (tmp_path / name).mkdir()

    paths = [export() for _ in range(2)]

    assert paths == [str(tmp_path / "13"), str(tmp_path / "14")]


def test_the_highest_versions_are_kept(export, tmp_path):
    for _ in range(4):
        export(keep_versions=2)

    assert sorted(name for name in os.listdir(tmp_path) if name.isdigit()) == ["3", "4"]


def test_a_version_that_would_not_be_kept_is_refused(export, tmp_path):
    for name in ("7", "8"):
        (tmp_path / name).mkdir()
    message = (
        "--version is 5, and 2 higher ones are there: with --keep_versions=2 it would be removed "
        "at once. Give a higher one."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        export(version=5, keep_versions=2)

    assert sorted(os.listdir(tmp_path)) == ["7", "8"]


def test_a_version_that_exists_is_refused_and_kept(export, tmp_path):
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "kept").touch()
    message = f"'{tmp_path}/4' exists. Give another --version, or 0 for the next free one."

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        export(version=4)

    assert os.listdir(tmp_path / "4") == ["kept"]


def test_an_export_that_fails_leaves_no_version_and_can_be_repeated(export, tmp_path, monkeypatch):
    def fail(_model, _schema, path, **_):
        os.makedirs(path)
        pathlib.Path(path, "half").touch()
        raise OSError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(saved_model, "save", fail)
        with pytest.raises(OSError, match="disk is full"):
            export(version=2)
    assert not (tmp_path / "2").exists()

    export(version=2)

    assert (tmp_path / "2" / "widths.json").exists()
    assert not (tmp_path / "2" / "half").exists()
    assert not (tmp_path / ".2.tmp").exists()


@pytest.mark.parametrize("sizes", [(), (0, 1), (8, 1), (1, 1)])
def test_batch_sizes_rise_from_one(export, sizes):
    shown = ",".join(map(str, sizes))
    message = f"--batch_sizes is {shown!r}. Give rising numbers above 0."

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        export(batch_sizes=sizes)


def test_more_warm_up_requests_than_a_server_takes_are_refused(export):
    message = (
        "--batch_sizes has 143 sizes, which make 1,001 warm-up requests; TF Serving takes 1,000. "
        "Give fewer."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        export(batch_sizes=tuple(range(1, 144)))


# ---------------------------------------------------------------------------- held-out records


@pytest.fixture
def data_of(schema, build_group, tmp_path):
    """Returns a function that writes a data set with some splits."""

    def write(name, *splits):
        directory = tmp_path / name
        with DataSetWriter(str(directory), schema, num_shards=1) as writer:
            for place, split in enumerate(splits):
                writer.write(split, build_group(10 * place, 2))
        return directory

    return write


@pytest.mark.parametrize(
    ("files", "validated", "expected"),
    [
        ("other", "", "other/test"),
        ("", "validated", "validated/validation"),
        ("", "missing", "trained/test"),
        ("", "", "trained/test"),
    ],
)
def test_requests_are_made_of_records_that_were_held_out(
    trained, data_of, tmp_path, files, validated, expected
):
    data_of("trained", "train", "test")
    data_of("validated", "train", "validation")
    data_of("other", "train", "test")
    config = ExportConfig(
        model_dir="m", export_dir="e", files=str(tmp_path / files) if files else ""
    )

    source = exporter.find_held_out(config, settings_of(trained, tmp_path, validated=validated))

    assert [file.removeprefix(f"{tmp_path}/") for file in source.files] == [
        f"{expected}-00000-of-00001.tfrecord"
    ]


def settings_of(trained, directory, *, validated):
    return model_directory.Settings(
        train=type(trained.settings.train)(
            train_files=str(directory / "trained"),
            validation_files=str(directory / validated) if validated else "",
            model_dir="m",
        ),
        model=trained.settings.model,
        optimizer=trained.settings.optimizer,
        input=trained.settings.input,
    )


def test_training_records_are_never_taken_for_held_out_ones(trained, data_of, tmp_path):
    data_of("trained", "train")
    message = (
        "Warm-up and golden requests are made of held-out records, and neither --validation_files "
        "nor a split 'test' of the training data set is found. Name some with --files."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        exporter.find_held_out(
            ExportConfig(model_dir="m", export_dir="e"),
            settings_of(trained, tmp_path, validated=""),
        )


# ---------------------------------------------------------------------------- model card


def test_a_card_is_without_metrics_of_other_weights(trained, model_dir, tmp_path, capsys):
    copied = tmp_path / "model"
    shutil.copytree(model_dir, copied)
    evaluation = {"weights": "ckpt-9:0", "calibration": {}}
    (copied / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")

    found = exporter.load_evaluation(trained, str(copied))

    assert found is None
    assert capsys.readouterr().out == (
        f"{copied}/evaluation.json is of other weights or another calibration: the model card is "
        "without it\n"
    )


@pytest.mark.parametrize("changed", [{}, {"calibration": {"pctr": "platt"}}])
def test_a_card_has_the_metrics_of_its_weights_and_calibration(
    trained, model_dir, tmp_path, changed
):
    copied = tmp_path / "model"
    shutil.copytree(model_dir, copied)
    tree = build_result(weights=trained.weights, **changed)
    (copied / "evaluation.json").write_text(json.dumps(tree), encoding="utf-8")

    found = exporter.load_evaluation(trained, str(copied))

    assert found == (None if changed else Evaluation.from_json(tree))


def test_an_evaluation_that_is_damaged_stops_an_export(trained, model_dir, tmp_path):
    copied = tmp_path / "model"
    shutil.copytree(model_dir, copied)
    tree = build_result(weights=trained.weights)
    del tree["tasks"]["ctr"]["intervals"]
    (copied / "evaluation.json").write_text(json.dumps(tree), encoding="utf-8")
    message = r"evaluation\.json is damaged \(KeyError\('intervals'\)\)\. Evaluate the model again"

    with pytest.raises(UserError, match=message):
        exporter.load_evaluation(trained, str(copied))


def test_a_model_that_was_not_measured_has_no_metrics(trained, model_dir, capsys):
    assert exporter.load_evaluation(trained, str(model_dir)) is None
    assert capsys.readouterr().out == ""
