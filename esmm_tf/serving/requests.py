"""Requests made of records: what a client sends to have the same impressions scored."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from esmm_tf.data import records
from esmm_tf.data.source import Source
from esmm_tf.schema.schema import Schema
from esmm_tf.serving import dense_inputs, saved_model
from esmm_tf.serving.dense_inputs import Widths

Request = Mapping[str, np.ndarray]


class Impression(NamedTuple):
    """The features of an impression as serialized Examples: its context's and its own."""

    context: bytes
    candidate: bytes

    @property
    def example(self) -> bytes:
        """Returns both in one Example."""
        return self.context + self.candidate


def read_impressions(source: Source, schema: Schema) -> Iterator[Impression]:
    """Yields the impressions of records in the order of the files."""
    dataset = tf.data.TFRecordDataset(list(source.files), compression_type=source.compression)
    for serialized in dataset.as_numpy_iterator():
        context, candidates = records.split_group(serialized, schema)
        for candidate in candidates:
            yield Impression(context, candidate)


def take(impressions: Sequence[Impression], size: int) -> list[Impression]:
    """Returns the first `size` impressions, from the beginning again where there are too few."""
    return list(itertools.islice(itertools.cycle(impressions), size))


def parse_examples(impressions: Sequence[Impression]) -> list[tf.train.Example]:
    """Returns one Example per impression."""
    return [tf.train.Example.FromString(impression.example) for impression in impressions]


def build_request(
    signature: str, impressions: Sequence[Impression], schema: Schema, *, widths: Widths
) -> Request:
    """Returns the inputs of a signature, by their names, each with one row per impression.

    Args:
      signature: one of `saved_model.SIGNATURES`. `rank` is given all impressions as candidates in
        the context of the first.
      impressions: to be scored, one or more.
      schema: of the model.
      widths: of `predict_tensors`.
    """
    if signature == saved_model.PREDICT_TENSORS:
        return dense_inputs.pad(parse_examples(impressions), schema, widths)
    if signature == saved_model.RANK:
        context = [impressions[0].context] + [saved_model.SAME_CONTEXT] * (len(impressions) - 1)
        candidates = [impression.candidate for impression in impressions]
        return {"context": _strings(context), "candidates": _strings(candidates)}
    name = "inputs" if signature == saved_model.REGRESS else "examples"
    return {name: _strings([impression.example for impression in impressions])}


def _strings(values: Sequence[bytes]) -> np.ndarray:
    return np.array(values, dtype=object)
