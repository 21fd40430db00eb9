"""The value of a field of each impression, as text and as small integers."""

import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.data import parsing, records
from esmm_tf.data.feature_values import FeatureValues
from esmm_tf.errors import UserError
from esmm_tf.evaluation import slicing
from esmm_tf.evaluation.slicing import SliceReader
from esmm_tf.model.feature_columns import CategoricalReader
from esmm_tf.schema.columns import (
    BucketizedColumn,
    HashBucketColumn,
    IdentityColumn,
    NumericColumn,
    VocabularyColumn,
)
from esmm_tf.schema.schema import Feature, Key, Schema

HASHED = HashBucketColumn(hash_buckets=9)


def build_schema(*features, **changes):
    fields = {"name": "shop", "features": features, "keys": (), "carry": ()}
    return Schema(**fields | changes)


def build_feature(name, dtype, column, *, side="impression", **changes):
    return Feature(name=name, side=side, dtype=dtype, column=column, **changes)


def read(reader, schema, groups):
    """Returns the text of each impression of a batch of groups."""
    codes = read_codes(reader, schema, groups)
    return [reader.values[code] for code in codes]


def read_codes(reader, schema, groups):
    return reader.read(parse(schema, groups))


def parse(schema, groups):
    """Returns a batch as the input function makes it; all labels are 0."""
    serialized = []
    for size, group in groups:
        labels = {"click": [0] * size, "conversion": [0] * size}
        serialized.append(records.encode_group({**labels, **group}))
    return parsing.parse_groups(tf.constant(serialized), schema, carry=True)


@pytest.mark.parametrize(
    ("dtype", "column", "values", "texts"),
    [
        ("int64", IdentityColumn(vocabulary_size=5), [3, 70, -1], ["3", "70", "-1"]),
        ("int64", HASHED, [2**62, 3, 2**62], ["4611686018427387904", "3", "4611686018427387904"]),
        ("string", HASHED, ["b", "a", "b"], ["b", "a", "b"]),
        ("string", VocabularyColumn(values=("a",)), ["schöne", "a", ""], ["schöne", "a", ""]),
        ("int64", VocabularyColumn(values=(7,)), [8, 7, 8], ["8", "7", "8"]),
        ("float32", NumericColumn(), [0.1, -2.0, 1e-7], ["0.1", "-2", "0.0000001"]),
        ("int64", NumericColumn(scaling="log"), [1234567, 1234568, 0], ["1234567", "1234568", "0"]),
    ],
)
def test_a_slice_is_the_value_as_the_record_holds_it(dtype, column, values, texts):
    schema = build_schema(build_feature("item", dtype, column))

    found = read(SliceReader(schema, "item"), schema, [(3, {"item": values})])

    assert found == texts


@pytest.mark.parametrize(
    ("boundaries", "values", "texts"),
    [
        ([10, 20], [-5.0, 10.0, 19.5, 20.0], ["< 10", "[10, 20)", "[10, 20)", ">= 20"]),
        ([0.5], [0.25, 0.5], ["< 0.5", ">= 0.5"]),
        ([1234567, 1234568, 1234569], [1234567.0, 1234568.0], None),
    ],
)
def test_a_slice_of_a_bucketized_feature_is_its_bucket(boundaries, values, texts):
    column = BucketizedColumn(boundaries=tuple(boundaries))
    schema = build_schema(build_feature("price", "float32", column))

    found = read(SliceReader(schema, "price"), schema, [(len(values), {"price": values})])

    assert found == (texts or ["[1234567, 1234568)", "[1234568, 1234569)"])


@pytest.mark.parametrize(
    ("dtype", "boundaries", "values"),
    [
        # 0.7 as float32 is below 0.7, and both sides of 2 ** 53 are too large for float32.
        ("float32", (0.1, 0.7), np.array([0.1, 0.7, 0.69999, 0.05], np.float32)),
        ("int64", (2.0**40 + 1, 2.0**53), np.array([2**40, 2**40 + 1, 2**53 - 1, 2**53])),
    ],
)
def test_a_slice_is_the_bucket_that_the_model_takes(dtype, boundaries, values):
    feature = build_feature("price", dtype, BucketizedColumn(boundaries=boundaries))
    schema = build_schema(feature)
    reader = SliceReader(schema, "price")

    found = read(reader, schema, [(4, {"price": values})])

    given = FeatureValues(tf.RaggedTensor.from_uniform_row_length(values, 1))
    rows = CategoricalReader(feature)(given).ids
    buckets = [text[0] for text in found]
    assert buckets == [{0: "<", 1: "[", 2: ">"}[row] for row in rows.flat_values.numpy()]
    assert len(set(buckets)) > 1


@pytest.mark.parametrize(
    ("dtype", "column", "value", "text"),
    [
        ("string", HASHED, "acme", "acme"),
        ("string", HASHED, "a", "a"),
        ("int64", HASHED, 7, "7"),
        ("float32", NumericColumn(), 0.5, "0.5"),
        ("int64", NumericColumn(), 12, "12"),
        ("float32", BucketizedColumn(boundaries=(0.25,)), 0.5, ">= 0.25"),
    ],
)
def test_an_optional_feature_without_a_value_is_missing(dtype, column, value, text):
    schema = build_schema(build_feature("brand", dtype, column, values="optional"))
    groups = [(3, {"brand": [value], "brand:lengths": [0, 1, 0]}), (2, {"brand:lengths": [0, 0]})]

    found = read(SliceReader(schema, "brand"), schema, groups)

    assert found == ["(missing)", text, "(missing)", "(missing)", "(missing)"]


@pytest.mark.parametrize(
    ("dtype", "column", "values", "texts"),
    [
        ("string", HASHED, ["Köln", "Bonn"], ["Köln", "Bonn"]),
        ("int64", HASHED, [8, 7], ["8", "7"]),
        ("float32", NumericColumn(), [2.5, 1.5], ["2.5", "1.5"]),
        ("int64", BucketizedColumn(boundaries=(8,)), [8, 7], [">= 8", "< 8"]),
    ],
)
def test_a_value_of_the_context_is_that_of_each_of_its_impressions(dtype, column, values, texts):
    schema = build_schema(
        build_feature("city", dtype, column, side="context", values="optional"),
        build_feature("item", "int64", HASHED),
    )
    groups = [
        (1, {"item": [1], "city": values[:1]}),
        (2, {"item": [1, 1]}),
        (3, {"item": [1, 1, 1], "city": values[1:]}),
    ]

    found = read(SliceReader(schema, "city"), schema, groups)

    assert found == [texts[0], "(missing)", "(missing)", texts[1], texts[1], texts[1]]


@pytest.mark.parametrize(
    ("side", "dtype", "values", "texts"),
    [
        ("context", "string", [["r2"], ["r1"]], ["r2", "r2", "r1"]),
        ("impression", "int64", [[5, 4], [5]], ["5", "4", "5"]),
    ],
)
def test_a_carried_key_is_a_slice(side, dtype, values, texts):
    schema = build_schema(
        build_feature("item", "int64", HASHED),
        keys=(Key(name="request", side=side, dtype=dtype),),
        carry=("request",),
    )
    groups = [(2, {"item": [1, 1], "request": values[0]}), (1, {"item": [1], "request": values[1]})]

    found = read(SliceReader(schema, "request"), schema, groups)

    assert found == texts


def test_a_weighted_feature_with_one_value_is_a_slice_without_its_weight():
    schema = build_schema(build_feature("boost", "int64", HASHED, weighted=True))

    found = read(
        SliceReader(schema, "boost"), schema, [(2, {"boost": [3, 4], "boost:weight": [0.5, 0.5]})]
    )

    assert found == ["3", "4"]


def test_a_value_has_the_same_code_in_every_batch():
    column = NumericColumn()
    schema = build_schema(build_feature("price", "float32", column, values="optional"))
    reader = SliceReader(schema, "price")
    first = (3, {"price": [7.0, 0.0], "price:lengths": [1, 0, 1]})
    second = (4, {"price": [-0.0, 3.0, 7.0], "price:lengths": [0, 1, 1, 1]})

    codes = [*read_codes(reader, schema, [first]), *read_codes(reader, schema, [second])]

    # Neither NaN, which differs from itself, nor minus zero is new in the second batch.
    texts = [reader.values[code] for code in codes]
    assert texts == ["7", "(missing)", "0", "(missing)", "0", "3", "7"]
    assert sorted(reader.values) == ["(missing)", "0", "3", "7"]
    assert sorted(set(codes)) == [0, 1, 2, 3]


def test_codes_are_small_integers():
    schema = build_schema(build_feature("item", "int64", HASHED))

    codes = read_codes(SliceReader(schema, "item"), schema, [(2, {"item": [10**12, 5]})])

    assert codes.dtype == np.int32
    assert sorted(codes) == [0, 1]


def test_bytes_that_are_not_utf8_are_escaped_and_their_text_is_one_slice():
    schema = build_schema(build_feature("brand", "string", HASHED))
    reader = SliceReader(schema, "brand")

    found = read(reader, schema, [(3, {"brand": [b"caf\xe9", b"caf\\xe9", b"x"]})])

    assert found == ["caf\\xe9", "caf\\xe9", "x"]
    assert len(reader.values) == 2


@pytest.mark.parametrize("name", ["tags", "secret", "colour"])
def test_what_has_no_single_value_that_is_read_is_refused_with_what_has(name):
    schema = build_schema(
        build_feature("item", "int64", HASHED),
        build_feature("tags", "string", HASHED, values="many"),
        build_feature("price", "float32", NumericColumn(), values="optional"),
        keys=(
            Key(name="request", side="context", dtype="string"),
            Key(name="secret", side="context", dtype="string"),
        ),
        carry=("request", "item"),
    )
    message = (
        rf"--slices has '{name}', which is no feature or carried key with at most one value\. "
        r"There are item, price, request\.$"
    )

    with pytest.raises(UserError, match=message):
        SliceReader(schema, name)


def test_more_values_than_a_table_can_show_are_refused(monkeypatch):
    monkeypatch.setattr(slicing, "MAX_VALUES", 3)
    schema = build_schema(build_feature("item", "int64", HASHED))
    reader = SliceReader(schema, "item")
    read_codes(reader, schema, [(4, {"item": [1, 2, 3, 1]})])

    with pytest.raises(UserError, match=r"'item', which has more than 3 values\. Name a feature"):
        read_codes(reader, schema, [(1, {"item": [4]})])
