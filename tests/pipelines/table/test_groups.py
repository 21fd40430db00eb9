"""A table of impressions becomes groups: whole, in a seeded order, with faulty rows counted."""

import collections

import pytest

from esmm_pipelines.engines.duckdb_engine import DuckDBEngine, F
from esmm_pipelines.grouping.config import SplitConfig
from esmm_pipelines.table import groups as grouping
from esmm_pipelines.table import records as table_records
from esmm_tf.data import records
from esmm_tf.schema.columns import HashBucketColumn, NumericColumn
from esmm_tf.schema.schema import Feature, Key, Labels, Schema

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


def in_single_rows(batches):
    """Yields one row at a time, so that every group spans batches."""
    for batch in batches:
        yield from (batch.slice(place, 1) for place in range(len(batch)))


@pytest.fixture
def group_log(tmp_path):
    """Returns a function of the lines of a log: its groups with their split, and rejections."""

    def group_log(lines, *, cut=lambda batches: batches, seed=1, limit=100, **layout):
        path = tmp_path / "log.csv"
        path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n", encoding="utf-8")
        with DuckDBEngine(memory_limit="1GB") as engine:
            table = table_records.checked_table(
                engine,
                engine.read_csv(str(path)),
                LOG_SCHEMA,
                layout=table_records.Layout(**{"group_by": "request"} | layout),
                split=SplitConfig(validation_share=0, test_share=0),
                seed=seed,
            )
            reason = F.col(table_records.REASON)
            faulty = engine.stream(table.where(reason.isNotNull()).select(reason))
            rejected = collections.Counter(r for batch in faulty for r in batch[0].to_pylist())
            order = table_records.row_order(LOG_SCHEMA)
            rows = engine.stream(table.where(reason.isNull()).orderBy(*order))
            builder = grouping.GroupBuilder(schema=LOG_SCHEMA, max_group_size=limit)
            groups = list(builder(cut(rows)))
        for _, group in groups:
            records.check_group(group, LOG_SCHEMA)
        return groups, rejected

    return group_log


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


def test_groups_may_be_told_apart_by_a_number(group_log):
    groups, _ = group_log(LOG, group_by="user")

    assert sorted(group["user"].tolist() for _, group in groups) == [[7], [8], [9]]
    assert items(groups) == [[1, 2, 3]] * 3


def test_groups_are_whole_however_the_rows_are_streamed(group_log):
    lines = [*LOG, "r4,7,,1,,,0,0", "r5,7,,x,,,0,0"]
    whole, rejected = group_log(lines)

    cut, rejected_when_cut = group_log(lines, cut=in_single_rows)

    assert len(whole) == 4
    assert plain(cut) == plain(whole)
    assert rejected_when_cut == rejected == {"item is no bigint": 1}


@pytest.mark.parametrize(
    ("limit", "pieces"), [(1, [[1], [2], [3]]), (2, [[1, 2], [3]]), (3, [[1, 2, 3]])]
)
def test_a_group_is_cut_at_the_largest_size(group_log, limit, pieces):
    groups, _ = group_log(LOG, limit=limit)

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
