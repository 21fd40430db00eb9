"""`python -m esmm_tf.check_skew`: whether what is served gives the scores of the training path.

Ends with exit code 1 if it does not.
"""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.data.source import check_schema, find_source

# isort: split
import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_service_pb2_grpc

from esmm_tf import files, keys
from esmm_tf.config import flags
from esmm_tf.config.serving import SkewConfig
from esmm_tf.errors import UserError
from esmm_tf.model.feature_columns import tensor_names
from esmm_tf.reports.tables import Cell, Column, Table, format_text, one_line
from esmm_tf.reports.words import DASH
from esmm_tf.schema import toml_file
from esmm_tf.schema.columns import VocabularyColumn
from esmm_tf.schema.schema import Schema
from esmm_tf.serving import dense_inputs, exporter, model_card, saved_model, skew, skew_causes
from esmm_tf.serving.requests import Request
from esmm_tf.serving.skew import Comparison, Difference
from esmm_tf.serving.skew_causes import Export
from esmm_tf.serving.versions import LoadedVersion
from esmm_tf.training import model_directory

_HAS_SKEW = 1
_SECONDS = 60  # within which a server must answer
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INTERNAL,
)


def main(config: SkewConfig) -> None:
    """Compares an export, and a live server, with the scores of the training path; exits 1 on skew.

    Raises:
      SystemExit: with code 1 if scores differ or a signature gives none.
    """
    trained = model_directory.load_model(config.model_dir)
    source = find_source(config.files, split=config.split)
    check_schema(source, trained.schema)
    loaded, export = load_export(config.export_dir, version=config.version)
    notes = [skew_causes.describe_schemas(trained.schema, export.schema)]
    notes += skew_causes.describe_models(trained, export)
    servers: dict[str, skew.Score] = {f"version {loaded.version}": loaded.predict}
    if not config.server:
        comparisons = skew.compare(trained, export, servers, source, config)
    else:
        with Server(config.server, model_name=config.model_name) as server:
            servers[config.server] = server.predict
            comparisons = skew.compare(trained, export, servers, source, config)
        notes.append(server.describe_versions(loaded.version))
    notes = [note for note in notes if note]
    print(format_report(comparisons, notes))
    if config.output:
        files.write_json(_to_tree(config, loaded.version, comparisons, notes), config.output)
        print(f"wrote {config.output}")
    print(_verdict(comparisons, config.tolerance))
    if any(one.is_failed for one in comparisons):
        raise SystemExit(_HAS_SKEW)


def load_export(export_dir: str, *, version: int) -> tuple[LoadedVersion, Export]:
    """Returns a version in memory, the highest for 0, and what it tells of itself.

    Raises:
      UserError: if it is not there, or was not written by `esmm_tf.export`.
    """
    versions = exporter.list_versions(export_dir)
    if not versions or version not in (0, *versions):
        raise UserError(
            f"{export_dir!r} has {f'no version {version}' if version else 'no version'}; there are "
            f"{versions}. Export one with python -m esmm_tf.export, or check --export_dir."
        )
    number = version or versions[-1]
    path = os.path.join(export_dir, str(number))
    schema_path = os.path.join(path, "assets.extra", keys.SCHEMA_FILE)
    card_path = os.path.join(path, f"{model_card.FILE}.json")
    for name in (os.path.join(path, "saved_model.pb"), schema_path, card_path):
        if not os.path.exists(name):
            raise UserError(
                f"{name} is missing, so that {path!r} is no whole export of this release. Export "
                "again with python -m esmm_tf.export."
            )
    loaded = LoadedVersion(path, number)
    schema = _with_vocabularies_of(toml_file.load_schema(schema_path), path)
    card = files.read_json(
        card_path,
        version=model_card.FORMAT_VERSION,
        remedy="Export again with python -m esmm_tf.export.",
    )
    return loaded, Export(schema=schema, widths=_read_widths(loaded, schema, path), card=card)


def _with_vocabularies_of(schema: Schema, path: str) -> Schema:
    """Returns the schema with the vocabularies that the graph reads, which are its assets."""
    features = []
    for feature in schema.features:
        column = feature.column
        if isinstance(column, VocabularyColumn) and column.file is not None:
            asset = os.path.join(path, "assets", os.path.basename(column.file))
            if os.path.exists(asset):
                column = dataclasses.replace(column, file=asset)
        features.append(dataclasses.replace(feature, column=column))
    return dataclasses.replace(schema, features=tuple(features))


def _read_widths(loaded: LoadedVersion, schema: Schema, path: str) -> dict[str, int]:
    """Returns the widths of `predict_tensors`, by the names of the features that need one."""
    names = tensor_names(schema)
    inputs = loaded.signature_defs[saved_model.PREDICT_TENSORS].inputs
    widths = {}
    for feature in dense_inputs.many_valued(schema):
        name = names[feature.name]
        if name not in inputs or len(inputs[name].tensor_shape.dim) != 2:
            raise UserError(
                f"{path!r} has a schema that is not its graph's: predict_tensors takes no many "
                f"values of {feature.name!r}. Export again with python -m esmm_tf.export."
            )
        widths[feature.name] = inputs[name].tensor_shape.dim[1].size
    return widths


class Server:
    """A live server that is asked by gRPC; close it with a `with`."""

    def __init__(self, address: str, *, model_name: str) -> None:
        self._address = address
        self._model_name = model_name
        self._channel = grpc.insecure_channel(address)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._versions: set[int] = set()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def predict(self, signature: str, request: Request) -> dict[str, np.ndarray]:
        """Returns the outputs of a signature.

        Raises:
          UserError: if there is no answer, or no such model.
          tf.errors.InvalidArgumentError: if the server does not take the request.
        """
        message = predict_pb2.PredictRequest(
            model_spec=model_pb2.ModelSpec(name=self._model_name, signature_name=signature),
            inputs={name: tf.make_tensor_proto(values) for name, values in request.items()},
        )
        try:
            response = self._stub.Predict(message, timeout=_SECONDS)
        except grpc.RpcError as error:
            raise self._translate(error) from None
        if response.model_spec.HasField("version"):
            self._versions.add(response.model_spec.version.value)
        return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}

    def _translate(self, error: Any) -> Exception:
        if error.code() in _REFUSALS:
            return tf.errors.InvalidArgumentError(None, None, error.details())
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return UserError(
                f"The server {self._address} has no model {self._model_name!r}: "
                f"{error.details()}. Give its name with --model_name."
            )
        return UserError(
            f"There is no answer from --server={self._address}: {error.code().name}, "
            f"{error.details()}. Check that it runs, and that the port is that of gRPC."
        )

    def describe_versions(self, version: int) -> str:
        """Returns which versions have answered, or nothing if it was this one alone."""
        if self._versions <= {version}:
            return ""
        answered = " and ".join(map(str, sorted(self._versions)))
        return f"{self._address} answers with version {answered}; the export is version {version}"


def format_report(comparisons: Sequence[Comparison], notes: Sequence[str]) -> str:
    """Returns the table, what is known to differ, and the first differences."""
    table = format_text(_build_table(comparisons))
    return "\n\n".join(filter(None, [table, "\n".join(notes), "\n".join(_reasons(comparisons))]))


def _build_table(comparisons: Sequence[Comparison]) -> Table:
    columns = [Column(title="scored by", is_text=True), Column(title="signature", is_text=True)]
    columns += [Column(title=name, note="difference") for name in keys.PROBABILITIES]
    columns += [Column(title="largest", note="relative"), Column(title="differ")]
    columns.append(Column(title="impressions"))
    rows = []
    for one in comparisons:
        shares = [one.largest.get(name) for name in keys.PROBABILITIES]
        shares.append(one.relative if one.impressions else None)
        cells = [DASH if share is None else f"{share:.1e}" for share in shares]
        counts = [f"{one.differing:,}", f"{one.impressions:,}"]
        rows.append([Cell(text) for text in (one.scored_by, _title(one), *cells, *counts)])
    return Table(caption="", columns=columns, rows=rows)


def _title(comparison: Comparison) -> str:
    return f"{comparison.signature}, cut off" if comparison.is_cut else comparison.signature


def _reasons(comparisons: Sequence[Comparison]) -> list[str]:
    """Returns the reasons of failures, each once, and below it the signatures that it is of."""
    groups: dict[str, list[Comparison]] = {}
    for one in comparisons:
        if one.is_failed:
            groups.setdefault(_reason(one), []).append(one)
    lines = []
    for reason, group in groups.items():
        lines.append(one_line(f"{reason}{_scores(group[0].first)}"))
        for server in dict.fromkeys(one.scored_by for one in group):
            titles = ", ".join(_title(one) for one in group if one.scored_by == server)
            lines.append(f"  {server}: {titles}")
    return lines


def _reason(comparison: Comparison) -> str:
    first = comparison.first
    if first is None:
        return f"no scores: {comparison.refusal}"
    carried = ", ".join(f"{name} {value}" for name, value in first.carried.items())
    where = f"from impression {first.impression:,}{f' ({carried})' if carried else ''} on"
    return f"{where}: {f'feature {first.feature!r}: ' * bool(first.feature)}{first.cause}"


def _scores(difference: Difference | None) -> str:
    """Returns the scores that differ most, if there are any."""
    if difference is None:
        return ""
    pairs = difference.scores.items()
    name, (trained, served) = max(pairs, key=lambda item: abs(item[1][0] - item[1][1]))
    return f" ({name} is {trained:.6g} in training, {served:.6g} served)"


def _verdict(comparisons: Sequence[Comparison], tolerance: float) -> str:
    failed = [one for one in comparisons if one.is_failed]
    compared = max((one.impressions for one in comparisons), default=0)
    if not failed:
        largest = max(one.relative for one in comparisons)
        return (
            f"PASS: {compared:,} impressions are served as the training path scores them; the "
            f"largest relative difference is {largest:.1e}, of {tolerance:g} allowed."
        )
    return (
        f"FAIL: of {len(comparisons)} comparisons, {len(failed)} find other scores than those of "
        f"the training path, by more than {tolerance:g} of a probability, or none. Mend the cause "
        "above: export again with python -m esmm_tf.export, or serve the version of this model."
    )


def _to_tree(
    config: SkewConfig, version: int, comparisons: Sequence[Comparison], notes: Sequence[str]
) -> dict[str, Any]:
    return {
        "model_dir": config.model_dir,
        "export_dir": config.export_dir,
        "version": version,
        "tolerance": config.tolerance,
        "passed": not any(one.is_failed for one in comparisons),
        "notes": list(notes),
        "comparisons": [_finite(dataclasses.asdict(one)) for one in comparisons],
    }


def _finite(tree: Any) -> Any:
    """Returns the tree with null for each number that is not finite, which JSON has not."""
    if isinstance(tree, Mapping):
        return {name: _finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


if __name__ == "__main__":
    flags.run(main, SkewConfig)
