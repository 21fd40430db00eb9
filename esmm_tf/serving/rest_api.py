"""REST of the local server: the part of TF Serving's that answers `predict`, status and metadata.

`/openapi.json` describes it, and `/docs` shows that.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import tensorflow as tf
from fastapi import Depends, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from esmm_tf.serving import json_request, json_response
from esmm_tf.serving.loaded_version import LoadedVersion
from esmm_tf.serving.refusal import invalid_argument
from esmm_tf.serving.saved_model import SERVING_DEFAULT
from esmm_tf.serving.served_versions import ServedVersions

_MODEL = "/v1/models/{name}"
_VERSION = _MODEL + "/versions/{version}"
_BAD_REQUEST = 400
_NOT_FOUND = 404

# As TF Serving translates them; others are 500.
_STATUS_CODES = {
    tf.errors.CANCELLED: 499,
    tf.errors.INVALID_ARGUMENT: _BAD_REQUEST,
    tf.errors.DEADLINE_EXCEEDED: 504,
    tf.errors.NOT_FOUND: _NOT_FOUND,
    tf.errors.ALREADY_EXISTS: 409,
    tf.errors.PERMISSION_DENIED: 403,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.FAILED_PRECONDITION: _BAD_REQUEST,
    tf.errors.ABORTED: 409,
    tf.errors.OUT_OF_RANGE: _BAD_REQUEST,
    tf.errors.UNIMPLEMENTED: 501,
    tf.errors.UNAVAILABLE: 503,
    tf.errors.UNAUTHENTICATED: 401,
}

_LEAF = {
    "anyOf": [
        {"type": ["string", "number"]},
        {
            "type": "object",
            "properties": {"b64": {"type": "string"}},
            "required": ["b64"],
            "additionalProperties": False,
        },
    ]
}
_TENSOR = {"anyOf": [_LEAF, {"type": "array"}]}
_NAMED_TENSORS = {"type": "object", "additionalProperties": _TENSOR}
_REQUEST = {
    "type": "object",
    "properties": {
        "signature_name": {"type": "string"},
        "instances": {
            "type": "array",
            "minItems": 1,
            "items": {"anyOf": [_TENSOR, _NAMED_TENSORS]},
        },
        "inputs": {"anyOf": [_TENSOR, _NAMED_TENSORS]},
    },
    "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
}
_RESPONSE = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"predictions": {"type": "array"}},
            "required": ["predictions"],
        },
        {
            "type": "object",
            "properties": {"outputs": {"type": ["array", "object"]}},
            "required": ["outputs"],
        },
    ]
}
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
    "additionalProperties": False,
}
_STATUS = {
    "type": "object",
    "properties": {
        "version": {"type": "string", "pattern": "^[0-9]+$"},
        "state": {"enum": list(ModelVersionStatus.State.keys())},
        "status": {
            "type": "object",
            "properties": {"error_code": {"type": "string"}, "error_message": {"type": "string"}},
            "required": ["error_code", "error_message"],
        },
    },
    "required": ["version", "state", "status"],
}
_STATUSES = {
    "type": "object",
    "properties": {"model_version_status": {"type": "array", "items": _STATUS, "minItems": 1}},
    "required": ["model_version_status"],
}
_METADATA = {
    "type": "object",
    "properties": {"model_spec": {"type": "object"}, "metadata": {"type": "object"}},
    "required": ["model_spec", "metadata"],
}


async def _read_body(request: Request) -> bytes:
    """Returns the body whatever its content type: curl gives that of a form."""
    return await request.body()


Answer = Callable[..., Response]
Schema = Mapping[str, Any]
Body = Annotated[bytes, Depends(_read_body)]
Name = Annotated[str, Path(pattern="^[^/:]+$")]
Version = Annotated[str, Path(pattern="^[0-9]{1,19}$")]


def build_app(versions: ServedVersions) -> FastAPI:
    """Returns the application; its functions run in threads, several at a time."""
    api = _Api(versions)
    app = FastAPI(
        title="esmm_tf",
        description="The part of TF Serving's REST API that its local stand-in answers.",
        redirect_slashes=False,
        redoc_url=None,
    )
    body = {"required": True, "content": _content(_REQUEST)}
    posts: tuple[Answer, ...] = (api.predict, api.predict_version)
    for path, answer in zip((_MODEL, _VERSION), posts, strict=True):
        app.add_api_route(
            f"{path}:predict",
            answer,
            methods=["POST"],
            responses=_responses(_RESPONSE),
            openapi_extra={"requestBody": body},
        )
    gets: dict[str, tuple[Answer, Schema]] = {
        _MODEL: (api.status, _STATUSES),
        _VERSION: (api.version_status, _STATUSES),
        f"{_MODEL}/metadata": (api.metadata, _METADATA),
        f"{_VERSION}/metadata": (api.version_metadata, _METADATA),
    }
    for path, (answer, schema) in gets.items():
        app.add_api_route(path, answer, methods=["GET"], responses=_responses(schema))
    app.add_exception_handler(tf.errors.OpError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_malformed)
    app.add_exception_handler(RequestValidationError, _answer_malformed)
    return app


class _Api:
    """What answers each address."""

    def __init__(self, versions: ServedVersions) -> None:
        self._versions = versions

    def predict(self, name: Name, body: Body) -> Response:
        """Returns the outputs of a signature for the tensors of a request."""
        return self._predict(name, None, body)

    def predict_version(self, name: Name, version: Version, body: Body) -> Response:
        """Returns the outputs of a signature of one version."""
        return self._predict(name, int(version), body)

    def status(self, name: Name) -> Response:
        """Returns the status of each version that there was since the start."""
        return self._status(name, None)

    def version_status(self, name: Name, version: Version) -> Response:
        """Returns the status of one version."""
        return self._status(name, int(version))

    def metadata(self, name: Name) -> Response:
        """Returns the signatures of the version that is served."""
        return self._metadata(name, None)

    def version_metadata(self, name: Name, version: Version) -> Response:
        """Returns the signatures of one version."""
        return self._metadata(name, int(version))

    def _predict(self, name: str, version: int | None, body: bytes) -> Response:
        loaded = self._versions.find(name, version)
        request = json_request.read_request(body, lambda asked: _input_dtypes(loaded, asked))
        outputs = loaded.predict(request.signature or SERVING_DEFAULT, request.inputs)
        text = json_response.write_outputs(outputs, in_rows=request.in_rows)
        return Response(text, media_type="application/json")

    def _status(self, name: str, version: int | None) -> Response:
        statuses = self._versions.find_statuses(name, version)
        return JSONResponse(
            {"model_version_status": [_describe_status(status) for status in statuses]}
        )

    def _metadata(self, name: str, version: int | None) -> Response:
        loaded = self._versions.find(name, version)
        signatures = {key: _describe(signature) for key, signature in loaded.signature_defs.items()}
        return JSONResponse(
            {
                "model_spec": {
                    "name": name,
                    "signature_name": "",
                    "version": str(loaded.version),
                },
                "metadata": {"signature_def": {"signature_def": signatures}},
            }
        )


def _input_dtypes(loaded: LoadedVersion, signature: str) -> json_request.Dtypes:
    name = signature or SERVING_DEFAULT
    if name not in loaded.signature_defs:
        raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    inputs = loaded.signature_defs[name].inputs
    return {key: tf.as_dtype(info.dtype) for key, info in inputs.items()}


def _describe_status(status: ModelVersionStatus) -> dict[str, Any]:
    return {
        "version": str(status.version),
        "state": ModelVersionStatus.State.Name(status.state),
        "status": {
            "error_code": error_codes_pb2.Code.Name(status.status.error_code),
            "error_message": status.status.error_message,
        },
    }


def _describe(signature: Any) -> dict[str, Any]:
    """Returns a SignatureDef as the JSON of protocol buffers, with all its fields."""
    return {
        "inputs": {name: _describe_tensor(info) for name, info in signature.inputs.items()},
        "outputs": {name: _describe_tensor(info) for name, info in signature.outputs.items()},
        "method_name": signature.method_name,
        "defaults": {},
    }


def _describe_tensor(info: Any) -> dict[str, Any]:
    shape = info.tensor_shape
    return {
        "dtype": types_pb2.DataType.Name(info.dtype),
        "tensor_shape": {
            "dim": [{"size": str(dim.size), "name": dim.name} for dim in shape.dim],
            "unknown_rank": shape.unknown_rank,
        },
        "name": info.name,
    }


def _content(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _responses(schema: Schema) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"content": _content(schema)},
        "4XX": {"description": "The request is wrong", "content": _content(_ERROR)},
        "5XX": {"description": "The server failed", "content": _content(_ERROR)},
    }


def _answer_error(_: Request, error: Exception) -> Response:
    code = getattr(error, "error_code", tf.errors.UNKNOWN)
    return JSONResponse({"error": str(error)}, _STATUS_CODES.get(code, 500))


def _answer_malformed(request: Request, _: Exception) -> Response:
    path = request.url.path
    code = _BAD_REQUEST if path.startswith("/v1/") else _NOT_FOUND
    return JSONResponse({"error": f"Malformed request: {request.method} {path}"}, code)
