"""`python -m pipelines.synthetic`: simulated logs with Ali-CCP's fields and a known truth.

`pipelines.world` states the generative model in formulas.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf import flags, keys, progress, records
from esmm_tf.columns import INT64, IdentityColumn
from esmm_tf.schema import ONE, Feature, Schema, Table
from esmm_tf.shards import DataSetWriter
from pipelines import ali_ccp_fields, ali_ccp_raw
from pipelines.exposure import Groups, Shop
from pipelines.synthetic_log import ALI_CCP_RAW, TFRECORD, SyntheticConfig, draw_chunks, num_ids
from pipelines.world import BEHAVIOURS, PROFILE_FIELDS


def generate(config: SyntheticConfig) -> None:
    """Simulates a shop and writes its log, truth included, in the format asked for."""
    write = {TFRECORD: _write_data_set, ALI_CCP_RAW: ali_ccp_raw.write_log}
    write[config.format](config)
    print(f"wrote {config.num_impressions:,} impressions to {config.output_dir}")


def _write_data_set(config: SyntheticConfig) -> None:
    schema = build_schema(config.sizes())
    truth = config.truth()  # checked before a finished data set is replaced
    with DataSetWriter(
        config.output_dir,
        schema,
        num_shards=config.num_shards,
        compressed=config.compressed,
        overwrite=config.overwrite,
        source={"command": "pipelines.synthetic", **dataclasses.asdict(config)},
    ) as writer:
        shop = Shop(truth, config.sizes(), seed=config.seed)
        write_groups(shop, config, writer)


def write_groups(shop: Shop, config: SyntheticConfig, writer: DataSetWriter) -> None:
    """Draws the log of a shop and writes it."""
    with progress.build_bar(config.num_impressions) as bar:
        for split, group in _groups(shop, config):
            writer.write(split, group)
            bar.update(len(group[keys.CLICK]))


def build_schema(sizes: dict[str, int]) -> Schema:
    """Returns the schema of a simulated log: Ali-CCP's fields, ids numbered from 0 in each.

    The hundreds of values of a behaviour field are averaged, not summed: of a sum, one step of
    Adam moves each dimension by hundreds of its step sizes, and pCTR swings from batch to batch.
    """
    vocabulary_sizes = num_ids(sizes)
    features = [
        Feature(
            name=field.name,
            side=field.side,
            dtype=INT64,
            values=field.values,
            weighted=field.weighted,
            missing="embed" if field.name in PROFILE_FIELDS else "zero",
            column=IdentityColumn(vocabulary_size=vocabulary_sizes[field.name]),
            table=field.table,
            combiner="mean" if field.name in BEHAVIOURS else "sum",
        )
        for field in ali_ccp_fields.FIELDS
    ]
    tables = {feature.table for feature in features if feature.table}
    return Schema(
        name="synthetic",
        features=tuple(features),
        tables=tuple(Table(name=name) for name in sorted(tables)),
        group_key="101",
        carry=("101", "205"),
        oracle=True,
    )


def _groups(shop: Shop, config: SyntheticConfig) -> Iterator[tuple[str, records.Group]]:
    """Yields records with their split, `num_impressions` in all."""
    for groups, splits in draw_chunks(shop, config):
        for index, start, end in _cuts(groups.sizes, config.max_group_size):
            yield splits[index], _record(groups, index, start, end)


def _cuts(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int, int]]:
    """Yields (group, first impression, last impression + 1) of pieces of at most `limit`."""
    ends = np.cumsum(sizes)
    for index, end in enumerate(ends):
        for start in range(end - sizes[index], end, limit):
            yield index, start, min(start + limit, end)


def _record(groups: Groups, index: int, start: int, end: int) -> records.Group:
    record: dict[str, np.ndarray] = {}
    for name, values in groups.context.items():
        record |= values.entries(name, index, index + 1, lengths=False)
    for name, values in groups.impressions.items():
        has_lengths = ali_ccp_fields.BY_NAME[name].values != ONE
        record |= values.entries(name, start, end, lengths=has_lengths)
    for name, labels in groups.labels.items():
        record[name] = labels[start:end]
    return record


if __name__ == "__main__":
    flags.run(generate, SyntheticConfig)
