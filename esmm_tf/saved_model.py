"""A trained model served: a SavedModel of core TensorFlow ops only."""

import os
import shutil
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import keys, records
from esmm_tf.columns import FLOAT32, INT64, STRING, NumericColumn
from esmm_tf.errors import UserError
from esmm_tf.feature_columns import CategoricalReader, tensor_names
from esmm_tf.schema import MANY, Feature, Schema

# Stands for "no value" in the dense inputs of `predict_tensors`.
PADDING = {INT64: np.iinfo(np.int64).min, FLOAT32: np.nan, STRING: ""}


def export(model: Any, schema: Schema, export_dir: str, *, version: int = 0) -> str:
    """Writes `<export_dir>/<version>/` and returns its path.

    Signatures, each output float32 `[batch]`:

    * `serving_default`: `examples`, serialized tf.Examples, one an impression, to `pctr`, `pcvr`
      and `pctcvr`;
    * `pctr`, `pcvr`, `pctcvr`: the same input, one output each;
    * `predict_tensors`: one tensor a feature, `[batch]`, or `[batch, width]` where it has many
      values, padded with the smallest int64, `""` or NaN; named as `tensor_names` says.

    The directory appears whole or not at all.

    Raises:
      UserError: if the version exists.
    """
    version = version or _next_version(export_dir)
    path = os.path.join(export_dir, str(version))
    if os.path.exists(path):
        raise UserError(f"{path!r} exists. Give another --version, or 0 for the next free one.")
    temporary = os.path.join(export_dir, f".{version}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    module = _ServingModule(model, schema)
    tf.saved_model.save(module, temporary, signatures=module.signatures())
    os.replace(temporary, path)
    return path


def _next_version(export_dir: str) -> int:
    names = os.listdir(export_dir) if os.path.isdir(export_dir) else []
    return max((int(name) for name in names if name.isdigit()), default=0) + 1


class _ServingModule(tf.Module):
    """Parses requests into the model's inputs.

    It tracks the model's variables and vocabularies and not the model itself, whose layers Keras
    would save as functions that no server calls.
    """

    def __init__(self, model: Any, schema: Schema) -> None:
        super().__init__()
        self._weights = model.variables
        self._readers = [m for m in model.submodules if isinstance(m, CategoricalReader)]
        self._score_inputs = lambda inputs: model(inputs, training=False)
        self._schema = schema

    def signatures(self) -> dict[str, Any]:
        examples = tf.TensorSpec([None], tf.string, name="examples")
        signatures = {
            "serving_default": tf.function(self._score_examples).get_concrete_function(examples),
            "predict_tensors": tf.function(self._score_tensors).get_concrete_function(
                list(_tensor_specs(self._schema).values())
            ),
        }
        for name in keys.PROBABILITIES:
            signatures[name] = tf.function(self._one_output(name)).get_concrete_function(examples)
        return signatures

    def _score_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._score(records.parse_impressions(examples, self._schema))

    def _one_output(self, name: str) -> Any:
        def score(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            return {name: self._score_examples(examples)[name]}

        return score

    def _score_tensors(self, tensors: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        keyed = dict(zip(_tensor_specs(self._schema), tensors, strict=True))
        return self._score(_unpad(keyed, self._schema))

    def _score(self, inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
        outputs = self._score_inputs(inputs)
        return {name: outputs[name] for name in keys.PROBABILITIES}


def _tensor_specs(schema: Schema) -> dict[str, tf.TensorSpec]:
    """Returns the dense inputs, keyed as the model's and named as the signature's."""
    names = tensor_names(schema)
    specs = {}
    for feature in schema.features:
        shape = [None, None] if feature.values == MANY else [None]
        specs[feature.name] = tf.TensorSpec(shape, feature.dtype, name=names[feature.name])
        if feature.weighted:
            key = feature.name + keys.WEIGHT_SUFFIX
            specs[key] = tf.TensorSpec(shape, tf.float32, name=names[key])
    return specs


def _unpad(tensors: dict[str, tf.Tensor], schema: Schema) -> dict[str, Any]:
    """Returns the model's inputs from dense ones, padding removed."""
    first = tensors[schema.features[0].name]
    inputs: dict[str, Any] = {keys.GROUP_INDEX: tf.range(tf.shape(first, tf.int64)[0])}
    for feature in schema.features:
        dense = tensors[feature.name]
        present = _is_present(feature, dense)
        if isinstance(feature.column, NumericColumn):
            inputs[feature.name] = tf.where(present, tf.cast(dense, tf.float32), np.nan)
            continue
        inputs[feature.name] = _ragged(dense, present)
        if feature.weighted:
            key = feature.name + keys.WEIGHT_SUFFIX
            inputs[key] = _ragged(tensors[key], present)
    return inputs


def _is_present(feature: Feature, dense: tf.Tensor) -> tf.Tensor:
    if feature.dtype == FLOAT32:
        return tf.logical_not(tf.math.is_nan(dense))
    return tf.not_equal(dense, tf.constant(PADDING[feature.dtype], dense.dtype))


def _ragged(dense: tf.Tensor, present: tf.Tensor) -> tf.RaggedTensor:
    if dense.shape.rank == 1:
        dense, present = dense[:, tf.newaxis], present[:, tf.newaxis]
    return tf.ragged.boolean_mask(dense, present)
