"""Which shards a run was trained and validated on, told by their content, not by their names."""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence

import tensorflow as tf

from esmm_tf import files, keys
from esmm_tf.data.source import Source
from esmm_tf.training.findings import Finding

FORMAT_VERSION = 1

# What shards are used for before a model is measured.
TRAINING = "training"
EARLY_STOPPING = "early stopping"
CALIBRATION = "calibration"

_END_BYTES = 64 * 1024
_NUM_READERS = 16  # on a remote file system the time is all waiting


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentifiedShard:
    """A file of records, and a fingerprint that its copies share."""

    file: str
    fingerprint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The shards of a run; `early_stopping` tells whether validation decided its end."""

    train: tuple[IdentifiedShard, ...]
    validation: tuple[IdentifiedShard, ...] = ()
    early_stopping: bool = False


def identify_data(
    train: Source, validation: Source | None, *, early_stopping: bool
) -> TrainingData:
    """Returns the shards of a run, each with its fingerprint."""
    return TrainingData(
        train=identify_shards(train),
        validation=identify_shards(validation) if validation else (),
        early_stopping=early_stopping,
    )


def identify_shards(source: Source) -> tuple[IdentifiedShard, ...]:
    """Returns the shards that hold impressions; empty ones cannot be told apart."""
    names = [
        file
        for file, shard in zip(source.files, source.shards, strict=True)
        if shard.impressions > 0
    ]
    with concurrent.futures.ThreadPoolExecutor(_NUM_READERS) as pool:
        fingerprints = list(pool.map(_fingerprint, names))
    return tuple(
        IdentifiedShard(file=_real_path(file), fingerprint=fingerprint)
        for file, fingerprint in zip(names, fingerprints, strict=True)
    )


def find_shared(data: TrainingData) -> tuple[tuple[IdentifiedShard, IdentifiedShard], ...]:
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
    files.write_json(tree, os.path.join(model_dir, keys.TRAINING_DATA_FILE), sort_keys=True)


def load_data(model_dir: str) -> TrainingData | None:
    """Returns the shards of a run, or None if its release did not keep them.

    Raises:
      UserError: if they are kept in another format.
    """
    path = os.path.join(model_dir, keys.TRAINING_DATA_FILE)
    if not os.path.exists(path):
        return None
    remedy = "Train again with this release."
    tree = files.read_json(path, version=FORMAT_VERSION, remedy=remedy)
    with files.told_as_damaged(path, remedy=remedy):
        return TrainingData(
            train=tuple(IdentifiedShard(**shard) for shard in tree[keys.TRAIN]),
            validation=tuple(IdentifiedShard(**shard) for shard in tree[keys.VALIDATION]),
            early_stopping=tree["early_stopping"],
        )


def used_in_training(
    model_dir: str, source: Source, *, calibrated_on: Collection[str] = ()
) -> dict[str, tuple[str, ...]] | None:
    """Returns the files of a source that a model has seen, by what they were used for.

    The uses are `training`, `early stopping` and `calibration`; one without files is left out. None
    if it is not known: an older release trained the model.

    Shards are compared whole: records that were written again and divided otherwise look new.

    Args:
      model_dir: of the model.
      source: to look for.
      calibrated_on: fingerprints of the shards to which its calibration was fitted.
    """
    data = load_data(model_dir)
    if data is None and not calibrated_on:
        return None
    seen: dict[str, Collection[str]] = {CALIBRATION: set(calibrated_on)}
    if data is not None:
        seen[TRAINING] = {shard.fingerprint for shard in data.train}
        if data.early_stopping:
            seen[EARLY_STOPPING] = {shard.fingerprint for shard in data.validation}
    shards = identify_shards(source)
    used = {
        use: tuple(shard.file for shard in shards if shard.fingerprint in seen.get(use, ()))
        for use in (TRAINING, EARLY_STOPPING, CALIBRATION)
    }
    return {use: names for use, names in used.items() if names}


def judge_used(used: Mapping[str, Sequence[str]] | None, source: Source) -> Finding | None:
    """Returns what is wrong if a model is measured on, or fitted to, shards that it has seen."""
    if not used:
        return None
    uses = [
        f"{len(shards)} of {len(source.files)} shards were used for {use}, such as {shards[0]!r}"
        for use, shards in used.items()
    ]
    return Finding(
        guard="used_data",
        message="A model is measured or calibrated on impressions that it has not seen, and "
        f"{' and '.join(uses)}: it looks better on them than it is. Name other files with "
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


def _union(
    before: Sequence[IdentifiedShard], added: Sequence[IdentifiedShard]
) -> tuple[IdentifiedShard, ...]:
    return tuple({shard.fingerprint: shard for shard in (*before, *added)}.values())
