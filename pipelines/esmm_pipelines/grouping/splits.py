"""Which split a group goes to: by chance, by its time, or by a column that names it."""

from collections.abc import Sequence
from typing import Any

from esmm_pipelines.engines.engine import Engine
from esmm_pipelines.grouping.config import SplitConfig
from esmm_tf import keys

GROUP = "esmm_tf_group"
SPLIT = "esmm_tf_split"
SPLITS = (keys.TRAIN, keys.VALIDATION, keys.TEST)
_DIGITS = 12


def with_random_split(engine: Engine, table: Any, config: SplitConfig, *, seed: int) -> Any:
    """Returns the table with the split of each row, by a hash of `GROUP`."""
    F = engine.F  # noqa: N806 - its customary name
    digest = F.md5(F.concat(F.lit(f"split {seed}:"), F.col(GROUP)))
    split = (
        F.when(digest < F.lit(hash_bound(config.test_share)), F.lit(keys.TEST))
        .when(
            digest < F.lit(hash_bound(config.test_share + config.validation_share)),
            F.lit(keys.VALIDATION),
        )
        .otherwise(F.lit(keys.TRAIN))
    )
    return table.withColumn(SPLIT, split)


def with_split_by_time(
    engine: Engine, table: Any, config: SplitConfig, *, times: Sequence[str]
) -> Any:
    """Returns the table with the split of each row: the latest groups are the test.

    The time of a group is its earliest one. A row has no split if no row of its group has a time.

    Args:
      engine: that the table belongs to.
      table: with `GROUP`.
      config: the shares.
      times: columns that order the groups.
    """
    F, Window = engine.F, engine.Window  # noqa: N806 - their customary names
    groups = table.groupBy(GROUP).agg(*(F.min(F.col(time)).alias(time) for time in times))
    groups = groups.where(F.coalesce(*(F.col(t).cast("string") for t in times)).isNotNull())
    order = Window.orderBy(*(F.col(name) for name in (*times, GROUP)))
    rank = F.col("esmm_tf_rank")
    groups = groups.withColumn("esmm_tf_rank", F.percent_rank().over(order))
    split = (
        F.when(rank >= 1 - config.test_share, F.lit(keys.TEST))
        .when(rank >= 1 - config.test_share - config.validation_share, F.lit(keys.VALIDATION))
        .otherwise(F.lit(keys.TRAIN))
    )
    groups = groups.select(F.col(GROUP), split.alias(SPLIT))
    return table.join(groups, on=GROUP, how="left").select(*table.columns, SPLIT)


def with_split_column(engine: Engine, table: Any, *, column: str) -> Any:
    """Returns the table with the split that a column names; a row has none for other values."""
    F = engine.F  # noqa: N806 - its customary name
    return table.withColumn(SPLIT, F.when(F.col(column).isin(*SPLITS), F.col(column)))


def hash_bound(share: float) -> str:
    """Returns the digits below which that share of all hashes lies, for a share below 1."""
    return f"{int(share * 16**_DIGITS):0{_DIGITS}x}"
