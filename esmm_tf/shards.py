"""Writing a data set: shards under temporary names, then their renaming, then the manifest."""

import collections
import contextlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import keys, manifest, records, schema_file
from esmm_tf.errors import UserError
from esmm_tf.schema import Schema

_GZIP = "GZIP"


class DataSetWriter(contextlib.AbstractContextManager["DataSetWriter"]):
    """Writes groups into shards; leaving the context without an error makes them a data set.

    Args:
      directory: where to write; created if missing.
      schema: saved beside the records as `schema.toml`.
      num_shards: files of each split; groups go to them in turn.
      compressed: whether to write `.tfrecord.gz`.
      overwrite: whether a finished data set in `directory` may be replaced.
      source: what the manifest says of the origin.

    Raises:
      UserError: if `directory` holds a finished data set and `overwrite` is false, there would be
        no shards, or, at the end, no impression was written.
    """

    def __init__(
        self,
        directory: str,
        schema: Schema,
        *,
        num_shards: int = 8,
        compressed: bool = False,
        overwrite: bool = False,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        if num_shards <= 0:
            raise UserError(f"--num_shards is {num_shards}. Give a number above 0.")
        self._directory = directory
        self._schema = schema
        self._num_shards = num_shards
        self._compression = _GZIP if compressed else ""
        self._source = dict(source or {})
        self._splits: dict[str, list[_Shard]] = {}
        self.rejected: collections.Counter[str] = collections.Counter()
        self._prepare(overwrite=overwrite)

    def _prepare(self, *, overwrite: bool) -> None:
        """Removes what an interrupted run, or with `overwrite` a finished one, left behind."""
        path = os.path.join(self._directory, keys.MANIFEST_FILE)
        if os.path.exists(path):
            if not overwrite:
                raise UserError(
                    f"{self._directory!r} already holds a data set. Choose another directory, or "
                    "replace it with --overwrite."
                )
            os.remove(path)
        os.makedirs(self._directory, exist_ok=True)
        for name in os.listdir(self._directory):
            if ".tfrecord" in name:
                os.remove(os.path.join(self._directory, name))

    def write(self, split: str, group: records.Group) -> None:
        """Checks one group and appends it to a shard of its split.

        Raises:
          UserError: if the group does not fit the schema.
        """
        records.check_group(group, self._schema)
        shards = self._splits.get(split)
        if shards is None:
            shards = self._splits[split] = [
                self._open(split, place) for place in range(self._num_shards)
            ]
        shards[sum(shard.records for shard in shards) % self._num_shards].write(group)

    @property
    def num_impressions(self) -> int:
        """Returns the number of impressions written so far."""
        return sum(shard.impressions for shards in self._splits.values() for shard in shards)

    def _open(self, split: str, place: int) -> "_Shard":
        suffix = ".tfrecord.gz" if self._compression else ".tfrecord"
        name = f"{split}-{place:05d}-of-{self._num_shards:05d}{suffix}"
        return _Shard(os.path.join(self._directory, name), self._compression)

    def __exit__(self, error_type: Any, error: Any, traceback: Any) -> None:
        """Closes the shards; without an error renames them and writes schema and manifest."""
        shards = [shard for split in self._splits.values() for shard in split]
        for shard in shards:
            shard.close()
        if error_type is not None:
            return
        if self.num_impressions == 0:
            raise UserError(
                f"No impression was written to {self._directory!r}. "
                f"Rejected rows: {dict(self.rejected) or 'none'}. Check the input."
            )
        for shard in shards:
            shard.rename()
        schema_file.save_schema(self._schema, self._directory, keys.SCHEMA_FILE)
        found = manifest.Manifest(
            schema_hash=self._schema.record_hash(),
            splits={
                split: tuple(shard.counts() for shard in shards)
                for split, shards in self._splits.items()
            },
            compression=self._compression,
            rejected=dict(self.rejected),
            source=self._source,
        )
        manifest.write_manifest(found, self._directory)


class _Shard:
    """One open file of records and its counts."""

    def __init__(self, path: str, compression: str) -> None:
        self._path = path
        self._temporary = f"{path}.tmp"
        self._writer = tf.io.TFRecordWriter(self._temporary, compression)
        self.records = self.impressions = self._clicks = self._conversions = 0

    def write(self, group: records.Group) -> None:
        self._writer.write(records.encode_group(group))
        self.records += 1
        self.impressions += len(group[keys.CLICK])
        self._clicks += int(np.sum(group[keys.CLICK]))
        self._conversions += int(np.sum(group[keys.CONVERSION]))

    def close(self) -> None:
        self._writer.close()

    def rename(self) -> None:
        with open(self._temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self._temporary, self._path)

    def counts(self) -> manifest.Shard:
        return manifest.Shard(
            file=os.path.basename(self._path),
            records=self.records,
            impressions=self.impressions,
            clicks=self._clicks,
            conversions=self._conversions,
        )
