"""An export, a local server of it, and requests for it."""

import pathlib
import shutil

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    prediction_service_pb2_grpc,
)

from esmm_tf.config.serving import ExportConfig, ServeConfig
from esmm_tf.data.source import find_source
from esmm_tf.serving import exporter, requests
from esmm_tf.serving.server import serving
from esmm_tf.training import trained_model

VERSION = 7


@pytest.fixture(scope="session")
def impressions(scored_data, trained):
    """Returns 20 impressions in 8 contexts."""
    source = find_source(str(scored_data), split="test")
    return list(requests.read_impressions(source, trained.schema))


@pytest.fixture(scope="session")
def exported(model_dir, scored_data, tmp_path_factory):
    """Returns the path of a version whose model directory and vocabulary are gone.

    It is for reading only. Its requests are made of `impressions`.
    """
    directory = tmp_path_factory.mktemp("exported")
    copied = directory / "model_dir"
    shutil.copytree(model_dir, copied)
    config = ExportConfig(
        model_dir=str(copied),
        export_dir=str(directory / "export"),
        files=str(scored_data),
        split="test",
        version=VERSION,
        batch_sizes=(1, 3, 30),
        model_name="shop",
    )
    path = exporter.export(trained_model.load_model(str(copied)), config)
    shutil.rmtree(copied)
    return pathlib.Path(path)


@pytest.fixture(scope="session")
def export_dir(exported):
    """Returns the directory of the version, which has a golden request."""
    return exported.parent


@pytest.fixture(scope="session")
def widths():
    """Returns the widths of the version's `predict_tensors`."""
    return {"interests": 2, "tags": 4, "visits": 4}


@pytest.fixture(scope="session")
def signatures(exported):
    return tf.saved_model.load(str(exported)).signatures


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
