"""The versions of an export directory: directories whose names are numbers."""

import os
import re

SAVED_MODEL = "saved_model.pb"
_NUMBER = re.compile("[0-9]+")


def list_versions(export_dir: str) -> list[int]:
    """Returns the numbers that are taken, rising; none if the directory is not there."""
    names = os.listdir(export_dir) if os.path.isdir(export_dir) else []
    return sorted(int(name) for name in names if _NUMBER.fullmatch(name))


def find_versions(export_dir: str) -> dict[int, str]:
    """Returns the directories that hold a model, by number.

    Raises:
      FileNotFoundError: if `export_dir` is not there.
    """
    return {
        int(name): os.path.join(export_dir, name)
        for name in os.listdir(export_dir)
        if _NUMBER.fullmatch(name) and os.path.isfile(os.path.join(export_dir, name, SAVED_MODEL))
    }
