import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.data.feature_values import FeatureValues
from esmm_tf.errors import UserError
from esmm_tf.model.feature_columns import (
    CategoricalReader,
    build_inputs,
    scale_numeric,
    tensor_names,
)
from esmm_tf.schema.columns import (
    FLOAT32,
    INT64,
    STRING,
    BucketizedColumn,
    HashBucketColumn,
    IdentityColumn,
    NumericColumn,
    VocabularyColumn,
)
from esmm_tf.schema.record_field import CONTEXT, IMPRESSION, MANY, OPTIONAL
from esmm_tf.schema.schema import Feature, Schema

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def make_feature(column, dtype=INT64, **kwargs):
    fields = {"name": "f", "side": IMPRESSION, "values": MANY} | kwargs
    return Feature(column=column, dtype=dtype, **fields)


def make_numeric(dtype=FLOAT32, missing="zero", **kwargs):
    return make_feature(NumericColumn(**kwargs), dtype=dtype, values=OPTIONAL, missing=missing)


def ragged(rows, dtype=INT64):
    return tf.ragged.constant(rows, dtype=tf.dtypes.as_dtype(dtype), row_splits_dtype=tf.int64)


def read(feature, rows, weights=None):
    weights = None if weights is None else ragged(weights, FLOAT32)
    return CategoricalReader(feature)(FeatureValues(ragged(rows, feature.dtype), weights))


def hashed(texts, buckets):
    return tf.strings.to_hash_bucket_fast(texts, buckets).numpy().tolist()


# One golden case a kind of column: the feature, a batch, and the table rows it must become.
GOLDEN = {
    "identity_embed": (
        make_feature(IdentityColumn(vocabulary_size=10)),
        [[0, 9], [], [10, -1, 5]],
        [[0, 9], [], [10, 10, 5]],
    ),
    "identity_drop": (
        make_feature(IdentityColumn(vocabulary_size=10, out_of_vocabulary="drop")),
        [[0, 9], [], [10, -1, 5]],
        [[0, 9], [], [5]],
    ),
    "hash_int64": (
        make_feature(HashBucketColumn(hash_buckets=1000)),
        [[1, -1], [], [INT64_MIN, INT64_MAX]],
        [hashed(["1", "-1"], 1000), [], hashed([str(INT64_MIN), str(INT64_MAX)], 1000)],
    ),
    "hash_string": (
        make_feature(HashBucketColumn(hash_buckets=1000), STRING),
        [["shoe"], [], ["", "prix €"]],
        [hashed(["shoe"], 1000), [], hashed(["", "prix €"], 1000)],
    ),
    "vocabulary_string_embed": (
        make_feature(VocabularyColumn(values=("red", "green", "blue")), STRING),
        [["blue", "red"], [], ["grey", "Red"]],
        [[2, 0], [], [3, 3]],
    ),
    "vocabulary_int64_drop": (
        make_feature(VocabularyColumn(values=(30, -7, 10), out_of_vocabulary="drop")),
        [[10, 30], [], [11, -7, INT64_MIN]],
        [[2, 0], [], [1]],
    ),
    "vocabulary_string_hash": (
        make_feature(
            VocabularyColumn(values=("red", "green"), out_of_vocabulary="hash", oov_buckets=50),
            STRING,
        ),
        [["green"], [], ["grey", "pink"]],
        [[1], [], [2 + row for row in hashed(["grey", "pink"], 50)]],
    ),
    "vocabulary_int64_hash": (
        make_feature(VocabularyColumn(values=(5,), out_of_vocabulary="hash", oov_buckets=50)),
        [[5], [], [6, -6]],
        [[0], [], [1 + row for row in hashed(["6", "-6"], 50)]],
    ),
    "bucketized_float": (
        make_feature(BucketizedColumn(boundaries=(-1.0, 0.0, 2.5)), FLOAT32),
        [[-5.0, -1.0], [], [0.0, 2.4, 2.5, np.nan, 1e30]],
        [[0, 1], [], [2, 2, 3, 3]],
    ),
    "bucketized_int64": (
        make_feature(BucketizedColumn(boundaries=(0.0, 1_700_000_001.0))),
        [[-1, 0], [], [1_700_000_000, 1_700_000_001]],
        [[0, 1], [], [1, 2]],
    ),
    "missing_embed": (
        make_feature(IdentityColumn(vocabulary_size=10), missing="embed"),
        [[3], [], [10]],
        [[3], [11], [10]],
    ),
}
FILE_FEATURES = {
    "embed": (STRING, "red\ngreen\n", [["green", "grey"], ["red"]], [[1, 2], [0]]),
    "drop": (STRING, "red\ngreen\n", [["green", "grey"], ["red"]], [[1], [0]]),
    "hash": (INT64, "30\n-7\n", [[-7, 31], [30]], [[1, 2 + hashed(["31"], 9)[0]], [0]]),
}


def make_file_feature(directory, out_of_vocabulary):
    dtype, text, _, _ = FILE_FEATURES[out_of_vocabulary]
    path = directory / "vocabulary.txt"
    path.write_text(text)
    column = VocabularyColumn(
        file=str(path),
        file_size=2,
        out_of_vocabulary=out_of_vocabulary,
        oov_buckets=9 if out_of_vocabulary == "hash" else 1,
    )
    return make_feature(column, dtype)


class Served(tf.Module):
    """A reader as it is exported."""

    def __init__(self, feature):
        super().__init__()
        self.reader = CategoricalReader(feature)
        dtype = tf.dtypes.as_dtype(feature.dtype)
        spec = tf.RaggedTensorSpec([None, None], dtype, ragged_rank=1, row_splits_dtype=tf.int64)
        self.read = tf.function(
            lambda values: self.reader(FeatureValues(values)).ids, input_signature=[spec]
        )


@pytest.mark.parametrize("case", GOLDEN)
def test_a_column_maps_values_to_the_expected_rows(case):
    feature, values, expected = GOLDEN[case]

    tokens = read(feature, values)

    assert tokens.ids.to_list() == expected
    assert tokens.ids.dtype == tf.int64
    assert tokens.weights is None


@pytest.mark.parametrize("case", GOLDEN)
def test_rows_are_the_same_in_eager_mode_in_a_function_and_in_a_saved_model(case, tmp_path):
    feature, values, expected = GOLDEN[case]
    served = Served(feature)
    values = ragged(values, feature.dtype)

    eager = served.reader(FeatureValues(values)).ids.to_list()
    compiled = served.read(values).to_list()
    tf.saved_model.save(served, str(tmp_path), signatures={})
    loaded = tf.saved_model.load(str(tmp_path)).read(values).to_list()

    assert eager == expected
    assert compiled == expected
    assert loaded == expected


@pytest.mark.parametrize("out_of_vocabulary", FILE_FEATURES)
def test_a_vocabulary_file_maps_each_line_to_its_number(out_of_vocabulary, tmp_path):
    _, _, values, expected = FILE_FEATURES[out_of_vocabulary]
    feature = make_file_feature(tmp_path, out_of_vocabulary)

    tokens = read(feature, values)

    assert tokens.ids.to_list() == expected


def test_a_saved_model_carries_its_vocabulary_file(tmp_path):
    feature = make_file_feature(tmp_path, "hash")
    _, _, values, expected = FILE_FEATURES["hash"]
    tf.saved_model.save(Served(feature), str(tmp_path / "model"), signatures={})
    (tmp_path / "vocabulary.txt").unlink()
    (tmp_path / "model").rename(tmp_path / "moved")

    loaded = tf.saved_model.load(str(tmp_path / "moved")).read(ragged(values))

    assert loaded.to_list() == expected


def test_hash_buckets_never_change_between_releases():
    feature = make_feature(HashBucketColumn(hash_buckets=1000), STRING)

    tokens = read(feature, [["1", "-1", "", "é"]])

    assert tokens.ids.to_list() == [[849, 430, 263, 25]]


def test_an_integer_and_its_text_share_a_hash_bucket():
    column = HashBucketColumn(hash_buckets=997)
    numbers = [0, 7, -7, 10**12]

    of_numbers = read(make_feature(column), [numbers]).ids
    of_texts = read(make_feature(column, STRING), [[str(n) for n in numbers]]).ids

    assert of_numbers.to_list() == of_texts.to_list()


@pytest.mark.parametrize("case", [c for c, (f, _, _) in GOLDEN.items() if f.dtype == INT64])
def test_extreme_64_bit_ids_stay_inside_the_table(case):
    feature = GOLDEN[case][0]

    ids = read(feature, [[INT64_MIN, INT64_MIN + 1, -1, INT64_MAX - 1, INT64_MAX]]).ids.to_list()[0]

    assert all(0 <= row < feature.num_rows for row in ids)


@pytest.mark.parametrize("case", [c for c, (f, _, _) in GOLDEN.items() if f.dtype == STRING])
def test_odd_texts_stay_inside_the_table(case):
    feature = GOLDEN[case][0]

    ids = read(feature, [["", "\0", "日本", "x" * 10_000]]).ids.to_list()[0]

    assert len(ids) == 4
    assert all(0 <= row < feature.num_rows for row in ids)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_has_no_bucket(value):
    feature = make_feature(BucketizedColumn(boundaries=(0.0,)), FLOAT32, missing="embed")

    tokens = read(feature, [[value], [], [1.0]])

    assert tokens.ids.to_list() == [[], [2], [1]]


def test_a_float_on_a_boundary_that_float32_rounds_is_at_the_boundary():
    feature = make_feature(BucketizedColumn(boundaries=(0.1, 0.7)), FLOAT32)

    tokens = read(feature, [[0.1, 0.7]])

    assert tokens.ids.to_list() == [[1, 2]]


@pytest.mark.parametrize(
    ("column", "dtype", "values"),
    [
        (IdentityColumn(vocabulary_size=4, out_of_vocabulary="drop"), INT64, [[1, 9, 2], [9], []]),
        (
            VocabularyColumn(values=("a", "b", "c"), out_of_vocabulary="drop"),
            STRING,
            [["b", "x", "c"], ["x"], []],
        ),
        (BucketizedColumn(boundaries=(1.0, 2.0)), FLOAT32, [[1.0, np.nan, 2.0], [np.nan], []]),
    ],
)
def test_weights_stay_with_their_values_when_others_are_dropped(column, dtype, values):
    feature = make_feature(column, dtype, weighted=True)

    tokens = read(feature, values, weights=[[0.25, 0.5, 4.0], [8.0], []])

    assert tokens.ids.to_list() == [[1, 2], [], []]
    assert tokens.weights.to_list() == [[0.25, 4.0], [], []]


def test_a_missing_row_gets_weight_one_and_leaves_other_weights():
    feature = make_feature(IdentityColumn(vocabulary_size=4), weighted=True, missing="embed")

    tokens = read(feature, [[], [2, 3], []], weights=[[], [0.5, 0.25], []])

    assert tokens.ids.to_list() == [[5], [2, 3], [5]]
    assert tokens.weights.to_list() == [[1.0], [0.5, 0.25], [1.0]]


def test_a_row_whose_values_are_all_dropped_is_not_missing():
    column = IdentityColumn(vocabulary_size=4, out_of_vocabulary="drop")
    feature = make_feature(column, weighted=True, missing="embed")

    tokens = read(feature, [[9], [], [3, 9]], weights=[[7.0], [], [0.5, 7.0]])

    assert tokens.ids.to_list() == [[], [4], [3]]
    assert tokens.weights.to_list() == [[], [1.0], [0.5]]


def test_a_batch_without_any_value_has_empty_rows():
    feature = make_feature(HashBucketColumn(hash_buckets=4), weighted=True)

    tokens = read(feature, [[], []], weights=[[], []])

    assert tokens.ids.to_list() == [[], []]
    assert tokens.weights.to_list() == [[], []]


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ({}, [[-3.0], [0.0], [0.0], [7.0]]),
        ({"scaling": "log"}, [[-np.log(4.0)], [0.0], [0.0], [np.log(8.0)]]),
        ({"scaling": "standard", "mean": 1.0, "stddev": 2.0}, [[-2.0], [-0.5], [0.0], [3.0]]),
    ],
)
def test_a_number_is_scaled_and_a_missing_one_becomes_zero_after_scaling(scaling, expected):
    feature = make_numeric(**scaling)

    scaled = scale_numeric(feature, tf.constant([-3.0, 0.0, np.nan, 7.0]))

    assert scaled.dtype == tf.float32
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)


def test_an_indicator_tells_a_missing_number_from_zero():
    feature = make_numeric(missing="indicator", scaling="standard", mean=1.0)

    scaled = scale_numeric(feature, tf.constant([1.0, np.nan, 3.0]))

    assert scaled.numpy().tolist() == [[0.0, 0.0], [0.0, 1.0], [2.0, 0.0]]


def test_scaling_a_categorical_feature_raises():
    feature = make_feature(IdentityColumn(vocabulary_size=2), name="colour")

    with pytest.raises(TypeError, match="Feature 'colour' has no numeric column"):
        scale_numeric(feature, tf.zeros([1]))


def test_reading_a_numeric_feature_as_tokens_raises():
    feature = dataclasses.replace(make_numeric(dtype=INT64), name="price")

    with pytest.raises(TypeError, match="Feature 'price' is not categorical"):
        read(feature, [[1]])


def test_inputs_have_the_keys_dtypes_and_shapes_of_parsed_records():
    schema = Schema(
        name="s",
        features=(
            make_feature(HashBucketColumn(hash_buckets=2), STRING, name="query", side=CONTEXT),
            make_feature(IdentityColumn(vocabulary_size=2), name="item", weighted=True),
            dataclasses.replace(make_numeric(dtype=INT64), name="price"),
        ),
    )

    inputs = build_inputs(schema)

    assert list(inputs) == ["group_index", "query", "item", "item:weight", "price"]
    assert [inputs[key].dtype for key in inputs] == [
        tf.int64,
        tf.string,
        tf.int64,
        tf.float32,
        tf.float32,
    ]
    ragged_rank = {key: getattr(value, "ragged_rank", 0) for key, value in inputs.items()}
    assert ragged_rank == {
        "group_index": 0,
        "query": 1,
        "item": 1,
        "item:weight": 1,
        "price": 0,
    }
    assert [value.shape.rank for value in inputs.values()] == [1, 2, 2, 2, 1]


def make_named(*names):
    return Schema(
        name="s",
        features=tuple(
            make_feature(IdentityColumn(vocabulary_size=2), name=name, weighted=True)
            for name in names
        ),
    )


def test_tensors_are_named_after_their_features_in_the_characters_that_tensorflow_allows():
    schema = make_named("109_14", "prix €", "_id", "a/b.c")

    names = tensor_names(schema)

    assert names == {
        "group_index": "group_index",
        "109_14": "109_14",
        "109_14:weight": "109_14_weight",
        "prix €": "prix__",
        "prix €:weight": "prix___weight",
        "_id": "feature_id",
        "_id:weight": "feature_id_weight",
        "a/b.c": "a_b_c",
        "a/b.c:weight": "a_b_c_weight",
    }


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("prix €", "prix $"), r"Feature 'prix €' and another .* name 'prix__'. Rename one"),
        (("x", "x_weight"), r"Feature 'x' and another .* name 'x_weight'. Rename one"),
        (("group index",), r"Feature 'group index' .* name 'group_index'. Rename one"),
    ],
)
def test_features_that_need_the_same_tensor_name_raise(names, message):
    schema = make_named(*names)

    with pytest.raises(UserError, match=message):
        build_inputs(schema)
