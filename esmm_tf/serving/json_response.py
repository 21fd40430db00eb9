"""Outputs of a signature as the JSON that TF Serving's REST API answers with."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from esmm_tf.serving.refusal import invalid_argument


def write_outputs(outputs: Mapping[str, np.ndarray], *, in_rows: bool) -> str:
    """Returns the body of a response.

    A single output stands without its name. Numbers have six digits, or nine where
    six do not give back the same float32.

    Args:
      outputs: numbers, by their names; in rows each has the batch as its first dimension.
      in_rows: whether the request was in rows.

    Raises:
      tf.errors.InvalidArgumentError: if the response cannot be in rows.
    """
    columns = {name: _decimals(array) for name, array in outputs.items()}
    if in_rows:
        _check_batch(outputs)
    if len(columns) == 1:
        values = next(iter(columns.values()))
    elif in_rows:
        values = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
    else:
        values = columns
    return json.dumps({"predictions" if in_rows else "outputs": values}, indent=4)


def _check_batch(outputs: Mapping[str, np.ndarray]) -> None:
    size = None
    for name, values in outputs.items():
        if not values.shape:
            raise invalid_argument(f"Tensor name: {name} has no shape information ")
        if size is not None and len(values) != size:
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: {len(values)} expecting: {size}"
            )
        size = len(values)


def _decimals(values: np.ndarray) -> Any:
    if values.dtype != np.float32:
        return values.tolist()
    flat = np.array([_decimal(value) for value in values.ravel()], np.float64)
    return flat.reshape(values.shape).tolist()


def _decimal(value: np.float32) -> float:
    short = float(f"{value:.6g}")
    return short if np.float32(short) == value else float(f"{value:.9g}")
