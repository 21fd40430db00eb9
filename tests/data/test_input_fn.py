"""Finding shards, and cutting their groups into batches."""

import itertools
import json
import re

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from tqdm import tqdm

from esmm_tf.config.training import InputConfig
from esmm_tf.data import cutting, input_fn
from esmm_tf.data.batch import Batch
from esmm_tf.data.source import check_schema, find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import IdentityColumn
from esmm_tf.schema.schema import Feature, Schema

FIRST_SHARD = "train-00000-of-00003.tfrecord"


def greedy_batch_splits(sizes, batch_size):
    """Returns the reference: whole groups join a batch as long as it stays within batch_size."""
    splits, held = [0], 0
    for place, size in enumerate(sizes):
        if held and held + size > batch_size:
            splits.append(place)
            held = 0
        held += size
    return [*splits, len(sizes)] if sizes else splits


def greedy_batches(sizes, batch_size):
    return [sum(sizes[a:b]) for a, b in itertools.pairwise(greedy_batch_splits(sizes, batch_size))]


def read_batches(source, schema, *, seed=None, **settings):
    """Returns the sample ids of each batch."""
    config = InputConfig(**settings)
    dataset = input_fn.build_dataset(source, schema, config, seed=seed, carry=True)
    return [batch.carry["sample"].numpy().tolist() for batch in dataset]


def joined(batches):
    return list(itertools.chain.from_iterable(batches))


@pytest.fixture
def source(data_set):
    return find_source(str(data_set), split="train")


@pytest.fixture(scope="module")
def tiny_schema():
    """Returns a schema of one feature, which is parsed quickly."""
    column = IdentityColumn(vocabulary_size=200)
    sample = Feature(name="sample", side="impression", dtype="int64", column=column)
    return Schema(name="tiny", features=(sample,), carry=("sample",))


def write_tiny(directory, schema, sizes, *, first=0, **settings):
    """Writes groups of these sizes, their samples numbered through, and returns the source."""
    with DataSetWriter(str(directory), schema, **settings) as writer:
        for size in sizes:
            samples = list(range(first, first + size))
            labels = {"click": [0] * size, "conversion": [0] * size}
            writer.write("train", {"sample": samples, **labels})
            first += size
    return find_source(str(directory), split="train")


@pytest.fixture(scope="module")
def tiny_source(tmp_path_factory, tiny_schema):
    """Returns samples 0 to 38 in groups of 1, 2, 3, 7, 1, 2, 3, 7, ... on 3 shards.

    Shard 0 holds the samples 0, 6-12, 16-18 and 27-28.
    """
    directory = tmp_path_factory.mktemp("tiny")
    return write_tiny(directory, tiny_schema, (1, 2, 3, 7) * 3, num_shards=3)


@hypothesis.settings(max_examples=50)
@hypothesis.given(sizes=st.lists(st.integers(1, 9), max_size=12), batch_size=st.integers(1, 20))
def test_batches_are_the_longest_runs_of_whole_groups_that_fit(sizes, batch_size):
    ends = tf.constant(np.cumsum(sizes), tf.int64)

    splits = cutting.batch_splits(ends, batch_size)

    assert splits.numpy().tolist() == greedy_batch_splits(sizes, batch_size)


@pytest.mark.parametrize(
    ("sizes", "batch_size", "expected"),
    [
        ([1, 2, 3], 3, [0, 2, 3]),
        ([5, 1, 1], 3, [0, 1, 3]),
        ([1, 5, 1], 3, [0, 1, 2, 3]),
        ([3, 3], 3, [0, 1, 2]),
        ([2, 2], 100, [0, 2]),
        ([], 3, [0]),
    ],
)
def test_a_group_larger_than_the_batch_is_a_batch_alone(sizes, batch_size, expected):
    ends = tf.constant(np.cumsum(sizes), tf.int64)

    splits = cutting.batch_splits(ends, batch_size)

    assert splits.numpy().tolist() == expected


@pytest.mark.parametrize(
    ("batch_size", "seed"), [(1, None), (5, None), (7, None), (1000, None), (5, 5), (1000, 5)]
)
def test_every_impression_arrives_exactly_once(tiny_source, tiny_schema, batch_size, seed):
    batches = read_batches(tiny_source, tiny_schema, batch_size=batch_size, seed=seed)

    assert sorted(joined(batches)) == list(range(39))
    assert all(batches)
    assert all(len(batch) <= max(batch_size, 7) for batch in batches)


def test_batches_are_cut_across_chunks_and_shards_as_if_all_groups_stood_in_a_row(
    tmp_path, tiny_schema
):
    sizes = np.random.default_rng(0).integers(1, 6, size=60).tolist()
    for name in ("first", "second"):
        write_tiny(tmp_path / name, tiny_schema, sizes, num_shards=1)
    found = find_source(f"{tmp_path}/first,{tmp_path}/second", split="train")

    batches = read_batches(found, tiny_schema, batch_size=8)

    assert joined(batches) == list(range(sum(sizes))) * 2
    assert [len(batch) for batch in batches] == greedy_batches(sizes + sizes, 8)


def test_without_a_seed_the_order_is_that_of_the_files(tiny_source, tiny_schema):
    batches = read_batches(tiny_source, tiny_schema, batch_size=5)

    # Shard 0 holds groups of 1, 7, 3 and 2 impressions.
    assert batches[:3] == [[0], [6, 7, 8, 9, 10, 11, 12], [16, 17, 18, 27, 28]]
    assert read_batches(tiny_source, tiny_schema, batch_size=5) == batches


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(tiny_source, tiny_schema):
    first = read_batches(tiny_source, tiny_schema, batch_size=5, seed=1)
    again = read_batches(tiny_source, tiny_schema, batch_size=5, seed=1)
    other = read_batches(tiny_source, tiny_schema, batch_size=5, seed=2)

    assert first == again
    assert first != other


def test_a_data_set_has_one_order_however_often_it_is_read(tiny_source, tiny_schema):
    config = InputConfig(batch_size=5)
    dataset = input_fn.build_dataset(tiny_source, tiny_schema, config, seed=1, carry=True)

    first, second = (
        [batch.carry["sample"].numpy().tolist() for batch in dataset] for _ in range(2)
    )

    assert first == second
    assert joined(first) != sorted(joined(first))


def test_without_a_shuffle_buffer_only_the_shards_are_shuffled(tiny_source, tiny_schema):
    batches = read_batches(
        tiny_source, tiny_schema, batch_size=1, seed=3, shuffle_buffer=0, num_readers=1
    )

    order = joined(batches)
    shard_0 = [0, 6, 7, 8, 9, 10, 11, 12, 16, 17, 18, 27, 28]
    start = order.index(0)
    assert order[start : start + len(shard_0)] == shard_0


def test_compressed_shards_are_read(tmp_path, tiny_schema):
    found = write_tiny(tmp_path, tiny_schema, [3], num_shards=1, compressed=True)

    batches = read_batches(found, tiny_schema)

    assert found.compression == "GZIP"
    assert batches == [[0, 1, 2]]


def test_training_tuples_are_features_labels_and_weights(source, schema):
    dataset = input_fn.build_dataset(source, schema, InputConfig(batch_size=5))

    features, labels, weight = next(iter(input_fn.training_tuples(dataset)))

    assert features["item"].to_list() == [[0]]
    assert {name: label.numpy().tolist() for name, label in labels.items()} == {
        "click": [1.0],
        "conversion": [1.0],
    }
    assert weight.numpy().tolist() == [1.25]


def test_training_tuples_have_no_weight_where_the_records_have_none():
    dataset = tf.data.Dataset.from_tensors(
        Batch(
            features={"item": [1, 2]},
            labels={"click": [0.0, 1.0]},
            example_weight=None,
            oracle={},
            carry={},
        )
    )

    (pair,) = input_fn.training_tuples(dataset)

    features, labels = pair
    assert features["item"].numpy().tolist() == [1, 2]
    assert labels["click"].numpy().tolist() == [0.0, 1.0]


def test_a_directory_stands_for_the_shards_of_its_split(data_set):
    found = find_source(f"{data_set}/", split="train")

    assert found.files == tuple(
        str(data_set / f"train-0000{place}-of-00003.tfrecord") for place in range(3)
    )
    assert found.directory == str(data_set)
    assert found.compression == ""
    assert found.impressions == 39
    assert find_source(str(data_set), split="test").impressions == 4


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("{}/" + FIRST_SHARD, [FIRST_SHARD]),
        ("{}/test-*", [f"test-0000{place}-of-00003.tfrecord" for place in range(3)]),
        (
            "{0}/train-00002-*, {0}/train-00001-*,",
            ["train-00002-of-00003.tfrecord", "train-00001-of-00003.tfrecord"],
        ),
        (
            "{0}/test-00000-*,{0}",
            [
                "test-00000-of-00003.tfrecord",
                *(f"train-0000{place}-of-00003.tfrecord" for place in range(3)),
            ],
        ),
    ],
)
def test_files_globs_and_directories_can_be_listed(data_set, patterns, names):
    found = find_source(patterns.format(data_set), split="train")

    assert found.files == tuple(str(data_set / name) for name in names)
    assert [shard.file for shard in found.shards] == names


def test_files_of_the_current_directory_can_be_named(data_set, monkeypatch, schema):
    monkeypatch.chdir(data_set)

    found = find_source(FIRST_SHARD, split="train")

    check_schema(found, schema)
    assert found.impressions == 13


@pytest.mark.parametrize("patterns", ["", " , "])
def test_no_name_at_all_is_refused(patterns):
    message = "No files of records are named. Name files, a glob or a directory."

    with pytest.raises(UserError, match=message):
        find_source(patterns, split="train")


@pytest.mark.parametrize("pattern", ["none.tfrecord", "none-*"])
def test_a_name_that_matches_nothing_is_refused(data_set, pattern):
    path = f"{data_set}/{pattern}"

    with pytest.raises(UserError, match=re.escape(f"No file matches '{path}'. Check the path.")):
        find_source(f"{data_set},{path}", split="train")


def test_a_split_that_is_not_there_is_refused(data_set):
    message = (
        f"'{data_set}' has no split 'validation'. It has ['test', 'train']; name one as "
        f"'{data_set}/SPLIT-*'."
    )

    with pytest.raises(UserError, match=re.escape(message)):
        find_source(str(data_set), split="validation")


@pytest.mark.parametrize("pattern", ["{}", "{}/train-*"])
def test_a_directory_without_a_manifest_is_refused(data_set, pattern):
    (data_set / "manifest.json").unlink()

    with pytest.raises(UserError, match=r"has no manifest.json, so it is not a finished data set"):
        find_source(pattern.format(data_set), split="train")


def test_a_file_that_is_not_in_the_manifest_is_refused(data_set):
    stray = data_set / "train-00000-of-00009.tfrecord"
    stray.touch()
    message = (
        f"'{stray}' is not in its directory's manifest, so it is no finished shard. "
        "Name shards of the manifest only."
    )

    with pytest.raises(UserError, match=re.escape(message)):
        find_source(f"{data_set}/train-*", split="train")


def test_compressed_and_plain_data_sets_are_not_mixed(data_set, tmp_path, schema, build_group):
    other = tmp_path / "gzip"
    with DataSetWriter(str(other), schema, compressed=True) as writer:
        writer.write("train", build_group(0, 1))
    message = f"'{data_set},{other}' mixes compressed and plain data sets. Read one kind at once."

    with pytest.raises(UserError, match=re.escape(message)):
        find_source(f"{data_set},{other}", split="train")


def change_hash(directory):
    path = directory / "manifest.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(tree | {"schema_hash": "0" * 16}), encoding="utf-8")


def test_data_sets_of_different_schemas_are_not_mixed(data_set, tmp_path, schema, build_group):
    other = tmp_path / "other"
    with DataSetWriter(str(other), schema) as writer:
        writer.write("train", build_group(0, 1))
    change_hash(other)
    message = (
        f"'{data_set},{other}' mixes data sets of different schemas "
        f"(['0000000000000000', '{schema.record_hash()}']). Write them with one schema."
    )

    with pytest.raises(UserError, match=re.escape(message)):
        find_source(f"{data_set},{other}", split="train")


def test_the_keep_rate_is_that_of_the_split_a_file_belongs_to(tmp_path, schema, build_group):
    with DataSetWriter(
        str(tmp_path), schema, num_shards=1, negative_keep_rate={"train": 0.1}
    ) as writer:
        writer.write("train", build_group(0, 1))
        writer.write("test", build_group(10, 1))

    found = find_source(f"{tmp_path}/train-*", split="test")

    assert found.negative_keep_rate == 0.1
    assert find_source(str(tmp_path), split="test").negative_keep_rate == 1.0


def test_files_of_one_keep_rate_are_read_as_one(tmp_path, tiny_schema):
    rates = {"train": 0.5}
    write_tiny(tmp_path / "a", tiny_schema, [3], num_shards=1, negative_keep_rate=rates)
    write_tiny(tmp_path / "b", tiny_schema, [2], num_shards=1, negative_keep_rate=rates)

    found = find_source(f"{tmp_path}/a,{tmp_path}/b", split="train")

    assert found.negative_keep_rate == 0.5
    assert found.impressions == 5


def test_files_of_different_keep_rates_are_not_mixed(tmp_path, tiny_schema):
    write_tiny(tmp_path / "a", tiny_schema, [3], negative_keep_rate={"train": 0.1})
    write_tiny(tmp_path / "b", tiny_schema, [2])
    patterns = f"{tmp_path}/a,{tmp_path}/b"
    message = (
        f"{patterns!r} mixes files written with different --negative_keep_rate ([0.1, 1.0]), and "
        "the logits are corrected for one. Read files of one rate."
    )

    with pytest.raises(UserError, match=re.escape(message)):
        find_source(patterns, split="train")


def test_two_data_sets_of_one_schema_are_read_as_one(tmp_path, tiny_schema):
    write_tiny(tmp_path / "a", tiny_schema, [3], num_shards=1)
    write_tiny(tmp_path / "b", tiny_schema, [2], num_shards=1, first=500)

    found = find_source(f"{tmp_path}/a,{tmp_path}/b", split="train")

    assert found.impressions == 5
    assert joined(read_batches(found, tiny_schema)) == [0, 1, 2, 500, 501]


def test_the_schema_the_records_were_written_with_is_accepted(source, schema):
    check_schema(source, schema)


def test_another_schema_than_the_records_is_refused(data_set, schema):
    change_hash(data_set)
    source = find_source(str(data_set), split="train")
    message = (
        f"The records in '{data_set}' were written with schema hash {'0' * 16}, and the schema "
        f"'shop' has {schema.record_hash()}. Features, keys, sides, dtypes, values and weights "
        "must be the same: give the data set's own schema.toml with --schema, or write the data "
        "set again."
    )

    with pytest.raises(UserError, match=re.escape(message)):
        check_schema(source, schema)


def test_shards_without_impressions_are_refused(data_set):
    patterns = f"{data_set}/test-00001-*,{data_set}/test-00002-*"
    message = f"'{patterns}' holds no impressions. Name shards that hold some."

    with pytest.raises(UserError, match=re.escape(message)):
        find_source(patterns, split="train")


def test_a_file_that_two_patterns_match_is_read_once(tmp_path, tiny_schema):
    write_tiny(tmp_path, tiny_schema, [3], num_shards=1)

    found = find_source(f"{tmp_path},{tmp_path}/train-*", split="train")

    assert found.impressions == 3
    assert joined(read_batches(found, tiny_schema)) == [0, 1, 2]


def test_showing_progress_yields_every_batch_and_counts_its_impressions(
    tiny_source, tiny_schema, monkeypatch
):
    bar = tqdm(total=39, disable=True)
    counts = []
    monkeypatch.setattr(bar, "update", counts.append)
    build = {39: bar}.get
    monkeypatch.setattr(input_fn.console, "build_bar", lambda total, **_: build(total))
    dataset = input_fn.build_dataset(tiny_source, tiny_schema, InputConfig(batch_size=5))

    batches = list(input_fn.show_progress(dataset, tiny_source))

    assert counts == [len(batch.labels["click"]) for batch in batches]
    assert sum(counts) == 39
