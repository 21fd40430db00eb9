"""Text files that appear under their names only when all of them are whole."""

import contextlib
import gzip
import os
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from esmm_tf.errors import UserError

_PLAIN, _COMPRESSED = ".csv", ".csv.gz"
# As the command gzip has it; Python's 9 takes four times as long to save a few per cent.
_COMPRESSION_LEVEL = 6

_ByteFile = BinaryIO | gzip.GzipFile


class CsvWriter(contextlib.AbstractContextManager["CsvWriter"]):
    """Writes CSV files; leaving the context without an error gives them their names.

    A file without a line is not made.

    Args:
      directory: where to write; created if missing.
      headers: by the name of each file without `.csv`, its first line, or an empty text for none;
        the files are renamed in this order.
      compressed: whether to write `.csv.gz`.
      overwrite: whether files of these names may be replaced.

    Raises:
      UserError: if a file with one of these names exists and `overwrite` is false.
    """

    def __init__(
        self,
        directory: str,
        headers: Mapping[str, str],
        *,
        compressed: bool = False,
        overwrite: bool = False,
    ) -> None:
        self._directory = directory
        self._headers = dict(headers)
        self._suffix = _COMPRESSED if compressed else _PLAIN
        self._files: dict[str, _ByteFile] = {}
        self._open_files = contextlib.ExitStack()
        self._prepare(overwrite=overwrite)

    def _prepare(self, *, overwrite: bool) -> None:
        """Removes what an interrupted run, or with `overwrite` a finished one, left behind."""
        paths = [
            os.path.join(self._directory, name + suffix)
            for name in self._headers
            for suffix in (_PLAIN, _COMPRESSED)
        ]
        finished = [path for path in paths if os.path.exists(path)]
        if finished and not overwrite:
            raise UserError(
                f"{finished[0]!r} exists already. Choose another directory, or replace it with "
                "--overwrite."
            )
        os.makedirs(self._directory, exist_ok=True)
        for path in (*finished, *map(_temporary, paths)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)

    def write(self, name: str, lines: Iterable[str]) -> None:
        """Appends lines of ASCII, given without line ends, to the file of that name."""
        text = "".join(f"{line}\n" for line in lines)
        if not text:
            return
        if name not in self._files:
            self._files[name] = self._open(name)
            if self._headers[name]:
                text = f"{self._headers[name]}\n{text}"
        self._files[name].write(text.encode("ascii"))

    def _open(self, name: str) -> _ByteFile:
        path = _temporary(self._path(name))
        file = self._open_files.enter_context(open(path, "wb"))  # noqa: SIM115 - the stack closes it
        if self._suffix == _PLAIN:
            return file
        # No name and no time are stored, so that equal lines give equal bytes.
        return self._open_files.enter_context(
            gzip.GzipFile("", "wb", _COMPRESSION_LEVEL, file, mtime=0)
        )

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name + self._suffix)

    def __exit__(self, error_type: Any, error: Any, traceback: Any) -> None:
        """Closes the files; without an error renames them."""
        self._open_files.close()
        if error_type is not None:
            return
        paths = [self._path(name) for name in self._headers if name in self._files]
        for path in paths:
            with open(_temporary(path), "rb") as file:
                os.fsync(file.fileno())
        for path in paths:
            os.replace(_temporary(path), path)


def _temporary(path: str) -> str:
    return f"{path}.tmp"
