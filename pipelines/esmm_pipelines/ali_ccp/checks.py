"""Rows of Ali-CCP judged in the DataFrame API: split, truth, and why a row is to be rejected."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from esmm_pipelines.ali_ccp.raw_files import Piece
from esmm_pipelines.engines.engine import Engine
from esmm_pipelines.grouping.negatives import SAMPLED_SPLITS
from esmm_pipelines.grouping.rejections import RejectedRows, check_share
from esmm_pipelines.grouping.splits import SPLIT, hash_bound
from esmm_pipelines.grouping.whole_groups import ORDER
from esmm_tf import keys
from esmm_tf.errors import UserError
from esmm_tf.schema.record_field import CONTEXT, IMPRESSION

ANOMALY = "conversion without click"
_FIRST = "first_position"
_LINES_OF_A_PIECE = 1 << 40
_HASHES = 16**8
_ROW = ("part", "side", "context", "sample_id", keys.CLICK, keys.CONVERSION, "tokens")
_POSITION = ("piece", "line")


def checked_rows(
    engine: Engine,
    rows: Any,
    truth: Any,
    *,
    label_anomalies: str,
    missing_contexts: str,
    validation_share: float,
    seed: int,
) -> Any:
    """Returns the rows with their order, their split and the reason to reject them, null if none.

    Args:
      engine: that the rows belong to.
      rows: of the schema `rows.ROW`.
      truth: from `read_truth`, or None.
      label_anomalies: `keep`, or else a conversion without a click is rejected.
      missing_contexts: `keep`, or else an impression whose common index has no row is rejected.
      validation_share: of the contexts of part `train`.
      seed: of order and split.
    """
    F = engine.F  # noqa: N806 - its customary name
    joined = engine.named(_with_first_context(engine, rows))
    columns = [*_ROW, *_POSITION, "reason", _FIRST]
    if truth is not None:
        joined = joined.join(truth, on=["part", "sample_id"], how="left")
        columns += [keys.ORACLE_PCTR, keys.ORACLE_PCVR]
        joined = joined.select(*columns)
    reasons = _reasons(
        F,
        keep_anomalies=label_anomalies == "keep",
        keep_missing=missing_contexts == "keep",
        has_truth=truth is not None,
    )
    name = F.concat(F.col("part"), F.lit(":"), F.col("context"))
    checked = joined.select(
        *(column for column in columns if column not in ("reason", _FIRST)),
        F.coalesce(*reasons).alias("reason"),
        F.md5(F.concat(F.lit(f"{seed}:"), name)).alias(ORDER),
        _split(F, name, validation_share=validation_share, seed=seed).alias(SPLIT),
    )
    return engine.named(checked)


def read_truth(engine: Engine, paths: Mapping[str, Sequence[str]]) -> Any:
    """Returns the truth of each sample, one row per part and sample.

    Args:
      engine: that reads it.
      paths: CSV files of each part, with columns `sample_id`, `oracle_pctr` and `oracle_pcvr`.
    """
    F = engine.F  # noqa: N806 - its customary name
    frames = [
        engine.read_csv(path).select(
            F.lit(part).alias("part"),
            F.expr("try_cast(sample_id as bigint)").alias("sample_id"),
            *(_probability(F, name).alias(name) for name in (keys.ORACLE_PCTR, keys.ORACLE_PCVR)),
        )
        for part, files in paths.items()
        for path in files
    ]
    whole = frames[0]
    for frame in frames[1:]:
        whole = whole.unionAll(frame)
    return whole.groupBy("part", "sample_id").agg(
        F.min(keys.ORACLE_PCTR).alias(keys.ORACLE_PCTR),
        F.min(keys.ORACLE_PCVR).alias(keys.ORACLE_PCVR),
    )


def reject(
    engine: Engine,
    rows: Any,
    checked: Any,
    *,
    pieces: Sequence[Piece],
    directory: str,
    max_rejected: float,
) -> collections.Counter[str]:
    """Writes the rejected rows with file, line and reason; returns their number by reason.

    Raises:
      UserError: if there are no rows, or more than `max_rejected` of them are rejected.
    """
    F = engine.F  # noqa: N806 - its customary name
    counts = rows.groupBy("piece").agg(F.max("line").alias("lines"))
    lines = {
        row["piece"]: row["lines"] for batch in engine.stream(counts) for row in batch.to_pylist()
    }
    before = _lines_before(pieces, lines)
    bad = checked.where(F.col("reason").isNotNull()).select(*_POSITION, "reason")
    with RejectedRows(directory, ("file", "line")) as rejected:
        for batch in engine.stream(bad.orderBy(*_POSITION)):
            for row in batch.to_pylist():
                index = row["piece"]
                rejected.add((pieces[index].path, before[index] + row["line"]), row["reason"])
    total = sum(lines.values())
    if not total:
        raise UserError("The raw files are empty. Check --skeleton and --common_features.")
    check_share(rejected.counts, total=total, max_rejected=max_rejected, path=rejected.path)
    return rejected.counts


def with_impressions(engine: Engine, rows: Any) -> Any:
    """Returns the rows with their number of impressions: 1, or all that a context has."""
    F = engine.F  # noqa: N806 - its customary name
    own = F.col("side") == IMPRESSION
    sizes = rows.where(own).groupBy(ORDER).agg(F.count("*").alias("size"))
    joined = rows.join(sizes, on=ORDER, how="left")
    impressions = F.when(own, F.lit(1)).otherwise(F.coalesce(F.col("size"), F.lit(0)))
    return joined.select("side", SPLIT, "tokens", impressions.cast("bigint").alias("impressions"))


def sample_negatives(
    engine: Engine, rows: Any, *, rate: float, seed: int
) -> tuple[Any, collections.Counter[str]]:
    """Returns the rows that are kept, and how many impressions are left out of each split.

    A hash of sample and common index decides which impressions without click and conversion stay.

    Args:
      engine: that the rows belong to.
      rows: with `SPLIT`, none of them to be rejected.
      rate: the probability with which such an impression is kept.
      seed: of the hash.
    """
    if rate == 1:
        return rows, collections.Counter()
    F = engine.F  # noqa: N806 - its customary name
    sample = F.concat(F.col("context"), F.lit(":"), F.col("sample_id").cast("string"))
    digest = F.md5(F.concat(F.lit(f"negative {seed}:"), sample))
    is_left_out = (
        (F.col("side") == IMPRESSION)
        & F.col(SPLIT).isin(*SAMPLED_SPLITS)
        & (F.col(keys.CLICK) == 0)
        & (F.col(keys.CONVERSION) == 0)
        & (digest >= F.lit(hash_bound(rate)))
    )
    counts = rows.where(is_left_out).groupBy(SPLIT).agg(F.count("*").alias("n"))
    left_out = collections.Counter(
        {row[SPLIT]: row["n"] for batch in engine.stream(counts) for row in batch.to_pylist()}
    )
    return rows.where(~is_left_out), left_out


def count_unused(engine: Engine, rows: Any) -> int:
    """Returns how many rows of common features have no impressions; `rows` has their number."""
    F = engine.F  # noqa: N806 - its customary name
    unused = rows.where(F.col("impressions") == 0).agg(F.count("*").alias("n"))
    return next(iter(engine.stream(unused)))["n"][0].as_py()


def _with_first_context(engine: Engine, rows: Any) -> Any:
    """Returns the rows with the position of the first sound row of their common index."""
    F = engine.F  # noqa: N806 - its customary name
    sound = rows.where((F.col("side") == CONTEXT) & F.col("reason").isNull())
    first = sound.groupBy("part", "context").agg(F.min(_position(F)).alias(_FIRST))
    joined = rows.join(first, on=["part", "context"], how="left")
    return joined.select(*_ROW, *_POSITION, "reason", _FIRST)


def _reasons(F: Any, *, keep_anomalies: bool, keep_missing: bool, has_truth: bool) -> list[Any]:  # noqa: N803
    """Returns columns with the reasons to reject a row, null where there is none."""
    is_context = F.col("side") == CONTEXT
    is_repeated = is_context & (_position(F) != F.col(_FIRST))
    reasons = [F.col("reason"), F.when(is_repeated, F.lit("common index is repeated"))]
    if not keep_missing:
        reasons.append(F.when(F.col(_FIRST).isNull(), F.lit("common index has no row")))
    if not keep_anomalies:
        anomaly = (F.col(keys.CLICK) == 0) & (F.col(keys.CONVERSION) == 1)
        reasons.append(F.when(anomaly, F.lit(ANOMALY)))
    if has_truth:
        known = F.col(keys.ORACLE_PCTR).isNotNull() & F.col(keys.ORACLE_PCVR).isNotNull()
        reasons.append(F.when(~is_context & ~known, F.lit("its truth is not known")))
    return reasons


def _position(F: Any) -> Any:  # noqa: N803 - its customary name
    return F.col("piece") * F.lit(_LINES_OF_A_PIECE) + F.col("line")


def _split(F: Any, name: Any, *, validation_share: float, seed: int) -> Any:  # noqa: N803
    """Returns the split of a context, by the first 8 hex digits of a hash of its name."""
    digits = F.substring(F.md5(F.concat(F.lit(f"split:{seed}:"), name)), 1, 8)
    bound = F.lit(f"{round(validation_share * _HASHES):08x}")
    return (
        F.when(F.col("part") == keys.TEST, F.lit(keys.TEST))
        .when(digits < bound, F.lit(keys.VALIDATION))
        .otherwise(F.lit(keys.TRAIN))
    )


def _probability(F: Any, name: str) -> Any:  # noqa: N803 - its customary name
    number = F.expr(f"try_cast(`{name}` as float)")
    return F.when((number >= 0) & (number <= 1), number)


def _lines_before(pieces: Sequence[Piece], lines: dict[int, int]) -> np.ndarray:
    """Returns how many lines of its file stand before each piece."""
    before = np.zeros(len(pieces), dtype=np.int64)
    for index, piece in enumerate(pieces[1:], start=1):
        if piece.start:
            before[index] = before[index - 1] + lines.get(index - 1, 0)
    return before
