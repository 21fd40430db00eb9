"""ESMM: two towers on shared embeddings, supervised on click and on click-and-conversion."""

from esmm_tf.config import ModelConfig
from esmm_tf.feature_columns import build_inputs
from esmm_tf.model import (
    EntireSpaceModel,
    EntireSpaceOutputs,
    ImpressionEncoder,
    TowerLogits,
    build_tower,
)
from esmm_tf.schema import Schema

_SEED_STRIDE = 1000


def build_esmm(schema: Schema, config: ModelConfig, *, seed: int = 0) -> EntireSpaceModel:
    """Returns the Entire Space Multi-Task Model (Ma et al., SIGIR 2018, Figure 2), not compiled.

    Its inputs are those of `feature_columns.build_inputs`, its outputs those of
    `model.EntireSpaceOutputs`.
    """
    inputs = build_inputs(schema)
    encoded = ImpressionEncoder(schema, config, seed=seed)(inputs)
    logits = {}
    for place, name in enumerate(("ctr_tower", "cvr_tower"), start=1):
        tower = build_tower(name, config.hidden_units, seed=seed + place * _SEED_STRIDE)
        logits[name] = TowerLogits(name=f"{name}_logits")(tower(encoded))
    outputs = EntireSpaceOutputs(name="outputs")(logits["ctr_tower"], logits["cvr_tower"])
    return EntireSpaceModel(inputs=inputs, outputs=outputs, config=config, name="esmm")
