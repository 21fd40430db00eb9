"""`python -m benchmarks.pandas_join`: raw Ali-CCP files to flat TFRecords, the published way.

Common features are held in a dict and joined to each impression by pandas; each impression is one
`tf.train.Example` with all of its context. Nothing is checked, grouped, shuffled or counted. With
`--parsed` the dict holds what the text says: that is faster, and takes about 80 KB per context,
which would be 56 GB for Ali-CCP.
"""

import collections
import dataclasses
from typing import Any

import pandas as pd

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow

import tensorflow as tf  # isort: skip - after esmm_tf.startup
from esmm_tf.config import flags
from esmm_tf.config.fields import setting

_ROWS_AT_ONCE = 10_000

Features = dict[str, tuple[list[int], list[float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """What to convert."""

    skeleton: str = setting(help="sample_skeleton_train.csv")
    common_features: str = setting(help="common_features_train.csv")
    output: str = setting(help="TFRecord file to write")
    parsed: bool = setting(False, help="keep parsed features in the dict instead of their text")
    num_impressions: int = setting(0, help="impressions to convert, from the first; 0 converts all")


def main(config: JoinConfig) -> None:
    """Joins and writes."""
    common: dict[str, Any] = {}
    for rows in pd.read_csv(config.common_features, header=None, chunksize=_ROWS_AT_ONCE):
        features = rows[2].map(_parse) if config.parsed else rows[2]
        common.update(zip(rows[0], features, strict=True))
    with tf.io.TFRecordWriter(config.output) as writer:
        for rows in pd.read_csv(
            config.skeleton,
            header=None,
            chunksize=_ROWS_AT_ONCE,
            nrows=config.num_impressions or None,
        ):
            rows["context"] = rows[3].map(common)
            for row in rows.itertuples(index=False):
                context = row.context if config.parsed else _parse(row.context)
                writer.write(_encode(*row[:3], _parse(row[5]), context))


def _parse(text: str) -> Features:
    features: Features = collections.defaultdict(lambda: ([], []))
    for token in text.split("\x01"):
        field, rest = token.split("\x02")
        index, value = rest.split("\x03")
        ids, values = features[field]
        ids.append(int(index))
        values.append(float(value))
    return features


def _encode(
    sample_id: int, click: int, conversion: int, item: Features, context: Features
) -> bytes:
    example = tf.train.Example()
    feature = example.features.feature
    for name, number in (("sample_id", sample_id), ("click", click), ("conversion", conversion)):
        feature[name].int64_list.value.append(number)
    for features in (item, context):
        for name, (ids, values) in features.items():
            feature[name].int64_list.value.extend(ids)
            if any(value != 1 for value in values):
                feature[f"{name}:weight"].float_list.value.extend(values)
    return example.SerializeToString()


if __name__ == "__main__":
    flags.run(main, JoinConfig)
