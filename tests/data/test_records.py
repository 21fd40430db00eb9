"""Records: any group written is parsed back, and a group that does not fit is refused."""

import dataclasses
import math

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from esmm_tf.data import parsing, records
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import HashBucketColumn, IdentityColumn, NumericColumn
from esmm_tf.schema.schema import Feature, Labels, Schema

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = {"int64": INT64, "float32": FLOAT32, "string": st.text(max_size=5)}
PROBABILITY = st.floats(width=32, min_value=0, max_value=1)


def lists(elements, size):
    return st.lists(elements, min_size=size, max_size=size)


@st.composite
def groups(draw, schema, max_impressions=4):
    """Draws a group that fits the schema."""
    num_impressions = draw(st.integers(1, max_impressions))
    labels = draw(lists(st.sampled_from([(0, 0), (1, 0), (1, 1)]), num_impressions))
    group = {"click": [c for c, _ in labels], "conversion": [z for _, z in labels]}
    if schema.labels.example_weight is not None:
        group["example_weight"] = draw(lists(FLOAT32.map(abs), num_impressions))
    if schema.oracle:
        group["oracle_pctr"] = draw(lists(PROBABILITY, num_impressions))
        group["oracle_pcvr"] = draw(lists(PROBABILITY, num_impressions))
    for field in (*schema.features, *schema.keys):
        num_rows = 1 if field.side == "context" else num_impressions
        most = {"one": 1, "optional": 1, "many": 3}[getattr(field, "values", "one")]
        least = 1 if getattr(field, "values", "one") == "one" else 0
        lengths = draw(lists(st.integers(least, most), num_rows))
        if field.has_lengths:
            group[f"{field.name}:lengths"] = lengths
        if sum(lengths) == 0 and draw(st.booleans()):
            continue  # an absent key and an empty list mean the same
        group[field.name] = draw(lists(VALUES[field.dtype], sum(lengths)))
        if getattr(field, "weighted", False):
            group[f"{field.name}:weight"] = draw(lists(FLOAT32, sum(lengths)))
    return group


def split_rows(group, field, key):
    """Returns the values of each row of a group, in plain Python."""
    values = [v.encode() if isinstance(v, str) else v for v in group.get(key, [])]
    if field.side == "context":
        return [values]
    lengths = group.get(f"{field.name}:lengths", [1] * len(group["click"]))
    ends = np.cumsum(lengths)
    return [values[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def expected_features(batch, schema):
    expected = {"group_index": [g for g, group in enumerate(batch) for _ in group["click"]]}
    for feature in schema.features:
        rows = [row for group in batch for row in split_rows(group, feature, feature.name)]
        if isinstance(feature.column, NumericColumn):
            rows = [np.float32(row[0] if row else math.nan) for row in rows]
        expected[feature.name] = rows
        if feature.weighted:
            key = f"{feature.name}:weight"
            expected[key] = [row for group in batch for row in split_rows(group, feature, key)]
    return expected


def assert_equal_features(features, expected):
    assert set(features) == set(expected)
    for name, tensor in features.items():
        if isinstance(tensor, tf.RaggedTensor):
            assert tensor.to_list() == expected[name], name
        else:
            np.testing.assert_array_equal(tensor, expected[name], err_msg=name)


def joined(batch, key):
    return [value for group in batch for value in group[key]]


@hypothesis.given(data=st.data())
def test_any_batch_of_groups_is_parsed_as_it_was_written(schema, data):
    batch = data.draw(st.lists(groups(schema), min_size=1, max_size=3))
    for group in batch:
        records.check_group(group, schema)
    serialized = tf.constant([records.encode_group(group) for group in batch])

    parsed = parsing.parse_groups(serialized, schema, carry=True)

    assert_equal_features(parsed.features, expected_features(batch, schema))
    assert list(parsed.labels["click"]) == joined(batch, "click")
    assert list(parsed.labels["conversion"]) == joined(batch, "conversion")
    assert list(parsed.example_weight) == joined(batch, "example_weight")
    assert list(parsed.oracle["oracle_pctr"]) == joined(batch, "oracle_pctr")
    assert list(parsed.oracle["oracle_pcvr"]) == joined(batch, "oracle_pcvr")
    assert list(parsed.carry["sample"].numpy()) == joined(batch, "sample")
    assert list(parsed.carry["user"].numpy()) == [
        group["user"][0] for group in batch for _ in group["click"]
    ]
    assert [request.decode() for request in parsed.carry["request"].numpy()] == [
        group["request"][0] for group in batch for _ in group["click"]
    ]


@hypothesis.given(data=st.data())
def test_a_group_of_one_is_the_same_for_training_and_for_a_server(schema, data):
    flat = data.draw(st.lists(groups(schema, max_impressions=1), max_size=2))
    serialized = tf.constant([records.encode_group(group) for group in flat], tf.string)

    served = parsing.parse_impressions(serialized, schema)

    assert_equal_features(served, expected_features(flat, schema))


def test_flat_groups_of_one_have_one_impression_each(schema, build_group):
    flat = [build_group(sample, 1) for sample in (3, 4, 5)]
    serialized = tf.constant([records.encode_group(group) for group in flat])

    features = parsing.parse_groups(serialized, schema).features

    assert features["group_index"].numpy().tolist() == [0, 1, 2]
    assert features["item"].to_list() == [[3], [4], [5]]


@pytest.mark.parametrize("num_groups", [0, 2])
def test_tensors_have_the_documented_dtypes_whatever_the_batch(schema, build_group, num_groups):
    serialized = [records.encode_group(build_group(0, 3))] * num_groups

    parsed = parsing.parse_groups(tf.constant(serialized, tf.string), schema, carry=True)

    features = parsed.features
    assert features["group_index"].dtype == tf.int64
    assert features["group_index"].shape == [num_groups * 3]
    assert features["stock"].dtype == features["price"].dtype == tf.float32
    assert features["age"].shape == [num_groups]
    assert features["boost"].dtype == tf.int64
    assert features["boost:weight"].dtype == tf.float32
    assert features["tags"].dtype == tf.string
    assert {f.row_splits.dtype for f in features.values() if isinstance(f, tf.RaggedTensor)} == {
        tf.int64
    }
    assert parsed.labels["click"].dtype == parsed.example_weight.dtype == tf.float32
    assert parsed.carry["request"].dtype == tf.string


def test_carried_keys_are_parsed_on_demand(schema, build_group):
    serialized = tf.constant([records.encode_group(build_group(0, 3))])

    bare = parsing.parse_groups(serialized, schema)
    full = parsing.parse_groups(serialized, schema, carry=True)

    assert bare.carry == {}
    assert set(full.carry) == {"sample", "user", "request"}
    assert "sample" not in full.features


def test_a_schema_without_weight_and_truth_parses_neither(schema, build_group):
    bare = dataclasses.replace(schema, labels=Labels(), oracle=False)
    serialized = tf.constant([records.encode_group(build_group(0, 3))])

    parsed = parsing.parse_groups(serialized, bare)

    assert (parsed.example_weight, parsed.oracle) == (None, {})


def test_a_servers_example_may_leave_features_out(schema):
    empty = tf.train.Example().SerializeToString()
    some = records.encode_group({"item": [7], "tags": ["a", "b"], "tags:weight": [0.5, 2.0]})

    features = parsing.parse_impressions(tf.constant([empty, some]), schema)

    assert features["group_index"].numpy().tolist() == [0, 1]
    assert features["item"].to_list() == [[], [7]]
    assert features["tags"].to_list() == [[], [b"a", b"b"]]
    assert features["tags:weight"].to_list() == [[], [0.5, 2.0]]
    assert np.isnan(features["price"]).all()
    assert features["query"].to_list() == [[], []]


def test_a_servers_empty_batch_is_parsed(schema):
    features = parsing.parse_impressions(tf.zeros([0], tf.string), schema)

    assert features["group_index"].shape == [0]
    assert features["price"].shape == [0]
    assert features["item"].nrows() == 0


def test_a_servers_example_and_a_group_have_the_same_kinds_of_tensors(schema, build_group):
    serialized = tf.constant([records.encode_group(build_group(0, 1))])

    served = parsing.parse_impressions(serialized, schema)
    trained = parsing.parse_groups(serialized, schema).features

    assert list(served) == list(trained)
    for name in served:
        assert tf.type_spec_from_value(served[name]).is_compatible_with(trained[name]), name


def test_impressions_are_counted_for_each_group(build_group):
    serialized = [records.encode_group(build_group(0, size)) for size in (3, 1, 2)]

    counts = parsing.count_impressions(tf.constant(serialized))

    assert counts.dtype == tf.int64
    assert counts.numpy().tolist() == [3, 1, 2]


@pytest.mark.parametrize("key", ["item", "brand"])
def test_a_damaged_record_is_named_when_it_is_parsed(schema, build_group, key):
    group = build_group(0, 3)
    damaged = {
        "item": {**group, "item": [1, 2]},
        "brand": {**group, "brand": [], "brand:lengths": [0, 0]},
    }[key]
    message = f"A damaged record: '{key}' has not as many entries as impressions."

    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        parsing.parse_groups(tf.constant([records.encode_group(damaged)]), schema)


def test_bytes_that_are_no_example_are_refused(schema):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Could not parse example input"):
        parsing.parse_groups(tf.constant([b"no example"]), schema)


def test_a_group_has_the_same_bytes_whatever_the_order_of_its_keys(build_group):
    group = build_group(0, 3)
    turned = dict(reversed(group.items()))

    assert records.encode_group(turned) == records.encode_group(group)


def test_lists_and_arrays_are_encoded_alike(build_group):
    group = build_group(0, 3)
    plain = {key: np.asarray(values).tolist() for key, values in group.items()}

    assert records.encode_group(plain) == records.encode_group(group)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, -2], "int64_list"),
        (np.array([True, False]), "int64_list"),
        (np.array([1, 2], np.uint8), "int64_list"),
        ([1.5, 2.0], "float_list"),
        (["ä", "b"], "bytes_list"),
        ([b"\x00", b"b\x00"], "bytes_list"),
        (np.array(["ä", "b"], object), "bytes_list"),
        ([], None),
        (np.array([], np.int64), None),
    ],
)
def test_values_are_encoded_by_their_dtype(values, kind):
    example = tf.train.Example.FromString(records.encode_group({"f": values}))

    feature = example.features.feature.get("f")
    if kind is None:
        assert feature is None
    else:
        wanted = [v.encode() if isinstance(v, str) else v for v in values]
        assert feature.WhichOneof("kind") == kind
        assert list(getattr(feature, kind).value) == wanted


def test_a_group_that_fits_is_accepted(schema, build_group):
    records.check_group(build_group(0, 3), schema)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"click": []}, "A group without impressions. Give `click` one value per impression."),
        ({"click": None}, "A group without impressions. Give `click` one value per impression."),
        ({"conversion": [0]}, "'conversion' has 1 values for 3 impressions. Give one each."),
        ({"conversion": None}, "'conversion' has 0 values for 3 impressions. Give one each."),
        ({"example_weight": [1.0]}, "'example_weight' has 1 values for 3 impressions. Give one"),
        ({"oracle_pctr": None}, "'oracle_pctr' has 0 values for 3 impressions. Give one each."),
        ({"oracle_pcvr": [0.5] * 4}, "'oracle_pcvr' has 4 values for 3 impressions. Give one each"),
        ({"click": [0, 1, 2]}, r"'click' holds \[0, 1, 2\]. Labels are the integers 0 or 1."),
        ({"conversion": [-1, 0, 0]}, r"'conversion' holds \[-1, 0, 0\]. Labels are the integers"),
        ({"click": [0.0, 1.0, 0.0]}, r"'click' holds \[0.0, 1.0, 0.0\]. Labels are the integers"),
        (
            {"example_weight": [1, 2, 3]},
            r"'example_weight' holds \[1, 2, 3\]. Give finite floats of 0.0 or more.",
        ),
        ({"example_weight": [1.0, -2.0, 1.0]}, "'example_weight' holds .* Give finite floats"),
        ({"oracle_pctr": [0.5, math.nan, 0.5]}, "'oracle_pctr' holds .* Give finite floats"),
        ({"colour": [1]}, "The schema knows no 'colour'. Declare it, or leave it out."),
        ({"user:weight": [1.0]}, "The schema knows no 'user:weight'. Declare it, or leave it out."),
        ({"user": None}, "'user' has 0 values and needs exactly 1."),
        ({"item": [1, 2]}, "'item' has 2 values and needs exactly 3."),
        ({"request": ["a", "b"]}, "'request' has 2 values and needs exactly 1."),
        ({"sample": []}, "'sample' has 0 values and needs exactly 3."),
        ({"item": [1.0, 2.0, 3.0]}, "'item' holds float64, and needs int64. Convert it before"),
        ({"price": [1, 2, 3]}, "'price' holds int64, and needs float32. Convert it before writing"),
        ({"brand": [1]}, "'brand' holds int64, and needs string. Convert it before writing."),
        (
            {"user": [2**64 - 1]},
            "'user' holds 18446744073709551615, which is above int64. Write it",
        ),
        (
            {"query": np.array([None], object)},
            "'query' holds a value that is no string. Leave it out as missing.",
        ),
        (
            {"age": [math.inf]},
            "'age' holds a number that is not finite. Leave it out as missing.",
        ),
        ({"price": [1.0, 1e300, 2.0]}, "'price' holds a number that is not finite."),
        ({"query": ["a", "b"]}, "'query' is optional and has 2 values. Give at most one."),
        (
            {"brand": ["a", "b"], "brand:lengths": [2, 0, 0]},
            "'brand' is optional and has 2 values. Give at most one.",
        ),
        (
            {"brand:lengths": [1, 0]},
            r"'brand:lengths' is \[1, 0\] for 3 impressions and 1 values. Give the number of",
        ),
        ({"brand:lengths": None}, r"'brand:lengths' is \[\] for 3 impressions and 1 values."),
        ({"tags:lengths": [1, 0, 0]}, r"'tags:lengths' is \[1, 0, 0\] for 3 impressions and 2 val"),
        ({"tags:lengths": [3, -1, 0]}, r"'tags:lengths' is \[3, -1, 0\] for 3 impressions and 2"),
        ({"tags:lengths": [1.5, 0.5, 0.0]}, "'tags:lengths' holds float64, and needs int64."),
        ({"tags:weight": [1.0]}, "'tags:weight' has 1 weights for 2 values. Give one each."),
        ({"tags:weight": None}, "'tags:weight' has 0 weights for 2 values. Give one each."),
        ({"tags:weight": [1, 2]}, "'tags:weight' holds int64, and needs float32."),
        ({"tags:weight": [1.0, math.nan]}, "'tags:weight' holds a number that is not finite."),
    ],
)
def test_a_group_that_does_not_fit_the_schema_is_refused(schema, build_group, changes, message):
    group = build_group(0, 3) | changes
    group = {key: values for key, values in group.items() if values is not None}

    with pytest.raises(UserError, match=message):
        records.check_group(group, schema)


def test_a_schema_without_weight_knows_no_weight_key():
    feature = Feature(
        name="item", side="impression", dtype="int64", column=IdentityColumn(vocabulary_size=5)
    )
    group = {"item": [1], "click": [0], "conversion": [0], "example_weight": [1.0]}

    with pytest.raises(UserError, match=r"The schema knows no 'example_weight'. Declare it"):
        records.check_group(group, Schema(name="shop", features=(feature,)))


def test_a_feature_name_may_hold_any_letters():
    feature = Feature(
        name="109_14 ähnlich/é",
        side="context",
        dtype="string",
        column=HashBucketColumn(hash_buckets=5),
    )
    schema = Schema(name="shop", features=(feature,))
    group = {feature.name: ["x"], "click": [1, 0], "conversion": [0, 0]}
    records.check_group(group, schema)

    parsed = parsing.parse_groups(tf.constant([records.encode_group(group)]), schema)

    assert parsed.features[feature.name].to_list() == [[b"x"]]
