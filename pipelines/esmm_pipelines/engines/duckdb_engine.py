"""The embedded engine: the PySpark DataFrame API on DuckDB, out of core, without Java.

What the DataFrame API leaves to the engine stands here: reading text, streaming rows, and what the
reader had to reject.
"""

import collections
import contextlib
import itertools
import pathlib
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa
from sqlframe.duckdb import DuckDBSession, Window
from sqlframe.duckdb import functions as F  # noqa: N812 - its customary name
from sqlframe.duckdb import types as T  # noqa: N812 - likewise

from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.engines.engine import Batches, Report, ToGroups, header_columns
from esmm_pipelines.engines.kept_rows import keep, keep_pieces
from esmm_tf import console
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError

_ROWS_AT_ONCE = 8192
_SECONDS_BETWEEN_LOOKS = 0.5
# Parquet type that sqlframe does not know -> the type that Spark has for it.
_KNOWN_TYPES = {
    "UTINYINT": "SMALLINT",
    "USMALLINT": "INTEGER",
    "UINTEGER": "BIGINT",
    "UBIGINT": "DECIMAL(20,0)",
    "TIME": "VARCHAR",
    "TIMESTAMP_S": "TIMESTAMP",
    "TIMESTAMP_MS": "TIMESTAMP",
    "TIMESTAMP_NS": "TIMESTAMP",
}
# A query may read a file twice, which reports its errors twice, and a row may have several errors.
_REJECTED_ROWS = """
SELECT file_path, min(line), min(lower(error_type::VARCHAR)), bool_or(error_type = 'UNQUOTED VALUE')
FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
GROUP BY file_path, line_byte_position
ORDER BY file_path, line_byte_position
"""


def build_engine(config: EngineConfig) -> "DuckDBEngine":
    """Returns the embedded engine."""
    return DuckDBEngine(memory_limit=config.memory_limit, temp_dir=config.temp_dir)


class DuckDBEngine(contextlib.AbstractContextManager["DuckDBEngine"]):
    """A session on DuckDB.

    Args:
      memory_limit: memory that DuckDB may hold, such as `4GB`, before it spills to disk.
      temp_dir: where it spills to; the system's temporary directory by default.

    Raises:
      UserError: if `memory_limit` is no size, or `temp_dir` cannot be written to.
    """

    F = F
    Window = Window

    def __init__(self, *, memory_limit: str, temp_dir: str = "") -> None:
        try:
            self._spill = tempfile.TemporaryDirectory(dir=temp_dir or None, prefix="esmm_tf_spill_")
        except OSError as error:
            raise UserError(f"--temp_dir is {temp_dir!r}: {error}. Name a directory.") from None
        settings = {"memory_limit": memory_limit, "temp_directory": self._spill.name}
        try:
            self._connection = duckdb.connect(config=settings)
        except duckdb.Error as error:
            self._spill.cleanup()
            raise UserError(
                f"--memory_limit is {memory_limit!r}: {error}. Write it as 4GB."
            ) from None
        self._connection.execute("SET TimeZone = 'UTC'")
        # A query asks for the order that it needs; to keep the file's order would cost memory.
        self._connection.execute("SET preserve_insertion_order = false")
        # So that the progress of a query is known; our own bar shows it.
        self._connection.execute("SET enable_progress_bar = true")
        self._connection.execute("SET enable_progress_bar_print = false")
        self.session = DuckDBSession(conn=self._connection)
        self._num_kept = 0

    def __exit__(self, *error: Any) -> None:
        """Closes the session and removes what it spilled."""
        self.session.stop()  # else the next session of this process would be this one again
        self._connection.close()
        self._spill.cleanup()

    def read_csv(self, path: str, *, null_values: Sequence[str] = ("", "NULL")) -> Any:
        """Returns a DataFrame of text columns, named by the header of the file.

        Rows that are not CSV of the header's width are left out and counted by `rejected_rows`.

        Raises:
          UserError: if the file cannot be read or has no header.
        """
        columns = _header(path)
        frame = self.session.read.load(
            path,
            format="csv",
            schema=T.StructType([T.StructField(name, T.StringType()) for name in columns]),
            header=True,
            auto_detect=False,
            delim=",",
            quote='"',
            store_rejects=True,
        )
        return frame.select(
            *(F.when(~F.col(name).isin(*null_values), F.col(name)).alias(name) for name in columns)
        )

    def read_parquet(self, paths: Sequence[str]) -> Any:
        """Returns a DataFrame of the rows of Parquet files.

        Raises:
          UserError: if they cannot be read.
        """
        try:
            # A view gives columns their names even if these need quoting.
            name = self._new_name()
            source = self._connection.read_parquet(list(paths), union_by_name=True)
            source.project(_as_known_types(source)).create_view(name)
            return self.session.table(name)
        except duckdb.Error as error:
            raise UserError(f"Cannot read {', '.join(paths)}: {error}") from None

    def scan(
        self, pieces: Sequence[Any], parse: Callable[[Any, Report], Batches], schema: pa.Schema
    ) -> Any:
        """Returns the rows of all pieces, kept as Parquet files; see `Engine.scan`."""
        directory = pathlib.Path(self._spill.name, self._new_name())
        directory.mkdir()
        keep_pieces(pieces, parse, directory, schema)
        return self.read_parquet([str(directory / "*.parquet")])

    def named(self, frame: Any) -> Any:
        """Returns the rows of a view, since sqlframe copies all of a query at each step on it."""
        name = self._new_name()
        self._connection.execute(f"CREATE VIEW {name} AS {_query(frame)}")
        return self.session.table(name)

    def map_batches(
        self, frame: Any, function: Callable[[Batches], Batches], schema: pa.Schema
    ) -> Any:
        """Returns the rows that `function` yields, kept as a Parquet file."""
        path = pathlib.Path(self._spill.name, f"{self._new_name()}.parquet")
        with console.build_bar(self._count(frame), "counting", unit=" rows") as bar:
            keep(function(_counted(self.stream(frame), bar)), path, schema)
        return self.read_parquet([str(path)])

    def stream(self, frame: Any) -> Batches:
        """Yields the rows of a DataFrame in its order, some at a time.

        Raises:
          UserError: if the engine fails, for instance because the disk is full.
        """
        try:
            result = self._connection.execute(_query(frame))
            yield from result.fetch_record_batch(_ROWS_AT_ONCE)
        except duckdb.Error as error:
            raise UserError(
                f"The engine stopped: {error} Give it more --memory_limit, or a --temp_dir with "
                "more space, if that is what it lacks."
            ) from None

    def write_groups(
        self, frame: Any, *, order: Sequence[str], to_groups: ToGroups, writer: DataSetWriter
    ) -> None:
        """Writes the rows of a frame as groups; see `Engine.write_groups`."""
        total = self._count(frame)
        batches = self.stream(frame.orderBy(*order))
        with self._watched("sorting"):
            first = next(batches, None)
        if first is None:
            return
        with console.build_bar(total, "writing", unit=" rows") as bar:
            for split, group in to_groups(_counted(itertools.chain([first], batches), bar)):
                writer.write(split, group)

    def _count(self, frame: Any) -> int:
        counted = frame.agg(F.count("*").alias("n"))
        return sum(batch["n"][0].as_py() for batch in self.stream(counted))

    @contextlib.contextmanager
    def _watched(self, title: str) -> Iterator[None]:
        """Shows the progress of the query that runs meanwhile."""
        ended = threading.Event()
        with console.build_bar(100, title, unit="%") as bar:
            watch = threading.Thread(target=self._watch, args=(bar, ended))
            watch.start()
            try:
                yield
            finally:
                ended.set()
                watch.join()

    def _watch(self, bar: Any, ended: threading.Event) -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            per_cent = round(self._connection.query_progress())
            bar.update(max(per_cent - bar.n, 0))

    def _new_name(self) -> str:
        self._num_kept += 1
        return f"kept_{self._num_kept}"

    def rejected_rows(self) -> dict[str, int]:
        """Returns how many rows the reader left out, by reason; the stream must be at its end.

        Raises:
          UserError: if a quote stays open, so that rows below it are lost and cannot be counted.
        """
        tables = self._connection.execute("SHOW TABLES").fetchall()
        if ("reject_errors",) not in tables:
            return {}
        rejected: collections.Counter[str] = collections.Counter()
        for path, line, reason, open_quote in self._connection.execute(_REJECTED_ROWS).fetchall():
            if open_quote:
                raise UserError(
                    f"Row {line} of {path!r} has a quote that is not closed before the next comma "
                    "or line end, which may hide rows below it. Mend or remove that row."
                )
            rejected[f"no CSV row: {reason}"] += 1
        return rejected


def _query(frame: Any) -> str:
    # DuckDB optimizes the query itself; sqlglot's rewriting has dropped an IS NULL here.
    return frame.sql(dialect="duckdb", optimize=False, pretty=False)


def _counted(batches: Batches, bar: Any) -> Iterator[pa.RecordBatch]:
    """Yields the batches again and moves a bar by their rows."""
    for batch in batches:
        yield batch
        bar.update(len(batch))


def _as_known_types(source: duckdb.DuckDBPyRelation) -> str:
    """Returns the columns of a relation as SQL, in the types in which Spark would read them."""
    columns = []
    for name, kind in zip(source.columns, map(str, source.types), strict=True):
        quoted = '"' + name.replace('"', '""') + '"'
        single = re.sub(r"(\[\d*\])+$", "", kind)
        known = _KNOWN_TYPES.get(single, single) + "[]" * kind[len(single) :].count("[")
        # Without a cast, a column of nothing but nulls has a type of its own in a view.
        columns.append(f"CAST({quoted} AS {known}) AS {quoted}")
    return ", ".join(columns)


def _header(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            line = file.readline().decode("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path!r}: {error}. Check --input.") from None
    return header_columns(line, path)
