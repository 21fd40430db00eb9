"""A table of one's own becomes a data set: types, weights, groups, splits and rejected rows."""

import collections
import csv
import dataclasses
import datetime
import decimal
import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark.sql
import pytest
import tensorflow as tf

from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.grouping.config import DataSetConfig, SplitConfig
from esmm_pipelines.table import command as table
from esmm_tf.config import flags
from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn, manifest
from esmm_tf.data.source import check_schema, find_source
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file
from esmm_tf.schema.columns import HashBucketColumn, NumericColumn
from esmm_tf.schema.schema import Feature, Key, Labels, Schema

ROOT = pathlib.Path(__file__).parents[3]
ENGINES = ["duckdb", pytest.param("spark", marks=pytest.mark.spark)]
SPARK = EngineConfig(
    engine="spark", master="local[1]", spark_conf=("spark.sql.shuffle.partitions=2",)
)
HASHED = HashBucketColumn(hash_buckets=100)
SHOP = Schema(
    name="shop",
    features=(
        Feature(name="User", side="context", dtype="int64", column=HASHED),
        Feature(
            name="seen items",
            side="context",
            dtype="int64",
            column=HASHED,
            values="many",
            weighted=True,
        ),
        Feature(name="item", side="impression", dtype="int64", column=HASHED, weighted=True),
        Feature(name="tags", side="impression", dtype="string", column=HASHED, values="many"),
        Feature(
            name="price",
            side="impression",
            dtype="float32",
            column=NumericColumn(),
            values="optional",
        ),
    ),
    keys=(Key(name="request", side="context", dtype="string"),),
    labels=Labels(click="clicked", conversion="bought", example_weight="weight"),
    group_key="request",
    carry=("request",),
    oracle=True,
)
FLAT = Schema(
    name="flat",
    features=(Feature(name="item", side="impression", dtype="int64", column=HASHED),),
    keys=(Key(name="sample", side="impression", dtype="int64"),),
)
GOOD = {
    "request": "r1",
    "User": 7,
    "seen items": [5, 6],
    "seen items_weight": [0.5, 0.25],
    "item": 1,
    "item_weight": 2.0,
    "tags": ["a"],
    "price": 1.5,
    "clicked": 1,
    "bought": 0,
    "weight": 0.75,
    "oracle_pctr": 0.5,
    "oracle_pcvr": 0.125,
}
FAULTS = [
    ({"seen items": [5, None]}, "seen items holds a missing value"),
    ({"seen items_weight": [0.5]}, "seen items has another number of weights"),
    ({"seen items_weight": None}, "seen items has another number of weights"),
    ({"seen items_weight": [0.5, None]}, "seen items_weight holds a missing value"),
    ({"seen items_weight": [0.5, float("inf")]}, "seen items_weight is no array<double>"),
    ({"item_weight": None}, "item has another number of weights"),
    ({"item_weight": float("nan")}, "item_weight is no double"),
    ({"tags": [None]}, "tags holds a missing value"),
    ({"clicked": 2}, "clicked is not 0 or 1"),
    ({"clicked": 0, "bought": 1}, "conversion without click"),
    ({"weight": -1.0}, "weight is below 0"),
    ({"weight": None}, "weight is missing"),
    ({"oracle_pctr": float("nan")}, "oracle_pctr is no double"),
    ({"oracle_pcvr": -0.5}, "oracle_pcvr is below 0"),
    ({"request": None}, "request is missing"),
]


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def one_spark_session():
    """Lets the tests of this file share a session: to start one takes longer than most of them."""
    sessions = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyspark.sql.SparkSession, "stop", lambda session: sessions.append(session))
        yield
    for session in sessions[:1]:
        session.stop()


@pytest.fixture
def convert(tmp_path):
    """Returns a function of rows and settings that makes a data set and returns its directory."""

    def convert(rows, schema=SHOP, *, engine="duckdb", split=None, **settings):
        toml_file.save_schema(schema, str(tmp_path), "my.toml")
        if not isinstance(rows, str):
            rows = write_parquet(tmp_path / "log.parquet", rows)
        fields = {field.name for field in dataclasses.fields(DataSetConfig)}
        output = {k: settings.pop(k) for k in tuple(settings) if k in fields}
        data_set = {"output_dir": str(tmp_path / "out"), "num_shards": 2} | output
        table.convert(
            table.TableConfig(input=(rows,), schema=str(tmp_path / "my.toml"), **settings),
            split or SplitConfig(validation_share=0, test_share=0),
            DataSetConfig(**data_set),
            SPARK if engine == "spark" else EngineConfig(),
        )
        return pathlib.Path(data_set["output_dir"])

    return convert


def read_groups(directory, split="train"):
    """Returns the groups of a split, each a mapping from record key to list."""
    found = manifest.load_manifest(str(directory))
    files = [str(directory / shard.file) for shard in found.splits.get(split, ())]
    return [decode(serialized) for serialized in tf.data.TFRecordDataset(files).as_numpy_iterator()]


def decode(serialized):
    features = tf.train.Example.FromString(serialized).features.feature
    return {k: list(getattr(v, v.WhichOneof("kind")).value) for k, v in features.items()}


def read_rejected(directory):
    with (directory / "rejected" / "rows.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def flat_rows(number, **columns):
    return [
        {"sample": place, "item": 1, "click": 0, "conversion": 0}
        | {name: value(place) for name, value in columns.items()}
        for place in range(number)
    ]


def samples(directory, split):
    return {sample for group in read_groups(directory, split) for sample in group["sample"]}


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_become_groups_with_their_weights_labels_and_truth(convert, engine):
    second = GOOD | {"item": 2, "tags": [], "price": None, "clicked": 0, "oracle_pctr": 0.25}
    other = GOOD | {"request": "r2", "seen items": None, "seen items_weight": []}

    directory = convert([other, second, GOOD], engine=engine)

    groups = {group["request"][0]: group for group in read_groups(directory)}
    assert groups[b"r1"] == {
        "request": [b"r1"],
        "User": [7],
        "seen items": [5, 6],
        "seen items:weight": [0.5, 0.25],
        "item": [1, 2],
        "item:weight": [2.0, 2.0],
        "tags": [b"a"],
        "tags:lengths": [1, 0],
        "price": [1.5],
        "price:lengths": [1, 0],
        "click": [1, 0],
        "conversion": [0, 0],
        "example_weight": [0.75, 0.75],
        "oracle_pctr": [0.5, 0.25],
        "oracle_pcvr": [0.125, 0.125],
    }
    assert "seen items" not in groups[b"r2"]
    assert not (directory / "rejected").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_faulty_rows_are_left_out_listed_and_counted(convert, engine, capsys):
    rows = [GOOD, *(GOOD | fault for fault, _ in FAULTS)]

    directory = convert(rows, engine=engine, max_rejected=1.0)

    expected = collections.Counter(reason for _, reason in FAULTS)
    assert manifest.load_manifest(str(directory)).rejected == expected
    assert [group["item"] for group in read_groups(directory)] == [[1]]
    header, *listed = read_rejected(directory)
    assert header == ["group", "reason"]
    assert collections.Counter(reason for _, reason in listed) == expected
    assert [group for group, reason in listed if reason != "request is missing"] == ["r1"] * 14
    assert "rejected 1 rows: weight is below 0" in capsys.readouterr().out


# Column, dtype and values of a feature, and what its record holds of both rows.
TYPED = [
    (pa.array([True, False]), "int64", "one", [1, 0]),
    (pa.array([3, 250], pa.uint8()), "int64", "one", [3, 250]),
    (pa.array([3, 2**63 - 1], pa.uint64()), "int64", "one", [3, 2**63 - 1]),
    (pa.array([2.0, 3.0]), "int64", "one", [2, 3]),
    (pa.array(["2.0", " +3 "]), "int64", "one", [2, 3]),
    (pa.array([decimal.Decimal("2.00"), decimal.Decimal("3.00")]), "int64", "one", [2, 3]),
    (pa.array([1, 2], pa.int8()), "float32", "one", [1.0, 2.0]),
    (pa.array([0.5, 1.5], pa.float32()), "float32", "one", [0.5, 1.5]),
    (pa.array([decimal.Decimal("0.50"), None]), "float32", "optional", [0.5]),
    (pa.array(["x", "y"]).dictionary_encode(), "string", "one", [b"x", b"y"]),
    (pa.array([7, 8]), "string", "one", [b"7", b"8"]),
    (pa.array([datetime.date(2024, 1, 31)] * 2), "string", "one", [b"2024-01-31"] * 2),
    (
        pa.array([datetime.datetime(2024, 1, 31, 9)] * 2, pa.timestamp("us")),
        "string",
        "one",
        [b"2024-01-31 09:00:00"] * 2,
    ),
    (pa.nulls(2), "string", "optional", []),
    (pa.array([[1, 2], [3]], pa.list_(pa.int32())), "int64", "many", [1, 2, 3]),
    (pa.array([["1", "2.0"], None]), "int64", "many", [1, 2]),
    (pa.array([[0.5], []], pa.list_(pa.float32())), "string", "many", [b"0.5"]),
    (pa.array([4, None]), "int64", "many", [4]),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_columns_of_any_type_become_that_of_the_schema(convert, tmp_path, engine):
    features = tuple(
        Feature(
            name=f"f{place}",
            side="impression",
            dtype=dtype,
            column=NumericColumn() if dtype == "float32" else HASHED,
            values=values,
        )
        for place, (_, dtype, values, _) in enumerate(TYPED)
    )
    columns = {f"f{place}": column for place, (column, *_) in enumerate(TYPED)}
    zeros = pa.array([0, 0])
    columns |= {"sample": pa.array([0, 1]), "group": zeros, "click": zeros, "conversion": zeros}
    path = tmp_path / "typed.parquet"
    pq.write_table(pa.table(columns), path)
    schema = dataclasses.replace(FLAT, features=features)

    directory = convert(str(path), schema, engine=engine, group_by="group", max_rejected=0.0)

    (group,) = read_groups(directory)
    # Rows are ordered by their values, and f0 puts the second before the first.
    for place, (_, _, values, expected) in enumerate(TYPED):
        found = group.get(f"f{place}", [])
        assert sorted(found) == sorted(expected), place
        if values == "one":
            assert found == expected[::-1], place


@pytest.mark.parametrize(
    ("column", "dtype", "message"),
    [
        (
            pa.array([[1], [2]]),
            "int64",
            "Column 'item' holds lists, array<bigint>, and schema 'flat' reads one value of it. "
            "Set values = 'many', or give a column of single values.",
        ),
        (
            pa.array([b"x", b"y"]),
            "string",
            "Column 'item' is of type binary, which cannot become string. Convert it in the table.",
        ),
        (
            pa.array([{"a": 1}] * 2),
            "string",
            "Column 'item' is of type struct<a:bigint>, which cannot become string.",
        ),
        (
            pa.array([datetime.date(2024, 1, 31)] * 2),
            "int64",
            "Column 'item' is of type date, which cannot become bigint. Convert it in the table.",
        ),
    ],
)
def test_a_column_of_a_type_that_cannot_be_converted_is_told(
    convert, tmp_path, column, dtype, message
):
    zeros = pa.array([0, 0])
    path = tmp_path / "typed.parquet"
    columns = {"item": column, "sample": zeros, "click": zeros, "conversion": zeros}
    pq.write_table(pa.table(columns), path)
    feature = dataclasses.replace(FLAT.features[0], dtype=dtype)

    with pytest.raises(UserError, match=re.escape(message)):
        convert(str(path), dataclasses.replace(FLAT, features=(feature,)))


def test_several_files_are_read_by_a_pattern_or_a_directory(convert, tmp_path):
    (tmp_path / "logs").mkdir()
    for place in range(3):
        columns = {"extra": lambda place: place} if place == 1 else {}
        rows = [row | {"sample": place} for row in flat_rows(1, **columns)]
        write_parquet(tmp_path / "logs" / f"{place}.parquet", rows)

    by_pattern = convert(str(tmp_path / "logs" / "[01].parquet"), FLAT)
    by_directory = convert(str(tmp_path / "logs"), FLAT, overwrite=True, output_dir=str(by_pattern))

    assert samples(by_directory, "train") == {0, 1, 2}


def test_a_csv_file_is_read_and_its_damaged_rows_are_counted_and_listed(convert, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("sample,item,click,conversion\n0,1,1,1\n1,x,0,0\n2\n3,,0,0\n4,1,0,0\n")

    directory = convert(str(path), FLAT, max_rejected=0.6)

    reasons = {"item is no bigint": 1, "item is missing": 1, "no CSV row: missing columns": 1}
    assert samples(directory, "train") == {0, 4}
    assert manifest.load_manifest(str(directory)).rejected == reasons
    assert read_rejected(directory) == [
        ["group", "reason"],
        ["item=x, sample=1, click=0, conversion=0", "item is no bigint"],
        ["sample=3, click=0, conversion=0", "item is missing"],
        ["", "no CSV row: missing columns"],
    ]


def test_a_damaged_value_of_a_csv_counts_even_if_nothing_reads_it_but_the_records(
    convert, tmp_path
):
    feature = Feature(
        name="text", side="impression", dtype="string", column=HASHED, values="optional"
    )
    path = tmp_path / "log.csv"
    path.write_bytes(b"text,sample,click,conversion\na,0,0,0\n\xff,1,0,0\n")

    directory = convert(str(path), dataclasses.replace(FLAT, features=(feature,)), max_rejected=0.5)

    assert manifest.load_manifest(str(directory)).rejected == {"no CSV row: invalid encoding": 1}
    assert len(read_rejected(directory)) == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_rows_of_one_group_with_other_contexts_are_records_of_their_own(convert, engine):
    contexts = [
        {"User": 7, "seen items": [5, 6]},
        {"User": 8, "seen items": [5, 6]},
        {"User": 7, "seen items": [6, 5]},
        {"User": 7, "seen items": [5, 6], "seen items_weight": [0.5, 0.75]},
    ]
    rows = [GOOD | context | {"item": item} for item in (1, 2) for context in contexts]

    groups = read_groups(convert(rows, engine=engine))

    assert [group["request"] for group in groups] == [[b"r1"]] * 4
    assert [sorted(group["item"]) for group in groups] == [[1, 2]] * 4
    found = {(*g["User"], *g["seen items"], *g["seen items:weight"]) for g in groups}
    assert found == {
        (7, 5, 6, 0.5, 0.25),
        (8, 5, 6, 0.5, 0.25),
        (7, 6, 5, 0.5, 0.25),
        (7, 5, 6, 0.5, 0.75),
    }


def test_contexts_of_texts_that_read_alike_when_joined_stay_apart(convert):
    features = tuple(
        Feature(name=name, side="context", dtype="string", column=HASHED, values="many")
        for name in ("a", "b")
    )
    schema = dataclasses.replace(FLAT, features=(*features, *FLAT.features))
    lists = [(["x,1:y"], []), (["x", "y"], []), (["x"], ["y"]), ([], ["x", "y"])]
    rows = flat_rows(4, a=lambda place: lists[place][0], b=lambda place: lists[place][1])

    assert len(read_groups(convert(rows, schema))) == 4


def test_rows_with_the_same_context_are_a_group_if_nothing_tells_groups_apart(convert):
    schema = dataclasses.replace(SHOP, group_key=None, keys=(), carry=())
    rows = [GOOD | {"User": user, "item": item} for item in (1, 2) for user in (7, 8, None)]

    directory = convert(rows, schema, max_rejected=0.5)

    groups = sorted(read_groups(directory), key=lambda group: group["User"])
    assert [group["User"] for group in groups] == [[7], [8]]
    assert [group["item"] for group in groups] == [[1, 2]] * 2


def test_each_row_is_a_group_without_a_context(convert):
    rows = [*flat_rows(5), *flat_rows(5)]  # each of them twice

    groups = read_groups(convert(rows, FLAT))

    assert sorted(group["sample"] for group in groups) == sorted([[n] for n in range(5)] * 2)


def test_groups_are_told_apart_by_any_column_and_cut_at_the_largest_size(convert):
    rows = flat_rows(6, visit=lambda place: place % 2)

    groups = read_groups(convert(rows, FLAT, group_by="visit", max_group_size=2))

    assert sorted(map(tuple, (group["sample"] for group in groups))) == [
        (0, 2),
        (1, 3),
        (4,),
        (5,),
    ]


@pytest.mark.parametrize(
    "time",
    [
        lambda place: place,
        lambda place: datetime.datetime(2024, 1, 1) + datetime.timedelta(minutes=place),
        lambda place: datetime.date(2024, 1, 1) + datetime.timedelta(days=place),
        lambda place: f"2024-01-01 00:{place:02d}:00",
        lambda place: str(place),  # "9" comes before "10"
    ],
)
def test_the_latest_groups_are_the_test_and_those_before_the_validation(convert, time):
    split = SplitConfig(validation_share=0.25, test_share=0.25)

    directory = convert(flat_rows(13, time=time), FLAT, split=split, time_column="time")

    assert samples(directory, "train") == set(range(6))
    assert samples(directory, "validation") == {6, 7, 8}
    assert samples(directory, "test") == {9, 10, 11, 12}


def test_the_time_of_a_group_is_its_earliest_and_a_row_of_unknown_time_is_rejected(convert):
    times = ["2024-01-01", "2024-01-04", "2024-01-02", "2024-01-03", "soon", None, "soon"]
    groups = [1, 1, 2, 3, 1, 4, 4]
    rows = flat_rows(7, time=lambda place: times[place], group=lambda place: groups[place])
    split = SplitConfig(validation_share=0.0, test_share=0.5)

    directory = convert(
        rows, FLAT, split=split, time_column="time", group_by="group", max_rejected=0.5
    )

    assert samples(directory, "train") == {0, 1, 4}
    assert samples(directory, "test") == {2, 3}
    assert read_rejected(directory)[1:] == [["4", "its time is not known"]] * 2


def test_a_column_names_the_split_and_no_record_spans_two(convert):
    names = ["train", "test", "validation", "train", "Train", None]
    rows = flat_rows(6, part=lambda place: names[place], group=lambda _: 1)

    directory = convert(rows, FLAT, split_column="part", group_by="group", max_rejected=0.5)

    assert samples(directory, "train") == {0, 3}
    assert samples(directory, "test") == {1}
    assert samples(directory, "validation") == {2}
    reason = "part is none of train, validation, test"
    assert read_rejected(directory)[1:] == [["1", reason]] * 2


def test_groups_are_divided_by_chance_whole_and_alike_for_a_seed(convert, tmp_path):
    rows = flat_rows(600, group=lambda place: place // 2)
    split = SplitConfig(validation_share=0.1, test_share=0.2)
    found = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        out = str(tmp_path / name)
        directory = convert(rows, FLAT, split=split, group_by="group", seed=seed, output_dir=out)
        found[name] = {
            split: samples(directory, split) for split in ("train", "validation", "test")
        }

    for parts in found.values():
        assert sum(map(len, parts.values())) == 600
        assert all(sample ^ 1 in part for part in parts.values() for sample in part)
        assert len(parts["test"]) == pytest.approx(120, abs=56)
        assert len(parts["validation"]) == pytest.approx(60, abs=42)
    assert found["first"] == found["again"]
    assert found["first"]["test"] != found["other"]["test"]
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.tfrecord")}
        for name in ("first", "again")
    ]
    assert contents[0] == contents[1]


def sampled_rows(number, *, click_rate=0.1):
    """Returns rows of 8 a request, with many equal values and many missing ones."""
    rng = np.random.default_rng(1)
    clicked = rng.random(number) < click_rate
    bought = clicked & (rng.random(number) < 0.5)
    return [
        GOOD
        | {
            "request": f"r{place // 8}",
            "item": int(rng.integers(3)),
            "tags": [[], ["a"], ["a", "b"]][rng.integers(3)],
            "price": [None, -1.5, 10.0][rng.integers(3)],
            "clicked": int(clicked[place]),
            "bought": int(bought[place]),
        }
        for place in range(number)
    ]


def count_labels(groups):
    """Returns how many impressions have each pair of click and conversion."""
    return collections.Counter(
        pair for group in groups for pair in zip(group["click"], group["conversion"], strict=True)
    )


def is_binomial(count, number, rate):
    """Returns whether a count is within 4 standard deviations of its mean."""
    return abs(count - number * rate) < 4 * np.sqrt(number * rate * (1 - rate))


def test_clicked_rows_are_kept_and_of_the_others_a_share_but_all_of_the_test(
    convert, tmp_path, capsys
):
    rows = [*sampled_rows(2_400), GOOD | {"clicked": 2}]
    settings = {"split": SplitConfig(validation_share=0.25, test_share=0.25)}
    whole = convert(rows, output_dir=str(tmp_path / "whole"), **settings)
    capsys.readouterr()

    directory = convert(rows, negative_keep_rate=0.2, **settings)

    printed = capsys.readouterr().out
    found = manifest.load_manifest(str(directory))
    assert found.negative_keep_rate == {"train": 0.2, "validation": 0.2}
    assert found.source["negative_keep_rate"] == 0.2
    assert found.rejected == {"clicked is not 0 or 1": 1}
    for split in ("train", "validation"):
        before, after = (count_labels(read_groups(of, split)) for of in (whole, directory))
        assert after[1, 0] == before[1, 0] > 0
        assert after[1, 1] == before[1, 1] > 0
        assert is_binomial(after[0, 0], before[0, 0], 0.2)
        assert found.sampled_out[split] == before[0, 0] - after[0, 0]
        line = f"left out {found.sampled_out[split]:,} of {before[0, 0]:,} unclicked impressions"
        assert f"{line} of {split} (--negative_keep_rate=0.2)\n" in printed
    assert read_groups(directory, "test") == read_groups(whole, "test")
    written = sum(found.impressions(split) for split in found.splits)
    assert written + sum(found.sampled_out.values()) + sum(found.rejected.values()) == len(rows)


@pytest.mark.spark
def test_both_engines_keep_the_same_rows(convert, tmp_path):
    settings = {
        "negative_keep_rate": 0.3,
        "split": SplitConfig(validation_share=0.25, test_share=0.25),
    }
    rows = sampled_rows(800)
    found = [
        convert(rows, engine=engine, output_dir=str(tmp_path / engine), **settings)
        for engine in ("duckdb", "spark")
    ]

    first, second = (
        {
            split: sorted(json.dumps(group, default=repr) for group in read_groups(of, split))
            for split in ("train", "validation", "test")
        }
        for of in found
    )
    first_counts, second_counts = (manifest.load_manifest(str(of)).sampled_out for of in found)

    assert first == second
    assert first_counts == second_counts


def test_a_seed_keeps_the_same_rows_each_time_and_another_one_others(convert, tmp_path):
    rows = [row | {"oracle_pctr": place / 400} for place, row in enumerate(sampled_rows(400))]
    contents, kept = {}, {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        out = str(tmp_path / name)
        directory = convert(rows, seed=seed, output_dir=out, negative_keep_rate=0.3)
        contents[name] = [path.read_bytes() for path in sorted(directory.glob("*.tfrecord"))]
        kept[name] = {pctr for group in read_groups(directory) for pctr in group["oracle_pctr"]}

    assert contents["first"] == contents["again"]
    assert kept["first"] != kept["other"]
    assert 0.1 < len(kept["first"] & kept["other"]) / len(kept["first"]) < 0.6


@pytest.mark.parametrize("group_by", ["", "request"])
def test_equal_rows_are_not_kept_or_left_out_together(convert, group_by):
    rows = [{"item": place % 2, "click": 0, "conversion": 0, "request": 1} for place in range(1000)]

    directory = convert(
        rows, dataclasses.replace(FLAT, keys=()), group_by=group_by, negative_keep_rate=0.25
    )

    items = collections.Counter(item for group in read_groups(directory) for item in group["item"])
    assert is_binomial(items[0], 500, 0.25)
    assert is_binomial(items[1], 500, 0.25)


def test_groups_are_cut_after_rows_are_left_out_and_empty_ones_are_not_written(convert):
    rows = flat_rows(400, visit=lambda place: min(place, 200))
    split = SplitConfig(validation_share=0, test_share=0)

    directory = convert(
        rows, FLAT, group_by="visit", max_group_size=10, negative_keep_rate=0.25, split=split
    )

    sizes = collections.Counter(len(group["sample"]) for group in read_groups(directory))
    left_out = manifest.load_manifest(str(directory)).sampled_out["train"]
    assert sum(size * count for size, count in sizes.items()) + left_out == 400
    assert sizes[10] >= 3  # of about 50 rows of the last visit
    assert is_binomial(sizes[1], 200, 0.25)  # the other visits have one row each
    assert len(sizes) <= 3


def test_a_log_of_which_everything_is_left_out_is_told(convert):
    with pytest.raises(
        UserError, match=r"Left out by --negative_keep_rate: \{'train': 20, 'validation': 0\}."
    ):
        convert(flat_rows(20), FLAT, negative_keep_rate=1e-9)


def test_too_many_rejected_rows_end_the_job_before_anything_is_replaced(convert):
    directory = convert([GOOD])
    before = (directory / "manifest.json").read_bytes()
    rows = [GOOD] * 8 + [GOOD | {"clicked": 2}] * 2
    message = re.escape(
        "2 of 10 rows were rejected, a share of 0.2, and --max_rejected is 0.1. The commonest "
        f"reasons: clicked is not 0 or 1 (2). They are listed in '{directory}/rejected/rows.csv'."
    )

    with pytest.raises(UserError, match=message):
        convert(rows, overwrite=True, max_rejected=0.1)

    assert (directory / "manifest.json").read_bytes() == before
    assert read_groups(directory)
    assert read_rejected(directory)[1:] == [["r1", "clicked is not 0 or 1"]] * 2


@pytest.mark.parametrize("rows", [[], [GOOD | {"clicked": 2}]])
def test_a_table_without_a_good_row_replaces_nothing(convert, tmp_path, rows):
    directory = convert([GOOD])
    path = tmp_path / "other.parquet"
    pq.write_table(pa.Table.from_pylist(rows, pa.Table.from_pylist([GOOD]).schema), path)

    with pytest.raises(UserError, match=r"No row of \d is left to write to .* Check the input."):
        convert(str(path), overwrite=True, max_rejected=1.0)

    assert read_groups(directory)


def test_a_finished_data_set_is_replaced_on_demand_only(convert):
    directory = convert([GOOD, GOOD | {"clicked": 2}], max_rejected=0.5)
    assert (directory / "rejected").exists()

    with pytest.raises(UserError, match=r"already holds a data set. .* --overwrite."):
        convert([GOOD, GOOD])

    convert([GOOD, GOOD], overwrite=True)
    assert [group["click"] for group in read_groups(directory)] == [[1, 1]]
    assert not (directory / "rejected").exists()


@pytest.mark.parametrize(
    ("missing", "named_by"),
    [
        ("item", "schema 'shop'"),
        ("seen items_weight", "schema 'shop'"),
        ("bought", "schema 'shop'"),
        ("weight", "schema 'shop'"),
        ("oracle_pcvr", "schema 'shop'"),
    ],
)
def test_a_column_that_the_table_lacks_is_named(convert, missing, named_by):
    row = {name: value for name, value in GOOD.items() if name != missing}
    message = (
        rf"The table has no column '{missing}', which {named_by} names. It has \['bought'|\['c"
    )

    with pytest.raises(UserError, match=message):
        convert([row])


@pytest.mark.parametrize("flag", ["group_by", "time_column", "split_column"])
def test_a_column_that_a_flag_names_and_the_table_lacks_is_named(convert, flag):
    message = f"The table has no column 'absent', which --{flag} names."

    with pytest.raises(UserError, match=message):
        convert([GOOD], **{flag: "absent"})


def test_missing_files_are_told(convert, tmp_path):
    with pytest.raises(UserError, match=r"Cannot read .*absent.parquet"):
        convert(str(tmp_path / "absent.parquet"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": ()}, "--input names no file."),
        ({"input": ("a.csv", "b.csv")}, "A .csv file is read alone."),
        (
            {"input": ("a",), "time_column": "t", "split_column": "s"},
            "--time_column is 't' and --split_column 's'. Give one of them.",
        ),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        table.TableConfig(schema="my.toml", **settings)


def test_input_fn_parses_what_was_written(convert):
    rows = [GOOD | {"request": f"r{place % 3}", "item": place} for place in range(9)]
    directory = convert(rows)

    schema = toml_file.load_schema(str(directory / "schema.toml"))
    source = find_source(str(directory), split="train")
    check_schema(source, schema)
    (batch,) = input_fn.build_dataset(source, schema, InputConfig(), carry=True)

    items = batch.features["item"].to_tensor().numpy()[:, 0]
    requests = dict(zip(items, batch.carry["request"].numpy(), strict=True))
    assert requests == {place: f"r{place % 3}".encode() for place in range(9)}
    np.testing.assert_array_equal(batch.oracle["oracle_pcvr"], [0.125] * 9)
    np.testing.assert_array_equal(batch.example_weight, [0.75] * 9)


@pytest.mark.slow
def test_table_runs_from_the_command_line(tmp_path):
    toml_file.save_schema(SHOP, str(tmp_path), "my.toml")
    for place in range(2):
        write_parquet(tmp_path / f"{place}.parquet", [GOOD | {"request": str(place)}] * 3)
    settings = {"input": "*.parquet", "schema": "my.toml", "output_dir": "out", "test_share": 0}

    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "esmm_pipelines.table",
            *(f"--{k}={v}" for k, v in settings.items()),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "wrote 6 impressions to out\n"
    source = json.loads((tmp_path / "out" / "manifest.json").read_text())["source"]
    assert source["command"] == "esmm_pipelines.table"
    assert source["input"] == ["*.parquet"]
    assert source["test_share"] == 0


def test_the_example_of_the_readme_makes_the_records_it_tells_of(tmp_path, monkeypatch):
    text = (ROOT / "pipelines" / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Your own table")[2].partition("\n## ")[0]
    (tmp_path / "my.toml").write_text(section.split("```toml\n")[1].split("```")[0])
    header, _, *lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in section.split("a log such as")[1].split("becomes one record")[0].splitlines()
        if line.startswith("|")
    ]
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    for row in rows:
        row |= {name: cells(row[name]) for name in ("visited", "visited_weight")}
        row |= {name: row[name] or None for name in ("price",)}
    (tmp_path / "logs").mkdir()
    write_parquet(tmp_path / "logs" / "a.parquet", rows)
    command = section.split("```sh\n")[1].split("```")[0]
    received = []

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        flags.run(
            lambda *configs: received.extend(configs),
            table.TableConfig,
            SplitConfig,
            DataSetConfig,
            EngineConfig,
            argv=shlex.split(command)[2:],
        )
    table.convert(*received)

    (train,) = read_groups(tmp_path / "records", "train")
    (test,) = read_groups(tmp_path / "records", "test")
    assert train["request"] == [b"r1"]
    assert train["visited:weight"] == [1.5, 0.5]
    assert sorted(train["click"]) == [0, 1]
    assert test["conversion"] == [1]


def cells(text):
    return [cell for cell in text.strip("[]").split(", ") if cell]
