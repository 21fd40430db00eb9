"""`python -m esmm_pipelines.synthetic`: simulated logs with Ali-CCP's fields and a known truth.

`esmm_pipelines.synthetic.world` states the generative model in formulas.
"""

import dataclasses
from collections.abc import Iterator
from typing import NoReturn

import numpy as np

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_pipelines.ali_ccp import fields
from esmm_pipelines.grouping import negatives
from esmm_pipelines.synthetic import ali_ccp_raw
from esmm_pipelines.synthetic.log import (
    ALI_CCP_RAW,
    TFRECORD,
    SyntheticConfig,
    draw_chunks,
    num_ids,
)
from esmm_pipelines.synthetic.shop import Groups, Shop
from esmm_pipelines.synthetic.world import BEHAVIOURS, PROFILE_FIELDS
from esmm_tf import console, keys
from esmm_tf.config import flags
from esmm_tf.data import records
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.schema.columns import INT64, IdentityColumn
from esmm_tf.schema.schema import Feature, Schema, Table


def generate(config: SyntheticConfig) -> None:
    """Simulates a shop and writes its log, truth included, in the format asked for."""
    write = {TFRECORD: write_data_set, ALI_CCP_RAW: ali_ccp_raw.write_log}
    write[config.format](config)


def write_data_set(config: SyntheticConfig) -> None:
    """Simulates a shop, writes its log as records and prints what became of it."""
    schema = build_schema(config.sizes())
    truth = config.truth()  # checked before a finished data set is replaced
    with DataSetWriter(
        config.output_dir,
        schema,
        num_shards=config.num_shards,
        compressed=config.compressed,
        overwrite=config.overwrite,
        source={"command": "esmm_pipelines.synthetic", **dataclasses.asdict(config)},
        negative_keep_rate=negatives.keep_rates(config.negative_keep_rate),
    ) as writer:
        shop = Shop(truth, config.sizes(), seed=config.seed)
        write_groups(shop, config, writer)
    print(f"wrote {writer.num_impressions:,} impressions to {config.output_dir}")
    negatives.report(writer)


def write_groups(shop: Shop, config: SyntheticConfig, writer: DataSetWriter) -> None:
    """Draws the log of a shop and writes it."""
    with console.build_bar(config.num_impressions) as bar:
        for number, (drawn, splits) in enumerate(draw_chunks(shop, config)):
            groups = drawn
            if config.negative_keep_rate < 1:
                groups = _sampled(groups, splits, config, chunk=number)
                left_out = drawn.sizes - groups.sizes
                for split in writer.negative_keep_rate:
                    writer.sampled_out[split] += int(left_out[splits == split].sum())
            for index, start, end in _cuts(groups.sizes, config.max_group_size):
                writer.write(splits[index], _record(groups, writer.schema, index, start, end))
            bar.update(int(drawn.sizes.sum()))


def build_schema(sizes: dict[str, int]) -> Schema:
    """Returns the schema of a simulated log: Ali-CCP's fields, ids numbered from 0 in each.

    The hundreds of values of a behaviour field are averaged, not summed: one step of Adam would
    move each dimension of a sum by hundreds of step sizes, and pCTR would swing between batches.
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
        for field in fields.FIELDS
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


def _sampled(groups: Groups, splits: np.ndarray, config: SyntheticConfig, *, chunk: int) -> Groups:
    """Returns the groups of a chunk without the unclicked impressions that are left out.

    The draws have a generator of their own, so that the log stays the same before it is sampled.
    """
    owners = np.repeat(np.arange(len(groups.sizes)), groups.sizes)
    labels = {name: values[: len(owners)] for name, values in groups.labels.items()}
    is_kept = negatives.is_kept(
        np.random.default_rng([config.seed, 6, chunk]).random(len(owners)),
        rate=config.negative_keep_rate,
        is_sampled=np.isin(splits, negatives.SAMPLED_SPLITS)[owners],
        click=labels[keys.CLICK],
        conversion=labels[keys.CONVERSION],
    )
    rows = np.flatnonzero(is_kept)
    return Groups(
        sizes=np.bincount(owners[rows], minlength=len(groups.sizes)),
        context=groups.context,
        impressions={name: values.take(rows) for name, values in groups.impressions.items()},
        labels={name: values[rows] for name, values in labels.items()},
    )


def _cuts(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int, int]]:
    """Yields (group, first impression, last impression + 1) of pieces of at most `limit`."""
    ends = np.cumsum(sizes)
    for index, end in enumerate(ends):
        for start in range(end - sizes[index], end, limit):
            yield index, start, min(start + limit, end)


def _record(groups: Groups, schema: Schema, index: int, start: int, end: int) -> records.Group:
    record: dict[str, np.ndarray] = {}
    for feature in schema.features:
        if feature.is_context:
            record |= groups.context[feature.name].entries(feature, index, index + 1)
        else:
            record |= groups.impressions[feature.name].entries(feature, start, end)
    for name, labels in groups.labels.items():
        record[name] = labels[start:end]
    return record


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(generate, SyntheticConfig)
