"""The manifest of a data set: written whole, read whole, damage named."""

import json
import re

import pytest

from esmm_tf.data import manifest
from esmm_tf.errors import UserError


def build_shard(number, **fields):
    counts = {"records": 2, "impressions": 30, "clicks": 4, "conversions": 1}
    return manifest.Shard(file=f"train-{number:05d}-of-00002.tfrecord", **{**counts, **fields})


def build_manifest(**fields):
    splits = {
        "train": (build_shard(0), build_shard(1, impressions=12)),
        "test": (build_shard(0, impressions=5),),
    }
    return manifest.Manifest(**{"schema_hash": "0123456789abcdef", "splits": splits, **fields})


def write_tree(directory, **changes):
    manifest.write_manifest(build_manifest(), str(directory))
    path = directory / "manifest.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree.update(changes)
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    written = build_manifest(
        compression="GZIP",
        rejected={"no label": 3},
        negative_keep_rate={"train": 0.1},
        sampled_out={"train": 90},
        source={"command": "ali_ccp", "seed": 1},
    )

    manifest.write_manifest(written, str(tmp_path))

    assert manifest.load_manifest(str(tmp_path)) == written
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_manifest_replaces_an_earlier_one(tmp_path):
    manifest.write_manifest(build_manifest(), str(tmp_path))
    later = build_manifest(schema_hash="fedcba9876543210")

    manifest.write_manifest(later, str(tmp_path))

    assert manifest.load_manifest(str(tmp_path)) == later


def test_impressions_are_summed_over_the_shards_of_a_split():
    found = build_manifest()

    assert found.impressions("train") == 42
    assert found.impressions("test") == 5


def test_a_split_without_a_keep_rate_kept_all_impressions():
    found = build_manifest(negative_keep_rate={"train": 0.1})

    assert found.keep_rate("train") == 0.1
    assert found.keep_rate("test") == 1.0


def test_a_manifest_of_before_there_were_keep_rates_is_read(tmp_path):
    path = write_tree(tmp_path)
    tree = json.loads(path.read_text(encoding="utf-8"))
    del tree["negative_keep_rate"], tree["sampled_out"]
    path.write_text(json.dumps(tree), encoding="utf-8")

    found = manifest.load_manifest(str(tmp_path))

    assert found == build_manifest()
    assert found.keep_rate("train") == 1.0


def test_a_directory_without_a_manifest_is_no_data_set(tmp_path):
    message = (
        f"'{tmp_path}' has no manifest.json, so it is not a finished data set. "
        "Run the pipeline that writes it again, to its end."
    )

    with pytest.raises(UserError, match=re.escape(message)):
        manifest.load_manifest(str(tmp_path))


def test_the_current_directory_is_named_as_a_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError, match=r"^'.' has no manifest.json"):
        manifest.load_manifest("")


def test_a_manifest_of_another_format_version_is_refused(tmp_path):
    path = write_tree(tmp_path, format_version=2)
    message = f"{path} has format_version 2; this release reads 1. Write the data set again."

    with pytest.raises(UserError, match=re.escape(message)):
        manifest.load_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "JSONDecodeError"),
        (b'{"format_version": 1, "spl', "JSONDecodeError"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        (b"[]", "TypeError"),
        (b"null", "TypeError"),
        (b'{"splits": {}}', "KeyError.*format_version"),
        (b'{"format_version": 1}', "KeyError.*splits"),
        (b'{"format_version": 1, "splits": {}}', "TypeError.*schema_hash"),
        (b'{"format_version": 1, "splits": {"train": [{"file": "a"}]}}', "TypeError.*records"),
        (b'{"format_version": 1, "splits": {}, "schema_hash": "0", "x": 1}', "TypeError.*'x'"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, content, reason):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)

    with pytest.raises(
        UserError, match=rf"manifest.json is damaged \({reason}.*\). Write the data"
    ):
        manifest.load_manifest(str(tmp_path))
