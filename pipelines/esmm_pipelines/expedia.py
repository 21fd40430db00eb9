"""`python -m esmm_pipelines.expedia`: the hotel searches of Expedia to TFRecords.

The log is that of a Kaggle competition (ICDM 2013).
"""

import dataclasses
import importlib.resources
from typing import Any, NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.engines.engine import Engine, open_engine
from esmm_pipelines.grouping.config import DataSetConfig, SplitConfig
from esmm_pipelines.table import casts, records
from esmm_tf.config import flags
from esmm_tf.config.fields import setting
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file

_TIME = r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$"
# Column -> what the schema calls its difference from the search's mean.
_COMPARED = {
    "prop_starrating": "starrating_to_search",
    "prop_location_score1": "location_score1_to_search",
    "prop_location_score2": "location_score2_to_search",
    "prop_review_score": "review_score_to_search",
}
_SCHEMA = importlib.resources.files("esmm_pipelines.schemas") / "expedia.toml"
_LAYOUT = records.Layout(group_by="srch_id", time_column="search_time")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpediaConfig:
    """Which log to read."""

    input: str = setting(help="the competition's train.csv")


def convert(
    config: ExpediaConfig, split: SplitConfig, data_set: DataSetConfig, engine_config: EngineConfig
) -> None:
    """Writes each search as an impression group, split by time: the latest are the test."""
    with open_engine(engine_config) as engine:
        records.write_table(
            engine,
            with_features(engine, engine.read_csv(config.input)),
            toml_file.load_schema(str(_SCHEMA)),
            layout=_LAYOUT,
            split=split,
            data_set=data_set,
            source={"command": "esmm_pipelines.expedia", **dataclasses.asdict(config)},
        )


def with_features(engine: Engine, log: Any) -> Any:
    """Returns the log with the columns that the schema adds to it; see `expedia.toml`.

    Raises:
      UserError: if the log lacks a column.
    """
    F, Window = engine.F, engine.Window  # noqa: N806 - their customary names
    search = Window.partitionBy("srch_id")
    competitors = [f"comp{number}_{column}" for number in range(1, 9) for column in ("rate", "inv")]
    numbers = [*_COMPARED, "price_usd", *competitors]
    missing = sorted({"srch_id", "date_time", "prop_id", *numbers} - set(log.columns))
    if missing:
        raise UserError(f"--input has no column {missing[0]!r}. Give the competition's train.csv.")
    log = log.select("*", *(F.expr(casts.number(name)).alias(f"{name}_number") for name in numbers))
    price = F.col("price_usd_number")
    log = engine.named(log.withColumn("log_price_number", F.when(price > -1, F.log1p(price))))

    def to_search(name: str) -> Any:
        return F.col(f"{name}_number") - F.avg(f"{name}_number").over(search)

    def count(column: str, value: int) -> Any:
        hits = [F.col(f"{name}_number") == value for name in competitors if name.endswith(column)]
        return sum((F.when(hit, F.lit(1)).otherwise(F.lit(0)) for hit in hits), F.lit(0))

    added = {name: to_search(column) for column, name in _COMPARED.items()} | {
        "log_price_to_search": to_search("log_price"),
        "price_rank_in_search": F.percent_rank().over(search.orderBy("price_usd_number")),
        "hotels_in_search": F.count("prop_id").over(search),
        "competitors_cheaper": count("rate", -1),
        "competitors_dearer": count("rate", 1),
        "competitors_sold_out": count("inv", 1),
        "search_time": F.when(F.col("date_time").rlike(_TIME), F.col("date_time")),
    }
    return log.select("*", *(value.alias(name) for name, value in added.items()))


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(convert, ExpediaConfig, SplitConfig, DataSetConfig, EngineConfig)


if __name__ == "__main__":
    run()
