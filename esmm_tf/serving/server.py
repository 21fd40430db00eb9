"""A stand-in for TF Serving on one's own machine, without Docker.

It is for trying requests and clients. Production uses TF Serving, which is faster.
"""

import contextlib
import importlib
import os
import shlex
import socket
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

from esmm_tf.config.serving import ServeConfig
from esmm_tf.errors import UserError
from esmm_tf.serving import golden, grpc_api
from esmm_tf.serving.served_versions import ServedVersions

_GRACE_SECONDS = 5


class Server(NamedTuple):
    """What is served and where: the root of REST, and the target of gRPC."""

    versions: ServedVersions
    rest: str
    grpc: str


@contextlib.contextmanager
def serving(config: ServeConfig) -> Iterator[Server]:
    """Answers requests in threads of its own; versions change with `refresh`.

    Raises:
      UserError: if the extra `serving` is not installed, a port cannot be listened on, or there is
        no version that can be loaded.
    """
    rest_api, uvicorn = _load_extra()
    versions = ServedVersions(config.export_dir, model_name=config.model_name, report=_print)
    with _listen(config, "rest_api_port") as listener:
        _listen(config, "port").close()  # gRPC opens it itself, and says less if it cannot
        versions.refresh()
        versions.check_serving()
        rest = uvicorn.Server(
            uvicorn.Config(
                rest_api.build_app(versions),
                access_log=False,
                lifespan="off",
                log_config=None,
                ws="none",
            )
        )
        rest_thread = threading.Thread(target=rest.run, kwargs={"sockets": [listener]})
        grpc = grpc_api.build_server(versions)
        grpc_port = grpc.add_insecure_port(f"{config.host}:{config.port}")
        rest_thread.start()
        grpc.start()
        try:
            yield Server(
                versions,
                rest=f"http://{config.host}:{listener.getsockname()[1]}",
                grpc=f"{config.host}:{grpc_port}",
            )
        finally:
            rest.should_exit = True
            grpc.stop(_GRACE_SECONDS).wait()
            rest_thread.join()


def _load_extra() -> tuple[Any, Any]:
    """Returns the module of the REST API, which needs FastAPI, and Uvicorn."""
    try:
        return importlib.import_module("esmm_tf.serving.rest_api"), importlib.import_module(
            "uvicorn"
        )
    except ImportError:
        raise UserError(
            "The local server needs FastAPI and Uvicorn. Install them with pip install "
            "'esmm_tf[serving]'."
        ) from None


def _listen(config: ServeConfig, flag: str) -> socket.socket:
    port = getattr(config, flag)
    try:
        listener = socket.create_server((config.host, port))
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise UserError(
            f"--{flag} is {port}, and {config.host}:{port} cannot be listened on: {reason}. "
            "Stop what listens there, or give another; 0 takes any free one."
        ) from None
    # Connections inherit it; without it a response waits 40 ms for the client to acknowledge.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def describe(server: Server, config: ServeConfig) -> str:
    """Returns where the model is, and a request to paste."""
    version = server.versions.check_serving().version
    model = f"{server.rest}/v1/models/{config.model_name}"
    lines = [
        f"model  {config.model_name}, version {version} of {config.export_dir}",
        f"REST   {model}",
        f"gRPC   {server.grpc}",
    ]
    request = os.path.join(config.export_dir, str(version), golden.REQUEST_FILE)
    if os.path.exists(request):
        lines.append(
            f"try    curl -d {shlex.quote(f'@{request}')} {shlex.quote(f'{model}:predict')}"
        )
    return "\n".join(lines)


def poll(versions: ServedVersions, seconds: int) -> None:
    """Looks for new versions until a signal comes."""
    never = threading.Event()
    while not never.wait(seconds or None):
        versions.refresh()


def _print(line: str) -> None:
    print(line, flush=True)
