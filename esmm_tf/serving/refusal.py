"""The words of errors, as TF Serving has them."""

import re

import tensorflow as tf

# What eager execution writes before and after the message of a kernel.
_EAGER_PREFIX = re.compile(
    r"\AGraph execution error:\n\n(Detected at node .*\n<stack traces unavailable>\n)*"
)
_EAGER_SUFFIX = re.compile(r" \[Op:\w+\]\Z")


def kernel_message(message: str) -> str:
    """Returns the message of an error as a TensorFlow session has it."""
    return _EAGER_SUFFIX.sub("", _EAGER_PREFIX.sub("", message))


def invalid_argument(message: str) -> tf.errors.InvalidArgumentError:
    """Returns the error of a request that is wrong."""
    return tf.errors.InvalidArgumentError(None, None, message)
