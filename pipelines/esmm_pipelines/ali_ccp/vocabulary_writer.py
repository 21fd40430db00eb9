"""Vocabularies of a log: the ids that occur often enough, one file per embedding table."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from esmm_pipelines.ali_ccp.rows import tokens_of
from esmm_pipelines.engines.engine import Batches, Engine
from esmm_tf.schema.columns import VocabularyColumn
from esmm_tf.schema.schema import Schema

_COUNT = pa.schema([("table_index", pa.int64()), ("id", pa.int64()), ("impressions", pa.int64())])
_TOKENS_AT_ONCE = 4_000_000


def build_schema(
    engine: Engine, rows: Any, schema: Schema, *, min_count: int, directory: str
) -> Schema:
    """Returns the schema with a vocabulary column for each feature, and writes the vocabularies.

    Args:
      engine: that the rows belong to.
      rows: a DataFrame with columns `tokens` and `impressions`, how often each token counts.
      schema: of the tokens; features that share a table share a vocabulary.
      min_count: impressions below which an id is left to the out-of-vocabulary row.
      directory: of the vocabulary files, the most frequent id first.
    """
    tables = list(dict.fromkeys(feature.table_name for feature in schema.features))
    table_indices = [tables.index(feature.table_name) for feature in schema.features]
    counted = engine.map_batches(
        rows.select("tokens", "impressions"), _counter(table_indices), _COUNT
    )
    F = engine.F  # noqa: N806 - its customary name
    total = counted.groupBy("table_index", "id").agg(F.sum("impressions").alias("total"))
    frequent = total.where(F.col("total") >= min_count)
    ordered = frequent.orderBy(F.col("table_index"), F.col("total").desc(), F.col("id"))
    sizes = _write(engine.stream(ordered), [_path(directory, table) for table in tables])
    columns = {
        table: VocabularyColumn(file=_path(directory, table), file_size=size)
        for table, size in zip(tables, sizes, strict=True)
        if size
    }
    features = tuple(
        dataclasses.replace(feature, column=columns.get(feature.table_name, feature.column))
        for feature in schema.features
    )
    return dataclasses.replace(schema, features=features)


def _path(directory: str, table: str) -> str:
    return os.path.join(directory, f"{table}.txt")


def _counter(table_indices: list[int]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Returns a function that counts the ids of rows by table, in parts that memory can hold."""

    def count(batches: Batches) -> Iterator[pa.RecordBatch]:
        held: list[tuple[np.ndarray, np.ndarray]] = []
        size = 0
        for batch in batches:
            tokens, lengths = tokens_of(batch.column("tokens"))
            held.append((tokens, np.repeat(batch.column("impressions").to_numpy(), lengths)))
            size += len(tokens)
            if size >= _TOKENS_AT_ONCE:
                yield _counts(held, table_indices)
                held, size = [], 0
        if size:
            yield _counts(held, table_indices)

    return count


def _counts(held: list[tuple[np.ndarray, np.ndarray]], table_indices: list[int]) -> pa.RecordBatch:
    """Returns how many impressions each id of a table has; `held` has tokens and their counts."""
    tokens, times = (np.concatenate(parts) for parts in zip(*held, strict=True))
    tables = np.asarray(table_indices)[tokens["field"]]
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for table in np.unique(tables):
        is_own = tables == table
        ids, index = np.unique(tokens["id"][is_own], return_inverse=True)
        impressions = np.bincount(index, weights=times[is_own], minlength=len(ids))
        columns.append((np.full(len(ids), table), ids, impressions.astype(np.int64)))
    return pa.record_batch(
        [pa.array(np.concatenate(parts)) for parts in zip(*columns, strict=True)], schema=_COUNT
    )


def _write(batches: Batches, paths: list[str]) -> list[int]:
    """Writes ids, ordered by table, one per line; returns how many each file has."""
    sizes = [0] * len(paths)
    for batch in batches:
        tables = batch.column("table_index").to_numpy()
        ids = batch.column("id").to_numpy()
        for table in np.unique(tables):
            own = ids[tables == table]
            with open(paths[table], "a", encoding="utf-8") as file:
                file.write("".join(f"{value}\n" for value in own.tolist()))
            sizes[table] += len(own)
    return sizes
