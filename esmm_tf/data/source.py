"""Which shards are read, and what their manifests say of them."""

import dataclasses
import os
from collections.abc import Sequence

import tensorflow as tf

from esmm_tf.data import manifest
from esmm_tf.data.sampling import LabelCounts, Sampler
from esmm_tf.errors import UserError
from esmm_tf.schema.schema import Schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subset:
    """Which part of the records is read: a share of the groups, and a sample of impressions."""

    fraction: float = 1.0
    sampler: Sampler | None = None


ALL = Subset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Shards to read, and what their manifests say of them.

    `negative_keep_rate` is the probability with which the pipeline kept an unclicked impression.
    """

    files: tuple[str, ...]
    compression: str
    schema_hash: str
    shards: tuple[manifest.Shard, ...]
    negative_keep_rate: float = 1.0

    @property
    def impressions(self) -> int:
        """Returns the number of impressions in all shards."""
        return self.labels.impressions

    @property
    def labels(self) -> LabelCounts:
        """Returns the numbers of labels in all shards."""
        return LabelCounts(
            impressions=sum(shard.impressions for shard in self.shards),
            clicks=sum(shard.clicks for shard in self.shards),
            conversions=sum(shard.conversions for shard in self.shards),
        )

    @property
    def click_share(self) -> float:
        """Returns clicks / impressions of the whole log, of which these records are a sample."""
        labels = self.labels
        unclicked = (labels.impressions - labels.clicks) / self.negative_keep_rate
        return labels.clicks / (labels.clicks + unclicked)

    @property
    def directory(self) -> str:
        """Returns the directory of the first shard."""
        return os.path.dirname(self.files[0])


def find_source(patterns: str, *, split: str) -> Source:
    """Returns the shards that `patterns` names.

    Args:
      patterns: files, globs or directories, comma-separated.
      split: the split that a directory stands for, such as `train`.

    Raises:
      UserError: if nothing matches, a directory has no manifest or no such split, a file is not in
        its directory's manifest, the files differ in compression, schema or negative keep rate, or
        all are empty.
    """
    files: list[str] = []
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        files += _expand(pattern, split=split)
    files = list(dict.fromkeys(files))  # a file that two patterns match is read once
    if not files:
        raise UserError("No files of records are named. Name files, a glob or a directory.")
    known = {name: manifest.load_manifest(name) for name in {os.path.dirname(f) for f in files}}
    manifests = [known[os.path.dirname(file)] for file in files]
    splits, shards = zip(*map(_find_shard, files, manifests), strict=True)
    rates = [data_set.keep_rate(name) for data_set, name in zip(manifests, splits, strict=True)]
    _check_alike(patterns, manifests, rates)
    source = Source(
        files=tuple(files),
        compression=manifests[0].compression,
        schema_hash=manifests[0].schema_hash,
        shards=shards,
        negative_keep_rate=rates[0],
    )
    if source.impressions == 0:
        raise UserError(f"{patterns!r} holds no impressions. Name shards that hold some.")
    return source


def check_schema(source: Source, schema: Schema) -> None:
    """Checks that the records were written with this schema's record layout.

    Raises:
      UserError: if the hash in the manifest differs.
    """
    if source.schema_hash != schema.record_hash():
        raise UserError(
            f"The records in {source.directory!r} were written with schema hash "
            f"{source.schema_hash}, and the schema {schema.name!r} has {schema.record_hash()}. "
            "Features, keys, sides, dtypes, values and weights must be the same: give the data "
            "set's own schema.toml with --schema, or write the data set again."
        )


def _expand(pattern: str, *, split: str) -> list[str]:
    if tf.io.gfile.isdir(pattern):
        directory = pattern.rstrip("/")
        splits = manifest.load_manifest(directory).splits
        if split not in splits:
            raise UserError(
                f"{pattern!r} has no split {split!r}. It has {sorted(splits)}; name one as "
                f"{os.path.join(directory, 'SPLIT-*')!r}."
            )
        return [os.path.join(directory, shard.file) for shard in splits[split]]
    files = sorted(tf.io.gfile.glob(pattern))
    if not files:
        raise UserError(f"No file matches {pattern!r}. Check the path.")
    return files


def _check_alike(
    patterns: str, manifests: Sequence[manifest.Manifest], rates: Sequence[float]
) -> None:
    """Raises a `UserError` if files with these manifests and keep rates cannot be read as one."""
    if len({data_set.compression for data_set in manifests}) > 1:
        raise UserError(
            f"{patterns!r} mixes compressed and plain data sets. Read one kind at once."
        )
    hashes = {data_set.schema_hash for data_set in manifests}
    if len(hashes) > 1:
        raise UserError(
            f"{patterns!r} mixes data sets of different schemas ({sorted(hashes)}). "
            "Write them with one schema."
        )
    if len(set(rates)) > 1:
        raise UserError(
            f"{patterns!r} mixes files written with different --negative_keep_rate "
            f"({sorted(set(rates))}), and the logits are corrected for one. Read files of one rate."
        )


def _find_shard(file: str, data_set: manifest.Manifest) -> tuple[str, manifest.Shard]:
    """Returns the split of a file, and its entry in its data set's manifest."""
    name = os.path.basename(file)
    for split, shards in data_set.splits.items():
        for shard in shards:
            if shard.file == name:
                return split, shard
    raise UserError(
        f"{file!r} is not in its directory's manifest, so it is no finished shard. "
        "Name shards of the manifest only."
    )
