"""A trained model as a SavedModel of core TensorFlow ops, with the signatures of a server."""

import functools
from typing import Any

import tensorflow as tf

from esmm_tf import keys
from esmm_tf.data import parsing
from esmm_tf.model.feature_columns import CategoricalReader
from esmm_tf.schema.schema import Schema
from esmm_tf.serving import dense_inputs
from esmm_tf.serving.dense_inputs import Widths

# In `context` of `rank` it stands for the context of the row before; it is no serialized message.
SAME_CONTEXT = b"^"

# Without autograph: no Python here branches on tensors, and rewriting takes longer than tracing.
_graph = functools.partial(tf.function, autograph=False)

SERVING_DEFAULT = "serving_default"
PREDICT_TENSORS = "predict_tensors"
RANK = "rank"
REGRESS = "regress"
SIGNATURES = (SERVING_DEFAULT, *keys.PROBABILITIES, PREDICT_TENSORS, RANK, REGRESS)


def save(model: Any, schema: Schema, path: str, *, widths: Widths) -> None:
    """Writes a SavedModel.

    Signatures, each output float32 `[batch]`:

    * `serving_default`: `examples`, serialized tf.Examples, one per impression, to `pctr`, `pcvr`
      and `pctcvr`;
    * `pctr`, `pcvr`, `pctcvr`: the same input, one output each;
    * `regress`: the same as `inputs`, to pCTCVR as `outputs`;
    * `predict_tensors`: one tensor per feature, `[batch]`, or `[batch, width]` where it has many
      values, padded with the smallest int64, `""` or NaN; named as `tensor_names` says;
    * `rank`: `context`, one serialized Example of context features, and `candidates`, N of
      impression features, to `pctr`, `pcvr` and `pctcvr` of the N. The context is pooled once. For
      a server that batches, `context` has N rows too, of which those after the first are `^`.

    Args:
      model: whose outputs are those of `model.layers.EntireSpaceOutputs`.
      schema: of its inputs.
      path: directory to write.
      widths: of `predict_tensors`, by the name of each feature that has many values.
    """
    module = _ServingModule(model, schema, widths)
    tf.saved_model.save(module, path, signatures=module.signatures())


class _ServingModule(tf.Module):
    """Parses requests into the model's inputs.

    It tracks the model's variables and vocabularies and not the model itself, whose layers Keras
    would save as functions that no server calls.
    """

    def __init__(self, model: Any, schema: Schema, widths: Widths) -> None:
        super().__init__()
        self._weights = model.variables
        self._readers = [m for m in model.submodules if isinstance(m, CategoricalReader)]
        self._score_inputs = lambda inputs: model(inputs, training=False)
        self._schema = schema
        self._tensor_specs = dense_inputs.tensor_specs(schema, widths)

    def signatures(self) -> dict[str, Any]:
        examples, inputs, context, candidates = (
            tf.TensorSpec([None], tf.string, name=name)
            for name in ("examples", "inputs", "context", "candidates")
        )
        # Traced once; the signatures of one output call it.
        score = _graph(self._score_examples).get_concrete_function(examples)
        tensors = list(self._tensor_specs.values())
        signatures = {
            SERVING_DEFAULT: score,
            PREDICT_TENSORS: _graph(self._score_tensors).get_concrete_function(tensors),
            RANK: _graph(self._rank).get_concrete_function(context, candidates),
            REGRESS: _one_output(score, inputs, source=keys.PCTCVR, name="outputs"),
        }
        for name in keys.PROBABILITIES:
            signatures[name] = _one_output(score, examples, source=name, name=name)
        return signatures

    def _score_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._score(parsing.parse_impressions(examples, self._schema))

    def _score_tensors(self, tensors: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        keyed = dict(zip(self._tensor_specs, tensors, strict=True))
        return self._score(dense_inputs.unpad(keyed, self._schema))

    def _rank(self, context: tf.Tensor, candidates: tf.Tensor) -> dict[str, tf.Tensor]:
        contexts, group_index = _contexts(context, tf.size(candidates))
        return self._score(
            parsing.parse_candidates(contexts, candidates, group_index, self._schema)
        )

    def _score(self, inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
        outputs = self._score_inputs(inputs)
        return {name: outputs[name] for name in keys.PROBABILITIES}


def _one_output(score: Any, examples: tf.TensorSpec, *, source: str, name: str) -> Any:
    """Returns a function that gives one output of `score`, under a name."""
    return _graph(lambda given: {name: score(given)[source]}).get_concrete_function(examples)


def _contexts(context: tf.Tensor, num_candidates: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the contexts, string `[groups]`, and each candidate's, int64 `[num_candidates]`."""
    given = tf.size(context)
    checks = [
        tf.debugging.Assert(
            tf.logical_or(tf.equal(given, 1), tf.equal(given, num_candidates)),
            ["`context` needs one row, or as many as `candidates`. Rows:", given, num_candidates],
        ),
        tf.debugging.Assert(
            tf.reduce_all(tf.not_equal(context[:1], SAME_CONTEXT)),
            ["The first row of `context` must be a serialized Example."],
        ),
    ]
    with tf.control_dependencies(checks):
        same = tf.fill([tf.maximum(num_candidates - given, 0)], SAME_CONTEXT)
        context = tf.concat([context, same], axis=0)[:num_candidates]
    is_given = tf.not_equal(context, SAME_CONTEXT)
    group_index = tf.cumsum(tf.cast(is_given, tf.int64)) - 1
    return tf.boolean_mask(context, is_given), group_index
