"""The versions of an export directory in memory, changed for newer ones as TF Serving does it.

Errors are those of TensorFlow, whose codes are those of gRPC; their words are TF Serving's.
"""

import contextlib
import gc
import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from esmm_tf.errors import UserError

_SAVED_MODEL = "saved_model.pb"
_PREDICT_METHOD = "tensorflow/serving/predict"

# What eager execution writes before and after the message of a kernel.
_EAGER_PREFIX = re.compile(
    r"\AGraph execution error:\n\n(Detected at node .*\n<stack traces unavailable>\n)*"
)
_EAGER_SUFFIX = re.compile(r" \[Op:\w+\]\Z")

# Relative path, size in bytes and time of the last change in nanoseconds, of each file.
Files = frozenset[tuple[str, int, int]]


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
            raise type(error)(None, None, _kernel_message(error.message)) from error
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


class ServedVersions:
    """The versions of one export directory: the highest is served.

    Requests of many threads read it while one thread calls `refresh`. A version that is unloaded
    stays in memory until the last request that found it is answered.
    """

    def __init__(
        self, export_dir: str, *, model_name: str, report: Callable[[str], None] = print
    ) -> None:
        """Makes it empty, until `refresh`.

        Args:
          export_dir: with one numbered directory a version.
          model_name: under which requests ask for it.
          report: is told in a line of each version that is loaded, unloaded, or cannot be loaded.
        """
        self.model_name = model_name
        self._export_dir = export_dir
        self._report = report
        # Both are replaced and never changed, so that a request sees one or the other.
        self._loaded: dict[int, LoadedVersion] = {}
        self._statuses: dict[int, ModelVersionStatus] = {}
        self._failed: dict[int, Files] = {}

    def refresh(self) -> None:
        """Loads the highest version, then unloads the others.

        If it cannot be loaded, what is served stays, and it is tried again when its files have
        changed. A directory without a version unloads all, and one that is gone nothing.
        """
        if not os.path.isdir(self._export_dir):
            return
        paths = _find_versions(self._export_dir)
        latest = max(paths, default=None)
        if (
            latest is not None
            and latest not in self._loaded
            and not self._load(latest, paths[latest])
        ):
            return
        for version in self._loaded.keys() - {latest}:
            self._unload(version)

    def find(self, model_name: str, version: int | None = None) -> LoadedVersion:
        """Returns a version in memory, without a number the highest.

        Raises:
          tf.errors.InvalidArgumentError: if the name of the model is empty.
          tf.errors.NotFoundError: if there is no such version.
        """
        if not model_name:
            raise invalid_argument("ModelSpec has no name specified.")
        loaded = self._loaded if model_name == self.model_name else {}
        number = max(loaded, default=None) if version is None else version
        if number is None or number not in loaded:
            asked = f"Latest({model_name})"
            if version is not None:
                asked = f"Specific({model_name}, {version})"
            raise tf.errors.NotFoundError(None, None, f"Servable not found for request: {asked}")
        return loaded[number]

    def find_statuses(
        self, model_name: str, version: int | None = None
    ) -> list[ModelVersionStatus]:
        """Returns the status of a version, without a number of each there was, the highest first.

        Raises:
          tf.errors.NotFoundError: if there is none.
        """
        statuses = self._statuses if model_name == self.model_name else {}
        if not statuses and version is None:
            raise tf.errors.NotFoundError(
                None, None, f"Could not find any versions of model {model_name}"
            )
        if version is None:
            return [statuses[number] for number in sorted(statuses, reverse=True)]
        if version not in statuses:
            raise tf.errors.NotFoundError(
                None, None, f"Could not find version {version} of model {model_name}"
            )
        return [statuses[version]]

    def check_serving(self) -> LoadedVersion:
        """Returns the version that is served.

        Raises:
          UserError: if there is none.
        """
        if self._loaded:
            return self._loaded[max(self._loaded)]
        failed = [s for s in self._statuses.values() if s.status.error_code]
        if failed:
            raise UserError(
                f"Version {failed[0].version} in {self._export_dir!r} cannot be loaded: "
                f"{failed[0].status.error_message}. Export it again with python -m esmm_tf.export."
            )
        raise UserError(
            f"There is no version in {self._export_dir!r}. Write one with python -m esmm_tf.export "
            f"--model_dir=... --export_dir={self._export_dir}."
        )

    def _load(self, version: int, path: str) -> bool:
        """Returns whether the version is loaded now."""
        files = _list_files(path)
        if self._failed.get(version) == files:
            return False
        self._set_state(version, ModelVersionStatus.LOADING)
        try:
            loaded = LoadedVersion(path, version)
        except Exception as error:  # whatever a broken file makes TensorFlow raise
            self._failed[version] = files
            code = getattr(error, "error_code", tf.errors.UNKNOWN)
            self._set_state(version, ModelVersionStatus.END, code=code, message=str(error))
            self._report(f"version {version} cannot be loaded: {error}")
            return False
        self._loaded = self._loaded | {version: loaded}
        self._set_state(version, ModelVersionStatus.AVAILABLE)
        self._report(f"serving version {version}")
        return True

    def _unload(self, version: int) -> None:
        self._set_state(version, ModelVersionStatus.UNLOADING)
        self._loaded = {number: one for number, one in self._loaded.items() if number != version}
        gc.collect()  # a SavedModel is full of cycles
        self._set_state(version, ModelVersionStatus.END)
        self._report(f"unloaded version {version}")

    def _set_state(self, version: int, state: int, *, code: int = 0, message: str = "") -> None:
        status = ModelVersionStatus(version=version, state=state)
        status.status.error_code = code
        status.status.error_message = message
        self._statuses = self._statuses | {version: status}


def _find_versions(export_dir: str) -> dict[int, str]:
    """Returns the directories of versions, by number; those that are being written are none."""
    return {
        int(name): os.path.join(export_dir, name)
        for name in os.listdir(export_dir)
        if re.fullmatch("[0-9]+", name)
        and os.path.isfile(os.path.join(export_dir, name, _SAVED_MODEL))
    }


def _list_files(directory: str) -> Files:
    files = set()
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                found = os.stat(path)
                files.add((path, found.st_size, found.st_mtime_ns))
    return frozenset(files)


def _read_signature_defs(path: str) -> Mapping[str, Any]:
    with open(os.path.join(path, _SAVED_MODEL), "rb") as file:
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
    for place, (name, values) in enumerate(inputs.items()):
        if name not in definition.inputs:
            raise invalid_argument(
                f"input tensor alias not found in signature: {name}. "
                f"Inputs expected to be in the set {{{','.join(known)}}}."
            )
        info = definition.inputs[name]
        dtype, shape = tf.as_dtype(info.dtype), tf.TensorShape(info.tensor_shape)
        if tf.as_dtype(values.dtype) != dtype:
            raise invalid_argument(
                f"Expects arg[{place}] to be {dtype.name} but "
                f"{tf.as_dtype(values.dtype).name} is provided, for input {name}"
            )
        # TF Serving leaves shapes to the kernels.
        if not shape.is_compatible_with(values.shape):
            raise invalid_argument(
                f"Input {name} has shape {list(values.shape)}. Give {shape.as_list()}."
            )


def _check_outputs(output_filter: Collection[str], definition: Any) -> None:
    for place, name in enumerate(output_filter):
        if name not in definition.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {{{','.join(sorted(definition.outputs))}}}."
            )
        if name in list(output_filter)[:place]:
            raise invalid_argument(f"duplicate output tensor alias: {name}")


def _kernel_message(message: str) -> str:
    """Returns the message of an error as a session has it."""
    return _EAGER_SUFFIX.sub("", _EAGER_PREFIX.sub("", message))


def invalid_argument(message: str) -> tf.errors.InvalidArgumentError:
    """Returns the error of a request that is wrong."""
    return tf.errors.InvalidArgumentError(None, None, message)
