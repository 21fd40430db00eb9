"""Writing a data set: shards under temporary names are renamed, then the manifest is written."""

import collections
import contextlib
import dataclasses
import errno
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.data import manifest, records
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file
from esmm_tf.schema.schema import Schema

_GZIP = "GZIP"
_TEMPORARY = ".tmp"


def check_output(directory: str, *, overwrite: bool) -> None:
    """Raises a `UserError` if a finished data set would be replaced without `overwrite`."""
    if not overwrite and os.path.exists(os.path.join(directory, keys.MANIFEST_FILE)):
        raise UserError(
            f"{directory!r} already holds a data set. Choose another directory, or replace it with "
            "--overwrite."
        )


def check_keep_rate(rate: float) -> None:
    """Raises a `UserError` if a negative keep rate is not above 0 and at most 1."""
    if not 0 < rate <= 1:
        raise UserError(
            f"--negative_keep_rate is {rate}. Give a probability above 0, at most 1: 1 keeps all "
            "impressions."
        )


class DataSetWriter(contextlib.AbstractContextManager["DataSetWriter"]):
    """Writes groups into shards; leaving the context without an error makes them a data set.

    Groups come one by one, by `write`, or as shards that other processes wrote, by `adopt`.

    Args:
      directory: where to write; created if missing.
      schema: saved beside the records as `schema.toml`.
      num_shards: files of each split; groups go to them in turn.
      compressed: whether to write `.tfrecord.gz`.
      overwrite: whether a finished data set in `directory` may be replaced.
      source: what the manifest says of the origin.
      negative_keep_rate: by split, the probability with which the caller keeps an impression
        without click and conversion; 1.0 where it is not given. The caller counts those left out
        in `sampled_out`.

    Raises:
      UserError: if `directory` holds a finished data set and `overwrite` is false, `num_shards` is
        not above 0, a rate is no probability above 0, or, at the end, no impression was written.
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
        negative_keep_rate: Mapping[str, float] | None = None,
    ) -> None:
        if num_shards <= 0:
            raise UserError(f"--num_shards is {num_shards}. Give a number above 0.")
        self.negative_keep_rate = dict(negative_keep_rate or {})
        for rate in self.negative_keep_rate.values():
            check_keep_rate(rate)
        self.directory = directory
        self.schema = schema
        self.num_shards = num_shards
        self.compression = _GZIP if compressed else ""
        self._source = dict(source or {})
        self._open: dict[str, list[ShardWriter]] = {}
        self._adopted: dict[str, list[manifest.Shard]] = {}
        self.rejected: collections.Counter[str] = collections.Counter()
        self.sampled_out: collections.Counter[str] = collections.Counter()
        self._prepare(overwrite=overwrite)

    def _prepare(self, *, overwrite: bool) -> None:
        """Removes what an interrupted run, or with `overwrite` a finished one, left behind."""
        check_output(self.directory, overwrite=overwrite)
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.directory, keys.MANIFEST_FILE))
        os.makedirs(self.directory, exist_ok=True)
        for name in os.listdir(self.directory):
            if ".tfrecord" in name:
                os.remove(os.path.join(self.directory, name))

    def write(self, split: str, group: records.Group) -> None:
        """Checks one group and appends it to a shard of its split.

        Raises:
          UserError: if the group does not fit the schema.
        """
        records.check_group(group, self.schema)
        shards = self._open.get(split)
        if shards is None:
            shards = self._open[split] = [
                self._new_shard(split, index) for index in range(self.num_shards)
            ]
        shards[sum(shard.records for shard in shards) % self.num_shards].write(group)

    def adopt(self, split: str, shard: manifest.Shard) -> None:
        """Takes a shard that `write_shards` wrote; a split's shards are numbered as they come.

        Raises:
          UserError: if the shard's file is not in the directory.
        """
        if not os.path.exists(os.path.join(self.directory, shard.file)):
            raise UserError(
                f"A worker wrote {shard.file!r}, which is not in {self.directory!r} on this "
                "machine. Write to a file system that this machine and all workers share."
            )
        self._adopted.setdefault(split, []).append(shard)

    @property
    def num_impressions(self) -> int:
        """Returns the number of impressions written so far."""
        return sum(shard.impressions for shards in self._shards().values() for shard in shards)

    def count_impressions(self, split: str) -> int:
        """Returns the number of impressions written so far to a split."""
        return sum(shard.impressions for shard in self._shards().get(split, ()))

    def count_unclicked(self, split: str) -> int:
        """Returns the number of impressions without a click written so far to a split."""
        return sum(shard.impressions - shard.clicks for shard in self._shards().get(split, ()))

    def _new_shard(self, split: str, index: int) -> "ShardWriter":
        name = _final_name(split, index, self.num_shards, compression=self.compression)
        return ShardWriter(self.directory, name + _TEMPORARY, self.compression)

    def _shards(self) -> dict[str, list[manifest.Shard]]:
        """Returns the shards of each split, under their temporary names."""
        return {
            split: [shard.counts() for shard in self._open.get(split, ())]
            + self._adopted.get(split, [])
            for split in dict.fromkeys([*self._open, *self._adopted])
        }

    def __exit__(self, error_type: Any, error: Any, traceback: Any) -> None:
        """Closes the shards; without an error renames them and writes schema and manifest."""
        for shards in self._open.values():
            for shard in shards:
                shard.close()
        if error_type is not None:
            return
        if self.num_impressions == 0:
            sampled_out = dict(self.sampled_out)
            raise UserError(
                f"No impression was written to {self.directory!r}. "
                f"Rejected rows: {dict(self.rejected) or 'none'}. "
                + (f"Left out by --negative_keep_rate: {sampled_out}. " if sampled_out else "")
                + "Check the input."
            )
        splits = {split: self._named(split, shards) for split, shards in self._shards().items()}
        self._remove_strays()
        toml_file.save_schema(self.schema, self.directory, keys.SCHEMA_FILE)
        contents = manifest.Manifest(
            schema_hash=self.schema.record_hash(),
            splits=splits,
            compression=self.compression,
            rejected=dict(self.rejected),
            negative_keep_rate=self.negative_keep_rate,
            sampled_out=dict(self.sampled_out),
            source=self._source,
        )
        manifest.write_manifest(contents, self.directory)

    def _named(self, split: str, shards: list[manifest.Shard]) -> tuple[manifest.Shard, ...]:
        """Gives the shards of a split their final names and returns them."""
        named = []
        for index, shard in enumerate(shards):
            name = _final_name(split, index, len(shards), compression=self.compression)
            os.replace(os.path.join(self.directory, shard.file), os.path.join(self.directory, name))
            named.append(dataclasses.replace(shard, file=name))
        return tuple(named)

    def _remove_strays(self) -> None:
        """Removes shards that workers left behind and that were not adopted."""
        for name in os.listdir(self.directory):
            if ".tfrecord" in name and name.endswith(_TEMPORARY):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(self.directory, name))


class ShardWriter:
    """One open file of records and its counts.

    Args:
      directory: that holds it.
      name: of the file.
      compression: `""` or `"GZIP"`.
    """

    def __init__(self, directory: str, name: str, compression: str = "") -> None:
        self._name = name
        self._path = os.path.join(directory, name)
        self._writer = tf.io.TFRecordWriter(self._path, compression)
        self.records = self._impressions = self._clicks = self._conversions = 0

    def write(self, group: records.Group) -> None:
        """Appends a group that has been checked."""
        with self._system_errors():
            self._writer.write(records.encode_group(group))
        self.records += 1
        self._impressions += len(group[keys.CLICK])
        self._clicks += int(np.sum(group[keys.CLICK]))
        self._conversions += int(np.sum(group[keys.CONVERSION]))

    def close(self) -> None:
        """Ends the file, so that its records outlive a crash of the machine."""
        with self._system_errors():
            self._writer.close()
        with open(self._path, "rb") as file:
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _system_errors(self) -> Iterator[None]:
        """Raises the system's error for a full disk; TensorFlow's own does not say it."""
        try:
            yield
        except tf.errors.ResourceExhaustedError:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path) from None

    def counts(self) -> manifest.Shard:
        """Returns what the file holds so far."""
        return manifest.Shard(
            file=self._name,
            records=self.records,
            impressions=self._impressions,
            clicks=self._clicks,
            conversions=self._conversions,
        )


def write_shards(
    groups: Iterable[tuple[str, records.Group]],
    schema: Schema,
    *,
    directory: str,
    compression: str = "",
) -> dict[str, manifest.Shard]:
    """Writes groups into one shard per split, to be adopted, and returns these shards by split.

    A worker calls this, maybe several times for the same groups. Each call has file names of its
    own, so that what a failed call leaves behind is never taken for the shards of another call.

    Args:
      groups: splits and groups.
      schema: that the groups must fit.
      directory: of the data set, on a file system shared with the process that adopts the shards.
      compression: `""` or `"GZIP"`.

    Raises:
      UserError: if a group does not fit the schema, or the directory is not there.
    """
    if not os.path.isdir(directory):
        raise UserError(
            f"A worker finds no directory {directory!r}. Write to a file system that it shares "
            "with the machine that runs the command."
        )
    attempt = uuid.uuid4().hex
    shards: dict[str, ShardWriter] = {}
    with contextlib.ExitStack() as stack:
        for split, group in groups:
            records.check_group(group, schema)
            if split not in shards:
                name = f"{split}-{attempt}{_suffix(compression)}{_TEMPORARY}"
                shards[split] = ShardWriter(directory, name, compression)
                stack.callback(shards[split].close)
            shards[split].write(group)
    return {split: shard.counts() for split, shard in shards.items()}


def _final_name(split: str, index: int, num_shards: int, *, compression: str) -> str:
    return f"{split}-{index:05d}-of-{num_shards:05d}{_suffix(compression)}"


def _suffix(compression: str) -> str:
    return ".tfrecord.gz" if compression else ".tfrecord"
