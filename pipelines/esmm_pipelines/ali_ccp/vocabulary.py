"""Vocabularies of a log: the ids that occur often enough, one file an embedding table."""

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

_COUNT = pa.schema([("place", pa.int64()), ("id", pa.int64()), ("impressions", pa.int64())])
_TOKENS_AT_ONCE = 4_000_000


def build_schema(
    engine: Engine, rows: Any, schema: Schema, *, min_count: int, directory: str
) -> Schema:
    """Returns the schema with a vocabulary column for each feature, and writes the vocabularies.

    Args:
      engine: that the rows belong to.
      rows: a DataFrame with columns `tokens` and `impressions`, how often each of them counts.
      schema: whose features the tokens are of; those of one table have one vocabulary.
      min_count: impressions below which an id is left to the out-of-vocabulary row.
      directory: of the vocabulary files, the most frequent id first.
    """
    tables = list(dict.fromkeys(feature.table_name for feature in schema.features))
    places = [tables.index(feature.table_name) for feature in schema.features]
    counted = engine.map_batches(rows.select("tokens", "impressions"), _counter(places), _COUNT)
    F = engine.F  # noqa: N806 - its customary name
    total = counted.groupBy("place", "id").agg(F.sum("impressions").alias("total"))
    frequent = total.where(F.col("total") >= min_count)
    ordered = frequent.orderBy(F.col("place"), F.col("total").desc(), F.col("id"))
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


def _counter(places: list[int]) -> Callable[[Batches], Iterator[pa.RecordBatch]]:
    """Returns a function that counts the ids of rows by table, in parts that memory can hold."""

    def count(batches: Batches) -> Iterator[pa.RecordBatch]:
        held: list[tuple[np.ndarray, np.ndarray]] = []
        size = 0
        for batch in batches:
            tokens, lengths = tokens_of(batch.column("tokens"))
            held.append((tokens, np.repeat(batch.column("impressions").to_numpy(), lengths)))
            size += len(tokens)
            if size >= _TOKENS_AT_ONCE:
                yield _counts(held, places)
                held, size = [], 0
        if size:
            yield _counts(held, places)

    return count


def _counts(held: list[tuple[np.ndarray, np.ndarray]], places: list[int]) -> pa.RecordBatch:
    """Returns how often each id of a table occurs in tokens, each counted some number of times."""
    tokens, times = (np.concatenate(parts) for parts in zip(*held, strict=True))
    place = np.asarray(places)[tokens["field"]]
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number in np.unique(place):
        of_table = place == number
        ids, where = np.unique(tokens["id"][of_table], return_inverse=True)
        impressions = np.bincount(where, weights=times[of_table], minlength=len(ids))
        columns.append((np.full(len(ids), number), ids, impressions.astype(np.int64)))
    return pa.record_batch(
        [pa.array(np.concatenate(parts)) for parts in zip(*columns, strict=True)], schema=_COUNT
    )


def _write(batches: Batches, paths: list[str]) -> list[int]:
    """Writes ids, ordered by place, a line each; returns how many each file has."""
    sizes = [0] * len(paths)
    for batch in batches:
        place = batch.column("place").to_numpy()
        ids = batch.column("id").to_numpy()
        for number in np.unique(place):
            chosen = ids[place == number]
            with open(paths[number], "a", encoding="utf-8") as file:
                file.write("".join(f"{value}\n" for value in chosen.tolist()))
            sizes[number] += len(chosen)
    return sizes
