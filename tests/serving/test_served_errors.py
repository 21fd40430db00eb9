"""A request that is wrong is answered as TF Serving answers it, by REST and by gRPC."""

import re

import grpc
import numpy as np
import pytest
import tensorflow as tf
from rest_requests import ask, predict, to_json, to_proto
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
)

pytestmark = pytest.mark.slow


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
