"""A table of impressions becomes groups: whole, in a seeded order, with faulty rows counted."""

import collections

import pytest

from esmm_tf import records
from esmm_tf.columns import HashBucketColumn, NumericColumn
from esmm_tf.errors import UserError
from esmm_tf.schema import Feature, Key, Labels, Schema
from pipelines import grouping
from pipelines.engine import DuckDBEngine, F

COLUMNS = ("request", "user", "query", "item", "brand", "price", "clicked", "bought")
HASHED = HashBucketColumn(hash_buckets=10)
LOG_SCHEMA = Schema(
    name="log",
    features=(
        Feature(name="user", side="context", dtype="int64", column=HASHED),
        Feature(name="query", side="context", dtype="string", column=HASHED, values="optional"),
        Feature(name="item", side="impression", dtype="int64", column=HASHED),
        Feature(name="brand", side="impression", dtype="string", column=HASHED, values="optional"),
        Feature(
            name="price",
            side="impression",
            dtype="float32",
            column=NumericColumn(),
            values="optional",
        ),
    ),
    keys=(Key(name="request", side="context", dtype="string"),),
    labels=Labels(click="clicked", conversion="bought"),
)
# Three requests in turn; of each, item 1 is clicked and item 2 bought.
LOG = [
    f"{request},{user},{query},{item},{brand},{item}.5,{int(item in (1, 2))},{int(item == 2)}"
    for item, brand in ((3, "acme"), (1, ""), (2, "NULL"))
    for request, user, query in (("r1", 7, "shoes"), ("r2", 8, ""), ("r3", 9, "hats"))
]
GOOD = "r1,7,shoes,1,acme,2.5,0,0"
FAULTS = [
    ("r1,x,shoes,1,acme,2.5,0,0", "user is no bigint"),
    ("r1,7,shoes,1.5,acme,2.5,0,0", "item is no bigint"),
    ("r1,7,shoes,9223372036854775808,acme,2.5,0,0", "item is no bigint"),
    ("r1,7,shoes,1,acme,cheap,0,0", "price is no double"),
    ("r1,7,shoes,1,acme,nan,0,0", "price is no double"),
    ("r1,7,shoes,1,acme,-inf,0,0", "price is no double"),
    ("r1,7,shoes,1,acme,1e39,0,0", "price is no double"),
    ("r1,7,shoes,1,acme,2.5,yes,0", "clicked is no bigint"),
    ("r1,7,shoes,1,acme,2.5,0.4,0", "clicked is no bigint"),
    ("r1,7,shoes,1,acme,2.5,2,0", "clicked is not 0 or 1"),
    ("r1,7,shoes,1,acme,2.5,,0", "clicked is not 0 or 1"),
    ("r1,7,shoes,1,acme,2.5,1,-1", "bought is not 0 or 1"),
    ("r1,7,shoes,1,acme,2.5,1,", "bought is not 0 or 1"),
    ("r1,7,shoes,1,acme,2.5,0,1", "conversion without click"),
    ("r1,,shoes,1,acme,2.5,0,0", "user is missing"),
    ("r1,7,shoes,,acme,2.5,0,0", "item is missing"),
    (",7,shoes,1,acme,2.5,0,0", "request is missing"),
    # All at once: the first counts.
    (",x,,,,cheap,0,1", "user is no bigint"),
]


class EngineOfSingleRows(DuckDBEngine):
    """Streams one row at a time, so that every group spans batches."""

    def stream(self, frame):
        for batch in super().stream(frame):
            yield from (batch.slice(place, 1) for place in range(len(batch)))


@pytest.fixture
def group_log(tmp_path):
    """Returns a function of the lines of a log: its groups with their split, and rejections."""

    def group_log(lines, *, engine_type=DuckDBEngine, split="train", **settings):
        path = tmp_path / "log.csv"
        path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n", encoding="utf-8")
        settings = {"group_by": "request", "seed": 1, "max_group_size": 100} | settings
        rejected = collections.Counter()
        with engine_type(memory_limit="1GB") as engine:
            log = engine.read_csv(str(path)).withColumn(grouping.SPLIT, F.expr(split_of(split)))
            table = grouping.typed_table(log, LOG_SCHEMA)
            groups = list(
                grouping.read_groups(engine, table, LOG_SCHEMA, rejected=rejected, **settings)
            )
        for _, group in groups:
            records.check_group(group, LOG_SCHEMA)
        return groups, rejected

    return group_log


def split_of(split):
    return split if "case" in split else f"'{split}'"


def plain(groups):
    """Returns groups as comparable Python values."""
    return [(split, {k: list(map(str, v)) for k, v in group.items()}) for split, group in groups]


def requests(groups):
    return [group["request"][0] for _, group in groups]


def items(groups):
    return [group["item"].tolist() for _, group in groups]


def test_a_group_holds_its_context_once_and_its_impressions_in_order(group_log):
    groups, rejected = group_log(LOG)

    by_request = {group["request"][0]: group for _, group in groups}
    assert set(by_request) == {"r1", "r2", "r3"}
    assert {key: list(values) for key, values in by_request["r1"].items()} == {
        "user": [7],
        "query": ["shoes"],
        "item": [1, 2, 3],
        "brand": ["acme"],
        "brand:lengths": [0, 0, 1],
        "price": [1.5, 2.5, 3.5],
        "price:lengths": [1, 1, 1],
        "request": ["r1"],
        "click": [1, 1, 0],
        "conversion": [0, 1, 0],
    }
    assert list(by_request["r2"]["query"]) == []
    assert not rejected


def test_a_group_goes_to_the_split_of_its_rows(group_log):
    groups, _ = group_log(LOG, split="case when request = 'r2' then 'test' else 'train' end")

    splits = {group["request"][0]: split for split, group in groups}
    assert splits == {"r1": "train", "r2": "test", "r3": "train"}


def test_groups_may_be_told_apart_by_a_number(group_log):
    groups, _ = group_log(LOG, group_by="user")

    assert sorted(group["user"].tolist() for _, group in groups) == [[7], [8], [9]]
    assert items(groups) == [[1, 2, 3]] * 3


def test_groups_are_whole_however_the_rows_are_streamed(group_log):
    lines = [*LOG, "r4,7,,1,,,0,0", "r5,7,,x,,,0,0"]
    whole, rejected = group_log(lines)

    in_single_rows, rejected_in_single_rows = group_log(lines, engine_type=EngineOfSingleRows)

    assert len(whole) == 4
    assert plain(in_single_rows) == plain(whole)
    assert rejected_in_single_rows == rejected == {"item is no bigint": 1}


@pytest.mark.parametrize(
    ("limit", "pieces"), [(1, [[1], [2], [3]]), (2, [[1, 2], [3]]), (3, [[1, 2, 3]])]
)
def test_a_group_is_cut_at_the_largest_size(group_log, limit, pieces):
    groups, _ = group_log(LOG, max_group_size=limit)

    of_first = [group for _, group in groups if group["request"][0] == "r1"]
    assert [group["item"].tolist() for group in of_first] == pieces
    assert {tuple(group["query"]) for group in of_first} == {("shoes",)}


def test_the_order_of_the_log_does_not_matter(group_log):
    lines = [*LOG, *(f"r9,1,,1,brand{place},,0,0" for place in range(5))]

    forward, _ = group_log(lines)
    backward, _ = group_log(lines[::-1])

    assert plain(forward) == plain(backward)


def test_another_seed_gives_the_same_groups_in_another_order(group_log):
    lines = [f"r{place},1,,{place},,,0,0" for place in range(20)]

    first, _ = group_log(lines, seed=1)
    second, _ = group_log(lines, seed=2)

    assert requests(first) != requests(second)
    assert sorted(requests(first)) == sorted(requests(second)) == sorted(f"r{p}" for p in range(20))


def test_a_faulty_row_is_left_out_and_counted_once(group_log):
    groups, rejected = group_log([GOOD, *(line for line, _ in FAULTS)])

    assert rejected == collections.Counter(reason for _, reason in FAULTS)
    assert items(groups) == [[1]]


def test_whole_numbers_may_be_written_in_any_way(group_log):
    numbers = ["1.0", "1e0", " 1 ", "+1", "1"]

    groups, rejected = group_log([GOOD.replace(",1,", f",{number},", 1) for number in numbers])

    assert items(groups) == [[1] * 5]
    assert not rejected


def test_no_digit_of_a_large_id_is_lost(group_log):
    numbers = [-(2**63), 2**53 + 1, 2**63 - 1]

    # The last row has no item: a column of numbers with a gap must not become one of floats.
    groups, rejected = group_log(
        [*(GOOD.replace(",1,", f",{number},", 1) for number in numbers), GOOD.replace(",1,", ",,")]
    )

    assert items(groups) == [numbers]
    assert rejected == {"item is missing": 1}


@pytest.mark.parametrize(("lines", "count"), [([], 0), ([GOOD.replace("r1", "")] * 3, 3)])
def test_no_rows_give_no_groups(group_log, lines, count):
    groups, rejected = group_log(lines)

    assert groups == []
    assert rejected.total() == count


@pytest.mark.parametrize("column", ["item", "clicked", "request"])
def test_a_column_that_the_table_lacks_is_named(column):
    left = [name for name in COLUMNS if name != column]
    message = rf"The table has no column '{column}', which schema 'log' names. It has \['b"

    with DuckDBEngine(memory_limit="1GB") as engine:
        frame = engine.session.createDataFrame([("",) * len(left)], left)
        with pytest.raises(UserError, match=message):
            grouping.typed_table(frame, LOG_SCHEMA)


def test_columns_of_lists_are_features_with_many_values():
    schema = Schema(
        name="lists",
        features=(
            Feature(name="user", side="context", dtype="int64", column=HASHED),
            Feature(name="visits", side="context", dtype="int64", column=HASHED, values="many"),
            Feature(name="tags", side="impression", dtype="string", column=HASHED, values="many"),
        ),
    )
    columns = ["user", "visits", "tags", "click", "conversion", grouping.SPLIT]
    rows = [(1, [5, 6], ["a"], 0, 0, "train"), (1, [5, 6], None, 1, 0, "train")]
    rows += [(1, [5, 6], ["b", "a"], 1, 1, "train"), (2, [], ["c"], 0, 0, "train")]
    rejected = collections.Counter()

    with DuckDBEngine(memory_limit="1GB") as engine:
        table = grouping.typed_table(engine.session.createDataFrame(rows, columns), schema)
        groups = list(
            grouping.read_groups(
                engine,
                table,
                schema,
                group_by="user",
                seed=1,
                max_group_size=10,
                rejected=rejected,
            )
        )

    first, second = sorted((group for _, group in groups), key=lambda group: group["user"][0])
    tags = dict(zip(first["click"] + first["conversion"], first["tags:lengths"], strict=True))
    assert first["visits"].tolist() == [5, 6]
    assert sorted(first["tags"]) == ["a", "a", "b"]
    assert tags == {0: 1, 1: 0, 2: 2}
    assert second["visits"].tolist() == []
    assert second["tags"].tolist() == ["c"]
    assert not rejected
    records.check_group(first, schema)
