"""Predictions of a trained model as rows: the carried keys and the three probabilities."""

import contextlib
import csv
import importlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from esmm_tf import files, keys
from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn
from esmm_tf.data.source import Source
from esmm_tf.errors import UserError
from esmm_tf.model.model import build_scorer
from esmm_tf.schema.schema import Schema

Columns = Mapping[str, np.ndarray]


class Prediction:
    """The scores of records, computed batch by batch as they are asked for.

    Each batch is a mapping of columns `[impressions]`: the carried keys, then `pctr`, `pcvr` and
    `pctcvr`, float32. Impressions come in the order of the files. Strings are text; bytes that are
    not UTF-8 are escaped.

    Args:
      model: whose outputs are those of `model.layers.EntireSpaceOutputs`.
      schema: of the records.
      source: of the records.
      config: how they are read.
      is_shown: whether a bar shows the progress.
    """

    def __init__(
        self,
        model: Any,
        schema: Schema,
        source: Source,
        config: InputConfig,
        *,
        is_shown: bool = True,
    ) -> None:
        self._model = model
        self._schema = schema
        self._source = source
        self._config = config
        self._is_shown = is_shown

    def __iter__(self) -> Iterator[Columns]:
        """Yields the columns of each batch."""
        schema = self._schema
        dataset = input_fn.build_dataset(self._source, schema, self._config, carry=True)
        scorer = build_scorer(self._model, dataset.element_spec.features)
        for batch in input_fn.show_progress(dataset, self._source, is_shown=self._is_shown):
            outputs = scorer(batch.features)
            carried = {name: _text(batch.carry[name].numpy()) for name in schema.carry}
            yield carried | {name: outputs[name].numpy() for name in keys.PROBABILITIES}

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the columns of all impressions."""
        batches = list(self)
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def write(self, path: str) -> int:
        """Writes all rows, under a temporary name until the end; returns the number of rows.

        Raises:
          UserError: if the ending of `path` is none of .jsonl, .csv and .parquet.
        """
        return write_predictions(iter(self), path)


def _text(values: np.ndarray) -> np.ndarray:
    if values.dtype != object:
        return values
    return np.array([v.decode("utf-8", "backslashreplace") for v in values], dtype=object)


class RowWriter(Protocol):
    """Writes batches of columns to a file."""

    def write(self, columns: Columns) -> None:
        """Appends the rows of a batch."""

    def close(self) -> None:
        """Finishes the file."""


def write_predictions(batches: Iterator[Columns], path: str) -> int:
    """Writes all batches, under a temporary name until the end; returns the number of rows.

    Raises:
      UserError: if the ending of `path` is none of .jsonl, .csv and .parquet.
    """
    ending = os.path.splitext(path)[1]
    writers: dict[str, Callable[[str], RowWriter]] = {
        ".jsonl": _JsonLines,
        ".csv": _Csv,
        ".parquet": _Parquet,
    }
    if ending not in writers:
        raise UserError(f"--output is {path!r}. Its ending must be one of {', '.join(writers)}.")
    num_rows = 0
    with files.replacing(path) as temporary, contextlib.closing(writers[ending](temporary)) as file:
        for columns in batches:
            file.write(columns)
            num_rows += len(columns[keys.PCTR])
    return num_rows


def _rows(columns: Columns) -> Iterator[tuple[Any, ...]]:
    # The shortest decimal that reads back as the same float32.
    return zip(
        *(
            (float(str(v)) for v in values) if values.dtype == np.float32 else values.tolist()
            for values in columns.values()
        ),
        strict=True,
    )


class _JsonLines:
    def __init__(self, path: str) -> None:
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, columns: Columns) -> None:
        for row in _rows(columns):
            record = dict(zip(columns, row, strict=True))
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _Csv:
    def __init__(self, path: str) -> None:
        self._file = open(path, "w", encoding="utf-8", newline="")  # noqa: SIM115 - as above
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._has_header = False

    def write(self, columns: Columns) -> None:
        if not self._has_header:
            self._writer.writerow(columns)
            self._has_header = True
        self._writer.writerows(_rows(columns))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    def __init__(self, path: str) -> None:
        try:
            self._arrow = importlib.import_module("pyarrow")
            self._parquet = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise UserError(
                "Parquet needs pyarrow. Install it with pip install 'esmm_tf[pipelines]', or write "
                ".jsonl or .csv."
            ) from None
        self._path = path
        self._writer: Any = None

    def write(self, columns: Columns) -> None:
        table = self._arrow.table(dict(columns))
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
