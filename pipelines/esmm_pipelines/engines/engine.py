"""What a pipeline asks of an engine beyond the PySpark DataFrame API.

Pipelines are written once in that API, with the engine's `F` and `Window`. What the API of sqlframe
and PySpark does not share stands in this interface: reading files, running a function over batches
of rows, streaming rows to this process, and writing ordered rows as records.
"""

import csv
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from esmm_pipelines.engines.config import EngineConfig
from esmm_tf.data.records import Group
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError

Report = Callable[[int], Any]
Batches = Iterator[pa.RecordBatch]
ToGroups = Callable[[Batches], Iterator[tuple[str, Group]]]


class Engine(Protocol):
    """A session of an engine; use it in a `with`, which ends it."""

    F: Any
    Window: Any

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *error: Any) -> None: ...

    def read_csv(self, path: str, *, null_values: Sequence[str] = ("", "NULL")) -> Any:
        """Returns a DataFrame of text columns, named by the header of the file."""

    def read_parquet(self, paths: Sequence[str]) -> Any:
        """Returns a DataFrame of the rows of Parquet files."""

    def scan(
        self, pieces: Sequence[Any], parse: Callable[[Any, Report], Batches], schema: pa.Schema
    ) -> Any:
        """Returns the rows that `parse` yields for each piece, kept by the engine.

        Args:
          pieces: what is read in parallel, each with `start` and `end` in bytes.
          parse: yields the rows of a piece and reports the bytes read.
          schema: of the rows.
        """

    def named(self, frame: Any) -> Any:
        """Returns the rows of a frame, by a name for its query where the engine needs one."""

    def map_batches(
        self, frame: Any, function: Callable[[Batches], Batches], schema: pa.Schema
    ) -> Any:
        """Returns the rows that `function` yields for the rows of a frame, in parts of any size."""

    def stream(self, frame: Any) -> Batches:
        """Yields the rows of a DataFrame in its order, some at a time."""

    def write_groups(
        self, frame: Any, *, order: Sequence[str], to_groups: ToGroups, writer: DataSetWriter
    ) -> None:
        """Writes the rows of a frame as groups.

        Args:
          frame: whose rows are written.
          order: columns that order the rows; the first is equal in all rows of a context.
          to_groups: yields the groups, with their splits, of rows in that order.
          writer: of the groups.
        """

    def rejected_rows(self) -> dict[str, int]:
        """Returns how many rows the reader of CSV files left out, by reason."""


def open_engine(config: EngineConfig) -> Engine:
    """Returns the engine that the settings name.

    Raises:
      UserError: if it is not installed, or its settings are wrong.
    """
    extra = {"duckdb": "pipelines", "spark": "spark"}[config.engine]
    try:
        module = importlib.import_module(f"esmm_pipelines.engines.{config.engine}_engine")
    except ModuleNotFoundError as error:
        raise UserError(
            f"--engine={config.engine} needs {error.name!r}. pip install 'esmm_tf[{extra}]'."
        ) from None
    return module.build_engine(config)


def header_columns(line: str, path: str) -> list[str]:
    """Returns the names of columns in the first line of a CSV file.

    Raises:
      UserError: if the line is no header: empty, with an empty name or with the same name twice.
    """
    columns = next(csv.reader([line]), [])
    if not columns or len(set(columns)) != len(columns) or "" in columns:
        raise UserError(f"{path!r} does not begin with a header of column names.")
    return columns
