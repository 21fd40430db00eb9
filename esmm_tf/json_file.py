"""JSON files that appear under their names only when they are whole."""

import json
import os
from typing import Any

import tensorflow as tf


def write_json(tree: Any, path: str, *, sort_keys: bool = False) -> None:
    """Writes the file under a temporary name and renames it; its directory is made if missing."""
    tf.io.gfile.makedirs(os.path.dirname(path) or ".")
    with tf.io.gfile.GFile(f"{path}.tmp", "w") as file:
        file.write(json.dumps(tree, indent=2, sort_keys=sort_keys) + "\n")
    tf.io.gfile.rename(f"{path}.tmp", path, overwrite=True)
