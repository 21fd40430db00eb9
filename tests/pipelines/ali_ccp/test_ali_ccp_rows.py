"""Lines of Ali-CCP as rows: what a sound one holds, and why another is rejected."""

import dataclasses
import gzip
import pathlib
import tempfile

import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from ali_ccp_files import join_tokens, to_bytes
from hypothesis import strategies as st

from esmm_pipelines.ali_ccp import raw_files
from esmm_pipelines.ali_ccp import rows as ali_ccp_rows
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import HashBucketColumn, NumericColumn
from esmm_tf.schema.schema import Feature, Schema

HASHED = HashBucketColumn(hash_buckets=100)
SCHEMA = Schema(
    name="shop",
    features=(
        Feature(name="101", side="context", dtype="int64", column=HASHED),
        Feature(
            name="109_14",
            side="context",
            dtype="int64",
            column=HASHED,
            values="many",
            weighted=True,
        ),
        Feature(name="205", side="impression", dtype="int64", column=HASHED),
        Feature(name="216", side="impression", dtype="int64", column=HASHED, values="optional"),
        Feature(
            name="508",
            side="impression",
            dtype="int64",
            column=HASHED,
            values="many",
            weighted=True,
        ),
    ),
)
ITEM = ("205", 7, "1.0")
GOOD = f"12,1,0,aa,{join_tokens([ITEM, ('216', 8, '1.0'), ('508', 9, '0.6931472')])}\n"
GOOD_TOKENS = [("205", 7, 1.0), ("216", 8, 1.0), ("508", 9, float(np.float32(0.6931472)))]
CONTEXT = f"aa,{join_tokens([('101', 1, '1.0'), ('109_14', 2, '1.5'), ('109_14', 3, '2.5')])}\n"
BAD = [
    ("", "wrong number of columns"),
    ("12,1,0,aa,0", "wrong number of columns"),
    (f"12,1,0,aa,{join_tokens([ITEM])},", "wrong number of columns"),
    (f"x,1,0,aa,{join_tokens([ITEM])}", "sample_id is no integer"),
    (f"1234567890123456789,1,0,aa,{join_tokens([ITEM])}", "sample_id is no integer"),
    (f"-1,1,0,aa,{join_tokens([ITEM])}", "sample_id is no integer"),
    (f"12,2,0,aa,{join_tokens([ITEM])}", "click is not 0 or 1"),
    (f"12,,0,aa,{join_tokens([ITEM])}", "click is not 0 or 1"),
    (f"12,1,1.0,aa,{join_tokens([ITEM])}", "conversion is not 0 or 1"),
    (f"12,1,0,,{join_tokens([ITEM])}", "empty common_feature_index"),
    ("12,1,0,aa,2,205\x027\x031.0", "feature_num is not the number of features"),
    ("12,1,0,aa,,205\x027\x031.0", "feature_num is not the number of features"),
    ("12,1,0,aa,1,", "feature_num is not the number of features"),
    ("12,1,0,aa,2,205\x027\x031.0\x01", "malformed token"),
    ("12,1,0,aa,1,205", "malformed token"),
    ("12,1,0,aa,1,205\x027", "malformed token"),
    ("12,1,0,aa,1,205\x02\x031.0", "malformed token"),
    ("12,1,0,aa,1,205\x027\x03", "malformed token"),
    ("12,1,0,aa,1,205\x027\x031.0\x031.0", "malformed token"),
    ("12,1,0,aa,1,205\x027\x027\x031.0", "malformed token"),
    ("12,1,0,aa,1,205\x02-7\x031.0", "malformed token"),
    ("12,1,0,aa,1,205\x027.0\x031.0", "malformed token"),
    ("12,1,0,aa,1,205\x02 7\x031.0", "malformed token"),
    ("12,1,0,aa,1,205\x02\u0667\x031.0", "malformed token"),
    ("12,1,0,aa,1,205\x021234567890123456789\x031.0", "malformed token"),
    ("12,1,0,aa,1,205\x027\x031.0\r\r", "malformed token"),
    ("12,1,0,aa,1,205\x027\x031,0", "wrong number of columns"),
    ("12,1,0,aa,1,205\x027\x03one", "malformed token"),
    ("12,1,0,aa,1,205\x027\x030x10", "malformed token"),
    ("12,1,0,aa,1,205\x027\x03nan", "a value is not finite"),
    (f"12,1,0,aa,{join_tokens([ITEM, ('508', 1, 'nan')])}", "a value is not finite"),
    (f"12,1,0,aa,{join_tokens([ITEM, ('508', 1, '-inf')])}", "a value is not finite"),
    (f"12,1,0,aa,{join_tokens([ITEM, ('508', 1, 'Infinity')])}", "a value is not finite"),
    (f"12,1,0,aa,{join_tokens([ITEM, ('508', 1, '1e39')])}", "a value is not finite"),
    (f"12,1,0,aa,{join_tokens([ITEM, ('508', 1, '1e400')])}", "a value is not finite"),
    (f"12,1,0,aa,{join_tokens([ITEM, ('999', 1, '1.0')])}", "a field is not in the schema"),
    (f"12,1,0,aa,{join_tokens([ITEM, ('', 1, '1.0')])}", "a field is not in the schema"),
    (f"12,1,0,aa,{join_tokens([ITEM, ('101', 1, '1.0')])}", "field 101 is on the wrong side"),
    (f"12,1,0,aa,{join_tokens([ITEM, ITEM])}", "field 205 has several values"),
    (
        f"12,1,0,aa,{join_tokens([ITEM, ('216', 1, '1.0'), ('216', 2, '1.0')])}",
        "field 216 has several values",
    ),
    ("12,1,0,aa,0,", "field 205 is missing"),
    (f"12,1,0,aa,{join_tokens([('216', 1, '1.0')])}", "field 205 is missing"),
    ("12,1,0,aa,1,205\x027\x030.5", "field 205 has a value other than 1"),
]
BAD_CONTEXTS = [
    ("aa,1", "wrong number of columns"),
    (f",{join_tokens([('101', 1, '1.0')])}", "empty common_feature_index"),
    ("aa,0,", "field 101 is missing"),
    (f"aa,{join_tokens([('109_14', 1, '1.0')])}", "field 101 is missing"),
    (f"aa,{join_tokens([('101', 1, '1.0'), ('101', 2, '1.0')])}", "field 101 has several values"),
    (f"aa,{join_tokens([('101', 1, '1.0'), ITEM])}", "field 205 is on the wrong side"),
    (f"aa,{join_tokens([('101', 1, '2.0')])}", "field 101 has a value other than 1"),
]


def tokens_of(batch):
    """Returns the (field, id, value) triples of each row."""
    tokens, lengths = ali_ccp_rows.tokens_of(batch.column("tokens"))
    names = [feature.name for feature in SCHEMA.features]
    triples = [(names[field], number, value) for field, number, value in tokens.tolist()]
    ends = np.cumsum(lengths)
    return [triples[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def parse_file(path, *, side="impression", ignored=()):
    """Returns the rows of a file as dictionaries, `line` counted over its pieces."""
    rows, before = [], 0
    for piece in raw_files.cut([str(path)], part="train", side=side, member="*"):
        found = []
        for batch in ali_ccp_rows.parse_piece(piece, schema=SCHEMA, ignored=ignored):
            assert batch.schema == ali_ccp_rows.ROW
            for row, tokens in zip(batch.to_pylist(), tokens_of(batch), strict=True):
                assert row["piece"] == piece.number
                found.append(row | {"tokens": tokens, "line": before + row["line"]})
        before += len(found)
        rows += found
    return rows


@pytest.fixture
def parse(tmp_path):
    """Returns a function of lines that parses them."""

    def parse(*lines, **changes):
        path = tmp_path / "log.csv"
        path.write_bytes(to_bytes(lines))
        return parse_file(path, **changes)

    return parse


def test_an_impression_is_a_row_with_labels_and_tokens(parse):
    [row] = parse(GOOD)

    assert row.pop("tokens") == GOOD_TOKENS
    assert row == {
        "part": "train",
        "side": "impression",
        "context": "aa",
        "sample_id": 12,
        "click": 1,
        "conversion": 0,
        "piece": 0,
        "line": 1,
        "reason": None,
    }


def test_a_context_is_a_row_without_labels(parse):
    [row] = parse(CONTEXT, side="context")

    assert row["tokens"] == [("101", 1, 1.0), ("109_14", 2, 1.5), ("109_14", 3, 2.5)]
    assert (row["side"], row["context"], row["reason"]) == ("context", "aa", None)
    assert (row["sample_id"], row["click"], row["conversion"]) == (None, None, None)


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_impression_has_a_reason_and_its_neighbours_stay_whole(parse, line, reason):
    rows = parse(GOOD, line + "\n", GOOD)

    assert [row["reason"] for row in rows] == [None, reason, None]
    assert [row["line"] for row in rows] == [1, 2, 3]
    assert [row["tokens"] for row in rows] == [GOOD_TOKENS, [], GOOD_TOKENS]
    assert [row["context"] for row in (rows[0], rows[2])] == ["aa", "aa"]


@pytest.mark.parametrize(("line", "reason"), BAD_CONTEXTS)
def test_a_bad_context_has_a_reason_and_its_neighbours_stay_whole(parse, line, reason):
    rows = parse(CONTEXT, line + "\n", CONTEXT, side="context")

    assert [row["reason"] for row in rows] == [None, reason, None]
    assert rows[0]["tokens"] == rows[2]["tokens"]
    assert len(rows[0]["tokens"]) == 3
    assert rows[1]["tokens"] == []


def test_all_bad_rows_of_a_block_have_the_reason_that_each_has_alone(parse):
    rows = parse(*(text for line, _ in BAD for text in (line + "\n", GOOD)))

    assert [row["reason"] for row in rows[::2]] == [reason for _, reason in BAD]
    assert all(row["reason"] is None and row["tokens"] == GOOD_TOKENS for row in rows[1::2])


def test_a_block_without_a_sound_row_is_parsed(parse):
    rows = parse("\n", "a,b\n", "\n")

    assert [row["reason"] for row in rows] == ["wrong number of columns"] * 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("+2.5", 2.5),
        ("-0.25", -0.25),
        ("1e2", 100.0),
        ("1E-2", 0.01),
        ("1e0001", 10.0),
        ("1e-400", 0.0),
        ("nan(1)", None),
        ("infinity", None),
        ("1_0", None),
        ("1 ", None),
        (".", None),
        ("1e", None),
    ],
)
def test_how_a_number_is_read_does_not_depend_on_the_rows_beside_it(parse, text, value):
    line = f"12,1,0,aa,{join_tokens([ITEM, ('508', 1, text)])}\n"

    [alone] = parse(line)
    [_, beside] = parse("12,1,0,aa,1,205\x027\x03bad\n", line)

    expected = [] if value is None else [("205", 7, 1.0), ("508", 1, float(np.float32(value)))]
    assert alone["tokens"] == expected
    assert {**beside, "line": 1} == alone


def test_ids_of_18_digits_are_kept_exactly(parse):
    [row] = parse(f"999999999999999999,0,0,aa,{join_tokens([('205', 10**18 - 1, '1.0')])}\n")

    assert row["sample_id"] == 10**18 - 1
    assert row["tokens"] == [("205", 10**18 - 1, 1.0)]


def test_carriage_returns_before_line_ends_are_part_of_no_value(parse):
    plain = parse(GOOD, "\n", GOOD)

    assert parse(GOOD.replace("\n", "\r\n"), "\r\n", GOOD.replace("\n", "\r\n")) == plain
    [context] = parse("aa,1,101\x021\x031.0\r\n", side="context")
    assert context["tokens"] == [("101", 1, 1.0)]


@pytest.mark.parametrize("broken", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_lines_that_are_no_utf_8_are_rejected_alone(parse, broken):
    line = b"12,1,0,a" + broken + b"a,1,205\x027\x031.0\n"
    other = f"12,1,0,é,{join_tokens([ITEM])}\n"

    rows = parse(GOOD, line, other, broken + b"\n", GOOD)

    assert [row["reason"] for row in rows] == [None, "not UTF-8", None, "not UTF-8", None]
    assert [row["context"] for row in rows] == ["aa", None, "é", None, "aa"]
    assert rows[4]["tokens"] == GOOD_TOKENS


def test_a_last_line_without_its_end_is_rejected_though_it_looks_sound(parse):
    rows = parse(GOOD, GOOD.removesuffix("\n"))

    assert [row["reason"] for row in rows] == [None, raw_files.NO_LINE_END]


def test_a_gzip_file_that_is_cut_short_ends_with_a_rejected_row(tmp_path):
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(to_bytes([GOOD] * 3))[:-4])

    rows = parse_file(path)

    assert [row["reason"] for row in rows] == [None, None, None, raw_files.CUT_SHORT]


def test_ignored_fields_are_left_out_and_still_count_as_features(parse):
    line = f"12,1,0,aa,{join_tokens([('999', 3, '0.5'), ITEM, ('998', 4, '1.0')])}\n"
    odd = f"12,1,0,aa,{join_tokens([('999', 'x', '0.5'), ITEM])}\n"

    rows = parse(line, odd, ignored=("998", "999"))

    assert [row["reason"] for row in rows] == [None, "malformed token"]
    assert rows[0]["tokens"] == [("205", 7, 1.0)]


lines = st.sampled_from(
    [to_bytes([GOOD]), b"\n", b"12,\xff\n", b"\r\n", to_bytes([GOOD]).replace(b"\n", b"\r\n")]
    + [to_bytes([line + "\n"]) for line, _ in BAD[::4]]
)


@hypothesis.given(
    content=st.lists(lines, min_size=1, max_size=8).map(b"".join),
    cut_off=st.integers(0, 10),
    piece=st.integers(1, 300),
    block=st.integers(1, 300),
    compressed=st.booleans(),
)
def test_pieces_and_blocks_of_any_size_give_the_same_rows(
    content, cut_off, piece, block, compressed
):
    content = content[: len(content) - cut_off]
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        path = pathlib.Path(directory, "log.csv")
        path.write_bytes(content)
        whole = parse_file(path)
        if compressed:
            path = pathlib.Path(directory, "log.csv.gz")
            path.write_bytes(gzip.compress(content))
        patch.setattr(raw_files, "_PIECE_BYTES", piece)
        patch.setattr(raw_files, "_BLOCK_BYTES", block)

        rows = parse_file(path)

    assert [row | {"piece": 0} for row in rows] == whole
    assert [row["line"] for row in rows] == list(range(1, len(rows) + 1))


def test_a_schema_with_a_feature_that_is_no_id_is_refused():
    price = Feature(name="price", side="impression", dtype="float32", column=NumericColumn())
    schema = dataclasses.replace(SCHEMA, features=(*SCHEMA.features, price))
    message = r"Feature 'price' has dtype 'float32'. Ali-CCP's ids are 'int64'."

    with pytest.raises(UserError, match=message):
        ali_ccp_rows.check_schema(schema)


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_tokens_are_taken_from_slices_and_chunks(kind):
    tokens = np.array([(0, 5, 1.0), (1, 6, 0.5), (2, 7, 2.0)], ali_ccp_rows.TOKEN)
    column = pa.array([tokens[:1].tobytes(), b"", tokens[1:].tobytes(), None], kind)

    whole, lengths = ali_ccp_rows.tokens_of(pa.chunked_array([column[:2], column[2:]]))
    part, part_lengths = ali_ccp_rows.tokens_of(column[1:3])
    none, no_lengths = ali_ccp_rows.tokens_of(column[1:2])

    assert (whole.tolist(), lengths.tolist()) == (tokens.tolist(), [1, 0, 2, 0])
    assert (part.tolist(), part_lengths.tolist()) == (tokens[1:].tolist(), [0, 2])
    assert (len(none), no_lengths.tolist()) == (0, [0])
