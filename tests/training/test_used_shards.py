"""Which shards a model has seen: told by their content, and kept beside it."""

import json
import shutil

import pytest

from esmm_tf.data.source import find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.training import used_shards
from esmm_tf.training.used_shards import IdentifiedShard, TrainingData


@pytest.fixture
def copied(data_set, tmp_path):
    """Returns a copy of the data set in another directory."""
    return shutil.copytree(data_set, tmp_path / "copy")


def find(directory, split="train"):
    return find_source(str(directory), split=split)


def identify(train, validation=None, *, early_stopping=False):
    return used_shards.identify_data(train, validation, early_stopping=early_stopping)


def test_different_shards_of_one_data_set_are_not_shared(data_set):
    data = identify(find(data_set), find(data_set, "test"))

    assert used_shards.find_shared(data) == ()
    assert used_shards.judge_shared(data) is None
    assert len({shard.fingerprint for shard in data.train}) == 3


def test_a_copy_under_another_name_is_shared(data_set, copied):
    path = copied / "test-00000-of-00003.tfrecord"
    shutil.copyfile(data_set / "train-00001-of-00003.tfrecord", path)

    finding = used_shards.judge_shared(identify(find(data_set), find(copied, "test")))

    assert finding.message == (
        "Validation needs impressions that are not trained on, and 1 of 1 validation shards are: "
        f"'{path}' holds the same as '{data_set}/train-00001-of-00003.tfrecord'. Name other files "
        "with --validation_files."
    )


def test_empty_shards_are_not_taken_for_one_another(schema, build_group, tmp_path):
    for name in ("one", "other"):
        with DataSetWriter(str(tmp_path / name), schema, num_shards=3) as writer:
            writer.write("train", build_group(len(name), 2))

    data = identify(find(tmp_path / "one"), find(tmp_path / "other"))

    assert (len(data.train), len(data.validation)) == (1, 1)
    assert used_shards.find_shared(data) == ()


@pytest.mark.parametrize("place", [0, 70_000, 150_000 - 1])
def test_a_fingerprint_sees_both_ends_and_the_size_of_a_file(tmp_path, place):
    content = bytearray(b"x" * 150_000)
    (tmp_path / "one").write_bytes(content)
    content[place] = 0
    (tmp_path / "changed").write_bytes(content)
    (tmp_path / "longer").write_bytes(b"x" * 150_001)

    one, changed, longer = (
        used_shards._fingerprint(str(tmp_path / name)) for name in ("one", "changed", "longer")
    )

    assert one != longer
    # 64 KiB at either end are read: not what lies between.
    assert (one == changed) == (place == 70_000)


def test_the_two_ends_of_a_short_file_overlap_and_count_once(tmp_path):
    (tmp_path / "one").write_bytes(b"x" * 70_000)
    (tmp_path / "other").write_bytes(b"x" * 69_999 + b"y")

    one, other = (used_shards._fingerprint(str(tmp_path / name)) for name in ("one", "other"))

    assert one != other


def test_data_is_read_as_it_was_saved(tmp_path):
    data = TrainingData(
        train=(
            IdentifiedShard(file="/logs/a", fingerprint="1-aa"),
            IdentifiedShard(file="/logs/b", fingerprint="2-b"),
        ),
        validation=(IdentifiedShard(file="/logs/c", fingerprint="3-cc"),),
        early_stopping=True,
    )

    used_shards.save_data(data, str(tmp_path))

    assert used_shards.load_data(str(tmp_path)) == data


def test_shards_of_an_earlier_start_stay_known(tmp_path):
    one, two = (
        IdentifiedShard(file="/a", fingerprint="1-a"),
        IdentifiedShard(file="/b", fingerprint="2-b"),
    )

    used_shards.save_data(TrainingData(train=(one,), early_stopping=True), str(tmp_path))
    used_shards.save_data(TrainingData(train=(one, two)), str(tmp_path))

    expected = TrainingData(train=(one, two), early_stopping=True)
    assert used_shards.load_data(str(tmp_path)) == expected


def test_data_of_another_format_is_refused(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps({"format_version": 7}), encoding="utf-8")

    with pytest.raises(UserError, match=r"data\.json has format_version 7; this release reads 1\."):
        used_shards.load_data(str(tmp_path))


def test_of_an_older_model_nothing_is_known(data_set, tmp_path):
    used = used_shards.used_in_training(str(tmp_path), find(data_set))

    assert used is None
    assert used_shards.judge_used(used, find(data_set)) is None


def test_a_model_measured_on_what_it_was_trained_on_is_told(data_set, copied, tmp_path):
    used_shards.save_data(identify(find(data_set)), str(tmp_path))

    used = used_shards.used_in_training(str(tmp_path), find(copied))
    finding = used_shards.judge_used(used, find(copied))

    assert finding.guard == "used_data"
    assert finding.message == (
        "A model is measured or calibrated on impressions that it has not seen, and 3 of 3 shards "
        f"were used for training, such as '{copied}/train-00000-of-00003.tfrecord': it looks "
        "better on them than it is. Name other files with --files, or another --split."
    )


@pytest.mark.parametrize("early_stopping", [True, False])
def test_validation_shards_matter_if_they_decided_when_to_stop(data_set, tmp_path, early_stopping):
    validation = find(data_set, "test")
    data = identify(find(data_set), validation, early_stopping=early_stopping)
    used_shards.save_data(data, str(tmp_path))

    used = used_shards.used_in_training(str(tmp_path), validation)

    assert list(used) == ["early stopping"] * early_stopping
    assert sum(map(len, used.values())) == early_stopping


def test_shards_that_calibration_was_fitted_to_were_seen_too(data_set, tmp_path):
    used_shards.save_data(identify(find(data_set)), str(tmp_path))
    source = find(data_set, "test")
    fingerprints = [shard.fingerprint for shard in used_shards.identify_shards(source)]

    used = used_shards.used_in_training(str(tmp_path), source, calibrated_on=fingerprints)

    assert list(used) == ["calibration"]
    assert "1 of 3 shards were used for calibration" in (
        used_shards.judge_used(used, source).message
    )


def test_shards_that_the_model_has_not_seen_are_fine(data_set, tmp_path):
    used_shards.save_data(identify(find(data_set), early_stopping=True), str(tmp_path))

    used = used_shards.used_in_training(str(tmp_path), find(data_set, "test"))

    assert used == {}
    assert used_shards.judge_used(used, find(data_set, "test")) is None
