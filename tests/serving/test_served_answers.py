"""The local server gives the same numbers by REST, by gRPC and from the SavedModel."""

import json
import shutil
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from rest_requests import ask, assert_same, by_name, floats, predict, to_json, to_proto
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from esmm_tf.config.serving import ServeConfig
from esmm_tf.serving import golden, saved_model
from esmm_tf.serving.server import serving

pytestmark = pytest.mark.slow

VERSION = 7


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
    with serving(config) as server, grpc.insecure_channel(server.grpc) as channel:
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
