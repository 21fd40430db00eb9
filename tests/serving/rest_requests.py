"""Requests by REST, and values in the forms of both protocols."""

import base64
import http.client
import json
from urllib import parse

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
)


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
