"""Rows that the embedded engine keeps on disk, as Parquet files, while a pipeline runs."""

import concurrent.futures
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from esmm_pipelines.engines.engine import Batches, Report
from esmm_tf import console


def keep(batches: Batches, path: pathlib.Path, schema: pa.Schema) -> None:
    """Writes rows into one file."""
    with pyarrow.parquet.ParquetWriter(path, schema, compression="lz4") as file:
        for batch in batches:
            file.write_batch(batch)


def keep_pieces(
    pieces: Sequence[Any],
    parse: Callable[[Any, Report], Batches],
    directory: pathlib.Path,
    schema: pa.Schema,
) -> None:
    """Writes the rows of each piece into a file of its own, several pieces at once.

    A bar shows the bytes read, the time left and the number of rows.
    """
    num_bytes = sum(piece.end - piece.start for piece in pieces)
    with (
        console.build_bar(num_bytes, "reading", unit="B") as bar,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        counter = _Counter(bar)
        jobs = [
            pool.submit(
                keep,
                counter.rows(parse(piece, counter.add_bytes)),
                directory / f"{index:06d}.parquet",
                schema,
            )
            for index, piece in enumerate(pieces)
        ]
        try:
            for job in concurrent.futures.as_completed(jobs):
                job.result()
        except BaseException:
            counter.stop()
            pool.shutdown(cancel_futures=True)
            raise


class _Counter:
    """Counts what several threads read; once it is stopped, they end."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._lock = threading.Lock()
        self._num_rows = 0
        self._stopped = False

    def stop(self) -> None:
        """Makes every further call raise."""
        self._stopped = True

    def add_bytes(self, number: int) -> None:
        """Moves the bar."""
        with self._lock:
            if self._stopped:
                raise InterruptedError
            self._bar.update(number)

    def rows(self, batches: Batches) -> Iterator[pa.RecordBatch]:
        """Yields the batches again and counts their rows."""
        for batch in batches:
            with self._lock:
                self._num_rows += len(batch)
                self._bar.set_postfix_str(f"{self._num_rows:,} rows", refresh=False)
            yield batch
