"""A feature's values and weights, taken out of the inputs together."""

import dataclasses

import numpy as np
import pytest

from esmm_tf.data.batch import Batch
from esmm_tf.data.feature_values import FeatureValues, take_values
from esmm_tf.data.numpy_batches import NumpyBatch
from esmm_tf.schema.columns import INT64, IdentityColumn
from esmm_tf.schema.record_field import IMPRESSION
from esmm_tf.schema.schema import Feature, Schema
from esmm_tf.serving import dense_inputs
from esmm_tf.training import offending_batch

TAGS = Feature(
    name="tags",
    side=IMPRESSION,
    dtype=INT64,
    column=IdentityColumn(vocabulary_size=4),
    weighted=True,
)
SCHEMA = Schema(name="shop", features=(TAGS,))
LOST = {"tags": np.array([1, 2])}


def test_a_weighted_feature_brings_its_weights():
    taken = take_values({"tags": "values", "tags:weight": "weights"}, TAGS)

    assert taken == FeatureValues("values", "weights")


def test_a_feature_without_weights_brings_none():
    plain = dataclasses.replace(TAGS, weighted=False)

    taken = take_values({"tags": "values", "other": "values"}, plain)

    assert taken == FeatureValues("values", None)


@pytest.mark.parametrize(
    "read",
    [
        lambda: take_values(LOST, TAGS),
        lambda: dense_inputs.unpad(LOST, SCHEMA),
        lambda: offending_batch.describe_numbers(build_batch(LOST), SCHEMA),
        lambda: build_numpy_batch(LOST).rows(TAGS),
    ],
    ids=["taken", "unpadded", "described", "as NumPy rows"],
)
def test_lost_weights_are_an_error_wherever_a_feature_is_read(read):
    message = (
        r"Feature 'tags' is weighted and needs 'tags:weight' among the inputs, which are "
        r"\['tags'\]. Give one weight for each value under that key."
    )

    with pytest.raises(ValueError, match=message):
        read()


def build_batch(features):
    return Batch(features=features, labels={}, example_weight=None, oracle={}, carry={})


def build_numpy_batch(features):
    ones = np.ones(2, np.int64)
    return NumpyBatch(
        features=features,
        group_index=np.arange(2),
        click=ones,
        conversion=ones,
        example_weight=None,
        half=ones,
    )
