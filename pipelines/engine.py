"""The embedded engine: the PySpark DataFrame API on DuckDB, out of core, without Java.

What the DataFrame API leaves to the engine stands here: reading text, streaming rows, and what the
reader had to reject.
"""

import collections
import contextlib
import csv
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa
from sqlframe.duckdb import DuckDBSession, Window
from sqlframe.duckdb import functions as F  # noqa: N812 - its customary name
from sqlframe.duckdb import types as T  # noqa: N812 - likewise

from esmm_tf.errors import UserError

__all__ = ["DuckDBEngine", "F", "Window"]

_ROWS_AT_ONCE = 65536
# A query may read a file twice, which reports its errors twice, and a row may have several errors.
_REJECTED_ROWS = """
SELECT file_path, min(line), min(lower(error_type::VARCHAR)), bool_or(error_type = 'UNQUOTED VALUE')
FROM reject_errors JOIN reject_scans USING (scan_id, file_id)
GROUP BY file_path, line_byte_position
ORDER BY file_path, line_byte_position
"""


class DuckDBEngine(contextlib.AbstractContextManager["DuckDBEngine"]):
    """A session on DuckDB.

    Args:
      memory_limit: what DuckDB may hold, such as `4GB`; beyond it, it spills.
      temp_dir: where it spills; the system's temporary directory by default.

    Raises:
      UserError: if `memory_limit` is no size, or `temp_dir` cannot be written to.
    """

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
        # Rows have the order that a query asks for; to keep that of the file costs memory.
        self._connection.execute("SET preserve_insertion_order = false")
        self.session = DuckDBSession(conn=self._connection)

    def __exit__(self, *error: Any) -> None:
        """Closes the session and removes what it spilled."""
        self._connection.close()
        self._spill.cleanup()

    def read_csv(self, path: str, *, null_values: Sequence[str] = ("", "NULL")) -> Any:
        """Returns a DataFrame of text columns, named by the header of the file.

        Rows that are no CSV of that width are left out and counted by `rejected_rows`.

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

    def stream(self, frame: Any) -> Iterator[pa.RecordBatch]:
        """Yields the rows of a DataFrame in its order, some at a time.

        Raises:
          UserError: if the engine fails, for instance because the disk is full.
        """
        try:
            # DuckDB optimizes the query itself; sqlglot's rewriting has dropped an IS NULL here.
            query = frame.sql(dialect="duckdb", optimize=False, pretty=False)
            result = self._connection.execute(query)
            yield from result.fetch_record_batch(_ROWS_AT_ONCE)
        except duckdb.Error as error:
            raise UserError(f"The engine stopped: {error}") from None

    def rejected_rows(self) -> collections.Counter[str]:
        """Returns how many rows the reader left out, by reason; the stream must be at its end.

        Raises:
          UserError: if a quote stays open, so that rows below it are lost and cannot be counted.
        """
        tables = self._connection.execute("SHOW TABLES").fetchall()
        if ("reject_errors",) not in tables:
            return collections.Counter()
        rejected: collections.Counter[str] = collections.Counter()
        for path, line, reason, open_quote in self._connection.execute(_REJECTED_ROWS).fetchall():
            if open_quote:
                raise UserError(
                    f"Row {line} of {path!r} has a quote that is not closed before the next comma "
                    "or line end, which may hide rows below it. Mend or remove that row."
                )
            rejected[f"no CSV row: {reason}"] += 1
        return rejected


def _header(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            line = file.readline().decode("utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path!r}: {error}. Check --input.") from None
    columns = next(csv.reader([line]))
    if not columns or len(set(columns)) != len(columns) or "" in columns:
        raise UserError(f"{path!r} does not begin with a header of column names.")
    return columns
