"""Writing a data set: names, turns, counts, and what a failure leaves behind."""

import re

import pytest
import tensorflow as tf

from esmm_tf.data import manifest
from esmm_tf.data.writer import DataSetWriter, write_shards
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file


def file_names(directory):
    return sorted(path.name for path in directory.iterdir())


def read_records(path, compression=""):
    return [record.numpy() for record in tf.data.TFRecordDataset(str(path), compression)]


def read_users(path, compression=""):
    examples = [tf.train.Example.FromString(r) for r in read_records(path, compression)]
    return [example.features.feature["user"].int64_list.value[0] for example in examples]


def fail_midway(directory, schema, build_group, **settings):
    with DataSetWriter(str(directory), schema, num_shards=2, **settings) as writer:
        writer.write("train", build_group(0, 3))
        raise KeyboardInterrupt


def test_a_data_set_is_its_shards_schema_and_manifest(data_set):
    assert file_names(data_set) == [
        "manifest.json",
        "schema.toml",
        "test-00000-of-00003.tfrecord",
        "test-00001-of-00003.tfrecord",
        "test-00002-of-00003.tfrecord",
        "train-00000-of-00003.tfrecord",
        "train-00001-of-00003.tfrecord",
        "train-00002-of-00003.tfrecord",
    ]


def test_groups_go_to_the_shards_of_their_split_in_turn(tmp_path, schema, build_group):
    with DataSetWriter(str(tmp_path), schema, num_shards=2) as writer:
        for user in range(5):
            writer.write("train", build_group(user, 1))
            writer.write("test", build_group(100 + user, 1))

    assert read_users(tmp_path / "train-00000-of-00002.tfrecord") == [0, 2, 4]
    assert read_users(tmp_path / "train-00001-of-00002.tfrecord") == [1, 3]
    assert read_users(tmp_path / "test-00000-of-00002.tfrecord") == [100, 102, 104]


def test_compressed_shards_hold_the_same_records(tmp_path, schema, build_group):
    for name, compressed in (("plain", False), ("gzip", True)):
        directory = str(tmp_path / name)
        with DataSetWriter(directory, schema, num_shards=1, compressed=compressed) as writer:
            writer.write("train", build_group(0, 3))

    compressed_path = tmp_path / "gzip" / "train-00000-of-00001.tfrecord.gz"
    assert compressed_path.read_bytes()[:2] == b"\x1f\x8b"
    assert read_records(compressed_path, "GZIP") == read_records(
        tmp_path / "plain" / "train-00000-of-00001.tfrecord"
    )
    assert manifest.load_manifest(str(tmp_path / "gzip")).compression == "GZIP"
    assert manifest.load_manifest(str(tmp_path / "plain")).compression == ""


def test_the_manifest_counts_what_each_shard_holds(data_set, schema):
    found = manifest.load_manifest(str(data_set))

    # Of samples 0 to 38, shard 0 has 0, 6-12, 16-18 and 27-28; even ones click, fourths convert.
    assert found.splits["train"][0] == manifest.Shard(
        file="train-00000-of-00003.tfrecord", records=4, impressions=13, clicks=8, conversions=5
    )
    assert [shard.records for shard in found.splits["train"]] == [4, 4, 4]
    assert found.impressions("train") == 39
    assert [shard.impressions for shard in found.splits["test"]] == [4, 0, 0]
    assert found.schema_hash == schema.record_hash()


def test_the_manifest_tells_source_and_rejected_rows(tmp_path, schema, build_group):
    source = {"command": "esmm_pipelines.ali_ccp", "max_group_size": 100}
    with DataSetWriter(str(tmp_path), schema, source=source) as writer:
        writer.write("train", build_group(0, 1))
        writer.rejected["conversion without click"] += 2

    found = manifest.load_manifest(str(tmp_path))

    assert found.source == source
    assert found.rejected == {"conversion without click": 2}
    assert len(found.splits["train"]) == 8


def test_the_manifest_tells_keep_rates_and_what_was_left_out(tmp_path, schema, build_group):
    with DataSetWriter(
        str(tmp_path), schema, num_shards=1, negative_keep_rate={"train": 0.25}
    ) as writer:
        writer.write("train", build_group(0, 3))
        writer.write("test", build_group(10, 4))
        writer.sampled_out["train"] += 7

    found = manifest.load_manifest(str(tmp_path))
    assert found.negative_keep_rate == {"train": 0.25}
    assert found.sampled_out == {"train": 7}
    assert found.keep_rate("test") == 1.0
    assert writer.count_unclicked("train") == 1  # sample 1 of 0, 1, 2
    assert writer.count_unclicked("test") == 2
    assert writer.count_unclicked("validation") == 0


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan")])
def test_a_keep_rate_is_a_probability_above_0(tmp_path, schema, rate):
    message = f"--negative_keep_rate is {rate}. Give a probability above 0, at most 1"

    with pytest.raises(UserError, match=message):
        DataSetWriter(str(tmp_path), schema, negative_keep_rate={"train": rate})


def test_the_schema_lies_beside_the_records(data_set, schema):
    assert toml_file.load_schema(str(data_set / "schema.toml")) == schema


def test_the_same_groups_make_the_same_files(tmp_path, schema, build_group):
    for name in ("first", "second"):
        with DataSetWriter(str(tmp_path / name), schema, num_shards=1) as writer:
            writer.write("train", build_group(0, 3))

    for name in file_names(tmp_path / "first"):
        first, second = (tmp_path / "first" / name), (tmp_path / "second" / name)
        assert first.read_bytes() == second.read_bytes()


def test_a_failure_leaves_temporary_files_and_no_data_set(tmp_path, schema, build_group):
    with pytest.raises(KeyboardInterrupt):
        fail_midway(tmp_path, schema, build_group)

    assert file_names(tmp_path) == [
        "train-00000-of-00002.tfrecord.tmp",
        "train-00001-of-00002.tfrecord.tmp",
    ]


def test_a_group_that_does_not_fit_the_schema_fails_before_it_is_written(
    tmp_path, schema, build_group
):
    wrong = {**build_group(0, 3), "item": [1, 2]}

    with (
        pytest.raises(UserError, match=r"'item' has 2 values and needs exactly 3."),
        DataSetWriter(str(tmp_path), schema) as writer,
    ):
        writer.write("train", wrong)

    assert file_names(tmp_path) == []


def test_a_rerun_removes_what_a_failed_run_left_and_nothing_else(tmp_path, schema, build_group):
    (tmp_path / "notes.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        fail_midway(tmp_path, schema, build_group)

    with DataSetWriter(str(tmp_path), schema, num_shards=1) as writer:
        writer.write("train", build_group(0, 1))

    assert file_names(tmp_path) == [
        "manifest.json",
        "notes.txt",
        "schema.toml",
        "train-00000-of-00001.tfrecord",
    ]


def test_a_finished_data_set_is_not_overwritten_unasked(data_set, schema):
    before = file_names(data_set)
    message = (
        f"'{data_set}' already holds a data set. Choose another directory, or replace it with "
        "--overwrite."
    )

    with pytest.raises(UserError, match=re.escape(message)):
        DataSetWriter(str(data_set), schema)

    assert file_names(data_set) == before


def test_a_finished_data_set_is_replaced_when_asked(data_set, schema, build_group):
    with DataSetWriter(str(data_set), schema, num_shards=1, overwrite=True) as writer:
        writer.write("validation", build_group(0, 2))

    assert file_names(data_set) == [
        "manifest.json",
        "schema.toml",
        "validation-00000-of-00001.tfrecord",
    ]
    assert list(manifest.load_manifest(str(data_set)).splits) == ["validation"]


def test_a_failed_replacement_is_no_data_set(data_set, schema, build_group):
    with pytest.raises(KeyboardInterrupt):
        fail_midway(data_set, schema, build_group, overwrite=True)

    assert not (data_set / "manifest.json").exists()
    with pytest.raises(UserError, match=r"has no manifest.json, so it is not a finished data set"):
        manifest.load_manifest(str(data_set))


def adopt_all(writer, groups):
    """Writes groups as a worker does and hands them to the writer."""
    written = write_shards(
        groups, writer.schema, directory=writer.directory, compression=writer.compression
    )
    for split, shard in written.items():
        writer.adopt(split, shard)


@pytest.mark.parametrize(("compressed", "suffix"), [(False, ""), (True, ".gz")])
def test_shards_that_workers_wrote_are_numbered_as_they_are_adopted(
    tmp_path, schema, build_group, compressed, suffix
):
    with DataSetWriter(str(tmp_path), schema, compressed=compressed) as writer:
        adopt_all(writer, [("train", build_group(0, 3)), ("test", build_group(100, 1))])
        adopt_all(writer, [("train", build_group(7, 2)), ("train", build_group(9, 1))])
        assert writer.num_impressions == 7

    compression = manifest.load_manifest(str(tmp_path)).compression
    assert file_names(tmp_path) == [
        "manifest.json",
        "schema.toml",
        f"test-00000-of-00001.tfrecord{suffix}",
        f"train-00000-of-00002.tfrecord{suffix}",
        f"train-00001-of-00002.tfrecord{suffix}",
    ]
    first, second = (tmp_path / f"train-0000{n}-of-00002.tfrecord{suffix}" for n in range(2))
    assert read_users(first, compression) == [0]
    assert read_users(second, compression) == [7, 9]


def test_the_manifest_counts_what_adopted_shards_hold(tmp_path, schema, build_group):
    with DataSetWriter(str(tmp_path), schema) as writer:
        adopt_all(writer, [("train", build_group(0, 3)), ("train", build_group(4, 2))])

    found = manifest.load_manifest(str(tmp_path))

    # Samples 0, 1, 2, 4 and 5: even ones click, fourths convert.
    assert found.splits["train"] == (
        manifest.Shard(
            file="train-00000-of-00001.tfrecord", records=2, impressions=5, clicks=3, conversions=2
        ),
    )


def test_what_an_attempt_left_that_was_not_adopted_is_removed(tmp_path, schema, build_group):
    with DataSetWriter(str(tmp_path), schema) as writer:
        groups = [("train", build_group(0, 3))]
        write_shards(groups, schema, directory=str(tmp_path))
        adopt_all(writer, groups)

    assert file_names(tmp_path) == ["manifest.json", "schema.toml", "train-00000-of-00001.tfrecord"]
    assert manifest.load_manifest(str(tmp_path)).impressions("train") == 3


def test_a_worker_checks_groups_too(tmp_path, schema, build_group):
    wrong = {**build_group(0, 3), "item": [1, 2]}

    with pytest.raises(UserError, match=r"'item' has 2 values and needs exactly 3."):
        write_shards([("train", wrong)], schema, directory=str(tmp_path))

    assert file_names(tmp_path) == []


def test_a_worker_without_the_directory_is_told_to_share_it(tmp_path, schema):
    absent = str(tmp_path / "absent")

    with pytest.raises(UserError, match=f"no directory '{absent}'. Write to a file system that"):
        write_shards([], schema, directory=absent)


def test_a_shard_that_is_not_on_this_machine_is_refused(tmp_path, schema):
    shard = manifest.Shard(file="x.tmp", records=1, impressions=1, clicks=0, conversions=0)
    message = r"'x.tmp', which is not in .* that this machine and all workers share."

    with (
        pytest.raises(UserError, match=message),
        DataSetWriter(str(tmp_path), schema) as writer,
    ):
        writer.adopt("train", shard)


@pytest.mark.parametrize("num_shards", [0, -1])
def test_no_shards_are_refused(tmp_path, schema, num_shards):
    with pytest.raises(UserError, match=f"--num_shards is {num_shards}. Give a number above 0."):
        DataSetWriter(str(tmp_path), schema, num_shards=num_shards)


def test_a_data_set_without_impressions_is_refused_with_what_was_rejected(tmp_path, schema):
    message = r"No impression was written to .*Rejected rows: \{'too late': 2\}. Check the input."

    with (
        pytest.raises(UserError, match=message),
        DataSetWriter(str(tmp_path), schema) as writer,
    ):
        writer.rejected["too late"] = 2

    assert not (tmp_path / "manifest.json").exists()


def test_a_data_set_of_which_all_was_left_out_is_refused_with_the_reason(tmp_path, schema):
    message = r"Rejected rows: none. Left out by --negative_keep_rate: \{'train': 3\}. Check"

    with (
        pytest.raises(UserError, match=message),
        DataSetWriter(str(tmp_path), schema, negative_keep_rate={"train": 0.1}) as writer,
    ):
        writer.sampled_out["train"] = 3

    assert not (tmp_path / "manifest.json").exists()
