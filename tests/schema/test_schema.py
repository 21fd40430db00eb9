"""The schema's dataclasses: row counts, names, tables, record hash and what they refuse."""

import dataclasses
import math

import pytest

from esmm_tf.errors import UserError
from esmm_tf.schema.columns import (
    BucketizedColumn,
    HashBucketColumn,
    IdentityColumn,
    NumericColumn,
    VocabularyColumn,
)
from esmm_tf.schema.schema import Feature, Key, Labels, Schema, Table


def build_feature(**fields):
    defaults = {"name": "item", "side": "impression", "dtype": "int64"}
    column = IdentityColumn(vocabulary_size=10)
    return Feature(**{**defaults, "column": column, **fields})


def build_schema(*features, **fields):
    return Schema(**{"name": "shop", "features": features or (build_feature(),), **fields})


@pytest.mark.parametrize(
    ("column", "num_ids"),
    [
        (IdentityColumn(vocabulary_size=10), 11),
        (IdentityColumn(vocabulary_size=10, out_of_vocabulary="drop"), 10),
        (HashBucketColumn(hash_buckets=7), 7),
        (VocabularyColumn(values=(3, 5)), 3),
        (VocabularyColumn(values=(3, 5), out_of_vocabulary="drop"), 2),
        (VocabularyColumn(values=(3, 5), out_of_vocabulary="hash", oov_buckets=4), 6),
        (VocabularyColumn(file="items.txt", file_size=20), 21),
        (BucketizedColumn(boundaries=(0.0, 1.5)), 3),
    ],
)
def test_a_column_counts_its_values_and_its_rows_for_values_it_does_not_know(column, num_ids):
    feature = build_feature(column=column)

    assert column.num_ids == num_ids
    assert feature.num_rows == num_ids


def test_a_missing_row_is_one_more_row():
    feature = build_feature(values="optional", missing="embed")

    assert feature.num_rows == 12


def test_a_numeric_feature_has_no_rows():
    feature = build_feature(column=NumericColumn())

    assert not feature.is_embedded
    with pytest.raises(TypeError, match=r"Feature 'item' is numeric and has no table."):
        _ = feature.num_rows


@pytest.mark.parametrize("bad", [0, -3])
def test_a_size_that_is_not_above_zero_is_refused(bad):
    with pytest.raises(UserError, match=f"vocabulary_size is {bad}. Give a finite number above 0."):
        IdentityColumn(vocabulary_size=bad)
    with pytest.raises(UserError, match=f"hash_buckets is {bad}. Give a finite number above 0."):
        HashBucketColumn(hash_buckets=bad)
    with pytest.raises(UserError, match=f"oov_buckets is {bad}. Give a finite number above 0."):
        VocabularyColumn(values=(1,), out_of_vocabulary="hash", oov_buckets=bad)
    with pytest.raises(UserError, match=f"embedding_dim is {bad}. Give a finite number above 0."):
        Table(name="items", embedding_dim=bad)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_not_finite_and_above_zero_is_refused(bad):
    with pytest.raises(UserError, match=f"stddev is {bad}. Give a finite number above 0."):
        NumericColumn(scaling="standard", stddev=bad)
    with pytest.raises(UserError, match=f"initializer_scale is {bad}. Give a finite number"):
        Table(name="items", initializer_scale=bad)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: IdentityColumn(vocabulary_size=3, out_of_vocabulary="hash"),
            "out_of_vocabulary is 'hash'. Use one of 'embed', 'drop'.",
        ),
        (
            lambda: VocabularyColumn(values=(1,), out_of_vocabulary="error"),
            "out_of_vocabulary is 'error'. Use one of 'embed', 'drop', 'hash'.",
        ),
        (
            lambda: VocabularyColumn(values=(1,), oov_buckets=2),
            "oov_buckets is 2 and out_of_vocabulary is 'embed'. More than one bucket needs "
            "out_of_vocabulary = 'hash'.",
        ),
        (
            lambda: VocabularyColumn(),
            r"a vocabulary needs either values = \[...\] with at least one value, or file = '...'",
        ),
        (
            lambda: VocabularyColumn(values=(1,), file="items.txt"),
            "a vocabulary needs either values .* and one of them only.",
        ),
        (
            lambda: VocabularyColumn(values=("a", "b", "a")),
            "the vocabulary repeats 'a'. Give every value once.",
        ),
        (
            lambda: NumericColumn(scaling="sqrt"),
            "scaling is 'sqrt'. Use one of 'none', 'log', 'standard'.",
        ),
        (
            lambda: NumericColumn(scaling="standard", mean=math.nan),
            "mean is nan. Give a finite number.",
        ),
        (
            lambda: NumericColumn(scaling="log", mean=2.0),
            "mean and stddev are given and scaling is 'log'. Set scaling = 'standard' or remove",
        ),
        (lambda: NumericColumn(stddev=2.0), "mean and stddev are given and scaling is 'none'."),
        (
            lambda: Table(name="items", initializer="he_normal"),
            "initializer is 'he_normal'. Use one of 'truncated_normal', 'uniform', 'zeros'.",
        ),
        (
            lambda: Labels(click="paid", conversion="paid"),
            "click and conversion are both 'paid'. Name two columns.",
        ),
    ],
)
def test_a_wrong_column_table_or_label_is_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize("boundaries", [(), (1.0, 1.0), (2.0, 1.0), (math.inf,), (math.nan,)])
def test_boundaries_must_be_finite_and_rising(boundaries):
    with pytest.raises(UserError, match=r"boundaries are \[.*\]. Give at least one, finite and"):
        BucketizedColumn(boundaries=boundaries)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "a feature has the name ''. Give a non-empty name without ':'."),
        ({"name": "a:b"}, "a feature has the name 'a:b'. Give a non-empty name without ':'."),
        ({"side": "user"}, "side is 'user'. Use one of 'context', 'impression'."),
        ({"dtype": "int32"}, "dtype is 'int32'. Use one of 'int64', 'float32', 'string'."),
        ({"values": "two"}, "values is 'two'. Use one of 'one', 'optional', 'many'."),
        ({"combiner": "max"}, "combiner is 'max'. Use one of 'sum', 'mean', 'sqrtn'."),
        (
            {"dtype": "string"},
            "dtype is 'string', which its column cannot read. Use 'int64', or another column.",
        ),
        (
            {"dtype": "float32", "column": HashBucketColumn(hash_buckets=3)},
            "dtype is 'float32', which its column cannot read. Use 'int64' or 'string', or ",
        ),
        (
            {"missing": "embed"},
            "missing is 'embed' and values is 'one', so that nothing can be missing. "
            "Set values = 'optional' or remove missing.",
        ),
        (
            {"missing": "indicator", "values": "many"},
            "missing is 'indicator'. Use one of 'zero', 'embed'.",
        ),
        (
            {"column": NumericColumn(), "missing": "embed", "values": "optional"},
            "missing is 'embed'. Use one of 'zero', 'indicator'.",
        ),
        (
            {"column": NumericColumn(), "values": "many"},
            "a numeric column has one value and no weight. Set values to 'one' or 'optional' and "
            "remove weighted, or use a bucketized column.",
        ),
        (
            {"column": NumericColumn(), "weighted": True},
            "a numeric column has one value and no weight.",
        ),
        (
            {"column": NumericColumn(), "table": "items"},
            "a numeric column has no embedding. Remove it, or use a bucketized column.",
        ),
        (
            {"column": VocabularyColumn(values=(1, "two"))},
            "the vocabulary holds 'two', which is no int64. Give values of the feature's dtype.",
        ),
        (
            {"column": VocabularyColumn(values=(1, "two")), "dtype": "string"},
            "the vocabulary holds 1, which is no string.",
        ),
    ],
)
def test_a_wrong_feature_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        build_feature(**fields)


@pytest.mark.parametrize(
    "name",
    ["click", "conversion", "example_weight", "oracle_pctr", "oracle_pcvr", "group_index"],
)
def test_the_names_of_labels_weight_truth_and_groups_are_reserved(name):
    message = f"has the name '{name}', which is reserved for labels, weight, truth or groups. Give"

    with pytest.raises(UserError, match=f"a feature {message}"):
        build_feature(name=name)
    with pytest.raises(UserError, match=f"a key {message}"):
        Key(name=name, side="context", dtype="int64")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "a key has the name ''. Give a non-empty name without ':'."),
        ({"side": "item"}, "side is 'item'. Use one of 'context', 'impression'."),
        ({"dtype": "float32"}, "dtype is 'float32'. Use one of 'int64', 'string'."),
    ],
)
def test_a_wrong_key_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Key(**{"name": "request", "side": "context", "dtype": "string", **fields})


def test_a_schema_needs_a_feature():
    with pytest.raises(UserError, match=r"there are no features. Declare at least one under \[\["):
        Schema(name="shop", features=())


def test_two_features_of_one_name_are_refused():
    with pytest.raises(
        UserError, match=r"the name 'item' is given 2 times. Features and keys need"
    ):
        build_schema(build_feature(), build_feature(side="context"))


def test_a_feature_and_a_key_of_one_name_are_refused():
    key = Key(name="item", side="impression", dtype="int64")

    with pytest.raises(
        UserError, match=r"the name 'item' is given 2 times. Features and keys need"
    ):
        build_schema(keys=(key,))


@pytest.mark.parametrize("label", ["click", "conversion", "example_weight"])
def test_a_label_listed_as_a_feature_is_refused_because_it_would_leak_the_answer(label):
    labels = Labels(**{label: "item"})

    with pytest.raises(UserError, match="'item' is a label and also listed as a feature or key, "):
        build_schema(labels=labels)


def test_a_table_declared_twice_is_refused():
    feature = build_feature(table="items")

    with pytest.raises(UserError, match=r"a table is declared twice. Give every table one name."):
        build_schema(feature, tables=(Table(name="items"), Table(name="items", embedding_dim=3)))


def test_a_feature_of_an_unknown_table_is_refused():
    feature = build_feature(table="itms")
    message = (
        r"Feature 'item' refers to embedding table 'itms', which is not in `tables`. "
        r"Known tables: \['items'\]. Add \[tables.itms\]."
    )

    with pytest.raises(UserError, match=message):
        build_schema(feature, tables=(Table(name="items"),))


def test_features_that_share_a_table_must_have_as_many_rows():
    features = (
        build_feature(table="items"),
        build_feature(name="last_item", table="items", values="many", missing="embed"),
    )
    message = (
        "Features 'item' and 'last_item' share table 'items' and have 11 and 12 rows. "
        "Give both the same ids, out_of_vocabulary and missing, or two tables."
    )

    with pytest.raises(UserError, match=message):
        build_schema(*features, tables=(Table(name="items"),))


def test_an_unused_table_is_refused():
    with pytest.raises(UserError, match=r"table 'users' is used by no feature. Remove it, or name"):
        build_schema(tables=(Table(name="users"),))


@pytest.mark.parametrize("fields", [{"group_key": "request"}, {"carry": ("request",)}])
def test_a_group_key_or_carried_name_that_is_no_single_value_is_refused(fields):
    features = (build_feature(), build_feature(name="request", values="many"))
    what = next(iter(fields))
    message = (
        rf"{what} names 'request', which is no key and no feature with values = 'one'. "
        r"Known: \['item'\]."
    )

    with pytest.raises(UserError, match=message):
        build_schema(*features, **fields)


def test_features_are_found_by_side_and_by_name(schema):
    context = [feature.name for feature in schema.side_features("context")]

    assert context == ["user", "interests", "query", "age"]
    assert len(schema.side_features("impression")) == 8
    assert schema.field("sample").dtype == "int64"
    assert schema.field("tags").weighted


def test_only_an_impression_feature_of_any_number_of_values_has_lengths(schema):
    names = [field.name for field in schema.fields if field.has_lengths]

    assert names == ["brand", "tags", "visits", "stock", "discount"]


@pytest.mark.parametrize(
    ("name", "value_keys", "more"),
    [
        ("user", ("user",), ()),
        ("interests", ("interests", "interests:weight"), ()),
        ("tags", ("tags", "tags:weight"), ("tags:lengths",)),
        ("brand", ("brand",), ("brand:lengths",)),
        ("sample", ("sample",), ()),
    ],
)
def test_a_field_answers_for_the_keys_of_records(schema, name, value_keys, more):
    field = schema.field(name)

    assert field.value_keys == value_keys
    assert field.record_keys == (*value_keys, *more)


def test_the_group_key_is_carried_once_whether_or_not_it_is_listed(schema):
    listed = dataclasses.replace(schema, carry=("request", "sample"))

    assert schema.carried_names == ("sample", "user", "request")
    assert listed.carried_names == ("request", "sample")


def test_a_feature_that_names_no_table_has_one_of_its_own_name_which_may_be_declared(schema):
    assert schema.field("brand").table_name == "brands"
    assert schema.field("item").table_name == "item"
    assert schema.table("item").initializer_scale == 0.01
    assert schema.table("user") == Table(name="user")


def replace_feature(schema, index, **fields):
    features = list(schema.features)
    features[index] = dataclasses.replace(features[index], **fields)
    return dataclasses.replace(schema, features=tuple(features))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace_feature(s, 0, name="visitor"),
        lambda s: replace_feature(s, 1, side="impression"),
        lambda s: replace_feature(s, 1, values="optional"),
        lambda s: replace_feature(s, 1, weighted=False),
        lambda s: replace_feature(s, 5, dtype="string"),
        lambda s: dataclasses.replace(s, features=s.features[1:]),
        lambda s: dataclasses.replace(s, features=s.features[::-1]),
        lambda s: dataclasses.replace(s, keys=s.keys[:1]),
        lambda s: dataclasses.replace(s, labels=Labels()),
        lambda s: dataclasses.replace(s, oracle=False),
    ],
)
def test_the_record_hash_changes_with_the_layout_of_the_records(schema, change):
    bare = dataclasses.replace(schema, group_key=None, carry=())

    changed = change(bare)

    assert changed.record_hash() != bare.record_hash()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: dataclasses.replace(s, name="other", group_key=None, carry=()),
        lambda s: dataclasses.replace(s, tables=(Table(name="brands", embedding_dim=9),)),
        lambda s: dataclasses.replace(
            s, labels=Labels(click="c", conversion="p", example_weight="w")
        ),
        lambda s: replace_feature(s, 0, column=HashBucketColumn(hash_buckets=5)),
        lambda s: replace_feature(s, 1, missing="embed", combiner="sqrtn"),
    ],
)
def test_the_record_hash_does_not_change_with_columns_embeddings_or_names_of_the_log(
    schema, change
):
    changed = change(schema)

    assert changed != schema
    assert changed.record_hash() == schema.record_hash()


def test_the_record_hash_is_the_same_in_every_release():
    schema = build_schema()

    assert schema.record_hash() == "91428a9c104d9c88"


def test_the_schema_is_hashable_and_frozen(schema):
    assert isinstance(hash(schema), int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schema.name = "other"
