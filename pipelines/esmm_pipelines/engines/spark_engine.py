"""The engine for clusters: PySpark, with Python workers that parse, group and write.

The machine that runs a pipeline and all of Spark's workers must share a file system: the raw files
are read, and the records written, under the same paths everywhere.
"""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas  # noqa: F401 - PySpark's mapInArrow asks for it
import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark import StorageLevel
from pyspark.errors import AnalysisException, PySparkException, PythonException
from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812 - its customary name
from pyspark.sql.pandas.types import from_arrow_schema

import esmm_tf.startup  # noqa: F401 - workers import this module before any that needs TensorFlow
from esmm_pipelines.engines import spark_session
from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.engines.engine import Batches, Report, ToGroups, header_columns
from esmm_tf.data import manifest
from esmm_tf.data.writer import DataSetWriter, write_shards
from esmm_tf.errors import UserError
from esmm_tf.schema.schema import Schema

_DAMAGED = "esmm_tf_damaged"
_SERIALIZED = pa.schema([("batch", pa.binary())])
_SHARD = pa.schema(
    [
        ("split", pa.string()),
        ("file", pa.string()),
        ("records", pa.int64()),
        ("impressions", pa.int64()),
        ("clicks", pa.int64()),
        ("conversions", pa.int64()),
    ]
)
# A worker's exception reaches this process as text, with Java's stack trace below it.
_WORKERS_USER_ERROR = re.compile(
    r"^(?:\S*: )?esmm_tf\.errors\.UserError: (.*?)"
    r"(?:\s+SQLSTATE: \w+)?\s*(?=^\s+at [\w.$/]+\(|^Driver stacktrace:|\Z)",
    re.MULTILINE | re.DOTALL,
)


def build_engine(config: EngineConfig) -> "SparkEngine":
    """Returns the engine on Spark."""
    return SparkEngine(spark_session.open_session(config))


class SparkEngine(contextlib.AbstractContextManager["SparkEngine"]):
    """A Spark session, ended when its context is left.

    Args:
      session: to run on.
    """

    F = F
    Window = Window

    def __init__(self, session: SparkSession) -> None:
        self.session = session
        self._csv: list[tuple[str, Any]] = []

    def __exit__(self, *error: Any) -> None:
        """Stops Spark, which removes what it kept on its workers' disks."""
        self.session.stop()

    def read_csv(self, path: str, *, null_values: Sequence[str] = ("", "NULL")) -> Any:
        """Returns a DataFrame of text columns, named by the header of the file.

        Rows that are not CSV of the header's width are left out and counted by `rejected_rows`. One
        task parses a file, since values may hold line ends; its rows are kept on disk.

        Raises:
          UserError: if the file cannot be read or has no header.
        """
        columns = self._header(path)
        with _told_to_user():
            rows = self.session.read.csv(
                path,
                schema=", ".join(f"{_quoted(name)} string" for name in (*columns, _DAMAGED)),
                header=True,
                multiLine=True,
                escape='"',
                mode="PERMISSIVE",
                columnNameOfCorruptRecord=_DAMAGED,
                unescapedQuoteHandling="RAISE_ERROR",
            ).persist(StorageLevel.DISK_ONLY)
        self._csv.append((path, rows))
        values = {name: F.col(_quoted(name)) for name in columns}
        return rows.where(F.col(_DAMAGED).isNull()).select(
            *(F.when(~col.isin(*null_values), col).alias(name) for name, col in values.items())
        )

    def read_parquet(self, paths: Sequence[str]) -> Any:
        """Returns a DataFrame of the rows of Parquet files.

        Raises:
          UserError: if they cannot be read.
        """
        try:
            return self.session.read.option("mergeSchema", True).parquet(*paths)
        except (PySparkException, Py4JError) as error:
            reason = spark_session.first_line(error)
            raise UserError(f"Cannot read {', '.join(paths)}: {reason}") from None

    def scan(
        self, pieces: Sequence[Any], parse: Callable[[Any, Report], Batches], schema: pa.Schema
    ) -> Any:
        """Returns the rows of all pieces, one task per piece, kept on the disks of the workers.

        Workers cannot report what they read while they read it; Spark shows the tasks done.
        """
        number = len(pieces)
        indices = self.session.range(0, number, numPartitions=max(number, 1))
        read = functools.partial(_parse, pieces=list(pieces), parse=parse)
        rows = _map_in_arrow(indices, read, schema)
        return rows.persist(StorageLevel.DISK_ONLY)

    def named(self, frame: Any) -> Any:
        """Returns the frame, whose plan Spark shares with what is built on it."""
        return frame

    def map_batches(
        self, frame: Any, function: Callable[[Batches], Batches], schema: pa.Schema
    ) -> Any:
        """Returns the rows that `function` yields for the rows of each partition."""
        return _map_in_arrow(frame, function, schema)

    def stream(self, frame: Any) -> Batches:
        """Yields the rows of a DataFrame in its order, some at a time.

        One partition after the other comes to this process, so it must have memory for the largest.
        Workers sort an ordered frame first; to find the borders of its partitions they compute its
        input twice.

        Raises:
          UserError: if Spark fails, for instance because the disk is full.
        """
        with _told_to_user():
            for row in _map_in_arrow(frame, _serialized, _SERIALIZED).toLocalIterator():
                yield from pa.ipc.open_stream(row["batch"])

    def write_groups(
        self,
        frame: Any,
        *,
        order: Sequence[str],
        to_groups: ToGroups,
        writer: DataSetWriter,
    ) -> None:
        """Writes the rows of a frame as groups; each task writes one shard of each split.

        The shard of a row is a hash of the first column of the order, so neither the number of
        workers nor their failures change it. Only the shards of each task's one successful attempt
        are adopted; what other attempts wrote is removed with the writer's other temporary files.

        Raises:
          UserError: if a group does not fit the schema, the directory is not shared, or Spark
            fails.
        """
        write = functools.partial(
            _write,
            to_groups=to_groups,
            schema=writer.schema,
            directory=os.path.abspath(writer.directory),
            compression=writer.compression,
        )
        parts = frame.repartition(writer.num_shards, order[0]).sortWithinPartitions(*order)
        with _told_to_user():
            written = _map_in_arrow(parts, write, _SHARD).collect()
        for row in written:  # in the order of the partitions
            fields = row.asDict()
            writer.adopt(fields.pop("split"), manifest.Shard(**fields))

    def rejected_rows(self) -> dict[str, int]:
        """Returns how many rows the reader of CSV files left out.

        Raises:
          UserError: if a quote stays open, so that rows below it are lost and cannot be counted.
        """
        damaged = 0
        with _told_to_user():
            for path, rows in self._csv:
                damaged += rows.where(F.col(_DAMAGED).isNotNull()).count()
                self._check_quotes(path, rows)
        return {"no CSV row": damaged} if damaged else {}

    def _check_quotes(self, path: str, rows: Any) -> None:
        """Raises a `UserError` if a quote hides the rest of a file: Spark takes it for a value."""
        text = F.concat_ws("", *(F.col(_quoted(name)) for name in rows.columns))
        if rows.where(text.contains("\n")).isEmpty():
            return
        lines = self.session.read.text(path)
        quotes = F.length("value") - F.length(F.replace(F.col("value"), F.lit('"'), F.lit("")))
        if sum(row[0] for row in lines.agg(F.sum(quotes)).collect()) % 2:
            raise UserError(_open_quote(path))

    def _header(self, path: str) -> list[str]:
        try:
            first = self.session.read.text(path).head()
        except (PySparkException, Py4JError) as error:
            reason = spark_session.first_line(error)
            raise UserError(f"Cannot read {path!r}: {reason} Check --input.") from None
        line = first["value"].removeprefix("\ufeff") if first else ""
        return header_columns(line, path)


def _parse(
    indices: Batches, *, pieces: Sequence[Any], parse: Callable[[Any, Report], Batches]
) -> Batches:
    for batch in indices:
        for index in batch["id"].to_pylist():
            yield from parse(pieces[index], _ignore)


def _ignore(_: int) -> None:
    """Ignores how many bytes were read: in a worker, nobody asks."""


def _map_in_arrow(frame: Any, function: Callable[[Batches], Batches], schema: pa.Schema) -> Any:
    """Returns a frame's `mapInArrow`, which alone would take a dot in a name for a struct's."""
    numbered = frame.toDF(*(f"column_{index}" for index in range(len(frame.columns))))
    call = functools.partial(_call, names=frame.columns, function=function)
    return numbered.mapInArrow(call, from_arrow_schema(schema))


def _call(
    batches: Batches, *, names: Sequence[str], function: Callable[[Batches], Batches]
) -> Batches:
    yield from function(batch.rename_columns(names) for batch in batches)


def _serialized(batches: Batches) -> Batches:
    """Yields each batch as one binary value in Arrow's format."""
    for batch in batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        yield pa.record_batch([pa.array([sink.getvalue().to_pybytes()])], schema=_SERIALIZED)


def _write(
    batches: Batches, *, to_groups: ToGroups, schema: Schema, directory: str, compression: str
) -> Batches:
    """Yields the shards that hold the groups of one task's rows."""
    written = write_shards(to_groups(batches), schema, directory=directory, compression=compression)
    rows = [{"split": split, **dataclasses.asdict(shard)} for split, shard in written.items()]
    yield pa.RecordBatch.from_pylist(rows, schema=_SHARD)


@contextlib.contextmanager
def _told_to_user() -> Iterator[None]:
    """Turns what a user can mend into a `UserError`; a worker's bug keeps its traceback."""
    try:
        yield
    except (PySparkException, Py4JError) as error:
        text = str(error)
        if user_error := _WORKERS_USER_ERROR.search(text):
            raise UserError(user_error[1]) from None
        if isinstance(error, PythonException | AnalysisException):
            raise
        if "TextParsingException" in text:
            path = re.search(r"while reading file (.*?)\.\s", text)
            raise UserError(_open_quote(path[1] if path else "--input")) from None
        raise UserError(
            f"Spark stopped: {spark_session.first_line(error)} Give it more memory by --spark_conf,"
            " or a --temp_dir with more space, if that is what it lacks."
        ) from None


def _open_quote(path: str) -> str:
    return (
        f"A row of {path!r} has a quote that is not closed before the next comma or line end, which"
        " may hide rows below it. Mend or remove that row."
    )


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
