"""Ordered rows as impression groups: one context each, cut at a size, whatever the batches."""

import numpy as np
import pyarrow as pa
import pytest

from esmm_pipelines.ali_ccp import groups as ali_ccp_groups
from esmm_pipelines.ali_ccp import rows as ali_ccp_rows
from esmm_tf.data import records
from esmm_tf.schema.columns import HashBucketColumn
from esmm_tf.schema.schema import Feature, Key, Schema

HASHED = HashBucketColumn(hash_buckets=100)
USER, VISITED, ITEM, BRAND, TAGS = range(5)


def build_schema(*, oracle=False, user="one"):
    return Schema(
        name="shop",
        features=(
            Feature(name="user", side="context", dtype="int64", column=HASHED, values=user),
            Feature(
                name="visited",
                side="context",
                dtype="int64",
                column=HASHED,
                values="many",
                weighted=True,
            ),
            Feature(name="item", side="impression", dtype="int64", column=HASHED),
            Feature(
                name="brand", side="impression", dtype="int64", column=HASHED, values="optional"
            ),
            Feature(
                name="tags",
                side="impression",
                dtype="int64",
                column=HASHED,
                values="many",
                weighted=True,
            ),
        ),
        keys=(
            Key(name="sample_id", side="impression", dtype="int64"),
            Key(name="common_feature_index", side="context", dtype="string"),
        ),
        group_key="common_feature_index",
        oracle=oracle,
    )


def row(order, side, sample, tokens, *, click=0, conversion=0, split="train"):
    is_context = side == "context"
    return {
        "esmm_tf_order": order,
        "esmm_tf_split": split,
        "side": side,
        "context": order.upper(),
        "sample_id": None if is_context else sample,
        "click": None if is_context else click,
        "conversion": None if is_context else conversion,
        "oracle_pctr": None if is_context else sample / 100,
        "oracle_pcvr": None if is_context else sample / 200,
        "tokens": np.array(tokens, ali_ccp_rows.TOKEN).tobytes(),
    }


TYPES = pa.schema(
    [
        ("esmm_tf_order", pa.string()),
        ("esmm_tf_split", pa.string()),
        ("side", pa.string()),
        ("context", pa.string()),
        ("sample_id", pa.int64()),
        ("click", pa.int64()),
        ("conversion", pa.int64()),
        ("oracle_pctr", pa.float32()),
        ("oracle_pcvr", pa.float32()),
        ("tokens", pa.binary()),
    ]
)
# Context `a` has 3 impressions, `b` none, `c` one, and `d` only an impression, of another split.
ROWS = [
    row("a", "context", 0, [(USER, 1, 1), (VISITED, 2, 0.5), (VISITED, 3, 1.5)]),
    row("a", "impression", 11, [(TAGS, 30, 0.25), (ITEM, 20, 1), (TAGS, 31, 2)], click=1),
    row("a", "impression", 12, [(ITEM, 21, 1), (BRAND, 40, 1)], click=1, conversion=1),
    row("a", "impression", 13, [(ITEM, 22, 1), (TAGS, 32, 4)]),
    row("b", "context", 0, [(USER, 4, 1)]),
    row("c", "context", 0, [(USER, 5, 1)]),
    row("c", "impression", 14, [(ITEM, 23, 1)]),
    row("d", "impression", 15, [(ITEM, 24, 1)], split="test"),
]


def build(rows, *, max_group_size=64, batch_size=100, **changes):
    """Returns the groups of rows, their arrays as lists; each is checked against the schema."""
    schema = build_schema(**changes)
    batches = [
        pa.RecordBatch.from_pylist(rows[first : first + batch_size], schema=TYPES)
        for first in range(0, len(rows), batch_size)
    ]
    builder = ali_ccp_groups.AliCcpGroupBuilder(schema=schema, max_group_size=max_group_size)
    groups = []
    for split, group in builder(iter(batches)):
        records.check_group(group, schema)
        groups.append((split, {name: np.asarray(value).tolist() for name, value in group.items()}))
    return groups


def test_a_group_holds_a_context_once_and_its_impressions_back_to_back():
    groups = build(ROWS[:4])

    assert groups == [
        (
            "train",
            {
                "common_feature_index": ["A"],
                "user": [1],
                "visited": [2, 3],
                "visited:weight": [0.5, 1.5],
                "sample_id": [11, 12, 13],
                "click": [1, 1, 0],
                "conversion": [0, 1, 0],
                "item": [20, 21, 22],
                "brand": [40],
                "brand:lengths": [0, 1, 0],
                "tags": [30, 31, 32],
                "tags:weight": [0.25, 2.0, 4.0],
                "tags:lengths": [2, 0, 1],
            },
        )
    ]


def test_a_context_without_impressions_makes_no_group():
    groups = build(ROWS[:7])

    assert [(group["user"], group["sample_id"]) for _, group in groups] == [
        ([1], [11, 12, 13]),
        ([5], [14]),
    ]


def test_impressions_without_a_context_make_a_group_without_its_values():
    groups = build(ROWS, user="optional")

    split, last = groups[-1]
    assert split == "test"
    assert (last["user"], last["visited"], last["visited:weight"]) == ([], [], [])
    assert (last["common_feature_index"], last["sample_id"], last["item"]) == (["D"], [15], [24])


@pytest.mark.parametrize(
    ("size", "samples"),
    [(1, [[11], [12], [13]]), (2, [[11, 12], [13]]), (3, [[11, 12, 13]])],
)
def test_a_group_is_cut_at_its_largest_size_and_each_part_has_the_context(size, samples):
    groups = [group for _, group in build(ROWS[:4], max_group_size=size)]

    assert [group["sample_id"] for group in groups] == samples
    assert all(group["visited"] == [2, 3] for group in groups)
    assert all(group["common_feature_index"] == ["A"] for group in groups)
    assert [tag for group in groups for tag in group["tags"]] == [30, 31, 32]


@pytest.mark.parametrize("batch_size", range(1, len(ROWS)))
def test_batches_of_any_size_give_the_same_groups(batch_size):
    whole = build(ROWS, user="optional", max_group_size=2)

    assert build(ROWS, user="optional", max_group_size=2, batch_size=batch_size) == whole
    assert [len(group["click"]) for _, group in whole] == [2, 1, 1, 1]


def test_the_truth_stands_beside_the_labels_if_the_schema_has_it():
    _, group = build(ROWS[:4], oracle=True)[0]

    np.testing.assert_allclose(group["oracle_pctr"], [0.11, 0.12, 0.13], rtol=1e-6)
    np.testing.assert_allclose(group["oracle_pcvr"], [0.055, 0.06, 0.065], rtol=1e-6)


def test_no_rows_make_no_groups():
    assert build([]) == []
