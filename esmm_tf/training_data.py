"""Which shards a run was trained and validated on, told by their content, not by their names."""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence

import tensorflow as tf

from esmm_tf import input_fn, json_file, keys
from esmm_tf.errors import UserError
from esmm_tf.findings import Finding

FORMAT_VERSION = 1

_END_BYTES = 64 * 1024
_NUM_READERS = 16  # on a remote file system the time is all waiting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of records, and a fingerprint that a copy of it shares."""

    file: str
    fingerprint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The shards of a run; `early_stopping` tells whether those of validation ended it."""

    train: tuple[Shard, ...]
    validation: tuple[Shard, ...] = ()
    early_stopping: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class UsedShards:
    """Which files were trained on, and which decided when training ended."""

    trained: tuple[str, ...]
    stopped_on: tuple[str, ...]


def identify_data(
    train: input_fn.Source, validation: input_fn.Source | None, *, early_stopping: bool
) -> TrainingData:
    """Returns the shards of a run, each with its fingerprint."""
    return TrainingData(
        train=_identify_shards(train),
        validation=_identify_shards(validation) if validation else (),
        early_stopping=early_stopping,
    )


def _identify_shards(source: input_fn.Source) -> tuple[Shard, ...]:
    """Returns the shards that hold impressions: all empty ones are alike."""
    files = [
        file
        for file, shard in zip(source.files, source.shards, strict=True)
        if shard.impressions > 0
    ]
    with concurrent.futures.ThreadPoolExecutor(_NUM_READERS) as pool:
        fingerprints = list(pool.map(_fingerprint, files))
    return tuple(
        Shard(file=_real_path(file), fingerprint=fingerprint)
        for file, fingerprint in zip(files, fingerprints, strict=True)
    )


def find_shared(data: TrainingData) -> tuple[tuple[Shard, Shard], ...]:
    """Returns each validation shard that is trained on, with the training shard it equals."""
    trained = {shard.fingerprint: shard for shard in data.train}
    return tuple(
        (shard, trained[shard.fingerprint])
        for shard in data.validation
        if shard.fingerprint in trained
    )


def judge_shared(data: TrainingData) -> Finding | None:
    """Returns what is wrong if validation shards are trained on."""
    shared = find_shared(data)
    if not shared:
        return None
    validated, trained = shared[0]
    return Finding(
        guard="shared_data",
        message=f"Validation needs impressions that are not trained on, and {len(shared)} of "
        f"{len(data.validation)} validation shards are: {validated.file!r} holds the same as "
        f"{trained.file!r}. Name other files with --validation_files.",
    )


def save_data(data: TrainingData, model_dir: str) -> None:
    """Writes `data.json`; shards of earlier starts of the run stay in it."""
    before = load_data(model_dir) or TrainingData(train=())
    merged = TrainingData(
        train=_union(before.train, data.train),
        validation=_union(before.validation, data.validation),
        early_stopping=before.early_stopping or data.early_stopping,
    )
    tree = {"format_version": FORMAT_VERSION, **dataclasses.asdict(merged)}
    json_file.write_json(tree, os.path.join(model_dir, keys.TRAINING_DATA_FILE), sort_keys=True)


def load_data(model_dir: str) -> TrainingData | None:
    """Returns the shards of a run, or None if its release did not keep them.

    Raises:
      UserError: if they are kept in another format.
    """
    path = os.path.join(model_dir, keys.TRAINING_DATA_FILE)
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        tree = json.load(file)
    version = tree["format_version"]
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {version!r}; this release reads {FORMAT_VERSION}. "
            "Train again with this release."
        )
    return TrainingData(
        train=tuple(Shard(**shard) for shard in tree[keys.TRAIN]),
        validation=tuple(Shard(**shard) for shard in tree[keys.VALIDATION]),
        early_stopping=tree["early_stopping"],
    )


def used_in_training(model_dir: str, source: input_fn.Source) -> UsedShards:
    """Returns which shards of a source a model has seen; none if it is not known.

    Shards are compared whole: records that were written again, otherwise divided, look new.
    """
    data = load_data(model_dir)
    if data is None:
        return UsedShards(trained=(), stopped_on=())
    trained = {shard.fingerprint for shard in data.train}
    validated = {shard.fingerprint for shard in data.validation if data.early_stopping}
    shards = _identify_shards(source)
    return UsedShards(
        trained=tuple(shard.file for shard in shards if shard.fingerprint in trained),
        stopped_on=tuple(shard.file for shard in shards if shard.fingerprint in validated),
    )


def judge_used(model_dir: str, source: input_fn.Source) -> Finding | None:
    """Returns what is wrong if a model is measured on what it was trained or stopped early on."""
    used = used_in_training(model_dir, source)
    kinds = {"trained on": used.trained, "used for early stopping": used.stopped_on}
    found = [
        f"{len(files)} of {len(source.files)} shards were {what}, such as {files[0]!r}"
        for what, files in kinds.items()
        if files
    ]
    if not found:
        return None
    return Finding(
        guard="used_data",
        message="A model is measured on impressions that it has not seen, and "
        f"{' and '.join(found)}: its metrics look better than they are. Name other files with "
        "--files, or another --split.",
    )


def _fingerprint(file: str) -> str:
    """Returns the size in bytes and a hash of the first and the last 64 KiB."""
    size = tf.io.gfile.stat(file).length
    with tf.io.gfile.GFile(file, "rb") as opened:
        digest = hashlib.sha256(opened.read(_END_BYTES))
        if size > _END_BYTES:
            opened.seek(max(size - _END_BYTES, _END_BYTES))
            digest.update(opened.read(_END_BYTES))
    return f"{size}-{digest.hexdigest()[:32]}"


def _real_path(file: str) -> str:
    return file if "://" in file else os.path.realpath(file)


def _union(before: Sequence[Shard], added: Sequence[Shard]) -> tuple[Shard, ...]:
    return tuple({shard.fingerprint: shard for shard in (*before, *added)}.values())
