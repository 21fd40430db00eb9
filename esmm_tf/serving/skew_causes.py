"""Why an exported version gives other scores: what it reads differently, or what it was made of."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.data import parsing
from esmm_tf.data.feature_values import FeatureValues, take_values
from esmm_tf.model.feature_columns import CategoricalReader, scale_numeric, tensor_names
from esmm_tf.schema import toml_file, vocabulary_file
from esmm_tf.schema.columns import NumericColumn, VocabularyColumn
from esmm_tf.schema.schema import Feature, Schema
from esmm_tf.serving import dense_inputs, requests, saved_model
from esmm_tf.serving.requests import Impression
from esmm_tf.training.model_directory import is_same_schema
from esmm_tf.training.trained_model import TrainedModel

Probabilities = Mapping[str, np.ndarray]
_SHOWN_VALUES = 5
_NOISE = 1e-5  # of float32, relative


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """What an exported version tells of itself.

    Args:
      schema: as its graph reads it.
      widths: of `predict_tensors`.
      card: its model card.
    """

    schema: Schema
    widths: Mapping[str, int]
    card: Mapping[str, Any]


def describe_schemas(trained: Schema, exported: Schema) -> str:
    """Returns the first difference of two schemas, nothing if they are the same."""
    if is_same_schema(trained, exported):
        return ""
    by_name = {feature.name: feature for feature in exported.features}
    for feature in trained.features:
        if feature.name not in by_name:
            return f"feature {feature.name!r} is not in the export's schema"
        if change := _describe_declarations(feature, by_name[feature.name]):
            return f"feature {feature.name!r} is declared otherwise: {change}"
    known = [feature.name for feature in trained.features]
    for index, name in enumerate(by_name):
        if name not in known:
            return f"feature {name!r} is in the export's schema alone"
        if name != known[index]:
            return f"feature {name!r} stands in another place of the export's schema"
    return "tables, keys or labels of the schemas differ"


def _describe_declarations(trained: Feature, exported: Feature) -> str:
    """Returns the first difference of two features of one name."""
    trained_settings, exported_settings = _declared(trained), _declared(exported)
    for name in trained_settings | exported_settings:
        ours, theirs = trained_settings.get(name), exported_settings.get(name)
        if isinstance(ours, tuple) and isinstance(theirs, tuple):
            texts = itertools.zip_longest(map(repr, ours), map(repr, theirs), fillvalue="missing")
            for number, (our_text, their_text) in enumerate(texts, start=1):
                if our_text != their_text:
                    return (
                        f"number {number} of {name} is {our_text}, and {their_text} in the export"
                    )
        elif ours != theirs:
            return f"{name} is {ours!r}, and {theirs!r} in the export"
    return ""


def _declared(feature: Feature) -> dict[str, Any]:
    """Returns the settings of a feature and of its column, with the lines of a vocabulary."""
    column = feature.column
    kind = next(kind for kind, cls in toml_file.COLUMNS.items() if cls is type(column))
    settings = {name: value for name, value in vars(feature).items() if name != "column"}
    settings["column.kind"] = kind
    settings |= {f"column.{name}": value for name, value in vars(column).items()}
    if isinstance(column, VocabularyColumn) and column.file is not None:
        settings["column.file"] = tuple(vocabulary_file.read_values(column.file))
    return settings


def describe_models(trained: TrainedModel, export: Export) -> list[str]:
    """Returns how the weights and the calibration differ, as far as the model card tells."""
    calibrations = (trained.calibration_methods, export.card["calibration"])
    pairs = {
        "weights are": (trained.weights, export.card["weights"]),
        "calibration is": tuple(map(_listed, calibrations)),
    }
    return [
        f"the {what} {ours}, and {theirs} in the export"
        for what, (ours, theirs) in pairs.items()
        if ours != theirs
    ]


def _listed(names: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in names.items()) or "none"


def explain_scores(
    expected: Probabilities, served: Probabilities, trained: TrainedModel, export: Export
) -> str:
    """Returns why the scores of impressions differ that are read alike."""
    if known := describe_models(trained, export):
        return "; ".join(known)
    names = sorted({keys.PCTR, keys.PCVR} & {*served})
    if names and all(_is_rising(expected[name], served[name]) for name in names):
        return (
            "the weights are the same and so is the order of scores: the calibration has probably "
            "been fitted again since the export"
        )
    return (
        "the weights are the same, so the graph differs, or the numbers of a calibration; it was "
        f"exported with {_listed(export.card['software'])}"
    )


def _is_rising(expected: np.ndarray, served: np.ndarray) -> bool:
    """Returns whether served scores rise with expected ones, but for the noise of float32."""
    rising = served[np.argsort(expected, kind="stable")]
    return bool((np.diff(rising) >= -_NOISE * rising[1:]).all())


def find_cut(impression: Impression, export: Export) -> tuple[str, int] | None:
    """Returns the first feature that has more values than its width, and how many; or None."""
    examples = requests.parse_examples([impression])
    counts = dense_inputs.count_values(examples, export.schema)
    return next(((name, n) for name, n in counts.items() if n > export.widths[name]), None)


def explain_inputs(
    inputs: Mapping[str, Any],
    row: int,
    impression: Impression,
    *,
    signature: str,
    trained: Schema,
    export: Export,
) -> tuple[str, str]:
    """Returns the first feature that both paths read differently, and how; empty if there is none.

    Args:
      inputs: of the model, in training.
      row: of the impression in them.
      impression: as a client sends it.
      signature: that it is sent to.
      trained: the schema of the model directory.
      export: what a client knows.
    """
    served = _parse_request(signature, impression, export)
    by_name = {feature.name: feature for feature in export.schema.features}
    for feature in trained.features:
        name, ours = feature.name, _read(inputs, feature, row)
        if name not in by_name:
            return name, f"training reads {ours.shown()}, and the export does not know it"
        theirs = _read(served, by_name[name], 0)
        if ours != theirs:
            pairs = enumerate(itertools.zip_longest(ours.values, theirs.values))
            start = next((index for index, (a, b) in pairs if a != b), 0)
            return name, f"training reads {ours.shown(start)}, the export {theirs.shown(start)}"
    known = {feature.name for feature in trained.features}
    unknown = next((name for name in by_name if name not in known), "")
    return unknown, "the export reads it, and training does not" if unknown else ""


def _parse_request(signature: str, impression: Impression, export: Export) -> dict[str, Any]:
    """Returns the model's inputs as the export makes them of one impression."""
    schema = export.schema
    if signature == saved_model.RANK:
        return parsing.parse_candidates(
            tf.constant([impression.context]),
            tf.constant([impression.candidate]),
            tf.constant([0], tf.int64),
            schema,
        )
    if signature == saved_model.PREDICT_TENSORS:
        examples = requests.parse_examples([impression])
        padded = dense_inputs.pad(examples, schema, export.widths)
        names = tensor_names(schema)
        tensors = {key: tf.constant(padded[name]) for key, name in names.items() if name in padded}
        return dense_inputs.unpad(tensors, schema)
    return parsing.parse_impressions(tf.constant([impression.example]), schema)


class Read(NamedTuple):
    """What a feature is to a model: rows of its table, each with its weight, or numbers."""

    kind: str
    values: list[tuple[float, ...]]

    def shown(self, start: int = 0) -> str:
        """Returns some of them, from an index on."""
        texts = [" * ".join(map(_shortest, value)) for value in self.values[start:]]
        more = [f"... {len(texts) - _SHOWN_VALUES} more"] if len(texts) > _SHOWN_VALUES else []
        where = f" from number {start + 1} on" if start else ""
        return f"{self.kind}{where} [{', '.join(texts[:_SHOWN_VALUES] + more)}]"


def _shortest(number: float) -> str:
    """Returns a row's number, or the shortest decimal that is the float32."""
    return str(number) if isinstance(number, int) else str(np.float32(number))


def _read(inputs: Mapping[str, Any], feature: Feature, row: int) -> Read:
    if feature.is_context:
        row = int(inputs[keys.GROUP_INDEX][row])
    given = take_values(inputs, feature)
    values, weights = (None if part is None else part[row : row + 1] for part in given)
    if isinstance(feature.column, NumericColumn):
        return Read("numbers", [(n,) for n in scale_numeric(feature, values)[0].numpy().tolist()])
    tokens = CategoricalReader(feature)(FeatureValues(values, weights))
    columns = [tokens.ids] if tokens.weights is None else [tokens.ids, tokens.weights]
    lists = (column.flat_values.numpy().tolist() for column in columns)
    return Read("table rows", list(zip(*lists, strict=True)))
