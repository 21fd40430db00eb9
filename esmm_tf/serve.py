"""`python -m esmm_tf.serve`: a stand-in for TF Serving on one's own machine, without Docker."""

from typing import NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.serving import ServeConfig
from esmm_tf.serving import server


def main(config: ServeConfig) -> None:
    """Serves the highest version of --export_dir by REST and gRPC as TF Serving does, until Ctrl-C.

    It is for development: requests are not batched, and versions are not warmed up.
    """
    with server.serving(config) as running:
        print(server.describe(running, config), flush=True)
        server.poll(running.versions, config.file_system_poll_wait_seconds)


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(main, ServeConfig)


if __name__ == "__main__":
    run()
