"""Requests made of records hold what a client would send for the same impressions."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.data import records
from esmm_tf.data.source import find_source
from esmm_tf.schema import columns
from esmm_tf.serving import dense_inputs, requests
from esmm_tf.serving.requests import Impression


@pytest.fixture
def impressions(scored_data, served_schema):
    source = find_source(str(scored_data), split="test")
    return list(requests.read_impressions(source, served_schema))


def values_of(serialized, key):
    """Returns the values under a key of an Example."""
    content = tf.train.Example.FromString(serialized).features.feature
    kind = content[key].WhichOneof("kind") if key in content else None
    return list(getattr(content[key], kind).value) if kind else []


def test_every_impression_of_every_group_is_read_in_order(impressions, varied_groups):
    items = [values_of(one.candidate, "item") for one in impressions]

    assert items == [[item] for group in varied_groups for item in group["item"]]


def test_an_impression_has_its_context_and_its_own_values_and_weights(impressions, varied_groups):
    group = varied_groups[1]  # impressions 1 to 4
    lengths = group["tags:lengths"]
    start = lengths[:2].sum()

    third = impressions[3]

    assert values_of(third.context, "user") == group["user"]
    assert values_of(third.context, "interests") == list(group["interests"])
    expected = group["tags"][start : start + lengths[2]]
    assert values_of(third.candidate, "tags") == [tag.encode() for tag in expected]
    np.testing.assert_allclose(
        values_of(third.candidate, "tags:weight"),
        group["tags:weight"][start : start + lengths[2]],
        rtol=1e-6,
    )
    assert lengths[2] > 0


def test_a_request_holds_features_alone(impressions, served_schema):
    names = {feature.name for feature in served_schema.features}

    for one in impressions:
        content = tf.train.Example.FromString(one.example).features.feature
        assert {key.removesuffix(":weight") for key in content} <= names


def test_a_group_without_values_of_a_feature_leaves_it_out(served_schema):
    group = {"user": [1], "click": [0, 1], "visits": [5], "visits:lengths": [0, 1]}

    context, candidates = records.split_group(records.encode_group(group), served_schema)

    assert values_of(context, "user") == [1]
    assert candidates[0] == b""
    assert values_of(candidates[1], "visits") == [5]


def test_a_single_impression_of_a_single_value_keeps_it(served_schema):
    group = {"item": [3], "click": [0]}

    _, candidates = records.split_group(records.encode_group(group), served_schema)

    assert values_of(candidates[0], "item") == [3]


def test_too_few_impressions_are_taken_from_the_beginning_again():
    impressions = [Impression(b"", bytes([place])) for place in range(3)]

    taken = requests.take(impressions, 5)

    assert [one.candidate[0] for one in taken] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    ("signature", "name"),
    [("serving_default", "examples"), ("pctr", "examples"), ("regress", "inputs")],
)
def test_a_flat_request_is_one_example_an_impression(impressions, served_schema, signature, name):
    request = requests.build_request(signature, impressions, served_schema, widths={})

    assert list(request) == [name]
    assert request[name].tolist() == [one.context + one.candidate for one in impressions]


def test_candidates_are_ranked_in_the_first_context(impressions, served_schema):
    request = requests.build_request("rank", impressions[4:7], served_schema, widths={})

    assert request["context"].tolist() == [impressions[4].context, b"^", b"^"]
    assert request["candidates"].tolist() == [one.candidate for one in impressions[4:7]]


# ---------------------------------------------------------------------------- dense tensors


def test_dense_tensors_are_padded_and_unpadded_again(impressions, served_schema):
    examples = requests.parse_examples(impressions)
    widths = dense_inputs.count_values(examples, served_schema)

    dense = dense_inputs.pad(examples, served_schema, widths)

    specs = dense_inputs.tensor_specs(served_schema, widths)
    keyed = {key: tf.constant(dense[spec.name], spec.dtype) for key, spec in specs.items()}
    inputs = dense_inputs.unpad(keyed, served_schema)
    for place, example in enumerate(examples):
        serialized = example.SerializeToString()
        for key in ("interests", "interests:weight", "tags", "visits", "item"):
            found = inputs[key][place].numpy().tolist()
            assert found == pytest.approx(values_of(serialized, key))


def test_widths_are_the_most_values_of_an_impression(impressions, served_schema):
    examples = requests.parse_examples(impressions)

    widths = dense_inputs.count_values(examples, served_schema)

    assert widths == {
        name: max(len(values_of(one.example, name)) for one in impressions)
        for name in ("interests", "tags", "visits")
    }
    assert min(widths.values()) > 1


def test_of_more_values_than_a_width_the_first_are_taken(served_schema):
    content = {"visits": [3, 4, 5], "tags": ["a", "b"], "tags:weight": [0.5, 0.25]}
    example = tf.train.Example.FromString(records.encode_group(content))

    dense = dense_inputs.pad([example], served_schema, {"interests": 1, "tags": 1, "visits": 2})

    assert dense["visits"].tolist() == [[3, 4]]
    assert dense["tags"].tolist() == [[b"a"]]
    assert dense["tags_weight"].tolist() == [[0.5]]
    assert dense["interests"].tolist() == [[np.iinfo(np.int64).min]]


@pytest.mark.parametrize("weights", [[], [0.5], [0.5, 1.0, 2.0]])
def test_an_impression_without_one_weight_a_value_is_not_padded(served_schema, weights):
    content = {"tags": ["a", "b"], "tags:weight": weights}
    example = tf.train.Example.FromString(records.encode_group(content))

    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"Feature tags needs one weight per value, under tags:weight\.",
    ):
        dense_inputs.pad([example], served_schema, {"interests": 1, "tags": 2, "visits": 1})


def test_an_unnamed_character_of_a_feature_is_an_underscore_in_a_tensor(served_schema):
    price = dataclasses.replace(
        served_schema.features[0], name="last price", column=columns.NumericColumn()
    )
    schema = dataclasses.replace(served_schema, features=(price,), tables=(), carry=())
    example = tf.train.Example.FromString(records.encode_group({"last price": [7]}))

    dense = dense_inputs.pad([example], schema, {})

    assert {name: values.tolist() for name, values in dense.items()} == {"last_price": [7]}
