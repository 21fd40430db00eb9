"""A version in memory: its signatures, checked and called as TF Serving does it.

Errors are those of TensorFlow, whose codes are those of gRPC; their words are TF Serving's.
"""

import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from esmm_tf.serving.refusal import invalid_argument, kernel_message
from esmm_tf.serving.versions import SAVED_MODEL

_PREDICT_METHOD = "tensorflow/serving/predict"


class LoadedVersion:
    """A version in memory. Its signatures may be called from many threads at once."""

    def __init__(self, path: str, version: int) -> None:
        self.version = version
        self.signature_defs: Mapping[str, Any] = _read_signature_defs(path)
        self._model = tf.saved_model.load(path)

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        output_filter: Collection[str] = (),
    ) -> dict[str, np.ndarray]:
        """Returns the outputs of a signature by their names.

        Args:
          signature: its name.
          inputs: by their names, of the signature's dtypes.
          output_filter: the outputs to return; all if there are none.

        Raises:
          tf.errors.OpError: if the request does not fit the signature, or cannot be scored.
        """
        definition = self._find_signature(signature)
        _check_inputs(inputs, definition)
        _check_outputs(output_filter, definition)
        tensors = {
            name: tf.constant(values, tf.as_dtype(definition.inputs[name].dtype))
            for name, values in inputs.items()
        }
        try:
            outputs = self._model.signatures[signature](**tensors)
        except tf.errors.OpError as error:
            raise type(error)(None, None, kernel_message(error.message)) from error
        return {name: outputs[name].numpy() for name in output_filter or sorted(outputs)}

    def _find_signature(self, name: str) -> Any:
        if name not in self.signature_defs:
            raise tf.errors.FailedPreconditionError(
                None, None, f'Serving signature key "{name}" not found.'
            )
        definition = self.signature_defs[name]
        if definition.method_name != _PREDICT_METHOD:
            raise tf.errors.InternalError(
                None,
                None,
                "Expected prediction signature method_name to be one of "
                f"{{{_PREDICT_METHOD}}}. Was: {definition.method_name}",
            )
        return definition


def _read_signature_defs(path: str) -> Mapping[str, Any]:
    with open(os.path.join(path, SAVED_MODEL), "rb") as file:
        proto = saved_model_pb2.SavedModel.FromString(file.read())
    return dict(proto.meta_graphs[0].signature_def)


def _check_inputs(inputs: Mapping[str, np.ndarray], definition: Any) -> None:
    given, known = sorted(inputs), sorted(definition.inputs)
    if len(given) != len(known):
        extra, missing = sorted({*given} - {*known}), sorted({*known} - {*given})
        raise invalid_argument(
            f"input size does not match signature: {len(given)}!={len(known)} "
            f"len({{{','.join(given)}}}) != len({{{','.join(known)}}}). "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        )
    for index, (name, values) in enumerate(inputs.items()):
        if name not in definition.inputs:
            raise invalid_argument(
                f"input tensor alias not found in signature: {name}. "
                f"Inputs expected to be in the set {{{','.join(known)}}}."
            )
        info = definition.inputs[name]
        dtype, shape = tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape)
        if tf.as_dtype(values.dtype) != dtype:
            raise invalid_argument(
                f"Expects arg[{index}] to be {dtype.name} but "
                f"{tf.as_dtype(values.dtype).name} is provided, for input {name}"
            )
        # TF Serving leaves shapes to the kernels.
        if not shape.is_compatible_with(values.shape):
            raise invalid_argument(
                f"Input {name} has shape {list(values.shape)}. Give {shape.as_list()}."
            )


def _check_outputs(output_filter: Collection[str], definition: Any) -> None:
    for index, name in enumerate(output_filter):
        if name not in definition.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {{{','.join(sorted(definition.outputs))}}}."
            )
        if name in list(output_filter)[:index]:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
