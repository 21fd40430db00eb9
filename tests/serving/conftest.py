"""A local server of an export, and requests for it."""

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    prediction_service_pb2_grpc,
)

from esmm_tf.config.serving import ServeConfig
from esmm_tf.data.source import find_source
from esmm_tf.serving import dense_inputs, golden, requests, saved_model
from esmm_tf.serving.server import serving

VERSION = 7


@pytest.fixture(scope="module")
def impressions(scored_data, trained):
    """Returns 20 impressions in 8 contexts."""
    source = find_source(str(scored_data), split="test")
    return list(requests.read_impressions(source, trained.schema))


@pytest.fixture(scope="module")
def widths(impressions, trained):
    examples = requests.parse_examples(impressions)
    return dense_inputs.count_values(examples, trained.schema)


@pytest.fixture(scope="module")
def export_dir(trained, impressions, widths, tmp_path_factory):
    """Returns a directory with a version that has a golden request."""
    directory = tmp_path_factory.mktemp("export")
    path = directory / str(VERSION)
    saved_model.save(trained.model, trained.schema, str(path), widths=widths)
    (path / "assets.extra").mkdir()
    few = impressions[:3]
    request = requests.build_request("serving_default", few, trained.schema, widths={})
    outputs = tf.saved_model.load(str(path)).signatures["serving_default"](
        **{name: tf.constant(values) for name, values in request.items()}
    )
    golden.write_golden(str(path), few, {name: values.numpy() for name, values in outputs.items()})
    return directory


@pytest.fixture(scope="module")
def signatures(export_dir):
    return tf.saved_model.load(str(export_dir / str(VERSION))).signatures


@pytest.fixture(scope="module")
def server(export_dir):
    config = ServeConfig(export_dir=str(export_dir), port=0, rest_api_port=0)
    with serving(config) as server:
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
        return requests.build_request(signature, few, trained.schema, widths=widths)

    return build
