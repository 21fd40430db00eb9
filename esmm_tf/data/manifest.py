"""The manifest of a data set: written last, so that a directory without one is not a data set."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from esmm_tf import files, keys

FORMAT_VERSION = 1
_REMEDY = "Write the data set again."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of records, and what it holds."""

    file: str
    records: int
    impressions: int
    clicks: int
    conversions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a data set holds.

    `compression` is `""` or `"GZIP"`; `rejected` counts the raw rows left out, by reason;
    `negative_keep_rate` is, by split, the probability with which an impression without click and
    conversion was kept, if not 1; `sampled_out` counts, by split, those that were not kept;
    `source` names the command and its settings.
    """

    schema_hash: str
    splits: Mapping[str, tuple[Shard, ...]]
    compression: str = ""
    rejected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    negative_keep_rate: Mapping[str, float] = dataclasses.field(default_factory=dict)
    sampled_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def impressions(self, split: str) -> int:
        """Returns the number of impressions of one split."""
        return sum(shard.impressions for shard in self.splits[split])

    def keep_rate(self, split: str) -> float:
        """Returns the probability with which an unclicked impression of a split was kept."""
        return self.negative_keep_rate.get(split, 1.0)


def write_manifest(manifest: Manifest, directory: str) -> None:
    """Writes `manifest.json` under a temporary name and renames it."""
    path = os.path.join(directory, keys.MANIFEST_FILE)
    files.write_json(dataclasses.asdict(manifest), path, sort_keys=True)


def load_manifest(directory: str) -> Manifest:
    """Returns the manifest of a data set.

    Raises:
      UserError: if there is none, or it is damaged or of another format.
    """
    path = os.path.join(directory, keys.MANIFEST_FILE)
    tree = files.read_json(
        path,
        version=FORMAT_VERSION,
        remedy=_REMEDY,
        missing=f"{directory or '.'!r} has no {keys.MANIFEST_FILE}, so it is not a finished data "
        "set. Run the pipeline that writes it again, to its end.",
    )
    with files.told_as_damaged(path, remedy=_REMEDY):
        splits = {
            split: tuple(Shard(**shard) for shard in shards)
            for split, shards in tree["splits"].items()
        }
        return Manifest(**(tree | {"splits": splits}))
