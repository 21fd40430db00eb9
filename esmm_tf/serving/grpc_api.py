"""gRPC of the local server: TF Serving's PredictionService and ModelService.

What TF Serving has besides (Classify, Regress, MultiInference, reloading) is UNIMPLEMENTED.
"""

import contextlib
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from esmm_tf.serving.refusal import invalid_argument
from esmm_tf.serving.saved_model import SERVING_DEFAULT
from esmm_tf.serving.served_versions import ServedVersions

_SIGNATURE_DEF = "signature_def"
_THREADS = 16
_MOST_CHARACTERS = 1024  # of an error's message, which travels in a header
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a port in use is an error
)
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


def build_server(versions: ServedVersions) -> Any:
    """Returns a `grpc.Server`, not started and without a port."""
    server = grpc.server(futures.ThreadPoolExecutor(_THREADS), options=_OPTIONS)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _PredictionService(versions), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(versions), server)
    return server


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, versions: ServedVersions) -> None:
        self._versions = versions

    def Predict(  # noqa: N802 - the protocol's name
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        with _errors_answered(context):
            version = _read_version(request)
            loaded = self._versions.find(request.model_spec.name, version)
            signature = request.model_spec.signature_name or SERVING_DEFAULT
            outputs = loaded.predict(
                signature, _read_tensors(request), output_filter=request.output_filter
            )
        response = predict_pb2.PredictResponse(
            outputs={name: _build_tensor(values) for name, values in outputs.items()}
        )
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = loaded.version
        response.model_spec.signature_name = signature
        return response

    def GetModelMetadata(  # noqa: N802 - the protocol's name
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        with _errors_answered(context):
            version = _read_version(request)
            _check_metadata_fields(request.metadata_field)
            loaded = self._versions.find(request.model_spec.name, version)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = loaded.version
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=loaded.signature_defs)
        response.metadata[_SIGNATURE_DEF].Pack(signatures)
        return response


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, versions: ServedVersions) -> None:
        self._versions = versions

    def GetModelStatus(  # noqa: N802 - the protocol's name
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        with _errors_answered(context):
            statuses = self._versions.find_statuses(request.model_spec.name, _read_version(request))
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=statuses)


@contextlib.contextmanager
def _errors_answered(context: grpc.ServicerContext) -> Iterator[None]:
    """Ends the call with the code and the message of an error."""
    try:
        yield
    except tf.errors.OpError as error:
        message = error.message
        if len(message) > _MOST_CHARACTERS:
            message = f"{message[:_MOST_CHARACTERS]}...TRUNCATED"
        context.abort(_STATUS_CODES[error.error_code], message)


def _read_version(request: Any) -> int | None:
    """Returns the version that a request names, or None."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    spec: model_pb2.ModelSpec = request.model_spec
    if spec.HasField("version_label"):
        raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
    return spec.version.value if spec.HasField("version") else None


def _read_tensors(request: predict_pb2.PredictRequest) -> dict[str, np.ndarray]:
    tensors = {}
    for name, proto in request.inputs.items():
        try:
            tensors[name] = tf.make_ndarray(proto)
        except (TypeError, ValueError):
            raise invalid_argument(f"tensor parsing error: {name}") from None
    return tensors


def _build_tensor(values: np.ndarray) -> tensor_pb2.TensorProto:
    """Returns a tensor with its numbers in `float_val`, where TF Serving has them."""
    return tensor_pb2.TensorProto(
        dtype=tf.float32.as_datatype_enum,
        tensor_shape=tf.TensorShape(values.shape).as_proto(),
        float_val=values.ravel(),
    )


def _check_metadata_fields(fields: Any) -> None:
    if not fields:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in fields:
        if field != _SIGNATURE_DEF:
            raise invalid_argument(f"Metadata field {field} is not supported")
