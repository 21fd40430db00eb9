"""The embedded engine: what it reads, what it rejects, how it fails, what it leaves behind."""

import contextlib
import re

import pyarrow as pa
import pytest

from esmm_pipelines.engines.duckdb_engine import DuckDBEngine, F
from esmm_tf.errors import UserError


@pytest.fixture
def engine(tmp_path):
    spill = tmp_path / "spill"
    spill.mkdir()
    with DuckDBEngine(memory_limit="1GB", temp_dir=str(spill)) as engine:
        yield engine


@pytest.fixture
def read(engine, tmp_path):
    """Returns a function of a file's content that reads it: its rows and its rejections."""

    def read(content):
        path = tmp_path / "log.csv"
        path.write_bytes(content)
        rows = to_rows(engine.stream(engine.read_csv(str(path))))
        return rows, dict(engine.rejected_rows())

    return read


def to_rows(batches):
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"a,b\n1,x\n2,y\n", [("1", "x"), ("2", "y")]),
        (b"a,b\r\n1,x\r\n2,y\r\n", [("1", "x"), ("2", "y")]),
        (b"a,b\n1,x\n2,y", [("1", "x"), ("2", "y")]),
        (b'a,b\n"1, 5","say ""yes"""\n"",z\n', [("1, 5", 'say "yes"'), (None, "z")]),
        (b'a,b\n1,"two\nlines"\n', [("1", "two\nlines")]),
        (b"a,b\n,NULL\nnull,0\n", [(None, None), ("null", "0")]),
        (b"a,b\n 1 ,1e3\n", [(" 1 ", "1e3")]),
        (b"a,b\n\n1,x\n\n", [("1", "x")]),
        ("a,b\né,東\n".encode(), [("é", "東")]),
        (b"\xef\xbb\xbfa,b\n1,x\n", [("1", "x")]),
        (b'"a","b"\n1,x\n', [("1", "x")]),
        (b"a,b\n", []),
        (b"a,b", []),
    ],
)
def test_a_csv_is_read_as_text_with_empty_and_null_missing(read, content, rows):
    assert read(content) == (rows, {})


def test_columns_are_named_by_the_header(engine, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b'\xef\xbb\xbfprop_id,"click, bool"\n1,2\n')

    assert engine.read_csv(str(path)).columns == ["prop_id", "click, bool"]


def test_the_values_that_mean_missing_can_be_chosen(engine, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"a,b\n-,NULL\n")

    frame = engine.read_csv(str(path), null_values=("-",))

    assert to_rows(engine.stream(frame)) == [(None, "NULL")]


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (b"3\n", "missing columns"),
        (b"3,x,9\n", "too many columns"),
        (b"3,x,9,9,9\n", "too many columns"),
        (b"3,\xff\n", "invalid encoding"),
        (b"\xff\n", "invalid encoding"),  # and a column is missing: the row still counts once
        (b"3," + b"x" * 2_100_000 + b"\n", "line size over maximum"),
    ],
)
def test_a_damaged_row_is_left_out_and_counted_once(read, damaged, reason):
    content = b"a,b\n1,x\n" + damaged + b"2,y\n"

    assert read(content) == ([("1", "x"), ("2", "y")], {f"no CSV row: {reason}": 1})


def test_a_last_line_that_was_cut_off_is_left_out_and_counted(read):
    assert read(b"a,b\n1,x\n2") == ([("1", "x")], {"no CSV row: missing columns": 1})


def test_damaged_rows_are_counted_by_reason_far_into_a_file(read):
    content = b"a,b\n" + b"1,x\n" * 300_000 + b"1\n2,\xff\n3\n" + b"1,x\n" * 300_000

    rows, rejected = read(content)

    assert len(rows) == 600_000
    assert rejected == {"no CSV row: missing columns": 2, "no CSV row: invalid encoding": 1}


def test_damaged_rows_of_a_file_that_a_query_reads_twice_count_once(engine, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"a,b\n1,x\n2\n")
    frame = engine.read_csv(str(path))
    counts = frame.groupBy("a").agg(F.count("b").alias("count"))

    rows = to_rows(engine.stream(frame.join(counts, on="a", how="inner")))

    assert rows == [("1", "x", 1)]
    assert dict(engine.rejected_rows()) == {"no CSV row: missing columns": 1}


def test_damaged_rows_of_two_files_count_both(engine, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).write_bytes(b"a,b\n1,x\n2\n")
        list(engine.stream(engine.read_csv(str(tmp_path / name))))

    assert dict(engine.rejected_rows()) == {"no CSV row: missing columns": 2}


@pytest.mark.parametrize("below", [0, 3, 500_000])
def test_an_open_quote_ends_the_run_since_it_may_hide_rows_below_it(read, tmp_path, below):
    message = (
        f"Row 3 of '{tmp_path / 'log.csv'}' has a quote that is not closed before the next comma "
        "or line end, which may hide rows below it. Mend or remove that row."
    )

    with pytest.raises(UserError, match=re.escape(message)):
        read(b'a,b\n1,x\n2,"y\n' + b"1,x\n" * below)


def test_nothing_was_rejected_before_anything_was_read(engine):
    assert not engine.rejected_rows()


@pytest.mark.parametrize("header", [b"", b"\n1,2\n", b"a,a\n1,2\n", b"a,\n1,2\n"])
def test_a_header_names_every_column_once(engine, tmp_path, header):
    path = tmp_path / "log.csv"
    path.write_bytes(header)
    message = re.escape(f"'{path}' does not begin with a header of column names.")

    with pytest.raises(UserError, match=message):
        engine.read_csv(str(path))


def test_a_file_that_is_no_text_is_refused(engine, tmp_path):
    path = tmp_path / "log.csv.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00")

    with pytest.raises(UserError, match=r"Cannot read .*log.csv.gz.*codec.* Check --input."):
        engine.read_csv(str(path))


def test_a_missing_file_is_named(engine, tmp_path):
    message = rf"Cannot read '{tmp_path}/absent.csv': .*No such file or directory.* Check --input."

    with pytest.raises(UserError, match=message):
        engine.read_csv(f"{tmp_path}/absent.csv")


def test_rows_are_streamed_in_order_and_not_all_at_once(engine, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("id\n" + "\n".join(map(str, range(200_000))), encoding="utf-8")
    frame = engine.read_csv(str(path)).orderBy(F.expr("cast(id as bigint)").desc())

    batches = list(engine.stream(frame))

    assert len(batches) > 1
    assert all(isinstance(batch, pa.RecordBatch) for batch in batches)
    ids = [int(row) for batch in batches for row in batch["id"].to_pylist()]
    assert ids == list(range(199_999, -1, -1))


def test_a_failure_of_the_engine_is_told_to_the_user(engine):
    frame = engine.session.createDataFrame([(1.0,), (0.0,)], ["a"])
    broken = frame.select(F.log(F.col("a")).alias("a"))

    with pytest.raises(UserError, match=r"The engine stopped: Out of Range Error: .*logarithm"):
        list(engine.stream(broken))


def test_more_memory_than_the_limit_is_told_to_the_user(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"a\n1\n")

    with (
        DuckDBEngine(memory_limit="1MB") as engine,
        pytest.raises(UserError, match=r"The engine stopped: Out of Memory Error"),
    ):
        list(engine.stream(engine.read_csv(str(path))))


@pytest.mark.parametrize("limit", ["much", "", "4", "4'"])
def test_a_memory_limit_is_a_size(tmp_path, limit):
    message = rf"--memory_limit is {re.escape(repr(limit))}: .* Write it as 4GB."

    with pytest.raises(UserError, match=message):
        DuckDBEngine(memory_limit=limit, temp_dir=str(tmp_path))

    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_to_spill_to_is_named(tmp_path):
    absent = str(tmp_path / "absent")
    message = rf"--temp_dir is '{absent}': .*No such file or directory.* Name a directory."

    with pytest.raises(UserError, match=message):
        DuckDBEngine(memory_limit="1GB", temp_dir=absent)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_what_was_spilled_is_removed_whether_or_not_the_run_fails(tmp_path, error):
    directory = tmp_path / "it's spilled here"
    directory.mkdir()

    with (
        pytest.raises(error) if error else contextlib.nullcontext(),
        DuckDBEngine(memory_limit="1GB", temp_dir=str(directory)),
    ):
        (spill,) = directory.iterdir()
        (spill / "piece.tmp").write_bytes(b"rows")
        if error:
            raise error

    assert list(directory.iterdir()) == []
