"""Imports TensorFlow with its start-up messages held back; commands import this first.

TensorFlow 2.21 writes about missing GPUs and processor features to the process's standard error at
import and at its first look at devices, whatever TF_CPP_MIN_LOG_LEVEL says. They would bury the
message that a user needs, such as that of a mistyped flag. If the import fails, they are shown.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
    """Keeps what is written to file descriptor 2 off the screen, unless the code within raises."""
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(screen, held.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with stderr_held_back():
    import tensorflow as tf
    import tf_keras  # noqa: F401 - it has messages of its own

    tf.config.list_physical_devices()
    # With the extra [io], paths may begin with s3://, hdfs://, az:// or http://.
    if importlib.util.find_spec("tensorflow_io"):
        importlib.import_module("tensorflow_io")

logging.set_verbosity(logging.ERROR)
