"""Scores impressions by gRPC: of TF Serving, or of `python -m esmm_tf.serve`.

python examples/grpc_client.py --export_dir=demo/export
python examples/grpc_client.py --features='[{"age": [31.5], "query": ["shoes"], "item": [7]}]'
"""

import esmm_tf.startup  # noqa: F401 - keeps TensorFlow's start off the screen

# isort: split
import argparse
import base64
import json
import pathlib
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def build_example(features: dict[str, list[Any]]) -> bytes:
    """Returns a serialized Example of an impression's features and its context's."""
    example = tf.train.Example()
    for name, values in features.items():
        kind = {str: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
        encoded = [value.encode() if isinstance(value, str) else value for value in values]
        getattr(example.features.feature[name], kind).value.extend(encoded)
    return example.SerializeToString()


def read_golden(export_dir: str) -> list[bytes]:
    """Returns the Examples of the golden request of the highest version."""
    paths = pathlib.Path(export_dir).glob("[0-9]*/assets.extra/golden_request.json")
    request = json.loads(max(paths, key=lambda path: int(path.parts[-3])).read_text())
    return [base64.b64decode(instance["b64"]) for instance in request["instances"]]


def build_request(signature: str, inputs: dict[str, list[bytes]]) -> predict_pb2.PredictRequest:
    """Returns a request for a signature of the model `esmm`."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "esmm"
    request.model_spec.signature_name = signature
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    return request


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--export_dir", default="demo/export", help="of the golden request")
parser.add_argument("--features", help="instead: a JSON list of one object per impression")
parser.add_argument("--server", default="127.0.0.1:8500", help="host:port")
args = parser.parse_args()

given = args.features and [build_example(features) for features in json.loads(args.features)]
examples = given or read_golden(args.export_dir)
stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(args.server))
rank = {"context": examples[:1], "candidates": examples}
for signature, inputs in (("serving_default", {"examples": examples}), ("rank", rank)):
    outputs = stub.Predict(build_request(signature, inputs), timeout=10).outputs
    columns = [tf.make_ndarray(outputs[name]) for name in ("pctr", "pcvr", "pctcvr")]
    for row in zip(*columns, strict=True):
        print(f"{signature:<16} pctr %.7f  pcvr %.7f  pctcvr %.7f" % row)
