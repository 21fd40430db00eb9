"""What is served is compared with the training path, and a difference is told with its cause."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import socket
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from esmm_tf import check_skew, keys
from esmm_tf.calibration.maps import Calibration, Platt
from esmm_tf.config import flags
from esmm_tf.config.serving import ExportConfig, SkewConfig
from esmm_tf.config.training import InputConfig, ModelConfig, OptimizerConfig, TrainConfig
from esmm_tf.data.source import find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.methods import load_method
from esmm_tf.schema import columns, toml_file
from esmm_tf.schema import schema as schema_lib
from esmm_tf.serving import exported as exported_version
from esmm_tf.serving import exporter, saved_model, skew, skew_causes
from esmm_tf.serving.client import LiveServer
from esmm_tf.serving.skew_comparison import Comparison
from esmm_tf.training import model_directory, trained_model

pytestmark = pytest.mark.slow

MODEL_NAME = "shop"


@pytest.fixture(scope="module")
def small_schema(served_schema):
    """Returns four features of `served_schema`: every one costs time in every signature."""
    names = ("user", "query", "tags", "price")
    features = tuple(feature for feature in served_schema.features if feature.name in names)
    tables = tuple(table for table in served_schema.tables if table.name == "brands")
    return dataclasses.replace(served_schema, features=features, tables=tables)


@pytest.fixture(scope="module")
def records(small_schema, varied_groups, tmp_path_factory):
    """Returns a data set: `varied_groups`, and in split `wide` impressions of 1, 5, 2, 6 tags."""
    directory = tmp_path_factory.mktemp("records") / "data"
    tags = {"tags": ["tag 1"] * 14, "tags:weight": [1.0] * 14, "tags:lengths": [1, 5, 2, 6]}
    outcome = {"click": [0] * 4, "conversion": [0] * 4, "example_weight": [1.0] * 4}
    truth = {"oracle_pctr": [0.5] * 4, "oracle_pcvr": [0.5] * 4}
    sample = {"sample": range(4), "price": [2.0] * 4}
    wide = {"user": [1], "request": ["r"], **sample, **tags, **outcome, **truth}
    with DataSetWriter(str(directory), small_schema, num_shards=1) as writer:
        writer.write("wide", wide)
        for group in varied_groups:
            known = {name: v for name, v in group.items() if name.split(":")[0] in wide}
            writer.write("test", known | {"query": group["query"]})
    return directory


@pytest.fixture(scope="module")
def small_dir(small_schema, tmp_path_factory):
    """Returns a calibrated model of `small_schema` with random weights, for reading only."""
    directory = tmp_path_factory.mktemp("model") / "model_dir"
    settings = model_directory.Settings(
        train=TrainConfig(train_files="data", model_dir=str(directory)),
        model=ModelConfig(embedding_dim=2, hidden_units=(4,)),
        optimizer=OptimizerConfig(),
        input=InputConfig(),
    )
    model = load_method("esmm").build(small_schema, settings.model)
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0.0, 0.5, weight.shape) for weight in model.get_weights()])
    model_directory.save_settings(settings, small_schema, str(directory))
    save_weights(model, directory)
    weights = trained_model.load_network(str(directory)).weights
    maps = {name: Platt(slope=1.5, offset=-0.25) for name in ("pctr", "pcvr")}
    model_directory.save_calibration(Calibration(maps=maps, weights=weights), str(directory))
    return directory


def save_weights(model, directory):
    path = directory / model_directory.WEIGHTS
    shutil.rmtree(path, ignore_errors=True)
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(path), max_to_keep=1).save()


@pytest.fixture(scope="module")
def small(small_dir):
    """Returns the model of `small_dir`."""
    return trained_model.load_model(str(small_dir))


@pytest.fixture
def card(small):
    """Returns what a model card tells of `small`."""
    return {
        "weights": small.weights,
        "calibration": small.calibration_methods,
        "software": {"esmm_tf": "1.0"},
    }


@pytest.fixture
def copied(small_dir, tmp_path):
    """Returns a copy of `small_dir`, to be changed."""
    return pathlib.Path(shutil.copytree(small_dir, tmp_path / "model_dir"))


@pytest.fixture(scope="module")
def exported(small, small_dir, records, tmp_path_factory):
    """Returns the directory of an export of `small`, for reading only."""
    directory = tmp_path_factory.mktemp("export")
    settings = ExportConfig(
        model_dir=str(small_dir),
        export_dir=str(directory),
        files=str(records),
        split="test",
        version=1,
        batch_sizes=(1,),
    )
    exporter.export(small, settings)
    return directory


@pytest.fixture
def check(small_dir, records, tmp_path, capsys):
    """Returns a function that checks an export; it returns exit code, lines and JSON."""

    def run(export_dir, **more):
        output = tmp_path / "skew.json"
        settings = {
            "model_dir": small_dir,
            "export_dir": export_dir,
            "files": records,
            "output": output,
        }
        argv = [f"--{name}={value}" for name, value in (settings | more).items()]
        with pytest.raises(SystemExit) as end:
            flags.run(check_skew.main, SkewConfig, argv=["check_skew", *argv])
        tree = json.loads(output.read_text(encoding="utf-8"))
        return end.value.code, capsys.readouterr().out.splitlines(), tree

    return run


class Servicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict alone, without the signature `regress`; scores are multiplied."""

    def __init__(self, signatures, version, factor):
        self._signatures = signatures
        self._version = version
        self._factor = factor
        self.sizes = []

    def Predict(self, request, context):  # noqa: N802 - the protocol's name
        if request.model_spec.name != MODEL_NAME:
            context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
        if request.model_spec.signature_name == saved_model.REGRESS:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Serving signature not found.")
        tensors = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
        self.sizes.append(len(next(iter(tensors.values()))))
        outputs = self._signatures[request.model_spec.signature_name](
            **{name: tf.constant(values) for name, values in tensors.items()}
        )
        response = predict_pb2.PredictResponse(
            outputs={
                name: tf.make_tensor_proto(self._factor * value.numpy())
                for name, value in outputs.items()
            }
        )
        response.model_spec.version.value = self._version
        return response


@pytest.fixture(scope="module")
def signatures(exported):
    return tf.saved_model.load(str(exported / "1")).signatures


@pytest.fixture
def start_server(signatures):
    """Returns a function that serves the export as a version; it returns address and servicer."""
    servers = []

    def start(version, *, factor=1.0):
        servicer = Servicer(signatures, version, factor)
        server = grpc.server(futures.ThreadPoolExecutor(1))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}", servicer

    yield start
    for server in servers:
        server.stop(grace=None).wait()


def find(tree, signature, *, scored_by="version 1", is_cut=False):
    (found,) = (
        one
        for one in tree["comparisons"]
        if (one["scored_by"], one["signature"], one["is_cut"]) == (scored_by, signature, is_cut)
    )
    return found


def test_an_export_gives_the_scores_of_its_model_by_every_signature(exported, check):
    code, lines, tree = check(exported)

    assert code == 0
    assert lines[-1].startswith("PASS: 20 impressions are served as the training path scores them")
    assert [one["signature"] for one in tree["comparisons"]] == list(saved_model.SIGNATURES)
    assert {one["impressions"] for one in tree["comparisons"]} == {20}
    assert max(one["relative"] for one in tree["comparisons"]) < 2e-6
    assert set(find(tree, "rank")["largest"]) == {"pctr", "pcvr", "pctcvr"}
    assert set(find(tree, "regress")["largest"]) == {"pctcvr"}
    assert tree["passed"]
    assert tree["notes"] == []


def test_the_first_impressions_are_compared_in_requests_of_the_batch_size(
    exported, check, start_server
):
    address, servicer = start_server(1)

    _, _, tree = check(
        exported, server=address, model_name=MODEL_NAME, batch_size=3, max_impressions=10
    )

    assert find(tree, "pctr")["impressions"] == 10
    assert find(tree, "rank", scored_by=address)["impressions"] == 10
    assert max(servicer.sizes) == 3
    assert sum(servicer.sizes) == 6 * 10
    assert tree["notes"] == []


def test_other_weights_and_another_calibration_are_told(exported, small, small_dir, check, copied):
    other = trained_model.load_network(str(small_dir)).model
    other.set_weights([1.1 * weight for weight in other.get_weights()])
    save_weights(other, copied)
    (copied / "calibration.json").unlink()

    code, lines, tree = check(exported, model_dir=copied)

    weights = trained_model.load_network(str(copied)).weights
    notes = [
        f"the weights are {weights}, and {small.weights} in the export",
        "the calibration is none, and pctr platt, pcvr platt in the export",
    ]
    cause = f"every feature is read as in training: {'; '.join(notes)}"
    assert code == 1
    assert tree["notes"] == notes
    assert lines[-1].startswith("FAIL: of 7 comparisons, 7 find other scores")
    first = find(tree, "serving_default")["first"]
    assert first["impression"] == 0
    assert first["carried"] == {"sample": 2000, "user": 2000}
    assert first["feature"] == ""
    assert first["cause"] == cause
    assert first["scores"]["pctr"][0] != pytest.approx(first["scores"]["pctr"][1], rel=1e-3)
    (told,) = (place for place, line in enumerate(lines) if cause in line)
    assert lines[told].startswith(f"from impression 0 (sample 2000, user 2000) on: {cause} (p")
    assert lines[told + 1] == f"  version 1: {', '.join(saved_model.SIGNATURES)}"


def test_an_altered_vocabulary_is_told_with_its_feature_and_value(exported, check, tmp_path):
    shutil.copytree(exported, tmp_path / "export")
    asset = tmp_path / "export" / "1" / "assets" / "query.txt"
    asset.write_text("hats\nshoes\n", encoding="utf-8")

    code, lines, tree = check(tmp_path / "export")

    assert code == 1
    assert tree["notes"] == [
        "feature 'query' is declared otherwise: number 1 of column.file is 'shoes', and 'hats' in "
        "the export"
    ]
    assert tree["notes"][0] in lines
    for signature in saved_model.SIGNATURES:
        first = find(tree, signature)["first"]
        assert first["impression"] == 1  # the first of sample 2001, whose query is "shoes"
        assert first["feature"] == "query"
        assert first["cause"] == "training reads table rows [0], the export table rows [1]"


def test_a_feature_that_another_schema_declares_otherwise_is_told(exported, small, check, copied):
    column = columns.NumericColumn(scaling="standard", mean=50.0, stddev=25.0)
    schema = with_feature(small.schema, "price", column=column)
    toml_file.save_schema(schema, str(copied), keys.SCHEMA_FILE)

    code, _, tree = check(exported, model_dir=copied)

    assert code == 1
    assert tree["notes"] == [
        "feature 'price' is declared otherwise: column.scaling is 'standard', and 'log' in the "
        "export"
    ]
    assert {one["first"]["feature"] for one in tree["comparisons"]} == {"price"}
    assert re.fullmatch(
        r"training reads numbers \[[-\d.]+\], the export numbers \[[\d.]+\]",
        find(tree, "rank")["first"]["cause"],
    )


def test_impressions_that_a_width_cuts_off_are_told_apart(exported, check):
    code, lines, tree = check(exported, split="wide")

    assert code == 1
    assert find(tree, "predict_tensors")["impressions"] == 2
    found = find(tree, "predict_tensors", is_cut=True)
    assert found["impressions"] == 2
    assert found["first"]["impression"] == 1
    assert found["first"]["feature"] == "tags"
    assert found["first"]["cause"] == (
        "it has 5 values and predict_tensors a width of 4: a client leaves out the others"
    )
    assert [one for one in tree["comparisons"] if one["differing"]] == [found]
    assert lines[-1].startswith("FAIL: of 8 comparisons, 1 find")


def test_a_calibration_fitted_again_is_told_by_the_order_of_scores(small, card):
    logits = np.array([0.5, -2.0, 1.0], np.float32)
    before, after = (1 / (1 + np.exp(-slope * logits)) for slope in (1.5, 1.7))
    export = skew_causes.Export(schema=small.schema, widths={}, card=card)

    fitted, differing, unordered = (
        skew_causes.explain_scores({"pctr": after, "pctcvr": after}, served, small, export)
        for served in ({"pctr": before}, {"pctcvr": before}, {"pctr": before[::-1]})
    )

    assert fitted == (
        "the weights are the same and so is the order of scores: the calibration has probably been "
        "fitted again since the export"
    )
    assert differing == unordered
    assert differing == (
        "the weights are the same, so the graph differs, or the numbers of a calibration; it was "
        "exported with esmm_tf 1.0"
    )


def test_a_server_is_told_with_its_version_what_it_refuses_and_what_is_no_number(
    exported, check, start_server
):
    address, _ = start_server(7, factor=np.nan)

    code, lines, tree = check(exported, server=address, model_name=MODEL_NAME)

    assert code == 1
    assert lines[-1].startswith("FAIL: of 14 comparisons, 7 find")
    assert tree["notes"] == [f"{address} answers with version 7; the export is version 1"]
    assert find(tree, "rank")["differing"] == 0
    found = find(tree, "rank", scored_by=address)
    assert found["differing"] == 20
    assert found["relative"] is None
    assert found["largest"] == {"pctr": None, "pcvr": None, "pctcvr": None}
    assert found["first"]["scores"]["pctr"][1] is None
    refused = find(tree, "regress", scored_by=address)
    assert refused["impressions"] == 0
    told = lines.index("no scores: Serving signature not found.")
    assert lines[told + 1] == f"  {address}: regress"
    assert refused["refusal"] == "Serving signature not found."


REQUEST = {"examples": np.array([b""], object)}


def test_a_server_that_does_not_answer_is_a_mistake_of_the_user():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        message = (
            rf"^There is no answer from --server={address}: UNAVAILABLE.*"
            r"Check that it runs, and that the port is that of gRPC\.$"
        )

        with (
            LiveServer(address, model_name=MODEL_NAME) as server,
            pytest.raises(UserError, match=message),
        ):
            server.predict("pctr", REQUEST)


def test_a_model_that_the_server_does_not_know_is_a_mistake_of_the_user(start_server):
    address, _ = start_server(1)
    message = (
        f"The server {address} has no model 'other': Servable not found. Give its name with "
        "--model_name."
    )

    with (
        LiveServer(address, model_name="other") as server,
        pytest.raises(UserError, match=f"^{re.escape(message)}$"),
    ):
        server.predict("pctr", REQUEST)


def test_a_version_that_is_not_there_is_refused(exported):
    message = (
        f"{str(exported)!r} has no version 3; there are [1]. Export one with python -m "
        "esmm_tf.export, or check --export_dir."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        exported_version.load_export(str(exported), version=3)


def test_a_directory_without_versions_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no version; there are \[\]\. Export one with"):
        exported_version.load_export(str(tmp_path / "missing"), version=0)


@pytest.mark.parametrize("name", ["saved_model.pb", "assets.extra/schema.toml"])
def test_a_version_that_is_not_whole_is_refused(exported, tmp_path, name):
    shutil.copytree(exported, tmp_path / "export")
    os.remove(tmp_path / "export" / "1" / name)

    with pytest.raises(UserError, match=f"{name} is missing, so that .* is no whole export"):
        exported_version.load_export(str(tmp_path / "export"), version=0)


@pytest.fixture
def compare(small, card, records):
    """Returns a function of an export's schema and of servers' outputs: compared with `small`."""

    def run(schema, **outputs):
        return skew.compare_scores(
            small,
            skew_causes.Export(schema=schema, widths={"tags": 4}, card=card),
            {name: lambda _signature, _request, out=out: out for name, out in outputs.items()},
            find_source(str(records), split="test"),
            SkewConfig(model_dir="", export_dir="", files=str(records)),
        )

    return run


def test_tensors_of_another_dtype_than_the_records_are_not_sent(compare, small_schema):
    schema = with_feature(small_schema, "price", dtype="int64")

    found = compare(schema, server={"pctr": np.zeros(20, np.float32)})

    refused = {one.signature: one.refusal for one in found if one.refusal}
    assert refused == {
        "predict_tensors": "Feature 'price' is float32 in the records and int64 in the export."
    }
    assert found[0].differing == 20
    assert found[0].first.cause.startswith("the export does not take the impression: ")


def test_outputs_that_are_not_one_probability_an_impression_are_no_scores(compare, small_schema):
    found = compare(small_schema, misnamed={"score": np.zeros(20)}, short={"pctr": np.zeros(19)})

    assert {(one.scored_by, one.refusal) for one in found} == {
        (
            "misnamed",
            "Its outputs are {'score': [20]} and not probabilities of 20 impressions.",
        ),
        ("short", "Its outputs are {'pctr': [19]} and not probabilities of 20 impressions."),
    }
    assert all(one.is_failed for one in found)


def test_a_difference_is_a_share_of_the_larger_probability():
    comparison = Comparison(scored_by="version 1", signature="pctr")
    expected = {"pctr": np.array([0.5, 1e-4, 0.0, 0.25], np.float32)}
    served = {"pctr": np.array([0.500001, 1.01e-4, 0.0, 0.25], np.float32)}

    places = comparison.add(expected, served, tolerance=1e-5)

    assert places.tolist() == [1]
    assert comparison.differing == 1
    assert comparison.impressions == 4
    assert comparison.largest["pctr"] == pytest.approx(1e-6, rel=0.1)
    assert comparison.relative == pytest.approx(1 / 101, rel=1e-3)


def test_a_score_that_is_no_number_differs_from_every_other():
    comparison = Comparison(scored_by="version 1", signature="pctr")
    expected = {"pctr": np.array([np.nan, 0.5, 0.5], np.float32)}
    served = {"pctr": np.array([np.nan, np.nan, np.inf], np.float32)}

    places = comparison.add(expected, served, tolerance=0.5)

    assert places.tolist() == [0, 1, 2]
    assert comparison.relative == np.inf


def with_feature(schema, name, **changes):
    features = (
        dataclasses.replace(feature, **changes) if feature.name == name else feature
        for feature in schema.features
    )
    return dataclasses.replace(schema, features=tuple(features))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["user", "query", "tags"], "feature 'price' is not in the export's schema"),
        (["query", "user", "tags", "price"], "feature 'query' stands in another place of the"),
        (["user", "query", "tags", "price", "stock"], "feature 'stock' is in the export's schema"),
        (["user", "query", "tags", "price"], "^$"),
    ],
)
def test_features_that_schemas_do_not_share_are_told(schema, small_schema, names, expected):
    known = {feature.name: feature for feature in (*schema.features, *small_schema.features)}
    other = dataclasses.replace(small_schema, features=tuple(known[name] for name in names))

    found = skew_causes.describe_schemas(small_schema, other)

    assert re.match(expected, found)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("visits", {"combiner": "mean"}, "combiner is 'sum', and 'mean' in the export"),
        (
            "item",
            {"column": columns.HashBucketColumn(hash_buckets=50)},
            "column.kind is 'identity', and 'hash_bucket' in the",
        ),
        (
            "discount",
            {"column": columns.BucketizedColumn(boundaries=(0.1, 0.7))},
            "number 2 of column.boundaries is 0.5, and 0.7 in the export",
        ),
        (
            "query",
            {"column": columns.VocabularyColumn(values=("shoes", "hats", "caps"))},
            "number 3 of column.values is missing, and 'caps' in the export",
        ),
    ],
)
def test_the_first_change_of_a_feature_is_told(schema, name, changes, expected):
    other = with_feature(schema, name, **changes)

    found = skew_causes.describe_schemas(schema, other)

    assert found.startswith(f"feature {name!r} is declared otherwise: {expected}")


def test_schemas_that_differ_in_a_table_are_told_apart(schema):
    tables = (schema.tables[0], schema_lib.Table(name="item", initializer_scale=0.02))

    found = skew_causes.describe_schemas(schema, dataclasses.replace(schema, tables=tables))

    assert found == "tables, keys or labels of the schemas differ"


def test_many_values_are_shown_from_the_first_that_differs():
    read = skew_causes.Read("table rows", [(row, 0.5) for row in range(20)])

    assert read.shown() == "table rows [0 * 0.5, 1 * 0.5, 2 * 0.5, 3 * 0.5, 4 * 0.5, ... 15 more]"
    assert read.shown(18) == "table rows from number 19 on [18 * 0.5, 19 * 0.5]"
    assert skew_causes.Read("numbers", [(float(np.float32(0.1)),)]).shown() == "numbers [0.1]"
