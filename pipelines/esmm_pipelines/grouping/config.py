"""Settings of the split, and of the data set to write."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from esmm_pipelines.grouping import negatives
from esmm_tf.config.fields import setting
from esmm_tf.data.writer import DataSetWriter, check_keep_rate, check_output
from esmm_tf.errors import UserError
from esmm_tf.schema.schema import Schema


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """How groups are divided among training, validation and test."""

    validation_share: float = setting(0.1, help="share of the groups in split 'validation'")
    test_share: float = setting(0.2, help="share of the groups in split 'test'")

    def __post_init__(self) -> None:
        if min(self.validation_share, self.test_share) < 0:
            raise UserError("--validation_share and --test_share must be 0 or more.")
        if self.validation_share + self.test_share >= 1:
            raise UserError("--validation_share and --test_share leave nothing to train on.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSetConfig:
    """The data set to write."""

    output_dir: str = setting(help="directory of the data set")
    max_group_size: int = setting(64, help="impressions at which a group is cut into records")
    num_shards: int = setting(8, help="files of each split")
    compressed: bool = setting(False, help="write .tfrecord.gz")
    overwrite: bool = setting(False, help="replace a finished data set in output_dir")
    max_rejected: float = setting(
        0.01, help="share of the rows that may be rejected before the job ends with an error"
    )
    negative_keep_rate: float = setting(
        1.0,
        help="probability with which an impression without click and conversion is kept in the "
        "splits 'train' and 'validation', above 0 to 1, which keeps all",
    )
    seed: int = setting(
        1, help="seed of the order of the records, of the split and of what is kept"
    )

    def __post_init__(self) -> None:
        check_keep_rate(self.negative_keep_rate)
        if min(self.max_group_size, self.num_shards) < 1:
            raise UserError("--max_group_size and --num_shards must be at least 1.")
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}. Give 0 or more.")
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"--max_rejected is {self.max_rejected}. Give a share, 0 to 1.")

    def check_output(self) -> None:
        """Raises a `UserError` if a finished data set would be replaced without `overwrite`."""
        check_output(self.output_dir, overwrite=self.overwrite)

    def open_writer(self, schema: Schema, source: Mapping[str, Any]) -> DataSetWriter:
        """Returns the writer of the data set; the settings are added to its source."""
        return DataSetWriter(
            self.output_dir,
            schema,
            num_shards=self.num_shards,
            compressed=self.compressed,
            overwrite=self.overwrite,
            source={**source, **dataclasses.asdict(self)},
            negative_keep_rate=negatives.keep_rates(self.negative_keep_rate),
        )

    def report(self, writer: DataSetWriter) -> None:
        """Prints what was written, left out and rejected."""
        print(f"wrote {writer.num_impressions:,} impressions to {self.output_dir}")
        negatives.report(writer)
        for reason, count in sorted(writer.rejected.items()):
            print(f"rejected {count:,} rows: {reason}")
