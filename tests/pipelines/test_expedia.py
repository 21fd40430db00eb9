"""Expedia's searches: derived columns, splits by time, rejections, and the real sample."""

import csv
import math
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from esmm_pipelines import expedia
from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.grouping.config import DataSetConfig, SplitConfig
from esmm_pipelines.synthetic import command as synthetic
from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn, manifest
from esmm_tf.data.source import check_schema, find_source
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file

ROOT = pathlib.Path(__file__).parents[2]
SAMPLE = ROOT.parent / "shared" / "data" / "expedia" / "train_1000_searches.csv"
HEADER = (
    "srch_id,date_time,site_id,visitor_location_country_id,visitor_hist_starrating,"
    "visitor_hist_adr_usd,prop_country_id,prop_id,prop_starrating,prop_review_score,"
    "prop_brand_bool,prop_location_score1,prop_location_score2,prop_log_historical_price,position,"
    "price_usd,promotion_flag,srch_destination_id,srch_length_of_stay,srch_booking_window,"
    "srch_adults_count,srch_children_count,srch_room_count,srch_saturday_night_bool,"
    "srch_query_affinity_score,orig_destination_distance,random_bool,"
    + "".join(f"comp{n}_rate,comp{n}_inv,comp{n}_rate_percent_diff," for n in range(1, 9))
    + "click_bool,gross_bookings_usd,booking_bool"
).split(",")
HOTEL = {
    "srch_id": 1,
    "date_time": "2013-01-01 00:00:00",
    "site_id": 5,
    "visitor_location_country_id": 219,
    "prop_country_id": 55,
    "prop_id": 10,
    "prop_starrating": 3,
    "prop_brand_bool": 1,
    "prop_location_score1": 2.5,
    "prop_log_historical_price": 4.5,
    "position": 9,
    "price_usd": 99.0,
    "promotion_flag": 0,
    "srch_destination_id": 77,
    "srch_length_of_stay": 2,
    "srch_booking_window": 26,
    "srch_adults_count": 1,
    "srch_children_count": 0,
    "srch_room_count": 1,
    "srch_saturday_night_bool": 1,
    "random_bool": 0,
    "click_bool": 0,
    "booking_bool": 0,
}
# Search 1 is checked by hand: log1p of its prices is 1, 2 and 3 times ln 2.
CHEAP = {
    "prop_id": 11,
    "price_usd": 1.0,
    "prop_starrating": 2,
    "prop_review_score": 4.0,
    "prop_location_score1": 1.5,
    "prop_location_score2": 0.25,
    "comp1_rate": "-1.0",
    "comp2_rate": -1,
    "comp3_rate": 1,
    "comp4_rate": 0,
    "comp4_inv": 1,
    "comp8_rate_percent_diff": 12,
    "click_bool": 1,
    "gross_bookings_usd": 230.5,
    "booking_bool": 1,
}
MIDDLE = {
    "prop_id": 12,
    "price_usd": 3.0,
    "prop_starrating": 3,
    "comp8_inv": 1,
    "comp7_inv": "NULL",
}
DEAR = {
    "prop_id": 13,
    "price_usd": 7.0,
    "prop_starrating": 4,
    "prop_review_score": 2.0,
    "prop_location_score1": 3.5,
    "prop_location_score2": 0.75,
    "click_bool": 1,
}
# Search -> day; the later ones have the lower numbers.
DAYS = {6: 1, 5: 2, 4: 3, 3: 4, 2: 5, 1: 6}
FAULTS = {
    "srch_id is missing": {"srch_id": ""},
    "prop_id is missing": {"prop_id": ""},
    "price_usd is no double": {"price_usd": "cheap"},
    "price_usd is missing": {"price_usd": "NULL"},
    "log_price_to_search is missing": {"price_usd": -2},
    "prop_review_score is no double": {"prop_review_score": "nan"},
    "conversion without click": {"booking_bool": 1},
    "click_bool is not 0 or 1": {"click_bool": 2},
}


def hotel(search, **values):
    return {
        **HOTEL,
        "srch_id": search,
        "date_time": f"2013-02-{DAYS[search]:02d} 10:00:00",
        **values,
    }


def write_csv(path, rows, *, header=HEADER, tail=""):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        file.write(tail)
    return path


def convert(path, output_dir, *, validation_share=0.25, **changes):
    settings = {"output_dir": str(output_dir), "num_shards": 2, "max_rejected": 0.6}
    expedia.convert(
        expedia.ExpediaConfig(input=str(path)),
        SplitConfig(validation_share=validation_share),
        DataSetConfig(**(settings | changes)),
        EngineConfig(memory_limit="1GB"),
    )


def read_groups(directory):
    """Returns the groups of each split, each a mapping from record key to list."""
    found = manifest.load_manifest(str(directory))
    return {
        split: [
            decode(serialized)
            for serialized in tf.data.TFRecordDataset(
                [str(directory / shard.file) for shard in shards]
            ).as_numpy_iterator()
        ]
        for split, shards in found.splits.items()
    }


def decode(serialized):
    features = tf.train.Example.FromString(serialized).features.feature
    return {k: list(getattr(v, v.WhichOneof("kind")).value) for k, v in features.items()}


def read_files(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.tfrecord")}


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Returns a log of six searches; search 4 has two good hotels and all faulty rows."""
    rows = [hotel(1, **DEAR), hotel(1, **CHEAP), hotel(1, **MIDDLE)]
    rows += [hotel(search, prop_id=search) for search in (2, 3, 5, 6)]
    rows += [hotel(4, prop_id=40), hotel(4, prop_id=41)]
    rows += [hotel(4, **fault) for fault in FAULTS.values()]
    path = tmp_path_factory.mktemp("log") / "train.csv"
    return write_csv(path, rows, tail="4,2013-02-03 10:00:00,5\n")


@pytest.fixture(scope="module")
def converted(log, tmp_path_factory):
    directory = tmp_path_factory.mktemp("converted")
    convert(log, directory)
    return directory


@pytest.fixture(scope="module")
def groups(converted):
    return read_groups(converted)


@pytest.fixture(scope="module")
def first_search(groups):
    (group,) = [g for split in groups.values() for g in split if g["srch_id"] == [1]]
    return group


def test_a_search_is_a_group_of_its_hotels(first_search):
    assert first_search["prop_id"] == [11, 12, 13]
    assert first_search["click"] == [1, 0, 1]
    assert first_search["conversion"] == [1, 0, 0]
    assert first_search["site_id"] == [5]
    assert first_search["hotels_in_search"] == [3]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("price_usd", [1, 3, 7]),
        ("log_price_to_search", [-math.log(2), 0, math.log(2)]),
        ("price_rank_in_search", [0, 0.5, 1]),
        ("starrating_to_search", [-1, 0, 1]),
        ("location_score1_to_search", [-1, 0, 1]),
        ("competitors_cheaper", [2, 0, 0]),
        ("competitors_dearer", [1, 0, 0]),
        ("competitors_sold_out", [1, 1, 0]),
    ],
)
def test_every_hotel_is_compared_with_its_search(first_search, name, values):
    assert first_search[name] == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("prop_review_score", [4, 2]),
        ("review_score_to_search", [1, -1]),
        ("prop_location_score2", [0.25, 0.75]),
        ("location_score2_to_search", [-0.25, 0.25]),
    ],
)
def test_what_a_hotel_lacks_is_missing_and_not_in_the_mean(first_search, name, values):
    assert first_search[name] == pytest.approx(values, abs=1e-6)
    assert first_search[f"{name}:lengths"] == [1, 0, 1]


def test_what_a_search_lacks_is_missing(first_search):
    assert "visitor_hist_starrating" not in first_search
    assert "srch_query_affinity_score" not in first_search
    assert first_search["srch_query_affinity_score:lengths"] == [0, 0, 0]


def test_leaks_are_in_no_record(groups):
    keys = {key for split in groups.values() for group in split for key in group}

    assert "price_usd" in keys
    assert not [key for key in keys if re.search("position|gross|booking_bool|click_bool", key)]


def test_the_latest_searches_are_the_test_and_those_before_the_validation(groups):
    searches = {split: sorted(g["srch_id"][0] for g in found) for split, found in groups.items()}

    assert searches == {"train": [4, 5, 6], "validation": [3], "test": [1, 2]}


def test_every_faulty_row_is_left_out_and_counted(converted, groups):
    (fourth,) = [group for group in groups["train"] if group["srch_id"] == [4]]

    assert fourth["prop_id"] == [40, 41]
    assert manifest.load_manifest(str(converted)).rejected == {
        **dict.fromkeys(FAULTS, 1),
        "no CSV row: missing columns": 1,
    }


def test_the_manifest_names_the_command_and_its_settings(converted, log):
    source = manifest.load_manifest(str(converted)).source

    assert source["command"] == "esmm_pipelines.expedia"
    assert source["input"] == str(log)
    assert source["validation_share"] == 0.25


def test_input_fn_parses_the_searches_with_their_own_schema(converted):
    schema = toml_file.load_schema(str(converted / "schema.toml"))
    source = find_source(str(converted), split="test")
    check_schema(source, schema)

    (batch,) = input_fn.build_dataset(source, schema, InputConfig(), carry=True)

    assert schema == toml_file.load_schema(str(ROOT / "tfrecords_schema" / "expedia.toml"))
    by_hotel = dict(zip(batch.carry["prop_id"].numpy(), batch.labels["click"].numpy(), strict=True))
    assert by_hotel == {11: 1, 12: 0, 13: 1, 2: 0}
    assert np.isnan(batch.features["prop_review_score"].numpy()).sum() == 2


def test_a_finished_data_set_is_not_replaced_unasked(converted, log):
    with pytest.raises(UserError, match=r"already holds a data set. .* --overwrite."):
        convert(log, converted)


def test_a_missing_input_leaves_a_finished_data_set_as_it_is(converted, tmp_path):
    before = read_files(converted)

    with pytest.raises(UserError, match=r"Cannot read '.*absent.csv'.* Check --input."):
        convert(tmp_path / "absent.csv", converted, overwrite=True)

    assert read_files(converted) == before
    assert (converted / "manifest.json").exists()


@pytest.mark.parametrize("name", ["srch_id", "date_time", "prop_id", "price_usd", "comp8_inv"])
def test_a_log_without_a_column_that_the_pipeline_reads_is_refused(tmp_path, name):
    header = [column for column in HEADER if column != name]
    path = write_csv(tmp_path / "train.csv", [HOTEL], header=header)
    message = f"--input has no column '{name}'. Give the competition's train.csv."

    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "out")


def test_the_competitions_test_csv_is_refused_for_its_lack_of_labels(tmp_path):
    header = [name for name in HEADER if name not in ("click_bool", "booking_bool", "position")]
    path = write_csv(tmp_path / "test.csv", [HOTEL], header=header)

    with pytest.raises(UserError, match=r"has no column 'booking_bool', which schema 'expedia'"):
        convert(path, tmp_path / "out")

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["validation_share", "test_share"])
def test_shares_are_not_negative(name):
    message = "--validation_share and --test_share must be 0 or more."

    with pytest.raises(UserError, match=message):
        SplitConfig(**{name: -1})


def test_the_seed_is_not_negative():
    with pytest.raises(UserError, match=r"--seed is -1. Give 0 or more."):
        DataSetConfig(output_dir="unused", seed=-1)


def test_unclicked_hotels_can_be_left_out_of_all_but_the_test(converted, log, tmp_path):
    convert(log, tmp_path, negative_keep_rate=1e-9)

    before, after = read_groups(converted), read_groups(tmp_path)
    assert after["test"] == before["test"]
    for split in ("train", "validation"):
        clicks = [click for g in after.get(split, ()) for click in g["click"]]
        assert clicks == [1] * sum(sum(g["click"]) for g in before[split])
    found = manifest.load_manifest(str(tmp_path))
    assert found.sampled_out == {
        split: sum(len(g["click"]) - sum(g["click"]) for g in before[split])
        for split in ("train", "validation")
    }


def test_something_is_left_to_train_on():
    message = "--validation_share and --test_share leave nothing to train on."

    with pytest.raises(UserError, match=message):
        SplitConfig(validation_share=0.5, test_share=0.5)


@pytest.mark.parametrize("name", ["max_group_size", "num_shards"])
def test_sizes_are_at_least_1(name):
    message = "--max_group_size and --num_shards must be at least 1."

    with pytest.raises(UserError, match=message):
        DataSetConfig(output_dir="unused", **{name: 0})


@pytest.mark.slow
def test_the_same_log_makes_the_same_files_again_when_asked(converted, log, tmp_path, capsys):
    before = read_files(converted)
    directory = tmp_path / "again"
    shutil.copytree(converted, directory)
    for name in before:
        (directory / name).write_bytes(b"of another log")

    convert(log, directory, overwrite=True)

    assert len(before) == 6
    assert read_files(directory) == before
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"wrote 9 impressions to {directory}"
    assert "rejected 1 rows: prop_id is missing" in out


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.exists(), reason=f"the competition's data is not at {SAMPLE}")
def test_the_real_sample_is_converted_whole(tmp_path):
    convert(SAMPLE, tmp_path, validation_share=0.1)

    found = manifest.load_manifest(str(tmp_path))
    shards = [shard for split in found.splits.values() for shard in split]
    assert sum(shard.impressions for shard in shards) == 25_149
    assert sum(shard.clicks for shard in shards) == 1_110
    assert sum(shard.conversions for shard in shards) == 673
    assert found.rejected == {}
    searches = {
        split: {group["srch_id"][0] for group in groups}
        for split, groups in read_groups(tmp_path).items()
    }
    assert {split: len(ids) for split, ids in searches.items()} == {
        "train": 700,
        "validation": 100,
        "test": 200,
    }


@pytest.mark.slow
def test_expedia_runs_from_the_command_line(log, tmp_path):
    result = run_command(
        "esmm_pipelines.expedia",
        f"--input={log}",
        f"--output_dir={tmp_path / 'out'}",
        "--max_rejected=0.6",
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"wrote 9 impressions to {tmp_path / 'out'}\n")
    assert (tmp_path / "out" / "manifest.json").exists()


def test_a_mistake_ends_expedia_with_its_message_alone(tmp_path, monkeypatch, capsys):
    paths = [f"--input={tmp_path}/absent.csv", f"--output_dir={tmp_path / 'out'}"]
    monkeypatch.setattr("sys.argv", ["expedia", *paths])

    with pytest.raises(SystemExit, match=r"^2$"):
        expedia.run()

    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"error: Cannot read '.*/absent.csv': .*\n", printed.err)


@pytest.mark.slow
def test_synthetic_runs_from_the_command_line(tmp_path):
    result = run_command(
        "esmm_pipelines.synthetic",
        "--num_impressions=300",
        f"--output_dir={tmp_path / 'out'}",
        "--cardinality_scale=0.001",
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"wrote 300 impressions to {tmp_path / 'out'}\n"
    assert (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--click_rate=2", r"error: --click_rate is 2.0. Give a number in \(0, 1\).\n"),
        ("--num_impression=5", r"error: Unknown command line flag 'num_impression'.*\n"),
    ],
)
def test_a_mistake_ends_synthetic_with_its_message_alone(
    tmp_path, flag, message, monkeypatch, capsys
):
    monkeypatch.setattr("sys.argv", ["synthetic", f"--output_dir={tmp_path / 'out'}", flag])

    with pytest.raises(SystemExit, match=r"^2$"):
        synthetic.run()

    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(message, printed.err)


def test_a_search_without_a_time_is_rejected_and_a_row_without_one_takes_its_searchs(tmp_path):
    rows = [hotel(1), hotel(1, date_time="soon"), hotel(2), hotel(3)]
    rows += [hotel(4, date_time="2013"), hotel(4, date_time="")]

    convert(write_csv(tmp_path / "log.csv", rows), tmp_path / "records")

    found = manifest.load_manifest(str(tmp_path / "records"))
    assert found.rejected == {"its time is not known": 2}
    assert sum(found.impressions(split) for split in found.splits) == 4
