r"""Simulated logs as Tianchi ships Ali-CCP: raw CSV files, and the truth beside them.

Each of the splits `train` and `test` has three files; the first two have no header:

    sample_skeleton_<split>.csv: sample_id,click,conversion,common_feature_index,feature_num,
                                 feature_list
    common_features_<split>.csv: common_feature_index,feature_num,feature_list
    oracle_<split>.csv:          sample_id,oracle_pctr,oracle_pcvr

Features are joined by `\x01`; a feature is `field \x02 id \x03 value` without the spaces.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from esmm_pipelines.ali_ccp import fields as ali_ccp_fields
from esmm_pipelines.grouping import hashing
from esmm_pipelines.grouping.values import Values
from esmm_pipelines.synthetic.csv_files import CsvWriter
from esmm_pipelines.synthetic.log import ID_FIELD, SyntheticConfig, draw_chunks, num_ids
from esmm_pipelines.synthetic.shop import Groups, Shop
from esmm_tf import console, keys

_SPLITS = (keys.TRAIN, keys.TEST)
# The skeleton is renamed last: where it stands, the other files of its split do too.
_HEADERS = {
    "oracle": f"sample_id,{keys.ORACLE_PCTR},{keys.ORACLE_PCVR}",
    "common_features": "",
    "sample_skeleton": "",
}
_FEATURE_SEPARATOR, _ID_SEPARATOR, _VALUE_SEPARATOR = "\x01", "\x02", "\x03"
# Share of rows apart from the others of their context: "usually consecutive" is not always.
_DISPLACED_SHARE = 0.01


def write_log(config: SyntheticConfig) -> None:
    """Simulates a shop, writes its log as raw files and prints its size.

    Raises:
      UserError: if a rate is wrong, or there are raw files already and `overwrite` is false.
    """
    truth = config.truth()  # checked before finished files are replaced
    with CsvWriter(
        config.output_dir,
        {f"{kind}_{split}": header for split in _SPLITS for kind, header in _HEADERS.items()},
        compressed=config.compressed,
        overwrite=config.overwrite,
    ) as writer:
        shop = Shop(truth, config.sizes(), seed=config.seed)
        write_groups(shop, config, writer)
    print(f"wrote {config.num_impressions:,} impressions to {config.output_dir}")


def write_groups(shop: Shop, config: SyntheticConfig, writer: CsvWriter) -> None:
    """Draws the log of a shop and writes it.

    Anomalies and the order of rows have generators of their own, so that raw files and records of
    the same settings hold the same impressions. Samples are numbered from 1 on as they are drawn.
    """
    offsets = id_offsets(config.sizes())
    num_contexts = num_samples = 0
    with console.build_bar(config.num_impressions) as bar:
        for number, (groups, splits) in enumerate(draw_chunks(shop, config)):
            samples = num_samples + 1 + np.arange(groups.sizes.sum())
            conversion = _conversion(
                np.random.default_rng([config.seed, 4, number]),
                groups.labels,
                samples=samples,
                anomaly_rate=config.label_anomaly_rate,
            )
            lines = _lines(
                dataclasses.replace(groups, labels=groups.labels | {keys.CONVERSION: conversion}),
                samples=samples,
                indices=context_indices(num_contexts, len(groups.sizes), seed=config.seed),
                offsets=offsets,
            )
            rng = np.random.default_rng([config.seed, 5, number])
            _write_chunk(rng, writer, lines=lines, sizes=groups.sizes, tested=splits == keys.TEST)
            num_contexts += len(groups.sizes)
            num_samples += len(samples)
            bar.update(len(samples))


def id_offsets(sizes: Mapping[str, int]) -> dict[str, int]:
    """Returns what is added to each field's ids, which begin at 0, to make them raw ids.

    All fields share one space of raw ids, which begin at 1. Each has a block of its own there, in
    the order of `ali_ccp_fields.FIELDS`; behaviours and overlaps have the block of the item's field
    whose ids they hold.

    Args:
      sizes: of the world, as `SyntheticConfig.sizes` gives them.
    """
    counts = num_ids(sizes)
    blocks: dict[str, int] = {}
    free = 1
    for name, owner in ID_FIELD.items():
        if name == owner:
            blocks[name] = free
            free += counts[name]
    return {name: blocks[owner] for name, owner in ID_FIELD.items()}


def context_indices(first: int, number: int, *, seed: int) -> np.ndarray:
    """Returns the `common_feature_index` of contexts from `first` on: 16 hexadecimal digits.

    They are outputs of SplitMix64, which gives no number twice.
    """
    state = np.arange(first + 1, first + number + 1, dtype=np.uint64)
    indices = hashing.mix(state * hashing.GOLDEN + np.uint64(seed % 2**64))
    return np.array([f"{index:016x}" for index in indices.tolist()], dtype=object)


def _conversion(
    rng: np.random.Generator,
    labels: Mapping[str, np.ndarray],
    *,
    samples: np.ndarray,
    anomaly_rate: float,
) -> np.ndarray:
    """Returns the conversions of `samples`, with the anomalies: 1 where there is no click.

    Of the first `n` samples of a log, `anomaly_rate * n`, rounded, are anomalies.
    """
    unclicked = np.flatnonzero(labels[keys.CLICK][: len(samples)] == 0)
    due = round(anomaly_rate * samples[-1]) - round(anomaly_rate * (samples[0] - 1))
    conversion = labels[keys.CONVERSION].copy()
    conversion[rng.choice(unclicked, min(due, len(unclicked)), replace=False)] = 1
    return conversion


@dataclasses.dataclass(frozen=True)
class _Lines:
    """Lines of a chunk as strings: `skeleton` and `oracle` per sample, `common` per context."""

    skeleton: np.ndarray
    common: np.ndarray
    oracle: np.ndarray


def _lines(
    groups: Groups, *, samples: np.ndarray, indices: np.ndarray, offsets: Mapping[str, int]
) -> _Lines:
    # In the last chunk, features and labels go on beyond the end of the log; samples do not.
    skeleton = zip(
        samples.tolist(),
        groups.labels[keys.CLICK].tolist(),
        groups.labels[keys.CONVERSION].tolist(),
        np.repeat(indices, groups.sizes).tolist(),
        _feature_lists(groups.impressions, offsets),
        strict=False,
    )
    common = zip(indices.tolist(), _feature_lists(groups.context, offsets), strict=True)
    truth = [
        groups.labels[key].astype(str).tolist() for key in (keys.ORACLE_PCTR, keys.ORACLE_PCVR)
    ]
    oracle = zip(samples.tolist(), *truth, strict=False)
    return _Lines(
        skeleton=_array(
            f"{sample},{click},{conversion},{index},{features}"
            for sample, click, conversion, index, features in skeleton
        ),
        common=_array(f"{index},{features}" for index, features in common),
        oracle=_array(f"{sample},{pctr},{pcvr}" for sample, pctr, pcvr in oracle),
    )


def _array(texts: Iterable[str]) -> np.ndarray:
    return np.array(list(texts), dtype=object)


def _feature_lists(fields: Mapping[str, Values], offsets: Mapping[str, int]) -> list[str]:
    """Returns `feature_num,feature_list` of each row."""
    names = [field.name for field in ali_ccp_fields.FIELDS if field.name in fields]
    texts = _array(text for name in names for text in _texts(name, fields[name], offsets[name]))
    lengths = np.stack([fields[name].lengths for name in names])
    rows = np.concatenate([np.repeat(np.arange(lengths.shape[1]), field) for field in lengths])
    texts = texts[np.argsort(rows, kind="stable")].tolist()
    counts = lengths.sum(axis=0)
    return [
        f"{count},{_FEATURE_SEPARATOR.join(texts[end - count : end])}"
        for count, end in zip(counts.tolist(), np.cumsum(counts).tolist(), strict=True)
    ]


def _texts(name: str, values: Values, offset: int) -> list[str]:
    """Returns the text of each value; a weight has the fewest digits that a float32 needs."""
    start = name + _ID_SEPARATOR
    ids = (values.values + offset).tolist()
    if values.weights is None:
        return [f"{start}{number}{_VALUE_SEPARATOR}1.0" for number in ids]
    unique, index = np.unique(values.weights, return_inverse=True)
    weights = unique.astype(str).astype(object)[index].tolist()
    pairs = zip(ids, weights, strict=True)
    return [f"{start}{number}{_VALUE_SEPARATOR}{weight}" for number, weight in pairs]


def _write_chunk(
    rng: np.random.Generator,
    writer: CsvWriter,
    *,
    lines: _Lines,
    sizes: np.ndarray,
    tested: np.ndarray,
) -> None:
    """Writes a chunk; `tested` says whether a context belongs to the test files."""
    for split, chosen in ((keys.TRAIN, ~tested), (keys.TEST, tested)):
        rows = np.flatnonzero(np.repeat(chosen, sizes))
        contexts = rng.permutation(np.flatnonzero(chosen & (sizes > 0)))
        apart = rng.random(len(rows)) < _DISPLACED_SHARE
        writer.write(f"oracle_{split}", lines.oracle[rows])
        writer.write(f"common_features_{split}", lines.common[contexts])
        for part in (rows[~apart], rows[apart]):
            writer.write(f"sample_skeleton_{split}", lines.skeleton[part])
