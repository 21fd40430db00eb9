"""Scores impressions by REST: of TF Serving, or of `python -m esmm_tf.serve`.

python examples/rest_client.py --export_dir=demo/export
python examples/rest_client.py --features='[{"age": [31.5], "query": ["shoes"], "item": [7]}]'
"""

import esmm_tf.startup  # noqa: F401 - keeps TensorFlow's start off the screen

# isort: split
import argparse
import base64
import contextlib
import http.client
import json
import pathlib
from typing import Any

import tensorflow as tf  # for tf.train.Example alone, which any protobuf library can make


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


def predict(server: str, request: dict[str, Any]) -> Any:
    """Returns the outputs of a request."""
    with contextlib.closing(http.client.HTTPConnection(server, timeout=10)) as connection:
        connection.request("POST", "/v1/models/esmm:predict", json.dumps(request))
        response = json.load(connection.getresponse())
    if "error" in response:
        raise SystemExit(response["error"])
    return response["outputs"]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--export_dir", default="demo/export", help="of the golden request")
parser.add_argument("--features", help="instead: a JSON list of one object per impression")
parser.add_argument("--server", default="127.0.0.1:8501", help="host:port")
args = parser.parse_args()

given = args.features and [build_example(features) for features in json.loads(args.features)]
examples = [{"b64": base64.b64encode(e).decode()} for e in given or read_golden(args.export_dir)]
rank = {"context": examples[:1], "candidates": examples}
for signature, inputs in (("serving_default", {"examples": examples}), ("rank", rank)):
    outputs = predict(args.server, {"signature_name": signature, "inputs": inputs})
    for row in zip(*(outputs[name] for name in ("pctr", "pcvr", "pctcvr")), strict=True):
        print(f"{signature:<16} pctr %.7f  pcvr %.7f  pctcvr %.7f" % row)
