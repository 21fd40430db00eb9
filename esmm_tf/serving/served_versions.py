"""The versions of an export directory in memory, changed for newer ones as TF Serving does it.

Errors are those of TensorFlow, whose codes are those of gRPC; their words are TF Serving's.
"""

import contextlib
import gc
import os
from collections.abc import Callable

import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from esmm_tf.errors import UserError
from esmm_tf.serving.loaded_version import LoadedVersion
from esmm_tf.serving.refusal import invalid_argument
from esmm_tf.serving.versions import find_versions

# Relative path, size in bytes and time of the last change in nanoseconds, of each file.
Files = frozenset[tuple[str, int, int]]


class ServedVersions:
    """The versions of one export directory: the highest is served.

    Requests of many threads read it while one thread calls `refresh`. A version that is unloaded
    stays in memory until the last request that found it is answered.
    """

    def __init__(
        self, export_dir: str, *, model_name: str, report: Callable[[str], None] = print
    ) -> None:
        """Makes it empty; `refresh` fills it.

        Args:
          export_dir: with one numbered directory per version.
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

        If the highest cannot be loaded, what is served stays, and it is tried again when its files
        have changed. A directory without versions unloads all, one that is gone none.
        """
        if not os.path.isdir(self._export_dir):
            return
        paths = find_versions(self._export_dir)
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
        """Returns a version in memory, the highest if none is named.

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
        """Returns the status of a version, or if none is named of each there was, highest first.

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
        self._loaded = {n: loaded for n, loaded in self._loaded.items() if n != version}
        gc.collect()  # a SavedModel is full of cycles
        self._set_state(version, ModelVersionStatus.END)
        self._report(f"unloaded version {version}")

    def _set_state(self, version: int, state: int, *, code: int = 0, message: str = "") -> None:
        status = ModelVersionStatus(version=version, state=state)
        status.status.error_code = code
        status.status.error_message = message
        self._statuses = self._statuses | {version: status}


def _list_files(directory: str) -> Files:
    files = set()
    for parent, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(parent, name)
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                stat = os.stat(path)
                files.add((path, stat.st_size, stat.st_mtime_ns))
    return frozenset(files)
