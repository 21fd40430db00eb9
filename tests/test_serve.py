"""The local server: the same numbers by REST, by gRPC and from the SavedModel; errors; its life."""

import base64
import http.client
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from concurrent import futures
from urllib import parse

import grpc
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import schemathesis
import tensorflow as tf
from schemathesis import checks
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from esmm_tf import (
    dense_inputs,
    flags,
    golden,
    input_fn,
    rest_api,
    saved_model,
    serve,
    serving_requests,
)
from esmm_tf.config import ServeConfig
from esmm_tf.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
VERSION = 7


@pytest.fixture(scope="module")
def impressions(scored_data, trained):
    """Returns 20 impressions in 8 contexts."""
    source = input_fn.find_source(str(scored_data), split="test")
    return list(serving_requests.read_impressions(source, trained.schema))


@pytest.fixture(scope="module")
def widths(impressions, trained):
    examples = serving_requests.parse_examples(impressions)
    return dense_inputs.count_values(examples, trained.schema)


@pytest.fixture(scope="module")
def export_dir(trained, impressions, widths, tmp_path_factory):
    """Returns a directory with a version that has a golden request."""
    directory = tmp_path_factory.mktemp("export")
    path = directory / str(VERSION)
    saved_model.save(trained.model, trained.schema, str(path), widths=widths)
    (path / "assets.extra").mkdir()
    few = impressions[:3]
    request = serving_requests.build_request("serving_default", few, trained.schema, widths={})
    outputs = tf.saved_model.load(str(path)).signatures["serving_default"](
        **{name: tf.constant(values) for name, values in request.items()}
    )
    golden.write_golden(str(path), few, outputs)
    return directory


@pytest.fixture(scope="module")
def signatures(export_dir):
    return tf.saved_model.load(str(export_dir / str(VERSION))).signatures


@pytest.fixture(scope="module")
def server(export_dir):
    config = ServeConfig(export_dir=str(export_dir), port=0, rest_api_port=0)
    with serve.serving(config) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture
def build_request(impressions, trained, widths):
    """Returns a function that makes a signature's inputs of the first impressions."""

    def build(signature, size=5):
        few = impressions[:size]
        return serving_requests.build_request(signature, few, trained.schema, widths=widths)

    return build


def ask(server, method, path, body=None):
    """Returns the status and the JSON of a REST response."""
    return ask_url(f"{server.rest}{path}", body, method=method)


def ask_url(url, body, *, method="POST"):
    split = parse.urlsplit(url)
    connection = http.client.HTTPConnection(split.netloc, timeout=60)
    connection.request(method, split.path, body)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    assert response.headers["Content-Type"] == "application/json"
    return response.status, json.loads(text)


def predict(server, request, path="/v1/models/esmm:predict"):
    return ask(server, "POST", path, json.dumps(request))


def to_json(values):
    """Returns a tensor as a client writes it."""
    if values.dtype == object:
        encoded = [
            {"b64": base64.b64encode(v if isinstance(v, bytes) else v.encode()).decode()}
            for v in values.ravel()
        ]
        return np.array(encoded, object).reshape(values.shape).tolist()
    return values.tolist()


def to_proto(signature, inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "esmm"
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return request


def assert_same(found, expected):
    """Asserts that outputs have the same names and numbers."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6)


def by_name(rows):
    """Returns the columns of rows, under "" if they are numbers."""
    named = [row if isinstance(row, dict) else {"": row} for row in rows]
    return {name: [row[name] for row in named] for name in named[0]}


def floats(response):
    """Returns the numbers of a gRPC response."""
    return {name: list(proto.float_val) for name, proto in response.outputs.items()}


def test_the_golden_request_gets_the_golden_response(server, export_dir):
    request = (export_dir / str(VERSION) / golden.REQUEST_FILE).read_bytes()
    expected = json.loads((export_dir / str(VERSION) / golden.RESPONSE_FILE).read_bytes())

    status, response = ask(server, "POST", "/v1/models/esmm:predict", request)

    assert status == 200
    assert list(response) == ["predictions"]
    assert len(response["predictions"]) == 3
    assert_same(by_name(response["predictions"]), by_name(expected["predictions"]))


@pytest.mark.parametrize("signature", saved_model.SIGNATURES)
def test_every_signature_gives_the_same_by_rest_grpc_and_the_saved_model(
    server, stub, signatures, build_request, signature
):
    inputs = build_request(signature)
    columns = {name: to_json(values) for name, values in inputs.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    in_columns = predict(server, {"signature_name": signature, "inputs": columns})
    in_rows = predict(server, {"signature_name": signature, "instances": rows})
    by_grpc = stub.Predict(to_proto(signature, inputs))

    tensors = {name: tf.constant(values) for name, values in inputs.items()}
    expected = {k: v.numpy().tolist() for k, v in signatures[signature](**tensors).items()}
    assert {len(values) for values in expected.values()} == {5}
    assert_same(floats(by_grpc), expected)
    assert (in_columns[0], in_rows[0]) == (200, 200)
    if len(expected) == 1:  # it stands without its name
        expected = {"": next(iter(expected.values()))}
        in_columns[1]["outputs"] = {"": in_columns[1]["outputs"]}
    assert_same(in_columns[1]["outputs"], expected)
    assert_same(by_name(in_rows[1]["predictions"]), expected)


def test_candidates_are_ranked_in_one_context(server, stub, build_request):
    inputs = build_request("rank")
    expected = floats(stub.Predict(to_proto("rank", inputs)))
    shortened = {"context": inputs["context"][:1], "candidates": inputs["candidates"]}
    columns = {name: to_json(values) for name, values in shortened.items()}

    status, response = predict(server, {"signature_name": "rank", "inputs": columns})
    by_grpc = stub.Predict(to_proto("rank", shortened))

    assert status == 200
    assert_same(response["outputs"], expected)
    assert_same(floats(by_grpc), expected)


def test_an_empty_batch_in_columns_has_empty_outputs(server):
    status, response = predict(server, {"inputs": []})

    assert (status, response) == (200, {"outputs": {"pctcvr": [], "pctr": [], "pcvr": []}})


def test_a_version_may_be_named(server, stub, build_request):
    request = to_proto("pctr", build_request("pctr"))
    request.model_spec.version.value = VERSION

    response = stub.Predict(request)
    status, _ = predict(server, {"inputs": [""]}, f"/v1/models/esmm/versions/{VERSION}:predict")

    assert status == 200
    assert response.model_spec.name == "esmm"
    assert response.model_spec.version.value == VERSION
    assert response.model_spec.signature_name == "pctr"


def test_grpc_answers_with_the_outputs_that_are_asked_for(stub, build_request):
    request = to_proto("", build_request("serving_default"))
    request.output_filter.append("pcvr")

    response = stub.Predict(request)

    assert list(response.outputs) == ["pcvr"]
    assert response.outputs["pcvr"].tensor_shape.dim[0].size == 5
    assert response.model_spec.signature_name == "serving_default"


@pytest.mark.parametrize("path", ["", f"/versions/{VERSION}"])
def test_the_status_is_that_of_the_versions(server, path):
    status, response = ask(server, "GET", f"/v1/models/esmm{path}")

    assert status == 200
    assert response == {
        "model_version_status": [
            {
                "version": str(VERSION),
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def test_grpc_has_the_same_status(channel):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "esmm"

    response = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request)

    (status,) = response.model_version_status
    assert (status.version, status.state) == (VERSION, status.AVAILABLE)
    assert (status.status.error_code, status.status.error_message) == (0, "")


@pytest.mark.parametrize("path", ["", f"/versions/{VERSION}"])
def test_the_metadata_are_the_signatures(server, path):
    status, response = ask(server, "GET", f"/v1/models/esmm{path}/metadata")

    assert status == 200
    assert response["model_spec"] == {
        "name": "esmm",
        "signature_name": "",
        "version": str(VERSION),
    }
    found = response["metadata"]["signature_def"]["signature_def"]
    assert set(found) == {*saved_model.SIGNATURES, "__saved_model_init_op"}
    assert found["regress"] == {
        "inputs": {
            "inputs": {
                "dtype": "DT_STRING",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
                "name": "regress_inputs:0",
            }
        },
        "outputs": {
            "outputs": {
                "dtype": "DT_FLOAT",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
                "name": found["regress"]["outputs"]["outputs"]["name"],
            }
        },
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


def test_grpc_has_the_same_metadata(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "esmm"

    response = stub.GetModelMetadata(request)

    found = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(found)
    assert set(found.signature_def) == {*saved_model.SIGNATURES, "__saved_model_init_op"}
    assert response.model_spec.version.value == VERSION


@pytest.mark.parametrize(
    ("method", "path", "code", "message"),
    [
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("GET", "/v1/models/esmm:predict", 400, "Malformed request: GET /v1/models/esmm:predict"),
        ("POST", "/v1/models/esmm", 400, "Malformed request: POST /v1/models/esmm"),
        ("GET", "/v1/models/esmm/", 400, "Malformed request: GET /v1/models/esmm/"),
        ("POST", "/v1/models/esmm:rank", 400, "Malformed request: POST /v1/models/esmm:rank"),
        (
            "GET",
            "/v1/models/esmm/versions/x",
            400,
            "Malformed request: GET /v1/models/esmm/versions/x",
        ),
        ("GET", "/", 404, "Malformed request: GET /"),
        ("POST", "/v1/models/hats:predict", 404, "Servable not found for request: Latest(hats)"),
        (
            "POST",
            "/v1/models/esmm/versions/8:predict",
            404,
            "Servable not found for request: Specific(esmm, 8)",
        ),
        ("GET", "/v1/models/hats", 404, "Could not find any versions of model hats"),
        ("GET", "/v1/models/esmm/versions/8", 404, "Could not find version 8 of model esmm"),
        (
            "GET",
            "/v1/models/esmm/versions/8/metadata",
            404,
            "Servable not found for request: Specific(esmm, 8)",
        ),
        ("GET", "/v1/models/hats/metadata", 404, "Servable not found for request: Latest(hats)"),
        ("POST", "/v1/models/esmm:predict", 400, "JSON Parse error: The document is empty"),
    ],
)
def test_a_wrong_address_has_the_error_of_tf_serving(server, method, path, code, message):
    assert ask(server, method, path) == (code, {"error": message})


@pytest.mark.parametrize(
    ("request_json", "message"),
    [
        ({"instances": []}, ".*No values in 'instances' array"),
        (
            {"signature_name": "other", "inputs": []},
            'Serving signature name: "other" not found in signature def',
        ),
        (
            {"signature_name": "__saved_model_init_op", "inputs": []},
            "Failed to get input map for signature: __saved_model_init_op",
        ),
        ({"instances": ["no Example"]}, "Could not parse example input, value: 'no Example'.*"),
        ({"inputs": [["", ""]]}, r"Input examples has shape \[1, 2\]\. Give \[None\]\."),
        (
            {"signature_name": "rank", "inputs": {"context": ["^"], "candidates": [""]}},
            "assertion failed: .The first row of `context` must be a serialized Example.*",
        ),
        (
            {"signature_name": "rank", "inputs": {"context": ["", ""], "candidates": [""] * 3}},
            "assertion failed: .`context` needs one row, or as many as `candidates`.*2.*3.*",
        ),
    ],
)
def test_a_wrong_request_has_the_error_of_tf_serving(server, request_json, message):
    status, response = predict(server, request_json)

    assert status == 400
    assert re.fullmatch(message, response["error"], re.DOTALL)


def test_an_example_with_a_feature_of_another_type_is_refused(server, stub):
    example = tf.train.Example()
    example.features.feature["item"].float_list.value.append(1.0)
    inputs = {"examples": np.array([example.SerializeToString()], object)}

    status, response = predict(server, {"inputs": to_json(inputs["examples"])})
    with pytest.raises(grpc.RpcError) as error_info:
        stub.Predict(to_proto("serving_default", inputs))

    assert status == 400
    assert re.match("Name: <unknown>, Key: item.* Data types don't match", response["error"])
    assert error_info.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Data types don't match" in error_info.value.details()


def wrong(**changes):
    """Returns a gRPC request that is right but for the changes."""
    request = to_proto("serving_default", {"examples": np.array([b""], object)})
    for name, value in changes.items():
        if name == "model_spec":
            request.ClearField("model_spec")
        elif name == "version":
            request.model_spec.version.value = value
        elif name == "inputs":
            request.inputs["examples"].CopyFrom(value)
        elif name == "output_filter":
            request.output_filter.append(value)
        else:
            setattr(request.model_spec, name, value)
    return request


BROKEN = tf.make_tensor_proto(np.float32([1, 2]))
BROKEN.tensor_content = b"123"


@pytest.mark.parametrize(
    ("request_proto", "code", "message"),
    [
        (wrong(name="hats"), "NOT_FOUND", "Servable not found for request: Latest(hats)"),
        (wrong(version=8), "NOT_FOUND", "Servable not found for request: Specific(esmm, 8)"),
        (wrong(version=0), "NOT_FOUND", "Servable not found for request: Specific(esmm, 0)"),
        (wrong(name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (wrong(model_spec=None), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (
            wrong(version_label="stable"),
            "INVALID_ARGUMENT",
            "Unrecognized servable version label: stable",
        ),
        (
            wrong(signature_name="other"),
            "FAILED_PRECONDITION",
            'Serving signature key "other" not found.',
        ),
        (
            wrong(inputs=tf.make_tensor_proto([1.0])),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be string but float32 is provided, for input examples",
        ),
        (wrong(inputs=BROKEN), "INVALID_ARGUMENT", "tensor parsing error: examples"),
        (
            wrong(output_filter="ctr"),
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: ctr Outputs expected to be in the set "
            "{pctcvr,pctr,pcvr}.",
        ),
    ],
)
def test_a_wrong_grpc_request_has_the_error_of_tf_serving(stub, request_proto, code, message):
    with pytest.raises(grpc.RpcError) as error_info:
        stub.Predict(request_proto)

    assert error_info.value.code() == grpc.StatusCode[code]
    assert error_info.value.details() == message


def test_a_long_message_is_cut_as_it_travels_in_a_header(stub):
    inputs = {"examples": np.array([b"no Example" * 1000], object)}

    with pytest.raises(grpc.RpcError) as error_info:
        stub.Predict(to_proto("serving_default", inputs))

    assert error_info.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert len(error_info.value.details()) == 1024 + len("...TRUNCATED")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([], "GetModelMetadataRequest must specify at least one metadata_field"),
        (["model"], "Metadata field model is not supported"),
    ],
)
def test_metadata_other_than_signatures_are_refused(stub, fields, message):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = "esmm"

    with pytest.raises(grpc.RpcError) as error_info:
        stub.GetModelMetadata(request)

    assert error_info.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info.value.details() == message


def test_grpc_has_no_status_of_another_model(channel):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "hats"

    with pytest.raises(grpc.RpcError) as error_info:
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request)

    assert error_info.value.code() == grpc.StatusCode.NOT_FOUND
    assert error_info.value.details() == "Could not find any versions of model hats"


def test_many_clients_at_once_get_their_own_answers(server, stub, impressions):
    examples = [impression.example for impression in impressions]
    alone = stub.Predict(to_proto("pctr", {"examples": np.array(examples, object)}))
    expected = list(alone.outputs["pctr"].float_val)
    assert len(set(expected)) == 20

    def by_rest(example):
        body = {"signature_name": "pctr", "inputs": to_json(np.array([example], object))}
        return predict(server, body)[1]["outputs"][0]

    def by_grpc(example):
        request = to_proto("pctr", {"examples": np.array([example], object)})
        return stub.Predict(request).outputs["pctr"].float_val[0]

    with futures.ThreadPoolExecutor(8) as pool:
        found = [list(pool.map(way, examples)) for way in (by_rest, by_grpc)]

    for answers in found:
        np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-6)


def test_a_new_version_is_served_by_both_without_a_restart(export_dir, tmp_path, build_request):
    directory = tmp_path / "export"
    shutil.copytree(export_dir, directory)
    config = ServeConfig(export_dir=str(directory), port=0, rest_api_port=0, model_name="shop")
    request = to_proto("pctr", build_request("pctr"))
    request.model_spec.name = "shop"
    with serve.serving(config) as server, grpc.insecure_channel(server.grpc) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        before = stub.Predict(request)
        shutil.copytree(directory / str(VERSION), directory / "10")

        server.versions.refresh()

        after = stub.Predict(request)
        _, status = ask(server, "GET", "/v1/models/shop")
        old = predict(server, {"inputs": []}, f"/v1/models/shop/versions/{VERSION}:predict")
    assert before.model_spec.version.value == VERSION
    assert after.model_spec.version.value == 10
    assert before.outputs["pctr"] == after.outputs["pctr"]
    states = [(one["version"], one["state"]) for one in status["model_version_status"]]
    assert states == [("10", "AVAILABLE"), (str(VERSION), "END")]
    assert old[0] == 404


def test_main_says_where_it_listens_and_what_to_paste(export_dir, monkeypatch, capsys):
    def interrupt(versions, seconds):
        assert versions.find("esmm").version == VERSION
        assert seconds == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "_poll", interrupt)

    with pytest.raises(SystemExit) as exit_info:
        flags.run(
            serve.main,
            ServeConfig,
            argv=["serve", f"--export_dir={export_dir}", "--port=0", "--rest_api_port=0"],
        )

    assert exit_info.value.code == 130
    printed = capsys.readouterr()
    assert printed.err == "\ninterrupted\n"
    lines = printed.out.splitlines()
    assert lines[:2] == [
        f"serving version {VERSION}",
        f"model  esmm, version {VERSION} of {export_dir}",
    ]
    (rest,) = re.findall(r"^REST   (http://127\.0\.0\.1:\d+/v1/models/esmm)$", lines[2])
    assert re.fullmatch(r"gRPC   127\.0\.0\.1:\d+", lines[3])
    request = export_dir / str(VERSION) / golden.REQUEST_FILE
    assert shlex.split(lines[4]) == ["try", "curl", "-d", f"@{request}", f"{rest}:predict"]


def test_versions_are_looked_for_until_a_signal_comes(monkeypatch):
    waited, refreshed = [], []

    class Event:
        def wait(self, seconds):
            waited.append(seconds)
            if len(waited) == 3:
                raise KeyboardInterrupt

    class Versions:
        def refresh(self):
            refreshed.append(len(waited))

    monkeypatch.setattr(serve.threading, "Event", Event)

    with pytest.raises(KeyboardInterrupt):
        serve._poll(Versions(), 2)

    assert waited == [2, 2, 2]
    assert refreshed == [1, 2]


@pytest.mark.parametrize("flag", ["port", "rest_api_port"])
def test_a_port_in_use_is_the_users_mistake(export_dir, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"port": 0, "rest_api_port": 0} | {flag: port}
        config = ServeConfig(export_dir=str(export_dir), **ports)
        message = (
            rf"--{flag} is {port}, and 127.0.0.1:{port} cannot be listened on: Address already in "
            r"use\. Stop what listens there, or give another; 0 takes any free one\."
        )

        with pytest.raises(UserError, match=f"^{message}$"), serve.serving(config):
            pass


def test_an_address_that_is_not_the_machines_is_the_users_mistake():
    config = ServeConfig(export_dir="export", host="no.such.host.invalid", port=0, rest_api_port=0)

    with (
        pytest.raises(UserError, match=r"no\.such\.host\.invalid:0 cannot be listened on: \w+"),
        serve.serving(config),
    ):
        pass


def test_a_response_does_not_wait_for_acknowledgements():
    config = ServeConfig(export_dir="export", port=0, rest_api_port=0)

    with serve._listen(config, "rest_api_port") as listener:
        no_delay = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    assert no_delay


@pytest.mark.parametrize("missing", ["uvicorn", "esmm_tf.rest_api"])
def test_a_server_without_its_extra_names_it(export_dir, hide_module, missing):
    hide_module(missing)
    config = ServeConfig(export_dir=str(export_dir), port=0, rest_api_port=0)
    message = (
        r"The local server needs FastAPI and Uvicorn\. Install them with pip install "
        r"'esmm_tf\[serving\]'\."
    )

    with pytest.raises(UserError, match=f"^{message}$"), serve.serving(config):
        pass


def test_an_empty_directory_is_the_users_mistake(tmp_path):
    config = ServeConfig(export_dir=str(tmp_path), port=0, rest_api_port=0)

    with (
        pytest.raises(UserError, match=r"Write one with python -m esmm_tf\.export"),
        serve.serving(config),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"port": -1}, "--port is -1. Give 0 or more."),
        ({"rest_api_port": 65536}, "--rest_api_port is 65536. Give 65535 at most."),
        (
            {"file_system_poll_wait_seconds": -1},
            "--file_system_poll_wait_seconds is -1. Give 0 or more.",
        ),
        (
            {"model_name": "a/b"},
            "--model_name is 'a/b'. It is a part of addresses: give a name without '/' and ':'.",
        ),
    ],
)
def test_settings_that_cannot_be_served_are_refused(changes, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        ServeConfig(export_dir="export", **changes)


@pytest.fixture(scope="module")
def api(server):
    """Returns what the server says of itself."""
    return schemathesis.openapi.from_asgi("/openapi.json", rest_api.build_app(server.versions))


# TF Serving answers 400 to a method that an address does not have, and tensors that fit the
# description may not fit the model.
NOT_CHECKED = [checks.unsupported_method, checks.positive_data_acceptance]


@pytest.mark.slow
@pytest.mark.parametrize("known", [{}, {"name": "esmm"}, {"name": "esmm", "version": str(VERSION)}])
def test_any_request_is_answered_as_the_description_says(api, known):
    operations = [operation.ok() for operation in api.get_all_operations()]
    assert len(operations) == 6

    for operation in operations:
        check_answers(operation.as_strategy(path_parameters=known))


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", "/versions/{version}"])
def test_any_body_that_does_not_fit_the_description_is_refused(api, path):
    operation = api[f"/v1/models/{{name}}{path}:predict"]["POST"]

    check_answers(
        operation.as_strategy(
            schemathesis.GenerationMode.NEGATIVE,
            path_parameters={"name": "esmm", "version": str(VERSION)},
        )
    )


def check_answers(cases):
    """Checks that requests are answered as the description of the API says."""

    @hypothesis.given(cases)
    def check(case):
        case.call_and_validate(excluded_checks=NOT_CHECKED)

    check()


VALUES = {
    tf.string: st.sampled_from(["", "^"]) | st.text(),
    tf.int64: st.integers(-(2**63), 2**63 - 1),
    tf.float32: st.floats(width=32),
}


@pytest.mark.slow
@hypothesis.given(data=st.data())
def test_no_tensors_make_the_server_fail(server, signatures, data):
    signature = data.draw(st.sampled_from(saved_model.SIGNATURES))
    _, specs = signatures[signature].structured_input_signature
    batch = data.draw(st.integers(0, 3))
    sizes = st.just(batch) | st.integers(0, 3)  # now and then not the same for all inputs
    columns = {
        name: data.draw(nested(VALUES[spec.dtype], [data.draw(sizes), *spec.shape[1:]]))
        for name, spec in specs.items()
    }

    status, response = predict(server, {"signature_name": signature, "inputs": columns})

    assert (status, list(response)) in [(200, ["outputs"]), (400, ["error"])]


def nested(values, shape):
    """Returns a strategy of lists of lists."""
    if not shape:
        return values
    return st.lists(nested(values, shape[1:]), min_size=shape[0], max_size=shape[0])


@pytest.mark.slow
@pytest.mark.parametrize("client", ["rest", "grpc"])
def test_the_example_of_a_client_scores_the_golden_request(server, export_dir, client):
    path = ROOT / "examples" / f"{client}_client.py"
    address = getattr(server, client).removeprefix("http://")
    expected = json.loads((export_dir / str(VERSION) / golden.RESPONSE_FILE).read_bytes())

    done = run_example(path, f"--export_dir={export_dir}", f"--server={address}")

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["serving_default"] * 3 + ["rank"] * 3
    found = [[float(text) for text in line.split()[2::2]] for line in lines]
    scores = [[row[name] for name in ("pctr", "pcvr", "pctcvr")] for row in expected["predictions"]]
    np.testing.assert_allclose(found[:3], scores, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[3], scores[0], rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("client", ["rest", "grpc"])
def test_the_example_of_a_client_scores_given_features(server, signatures, client):
    path = ROOT / "examples" / f"{client}_client.py"
    address = getattr(server, client).removeprefix("http://")
    features = [{"user": [3], "query": ["hats"], "age": [30.5], "item": [7], "price": [2.0]}]
    example = tf.train.Example()
    example.features.feature["user"].int64_list.value.append(3)
    example.features.feature["query"].bytes_list.value.append(b"hats")
    example.features.feature["age"].float_list.value.append(30.5)
    example.features.feature["item"].int64_list.value.append(7)
    example.features.feature["price"].float_list.value.append(2.0)

    done = run_example(path, f"--features={json.dumps(features)}", f"--server={address}")

    assert done.returncode == 0, done.stderr
    outputs = signatures["serving_default"](tf.constant([example.SerializeToString()]))
    found = [[float(text) for text in line.split()[2::2]] for line in done.stdout.splitlines()]
    expected = [outputs[name].numpy()[0] for name in ("pctr", "pcvr", "pctcvr")]
    np.testing.assert_allclose(found, [expected] * 2, rtol=0, atol=1e-6)


def run_example(path, *args):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, str(path), *args],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(export_dir):
    command = [sys.executable, "-m", "esmm_tf.serve", f"--export_dir={export_dir}"]
    with subprocess.Popen(
        [*command, "--port=0", "--rest_api_port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = [process.stdout.readline().rstrip("\n") for _ in range(5)]
        *_, request, url = shlex.split(lines[4])
        body = pathlib.Path(request.removeprefix("@")).read_bytes()
        status, response = ask_url(url, body)

        process.send_signal(signal.SIGINT)
        out, err = process.communicate()

    assert process.returncode == 130
    assert status == 200
    assert len(response["predictions"]) == 3
    assert out == ""
    assert err == "\ninterrupted\n"
