"""Whole files, written under a temporary name and renamed; JSON whose damage is reported.

A path with a scheme, such as `s3://`, goes through TensorFlow's file systems, and TensorFlow is
imported only then; any other path goes through Python's own `open`.
"""

import contextlib
import importlib
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from esmm_tf.errors import UserError


def is_remote(path: str) -> bool:
    """Returns whether a path has a scheme."""
    return "://" in path


def exists(path: str) -> bool:
    """Returns whether there is a file or a directory of that name."""
    return _gfile().exists(path) if is_remote(path) else os.path.exists(path)


def open_file(path: str, mode: str) -> Any:
    """Returns an open file; text is UTF-8, and line ends are not translated."""
    if is_remote(path):
        return _gfile().GFile(path, mode)
    if "b" in mode:
        return open(path, mode)
    return open(path, mode, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary name to write a local file under, and renames that file at the end.

    A missing directory is made. After an error, what was under the final name is unchanged.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.tmp"
    yield temporary
    os.replace(temporary, path)


def write_bytes(path: str, content: bytes) -> None:
    """Writes a whole file; a missing directory is made."""
    if not is_remote(path):
        with replacing(path) as temporary, open_file(temporary, "wb") as file:
            file.write(content)
        return
    gfile = _gfile()
    gfile.makedirs(os.path.dirname(path))
    with gfile.GFile(f"{path}.tmp", "wb") as file:
        file.write(content)
    gfile.rename(f"{path}.tmp", path, overwrite=True)


def write_text(path: str, text: str) -> None:
    """Writes a whole file of UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(tree: Any, path: str, *, sort_keys: bool = False) -> None:
    """Writes a whole JSON file."""
    write_text(path, json.dumps(tree, indent=2, sort_keys=sort_keys) + "\n")


def write_arrays(path: str, **arrays: Any) -> None:
    """Writes a whole `.npz` file."""
    with replacing(path) as temporary, open_file(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_json(path: str, *, remedy: str, missing: str = "", version: int | None = None) -> Any:
    """Returns the content of a JSON file that this package wrote.

    Args:
      path: of the file.
      remedy: a sentence on what to do if the file is damaged or has another format version.
      missing: the message if there is no file; by default it says so and gives the remedy.
      version: the `format_version` that this release reads; None if the format has none.

    Raises:
      UserError: if the file is missing or damaged, or has another format version.
    """
    if not exists(path):
        raise UserError(missing or f"{path} is missing. {remedy}")
    try:
        with open_file(path, "r") as file:
            tree = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error, remedy=remedy) from None
    if version is None:
        return tree
    with told_as_damaged(path, remedy=remedy):
        file_version = tree["format_version"]
    if file_version != version:
        raise UserError(
            f"{path} has format_version {file_version!r}; this release reads {version}. {remedy}"
        )
    return tree


@contextlib.contextmanager
def told_as_damaged(path: str, *, remedy: str) -> Iterator[None]:
    """Reports an error of the code within, which takes a file's content apart, as damage."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise damaged(path, error, remedy=remedy) from None


def damaged(path: str, error: Exception, *, remedy: str) -> UserError:
    """Returns the error for a file whose content is not as it was written."""
    return UserError(f"{path} is damaged ({error!r}). {remedy}")


def _gfile() -> Any:
    return importlib.import_module("tensorflow").io.gfile
