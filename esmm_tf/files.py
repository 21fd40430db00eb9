"""Whole files: written under a temporary name and renamed, and JSON read with its damage told.

A path with a scheme, such as `s3://`, goes through the file systems of TensorFlow, which is
imported for it alone; any other through Python's own `open`.
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
    """Returns an open file; text is UTF-8, and its line ends stay as they are."""
    if is_remote(path):
        return _gfile().GFile(path, mode)
    if "b" in mode:
        return open(path, mode)
    return open(path, mode, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields the temporary name under which a local file is written; renames it at the end.

    Its directory is made if missing. An error leaves what was there under the final name.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.tmp"
    yield temporary
    os.replace(temporary, path)


def write_bytes(path: str, content: bytes) -> None:
    """Writes a whole file; its directory is made if missing."""
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
    """Returns the content of a JSON file of ours.

    Args:
      path: of the file.
      remedy: what the user can do if it is damaged or of another format, as a sentence.
      missing: the message if it is not there; by default one with the remedy.
      version: the `format_version` that this release reads; None where the format has none.

    Raises:
      UserError: if the file is missing or damaged, or its format is another one.
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
        found = tree["format_version"]
    if found != version:
        raise UserError(
            f"{path} has format_version {found!r}; this release reads {version}. {remedy}"
        )
    return tree


@contextlib.contextmanager
def told_as_damaged(path: str, *, remedy: str) -> Iterator[None]:
    """Raises a `UserError` where the content of a file is not what its reader takes from it."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise damaged(path, error, remedy=remedy) from None


def damaged(path: str, error: object, *, remedy: str) -> UserError:
    """Returns the error of a file whose content is not what was written."""
    shown = repr(error) if isinstance(error, Exception) else error
    return UserError(f"{path} is damaged ({shown}). {remedy}")


def _gfile() -> Any:
    return importlib.import_module("tensorflow").io.gfile
