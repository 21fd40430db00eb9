"""CSV files appear under their names only when all of them are whole."""

import gzip

import pytest

from esmm_pipelines.synthetic.csv_files import CsvWriter
from esmm_tf.errors import UserError

HEADERS = {"truth": "id,p", "rows": ""}


def write(directory, **settings):
    with CsvWriter(str(directory), HEADERS, **settings) as writer:
        writer.write("truth", ["1,0.5"])
        writer.write("rows", ["1,a", "2,b"])
        writer.write("truth", ["2,0.25"])


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_lines_stand_below_their_header_and_end_with_a_line_feed(tmp_path):
    write(tmp_path / "new" / "logs")

    assert names(tmp_path / "new" / "logs") == ["rows.csv", "truth.csv"]
    assert (tmp_path / "new/logs/rows.csv").read_bytes() == b"1,a\n2,b\n"
    assert (tmp_path / "new/logs/truth.csv").read_bytes() == b"id,p\n1,0.5\n2,0.25\n"


def test_compressed_files_hold_the_same_lines_and_neither_time_nor_name(tmp_path):
    for directory in ("a", "b"):
        write(tmp_path / directory, compressed=True)

    content = (tmp_path / "a" / "truth.csv.gz").read_bytes()
    assert names(tmp_path / "a") == ["rows.csv.gz", "truth.csv.gz"]
    assert gzip.decompress(content) == b"id,p\n1,0.5\n2,0.25\n"
    assert (tmp_path / "b" / "truth.csv.gz").read_bytes() == content
    assert content[4:8] == bytes(4)
    assert b"truth" not in content


def test_a_file_without_lines_does_not_come_into_being(tmp_path):
    with CsvWriter(str(tmp_path), HEADERS) as writer:
        writer.write("truth", [])
        writer.write("rows", ["1,a"])

    assert names(tmp_path) == ["rows.csv"]


def test_no_file_has_its_name_before_all_are_whole(tmp_path):
    with CsvWriter(str(tmp_path), HEADERS) as writer:
        writer.write("rows", ["1,a"])
        during = names(tmp_path)

    assert during == ["rows.csv.tmp"]
    assert names(tmp_path) == ["rows.csv"]


def test_an_interrupted_run_leaves_no_file_with_its_name_and_the_next_one_cleans_up(tmp_path):
    def interrupt():
        with CsvWriter(str(tmp_path), HEADERS) as writer:
            writer.write("truth", ["1,0.5"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    interrupted = names(tmp_path)

    write(tmp_path, compressed=True)

    assert interrupted == ["truth.csv.tmp"]
    assert names(tmp_path) == ["rows.csv.gz", "truth.csv.gz"]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_finished_files_are_replaced_only_when_asked_for(tmp_path, before, after):
    write(tmp_path, compressed=before)
    finished = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with pytest.raises(UserError, match=r"truth.csv.* exists already. .* --overwrite."):
        write(tmp_path, compressed=after)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == finished
    write(tmp_path, compressed=after, overwrite=True)
    assert len(names(tmp_path)) == 2


def test_files_of_other_names_stay(tmp_path):
    (tmp_path / "notes.csv").write_text("mine")

    write(tmp_path, overwrite=True)

    assert (tmp_path / "notes.csv").read_text() == "mine"
