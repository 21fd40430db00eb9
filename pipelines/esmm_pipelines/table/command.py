"""`python -m esmm_pipelines.table`: a table of impressions, one per row, to grouped TFRecords."""

import dataclasses
import os
from typing import Any, NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.engines.engine import Engine, open_engine
from esmm_pipelines.grouping.config import DataSetConfig, SplitConfig
from esmm_pipelines.table import records
from esmm_tf.config import flags
from esmm_tf.config.fields import setting
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file

_CSV = ".csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Which table to read, and how its rows become groups."""

    input: tuple[str, ...] = setting(
        help="Parquet files, patterns or directories, comma-separated, or one .csv file"
    )
    schema: str = setting(help="schema file, whose features, keys and labels name the columns")
    group_by: str = setting(
        "",
        help="column whose value tells groups apart; by default the schema's group_key, without "
        "one all context features, without those each row is a group",
    )
    time_column: str = setting(
        "", help="column of times: the latest groups are the test, those before the validation"
    )
    split_column: str = setting(
        "", help="column that holds 'train', 'validation' or 'test'; the shares are not used then"
    )

    def __post_init__(self) -> None:
        if not self.input:
            raise UserError("--input names no file. Give Parquet files, or one .csv file.")
        if len(self.input) > 1 and any(path.endswith(_CSV) for path in self.input):
            raise UserError(
                f"--input is {','.join(self.input)!r}. A .csv file is read alone. Join the files, "
                "or give Parquet files."
            )
        self.layout()

    def layout(self) -> records.Layout:
        """Returns how rows become groups.

        Raises:
          UserError: if both a time and a split column are given.
        """
        return records.Layout(
            group_by=self.group_by, time_column=self.time_column, split_column=self.split_column
        )


def convert(
    config: TableConfig, split: SplitConfig, data_set: DataSetConfig, engine_config: EngineConfig
) -> None:
    """Writes a table of impressions, one per row, as groups that a schema describes."""
    schema = toml_file.load_schema(config.schema)
    with open_engine(engine_config) as engine:
        records.write_table(
            engine,
            read_table(engine, config.input),
            schema,
            layout=config.layout(),
            split=split,
            data_set=data_set,
            source={"command": "esmm_pipelines.table", **dataclasses.asdict(config)},
        )


def read_table(engine: Engine, paths: tuple[str, ...]) -> Any:
    """Returns the rows of Parquet files, or of one CSV file with a header.

    Raises:
      UserError: if they cannot be read.
    """
    if paths[0].endswith(_CSV):
        return engine.read_csv(paths[0])
    return engine.read_parquet(
        [os.path.join(path, "*.parquet") if os.path.isdir(path) else path for path in paths]
    )


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(convert, TableConfig, SplitConfig, DataSetConfig, EngineConfig)
