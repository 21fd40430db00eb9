"""`python -m pipelines.expedia`: the hotel searches of Expedia (Kaggle, ICDM 2013) to TFRecords."""

import dataclasses
import pathlib
from typing import Any

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf import flags, keys, progress, schema_file
from esmm_tf.config import setting
from esmm_tf.errors import UserError
from esmm_tf.shards import DataSetWriter
from pipelines import grouping
from pipelines.engine import DuckDBEngine, F, Window

_TIME = r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$"
# Column -> what the schema calls its difference from the search's mean.
_COMPARED = {
    "prop_starrating": "starrating_to_search",
    "prop_location_score1": "location_score1_to_search",
    "prop_location_score2": "location_score2_to_search",
    "prop_review_score": "review_score_to_search",
}
_SCHEMA = pathlib.Path(__file__).parents[1] / "tfrecords_schema" / "expedia.toml"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpediaConfig:
    """Which log to read, how to split it, and where to write it."""

    input: str = setting(help="the competition's train.csv")
    output_dir: str = setting(help="directory of the data set")
    validation_share: float = setting(
        0.1, help="share of the searches, after those for training, in split 'validation'"
    )
    test_share: float = setting(0.2, help="share of the searches, the latest, in split 'test'")
    max_group_size: int = setting(64, help="hotels at which a search is cut into records")
    num_shards: int = setting(4, help="files of each split")
    compressed: bool = setting(False, help="write .tfrecord.gz")
    overwrite: bool = setting(False, help="replace a finished data set in output_dir")
    memory_limit: str = setting("4GB", help="memory of the engine; beyond it, it spills to disk")
    temp_dir: str = setting("", help="where it spills; by default the system's directory")
    seed: int = setting(1, help="seed of the order of the records")

    def __post_init__(self) -> None:
        if min(self.validation_share, self.test_share, self.seed) < 0:
            raise UserError("--validation_share, --test_share and --seed must be 0 or more.")
        if self.validation_share + self.test_share >= 1:
            raise UserError("--validation_share and --test_share leave nothing to train on.")
        if min(self.max_group_size, self.num_shards) < 1:
            raise UserError("--max_group_size and --num_shards must be at least 1.")


def convert(config: ExpediaConfig) -> None:
    """Writes each search as an impression group, split by time: the latest are the test."""
    schema = schema_file.load_schema(str(_SCHEMA))
    source = {"command": "pipelines.expedia", **dataclasses.asdict(config)}
    with DuckDBEngine(memory_limit=config.memory_limit, temp_dir=config.temp_dir) as engine:
        log = with_split(with_features(engine.read_csv(config.input)), config)
        table = grouping.typed_table(log, schema)  # fails before a finished data set is replaced
        with (
            DataSetWriter(
                config.output_dir,
                schema,
                num_shards=config.num_shards,
                compressed=config.compressed,
                overwrite=config.overwrite,
                source=source,
            ) as writer,
            progress.build_bar(None) as bar,
        ):
            groups = grouping.read_groups(
                engine,
                table,
                schema,
                group_by="srch_id",
                seed=config.seed,
                max_group_size=config.max_group_size,
                rejected=writer.rejected,
            )
            for split, group in groups:
                writer.write(split, group)
                bar.update(len(group[keys.CLICK]))
            writer.rejected.update(engine.rejected_rows())
    print(f"wrote {writer.num_impressions:,} impressions to {config.output_dir}")
    for reason, count in sorted(writer.rejected.items()):
        print(f"rejected {count:,} rows: {reason}")


def with_features(log: Any) -> Any:
    """Returns the log with the columns that the schema adds to it; see `expedia.toml`.

    Raises:
      UserError: if the log lacks a column.
    """
    search = Window.partitionBy("srch_id")
    competitors = [f"comp{place}_{column}" for place in range(1, 9) for column in ("rate", "inv")]
    numbers = [*_COMPARED, "price_usd", *competitors]
    missing = sorted({"srch_id", "date_time", "prop_id", *numbers} - set(log.columns))
    if missing:
        raise UserError(f"--input has no column {missing[0]!r}. Give the competition's train.csv.")
    log = log.select(
        "*", *(grouping.finite_number(name).alias(f"{name}_number") for name in numbers)
    )
    price = F.col("price_usd_number")
    log = log.withColumn("log_price_number", F.when(price > -1, F.log1p(price)))

    def to_search(name: str) -> Any:
        return F.col(f"{name}_number") - F.avg(f"{name}_number").over(search)

    def count(column: str, value: int) -> Any:
        hits = [F.col(f"{name}_number") == value for name in competitors if name.endswith(column)]
        return sum((F.when(hit, F.lit(1)).otherwise(F.lit(0)) for hit in hits), F.lit(0))

    added = {name: to_search(of) for of, name in _COMPARED.items()} | {
        "log_price_to_search": to_search("log_price"),
        "price_rank_in_search": F.percent_rank().over(search.orderBy("price_usd_number")),
        "hotels_in_search": F.count("prop_id").over(search),
        "competitors_cheaper": count("rate", -1),
        "competitors_dearer": count("rate", 1),
        "competitors_sold_out": count("inv", 1),
    }
    return log.select("*", *(value.alias(name) for name, value in added.items()))


def with_split(log: Any, config: ExpediaConfig) -> Any:
    """Returns the log with the split of each row: searches in the order of their time.

    A row has none if no row of its search tells the time.
    """
    time = F.when(F.col("date_time").rlike(_TIME), F.col("date_time"))
    searches = log.groupBy("srch_id").agg(F.min(time).alias("search_time"))
    searches = searches.where(F.col("search_time").isNotNull())
    order = Window.orderBy("search_time", "srch_id")
    searches = searches.withColumn("place", F.percent_rank().over(order))
    split = (
        F.when(F.col("place") >= 1 - config.test_share, F.lit(keys.TEST))
        .when(
            F.col("place") >= 1 - config.test_share - config.validation_share,
            F.lit(keys.VALIDATION),
        )
        .otherwise(F.lit(keys.TRAIN))
    )
    searches = searches.select("srch_id", split.alias(grouping.SPLIT))
    return log.join(searches, on="srch_id", how="left").select(*log.columns, grouping.SPLIT)


if __name__ == "__main__":
    flags.run(convert, ExpediaConfig)
