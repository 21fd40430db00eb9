"""The values of a feature and their weights as one value."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from esmm_tf.schema.schema import Feature


class FeatureValues(NamedTuple):
    """Values of one feature, and one weight per value if it is weighted.

    Values are ragged `[rows, values]`, or float32 `[rows]` for a numeric feature; weights are
    ragged float32 `[rows, values]`.
    """

    values: Any
    weights: tf.RaggedTensor | None = None


def take_values(inputs: Mapping[str, Any], feature: Feature) -> FeatureValues:
    """Returns the values of a feature, with their weights, out of a model's inputs.

    Raises:
      ValueError: if the feature is weighted and the inputs have no weights for it.
    """
    values = inputs[feature.name]
    if not feature.weighted:
        return FeatureValues(values)
    if feature.weight_key not in inputs:
        raise ValueError(
            f"Feature {feature.name!r} is weighted and needs {feature.weight_key!r} among the "
            f"inputs, which are {sorted(inputs)}. Give one weight for each value under that key."
        )
    return FeatureValues(values, inputs[feature.weight_key])
