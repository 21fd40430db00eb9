"""A request as REST clients send it, and the response that this version gives."""

import base64
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from esmm_tf import files, keys
from esmm_tf.serving import saved_model
from esmm_tf.serving.requests import Impression

REQUEST_FILE = os.path.join("assets.extra", "golden_request.json")
RESPONSE_FILE = os.path.join("assets.extra", "golden_response.json")
NUM_IMPRESSIONS = 3


def write_golden(
    directory: str, impressions: Sequence[Impression], outputs: Mapping[str, np.ndarray]
) -> None:
    """Writes the request and the response of `serving_default` into a version's directory.

    Args:
      directory: of the version.
      impressions: of the request.
      outputs: of the signature for them, each `[batch]`.
    """
    instances = [
        {"b64": base64.b64encode(impression.example).decode()} for impression in impressions
    ]
    request: dict[str, Any] = {
        "signature_name": saved_model.SERVING_DEFAULT,
        "instances": instances,
    }
    columns = {name: outputs[name].tolist() for name in keys.PROBABILITIES}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    files.write_json(request, os.path.join(directory, REQUEST_FILE))
    files.write_json({"predictions": rows}, os.path.join(directory, RESPONSE_FILE))
