"""Files of NumPy arrays that appear under their names only when they are whole."""

import os
from typing import Any

import numpy as np


def write_arrays(path: str, **arrays: Any) -> None:
    """Writes a `.npz` file under a temporary name and renames it."""
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
    os.replace(temporary, path)
