import os

import numpy as np
import pytest

from esmm_tf import files
from esmm_tf.errors import UserError


def read(path, **more):
    return files.read_json(str(path), remedy="Train again.", **more)


def test_a_tree_is_read_as_it_was_written(tmp_path):
    path = str(tmp_path / "new" / "tree.json")

    files.write_json({"format_version": 3, "name": "é"}, path)

    assert read(path, version=3) == {"format_version": 3, "name": "é"}
    assert os.listdir(tmp_path / "new") == ["tree.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": 1', b"null\x00"], ids=range(6)
)
def test_damage_is_told_with_the_file_and_the_remedy(tmp_path, content):
    path = tmp_path / "tree.json"
    path.write_bytes(content)

    with pytest.raises(UserError, match=r"tree\.json is damaged \(.*\)\. Train again\.$"):
        read(path)


@pytest.mark.parametrize("content", ["[]", "null", "7", "{}"])
def test_a_tree_without_a_format_is_damaged(tmp_path, content):
    path = tmp_path / "tree.json"
    path.write_text(content)

    with pytest.raises(UserError, match=r"tree\.json is damaged"):
        read(path, version=1)


def test_a_directory_in_place_of_the_file_is_damage(tmp_path):
    with pytest.raises(UserError, match=r"is damaged \(IsADirectoryError"):
        read(tmp_path)


def test_another_format_is_refused(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text('{"format_version": 2}')

    with pytest.raises(UserError, match=r"has format_version 2; this release reads 1\. Train"):
        read(path, version=1)


def test_a_missing_file_is_told_in_the_callers_words(tmp_path):
    with pytest.raises(UserError, match=r"^No run here\.$"):
        read(tmp_path / "tree.json", missing="No run here.")
    with pytest.raises(UserError, match=r"tree\.json is missing\. Train again\.$"):
        read(tmp_path / "tree.json")


def test_a_write_that_fails_keeps_the_older_file(tmp_path):
    path = str(tmp_path / "a.txt")
    files.write_text(path, "old")

    with pytest.raises(IsADirectoryError), files.replacing(path):
        files.write_text(str(tmp_path), "half")

    with files.open_file(path, "r") as file:
        assert file.read() == "old"


def test_arrays_are_read_as_they_were_written(tmp_path):
    path = str(tmp_path / "a.npz")

    files.write_arrays(path, rates=np.array([1.5, 2.5]))

    with np.load(path) as saved:
        assert saved["rates"].tolist() == [1.5, 2.5]


def test_a_path_with_a_scheme_goes_through_tensorflow():
    assert files.is_remote("s3://bucket/a.json")
    assert not files.is_remote("directory/a.json")
    assert not files.exists("ram://nothing/here")
