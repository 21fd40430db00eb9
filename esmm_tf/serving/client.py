"""A live server, asked by gRPC."""

from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_service_pb2_grpc

from esmm_tf.errors import UserError
from esmm_tf.serving.requests import Request

_SECONDS = 60  # within which a server must answer
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INTERNAL,
)


class LiveServer:
    """A live server that is asked by gRPC; close it with a `with`."""

    def __init__(self, address: str, *, model_name: str) -> None:
        self._address = address
        self._model_name = model_name
        self._channel = grpc.insecure_channel(address)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._versions: set[int] = set()

    def __enter__(self) -> "LiveServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def predict(self, signature: str, request: Request) -> dict[str, np.ndarray]:
        """Returns the outputs of a signature.

        Raises:
          UserError: if there is no answer, or no such model.
          tf.errors.InvalidArgumentError: if the server does not take the request.
        """
        message = predict_pb2.PredictRequest(
            model_spec=model_pb2.ModelSpec(name=self._model_name, signature_name=signature),
            inputs={name: tf.make_tensor_proto(values) for name, values in request.items()},
        )
        try:
            response = self._stub.Predict(message, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise self._translate(error) from None
        if response.model_spec.HasField("version"):
            self._versions.add(response.model_spec.version.value)
        return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}

    def _translate(self, error: Any) -> Exception:
        if error.code() in _REFUSALS:
            return tf.errors.InvalidArgumentError(None, None, error.details())
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return UserError(
                f"The server {self._address} has no model {self._model_name!r}: "
                f"{error.details()}. Give its name with --model_name."
            )
        return UserError(
            f"There is no answer from --server={self._address}: {error.code().name}, "
            f"{error.details()}. Check that it runs, and that the port is that of gRPC."
        )

    def describe_versions(self, version: int) -> str:
        """Returns which versions have answered, or nothing if it was `version` alone."""
        if self._versions <= {version}:
            return ""
        answered = " and ".join(map(str, sorted(self._versions)))
        return f"{self._address} answers with version {answered}; the export is version {version}"
