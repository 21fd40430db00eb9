"""The files that TF Serving is configured with: models, batching, monitoring.

They stand beside the versions, and are text that an operator may change: one that is there is kept.
"""

import os
from collections.abc import Sequence

from esmm_tf import files

MODELS = "models.config"
BATCHING = "batching.config"
MONITORING = "monitoring.config"

_MODELS = """\
# tensorflow_model_server --model_config_file
model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""
_BATCHING = """\
# tensorflow_model_server --enable_batching --batching_parameters_file
# A request may hold max_batch_size impressions at most. Batches are padded to an allowed size.
# Never set enable_large_batch_splitting: it would part the candidates of rank from their context.
max_batch_size {{ value: {largest} }}
batch_timeout_micros {{ value: 1000 }}
max_enqueued_batches {{ value: 1000 }}
{allowed}
"""
_MONITORING = """\
# tensorflow_model_server --monitoring_config_file
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""


def write_configs(directory: str, *, model_name: str, batch_sizes: Sequence[int]) -> list[str]:
    """Writes the files that are not there; returns those that are there and hold something else.

    Args:
      directory: of the versions.
      model_name: under which the server has the model.
      batch_sizes: allowed sizes of a batch, rising; the last is the largest.
    """
    texts = {
        MODELS: _MODELS.format(name=model_name),
        BATCHING: _BATCHING.format(
            largest=batch_sizes[-1],
            allowed="\n".join(f"allowed_batch_sizes: {size}" for size in batch_sizes),
        ),
        MONITORING: _MONITORING,
    }
    return [name for name, text in texts.items() if not _write(os.path.join(directory, name), text)]


def _write(path: str, text: str) -> bool:
    """Writes a file unless it is there; returns whether it holds the text."""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return file.read() == text
    files.write_text(path, text)
    return True
