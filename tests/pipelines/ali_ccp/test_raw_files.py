"""Raw files in pieces and blocks: whole lines, whatever the sizes, the packing and the damage."""

import gzip
import pathlib
import tarfile
import tempfile

import hypothesis
import pytest
from ali_ccp_files import compress, pack
from hypothesis import strategies as st

from esmm_pipelines.ali_ccp import raw_files
from esmm_tf.errors import UserError

LINES = b"".join(b"%d,some text of line %d\n" % (n, n) for n in range(2_000))
MEMBERS = {"data/sample_skeleton_train.csv": LINES, "data/common_features_train.csv": b"c\n"}
contents = st.lists(st.binary(max_size=8).map(lambda line: line.replace(b"\n", b"")), max_size=12)


def cut(path, **changes):
    settings = {"part": "train", "side": "impression", "member": "*skeleton*"}
    return raw_files.cut([str(path)], **(settings | changes))


def read(path, **changes):
    """Returns the blocks of all pieces of a file."""
    return [block for piece in cut(path, **changes) for block in raw_files.read_blocks(piece)]


def join(blocks):
    return b"".join(block.text for block in blocks)


@pytest.fixture
def write(tmp_path):
    """Returns a function that writes a file and returns its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@hypothesis.given(
    lines=contents,
    ended=st.booleans(),
    piece=st.integers(1, 20),
    block=st.integers(1, 20),
    compressed=st.booleans(),
)
def test_pieces_and_blocks_of_any_size_hold_the_lines_of_the_file(
    lines, ended, piece, block, compressed
):
    content = b"\n".join(lines) + b"\n" * (ended and bool(lines))
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        path = pathlib.Path(directory, "log.csv.gz" if compressed else "log.csv")
        path.write_bytes(compress(content) if compressed else content)
        patch.setattr(raw_files, "_PIECE_BYTES", piece)
        patch.setattr(raw_files, "_BLOCK_BYTES", block)

        blocks = read(path)

    is_cut = bool(content) and not content.endswith(b"\n")
    assert join(blocks) == content + b"\n" * is_cut
    assert all(block.text.endswith(b"\n") for block in blocks)
    assert [block.problem for block in blocks if block.problem] == [raw_files.NO_LINE_END] * is_cut
    assert not is_cut or blocks[-1].problem


def test_a_plain_file_has_pieces_that_follow_each_other_and_a_compressed_one_has_one(
    write, monkeypatch
):
    monkeypatch.setattr(raw_files, "_PIECE_BYTES", 20_000)

    plain = cut(write("log.csv", LINES))

    assert [(p.number, p.start, p.end) for p in plain] == [
        (0, 0, 20_000),
        (1, 20_000, 40_000),
        (2, 40_000, 53_780),
    ]
    for name in ("log.csv.gz", "log.tar", "log.tar.gz", "log.tgz"):
        assert len(cut(write(name, LINES))) == 1


def test_a_line_belongs_to_the_piece_that_it_begins_in(write, monkeypatch):
    monkeypatch.setattr(raw_files, "_PIECE_BYTES", 4)

    pieces = cut(write("log.csv", b"a\nbc\ndefghijklm\nn\n"))

    texts = [join(raw_files.read_blocks(piece)) for piece in pieces]
    assert texts == [b"a\nbc\n", b"defghijklm\n", b"", b"", b"n\n"]


def test_several_files_and_patterns_are_read_in_order(write, tmp_path):
    for name in ("b1.csv", "b0.csv", "a.csv"):
        write(name, name.encode() + b"\n")

    pieces = raw_files.cut(
        [str(tmp_path / "b*.csv"), str(tmp_path / "a.csv")], part="test", side="s", member="m"
    )

    assert [pathlib.Path(piece.path).name for piece in pieces] == ["b0.csv", "b1.csv", "a.csv"]
    assert [piece.number for piece in pieces] == [0, 1, 2]
    assert {(piece.part, piece.side, piece.member) for piece in pieces} == {("test", "s", "m")}


def test_a_file_can_be_named_by_a_uri(write):
    path = write("log.csv", b"a\n")

    assert join(read(f"file://{path}")) == b"a\n"


def test_the_report_adds_up_to_the_size_of_the_file(write, monkeypatch):
    monkeypatch.setattr(raw_files, "_PIECE_BYTES", 5_000)
    monkeypatch.setattr(raw_files, "_BLOCK_BYTES", 700)
    for path in (write("log.csv", LINES), write("log.csv.gz", compress(LINES))):
        told = []

        for piece in cut(path):
            list(raw_files.read_blocks(piece, told.append))

        assert sum(told) == path.stat().st_size


def test_a_gzip_file_may_have_several_members_and_padding(write):
    content = compress(b"a\nb") + compress(b"") + compress(b"\nc\n") + b"\0" * 512

    blocks = read(write("log.csv.gz", content))

    assert join(blocks) == b"a\nb\nc\n"
    assert not any(block.problem for block in blocks)


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0)])
def test_an_empty_gzip_file_has_no_lines(write, content):
    assert read(write("log.csv.gz", content)) == []


@hypothesis.given(end=st.integers(1, len(compress(LINES)) - 1), block=st.integers(1, 70_000))
def test_a_gzip_file_cut_short_anywhere_is_read_up_to_there(end, block):
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        path = pathlib.Path(directory, "log.csv.gz")
        path.write_bytes(compress(LINES)[:end])
        patch.setattr(raw_files, "_BLOCK_BYTES", block)

        *whole, last = read(path)

    assert LINES.startswith(join(whole) + last.text.removesuffix(b"\n"))
    assert not any(block.problem for block in whole)
    assert last.problem == raw_files.CUT_SHORT
    assert last.text.count(b"\n") == 1


def test_what_a_gzip_file_cut_short_still_holds_is_read(write):
    text = join(read(write("log.csv.gz", compress(LINES)[:-8])))

    assert text == LINES + b"\n"


def test_a_damaged_gzip_file_is_read_up_to_the_damage(write):
    content = bytearray(compress(LINES))
    content[len(content) // 2] ^= 0xFF

    blocks = read(write("log.csv.gz", content))

    assert blocks[-1].problem == raw_files.CUT_SHORT


def test_a_file_that_is_no_gzip_is_told(write):
    assert read(write("log.csv.gz", b"a\nb\n")) == [raw_files.Block(b"\n", raw_files.CUT_SHORT)]


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")]
)
@pytest.mark.parametrize(("member", "text"), [("*skeleton*", LINES), ("*common_features*", b"c\n")])
def test_a_member_of_an_archive_is_read_wherever_it_stands(write, name, mode, member, text):
    first = {"readme.txt": b"no log\n"}
    path = write(name, pack(first | MEMBERS | {"end.txt": b"no log\n"}, mode=mode))

    blocks = read(path, member=member)

    assert join(blocks) == text
    assert not any(block.problem for block in blocks)


def test_a_directory_of_an_archive_is_no_member(tmp_path):
    directory = tmp_path / "sample_skeleton"
    directory.mkdir()
    (directory / "sample_skeleton_test.csv").write_bytes(b"a\n")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(directory, "sample_skeleton")

    assert join(read(tmp_path / "a.tar")) == b"a\n"


def test_an_archive_without_the_member_is_refused_with_what_it_has(write):
    path = write("a.tar.gz", pack({"some.csv": b"a\n", "other.csv": b"b\n"}))
    message = r"a.tar.gz' has no file named '\*skeleton\*'. It has \['some.csv', 'other.csv'\]."

    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"no archive", compress(b"no archive" * 99)])
def test_what_is_no_archive_is_refused(write, name, content):
    with pytest.raises(UserError, match=rf"{name}' has no file named '\*skeleton\*'. It has \[\]."):
        read(write(name, content))


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz")])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("block", [500, 4 << 20])
def test_an_archive_cut_short_is_read_up_to_there(write, monkeypatch, name, mode, share, block):
    monkeypatch.setattr(raw_files, "_BLOCK_BYTES", block)
    content = pack({"sample_skeleton_train.csv": LINES}, mode=mode)

    *whole, last = read(write(name, content[: int(len(content) * share)]))

    text = join(whole) + last.text.removesuffix(b"\n")
    assert LINES.startswith(text)
    assert len(text) > len(LINES) * (share - 0.25)
    assert not any(block.problem for block in whole)
    assert last.problem == raw_files.CUT_SHORT


def test_an_archive_cut_short_anywhere_stops_nothing_but_by_the_users_error(write):
    content = pack(MEMBERS)
    for end in range(0, len(content), len(content) // 50):
        path = write("a.tar.gz", content[:end])

        try:
            blocks = read(path)
        except UserError as error:
            assert "has no file named" in str(error)  # noqa: PT017 - either is right
        else:
            assert blocks[-1].problem in ("", raw_files.CUT_SHORT)
            assert blocks[-1].problem or join(blocks) == LINES


@pytest.mark.parametrize("name", ["missing.csv", "missing.tar.gz", "."])
def test_a_file_that_is_not_there_is_told(tmp_path, name):
    with pytest.raises(UserError, match=r"' is not a file. Check the path."):
        cut(tmp_path / name)


def test_a_pattern_that_matches_nothing_is_told(tmp_path):
    with pytest.raises(UserError, match=r"No file matches '.*part-\*.csv'. Check the path."):
        cut(tmp_path / "part-*.csv")


def test_a_line_beyond_all_measure_is_refused(write, monkeypatch):
    monkeypatch.setattr(raw_files, "_MAX_LINE_BYTES", 100)
    monkeypatch.setattr(raw_files, "_BLOCK_BYTES", 10)
    path = write("log.csv", b"a\n" + b"b" * 200 + b"\n")

    with pytest.raises(UserError, match=r"log.csv' has a line of more than 256 MiB."):
        read(path)
