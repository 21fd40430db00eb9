"""Training-serving skew: the same impressions, scored as in training and as servers score them.

Two probabilities differ if their distance exceeds a share of the larger one, since float32 errs so:
the relative error of a probability, however small, is at most the absolute error of its logit.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import console, keys
from esmm_tf.config.serving import SkewConfig
from esmm_tf.data import input_fn
from esmm_tf.data.source import Source, check_schema, find_source
from esmm_tf.model.model import build_scorer
from esmm_tf.schema.schema import Schema
from esmm_tf.serving import requests, saved_model, skew_causes
from esmm_tf.serving.client import LiveServer
from esmm_tf.serving.exported import load_export
from esmm_tf.serving.requests import Impression, Request
from esmm_tf.serving.skew_causes import Export, Probabilities
from esmm_tf.serving.skew_comparison import Comparison, Difference, read_outputs
from esmm_tf.serving.skew_report import SkewReport
from esmm_tf.training import trained_model
from esmm_tf.training.trained_model import TrainedModel

Score = Callable[[str, Request], Probabilities]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Batch:
    """Impressions, and what the training path makes of them.

    `positions` are those of the impressions in the files, `rows` those in `inputs`, the model's.
    """

    positions: np.ndarray
    rows: np.ndarray
    impressions: Sequence[Impression]
    expected: Probabilities
    carried: Mapping[str, np.ndarray]
    inputs: Mapping[str, Any]

    def take(self, chosen: np.ndarray) -> "_Batch":
        return _Batch(
            positions=self.positions[chosen],
            rows=self.rows[chosen],
            impressions=[self.impressions[index] for index in chosen],
            expected={name: values[chosen] for name, values in self.expected.items()},
            carried={name: values[chosen] for name, values in self.carried.items()},
            inputs=self.inputs,
        )


def check(config: SkewConfig) -> SkewReport:
    """Returns what an export, and a live server if one is named, score otherwise than training.

    Raises:
      UserError: if the model, the records, the export or the server cannot be read.
    """
    trained = trained_model.load_model(config.model_dir)
    source = find_source(config.files, split=config.split)
    check_schema(source, trained.schema)
    loaded, export = load_export(config.export_dir, version=config.version)
    notes = [skew_causes.describe_schemas(trained.schema, export.schema)]
    notes += skew_causes.describe_models(trained, export)
    scorers: dict[str, Score] = {f"version {loaded.version}": loaded.predict}
    if not config.server:
        comparisons = compare_scores(trained, export, scorers, source, config)
    else:
        with LiveServer(config.server, model_name=config.model_name) as server:
            scorers[config.server] = server.predict
            comparisons = compare_scores(trained, export, scorers, source, config)
        notes.append(server.describe_versions(loaded.version))
    return SkewReport(
        config=config,
        version=loaded.version,
        comparisons=comparisons,
        notes=[note for note in notes if note],
    )


def compare_scores(
    trained: TrainedModel,
    export: Export,
    servers: Mapping[str, Score],
    source: Source,
    config: SkewConfig,
) -> list[Comparison]:
    """Returns a comparison of each signature of each server.

    A server raises `tf.errors.OpError` where it does not take a request.
    """
    cases = [(signature, False) for signature in saved_model.SIGNATURES]
    cases.insert(
        cases.index((saved_model.PREDICT_TENSORS, False)) + 1, (saved_model.PREDICT_TENSORS, True)
    )
    comparisons = [
        Comparison(scored_by=server, signature=signature, is_cut=is_cut)
        for server in servers
        for signature, is_cut in cases
    ]
    for batch in _read_batches(trained, source, config):
        for comparison in comparisons:
            chosen = _choose(batch, comparison, export)
            if len(chosen) and not comparison.refusal:
                _compare_batch(
                    comparison,
                    batch.take(chosen),
                    score=servers[comparison.scored_by],
                    trained=trained,
                    export=export,
                    tolerance=config.tolerance,
                )
    return [c for c in comparisons if c.impressions or c.refusal]


def _read_batches(trained: TrainedModel, source: Source, config: SkewConfig) -> Iterator[_Batch]:
    """Yields batches of at most `batch_size` impressions, of large groups too."""
    dataset = input_fn.build_dataset(source, trained.schema, config.input_config(), carry=True)
    scorer = build_scorer(trained.model, dataset.element_spec.features)
    impressions = requests.read_impressions(source, trained.schema)
    left = min(config.max_impressions, source.impressions)
    start = 0
    with console.build_bar(left) as bar:
        for batch in dataset:
            outputs = scorer(batch.features)
            size = len(outputs[keys.PCTR])
            whole = _Batch(
                positions=np.arange(start, start + size),
                rows=np.arange(size),
                impressions=list(itertools.islice(impressions, size)),
                expected={name: outputs[name].numpy() for name in keys.PROBABILITIES},
                carried={name: batch.carry[name].numpy() for name in trained.schema.carry},
                inputs=batch.features,
            )
            for first in range(0, min(size, left - start), config.batch_size):
                end = min(first + config.batch_size, size, left - start)
                yield whole.take(np.arange(first, end))
                bar.update(end - first)
            start += size
            if start >= left:
                return


def _choose(batch: _Batch, comparison: Comparison, export: Export) -> np.ndarray:
    """Returns the indices of the impressions that belong to a comparison."""
    if comparison.signature != saved_model.PREDICT_TENSORS:
        return np.arange(len(batch.impressions))
    is_cut = [
        skew_causes.find_cut(impression, export) is not None for impression in batch.impressions
    ]
    return np.flatnonzero(np.array(is_cut) == comparison.is_cut)


def _compare_batch(
    comparison: Comparison,
    batch: _Batch,
    *,
    score: Score,
    trained: TrainedModel,
    export: Export,
    tolerance: float,
) -> None:
    """Adds a batch to a comparison."""
    signature = comparison.signature
    try:
        request = _build_request(signature, batch.impressions, trained.schema, export)
        served = read_outputs(score(signature, request), len(batch.positions))
    except tf.errors.OpError as error:
        comparison.refusal = error.message
        return
    differing = comparison.add(batch.expected, served, tolerance)
    if len(differing) and comparison.first is None:
        index = int(differing[0])
        feature, cause = _explain(
            comparison, batch, index, served=served, trained=trained, export=export
        )
        comparison.first = Difference(
            impression=int(batch.positions[index]),
            carried={name: _plain(values[index]) for name, values in batch.carried.items()},
            scores={
                name: (float(batch.expected[name][index]), float(values[index]))
                for name, values in served.items()
            },
            feature=feature,
            cause=cause,
        )


def _explain(
    comparison: Comparison,
    batch: _Batch,
    index: int,
    *,
    served: Probabilities,
    trained: TrainedModel,
    export: Export,
) -> tuple[str, str]:
    """Returns the feature that an impression differs in, or nothing, and the cause."""
    impression = batch.impressions[index]
    cut = skew_causes.find_cut(impression, export) if comparison.is_cut else None
    if cut is not None:
        name, count = cut
        return name, (
            f"it has {count} values and predict_tensors a width of {export.widths[name]}: a client "
            "leaves out the others"
        )
    try:
        feature, cause = skew_causes.explain_inputs(
            batch.inputs,
            int(batch.rows[index]),
            impression,
            signature=comparison.signature,
            trained=trained.schema,
            export=export,
        )
    except tf.errors.OpError as error:  # of a server that reads what the export does not
        return "", f"the export does not take the impression: {error.message}"
    if feature:
        return feature, cause
    cause = skew_causes.explain_scores(batch.expected, served, trained, export)
    return "", f"every feature is read as in training: {cause}"


def _build_request(
    signature: str, impressions: Sequence[Impression], trained: Schema, export: Export
) -> Request:
    """Returns the request of a client that knows the export.

    Raises:
      tf.errors.InvalidArgumentError: if it cannot be made of these records.
    """
    if signature == saved_model.RANK:
        # One request per context, joined as a server that batches joins them.
        parts = [
            requests.build_request(signature, list(group), export.schema, widths={})
            for _, group in itertools.groupby(
                impressions, key=lambda impression: impression.context
            )
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if signature == saved_model.PREDICT_TENSORS:
        dtypes = {feature.name: feature.dtype for feature in trained.features}
        for feature in export.schema.features:
            known = dtypes.get(feature.name, feature.dtype)
            if feature.dtype != known:
                raise tf.errors.InvalidArgumentError(
                    None,
                    None,
                    f"Feature {feature.name!r} is {known} in the records and {feature.dtype} in "
                    "the export.",
                )
    return requests.build_request(signature, impressions, export.schema, widths=export.widths)


def _plain(value: Any) -> Any:
    """Returns a carried value as JSON has it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.item()
