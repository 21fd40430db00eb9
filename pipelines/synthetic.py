"""`python -m pipelines.synthetic`: simulated logs with Ali-CCP's fields and a known truth.

`pipelines.world` states the generative model in formulas.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf import flags, keys, progress, records
from esmm_tf.columns import INT64, IdentityColumn
from esmm_tf.config import setting
from esmm_tf.errors import UserError
from esmm_tf.schema import ONE, Feature, Schema, Table
from esmm_tf.shards import DataSetWriter
from pipelines import ali_ccp_fields
from pipelines.exposure import Groups, Shop, TruthConfig
from pipelines.world import BEHAVIOURS, PROFILE_FIELDS

_GROUPS_AT_ONCE = 256
_MIN_IDS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """How large a log to simulate, what is true in it, and where to write it."""

    output_dir: str = setting(help="directory of the data set")
    num_impressions: int = setting(500_000, help="impressions in all splits together")
    validation_share: float = setting(0.1, help="share of the groups in split 'validation'")
    test_share: float = setting(0.2, help="share of the groups in split 'test'")
    click_rate: float = setting(ali_ccp_fields.CLICK_RATE, help="clicks an impression")
    conversion_rate: float = setting(
        ali_ccp_fields.CONVERSION_RATE_OF_CLICKS, help="conversions a click"
    )
    correlation: float = setting(0.5, help="correlation of click and conversion propensity, 0 to 1")
    click_strength: float = setting(1.0, help="standard deviation of the click logit")
    conversion_strength: float = setting(1.0, help="standard deviation of the conversion logit")
    policy_strength: float = setting(
        1.0, help="how much the logging policy prefers what will be clicked; 0 shows at random"
    )
    retargeting: float = setting(
        0.2, help="share of the candidates that the user has visited before"
    )
    mean_group_size: float = setting(
        round(ali_ccp_fields.NUM_IMPRESSIONS / ali_ccp_fields.NUM_CONTEXTS, 1),
        help="mean number of impressions of one context",
    )
    max_group_size: int = setting(64, help="impressions at which a group is cut into records")
    cardinality_scale: float = setting(
        0.0,
        help="size of the world as a share of Ali-CCP's: users, items, shops and brands are "
        "multiplied by it, categories and nodes by its square root; 0 takes num_impressions as a "
        "share of Ali-CCP's",
    )
    num_shards: int = setting(8, help="files of each split")
    compressed: bool = setting(False, help="write .tfrecord.gz")
    overwrite: bool = setting(False, help="replace a finished data set in output_dir")
    seed: int = setting(1, help="seed of the world and of all draws")

    def __post_init__(self) -> None:
        for name in ("num_impressions", "max_group_size", "num_shards"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}. Give at least 1.")
        if min(self.validation_share, self.test_share, self.seed, self.cardinality_scale) < 0:
            raise UserError("Shares, --cardinality_scale and --seed must be 0 or more.")
        if self.validation_share + self.test_share >= 1:
            raise UserError("--validation_share and --test_share leave nothing to train on.")

    def sizes(self) -> dict[str, int]:
        """Returns the number of ids of each field whose size follows the log's."""
        scale = self.cardinality_scale or self.num_impressions / ali_ccp_fields.NUM_IMPRESSIONS
        return {
            field.name: max(
                min(_MIN_IDS, field.distinct_ids),
                round(field.distinct_ids * scale**field.scaling),
            )
            for field in ali_ccp_fields.FIELDS
            if field.scaling
        }

    def truth(self) -> TruthConfig:
        """Returns the settings that the simulated shop takes."""
        names = [field.name for field in dataclasses.fields(TruthConfig)]
        return TruthConfig(**{name: getattr(self, name) for name in names})


def generate(config: SyntheticConfig) -> None:
    """Simulates a shop and writes its log as grouped TFRecords, truth included."""
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
    print(f"wrote {config.num_impressions:,} impressions to {config.output_dir}")


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
    ids_of = {name: item for name, (item, _) in BEHAVIOURS.items()}
    ids_of |= {cross: item for item, cross in BEHAVIOURS.values()}
    features = [
        Feature(
            name=field.name,
            side=field.side,
            dtype=INT64,
            values=field.values,
            weighted=field.weighted,
            missing="embed" if field.name in PROFILE_FIELDS else "zero",
            column=IdentityColumn(
                vocabulary_size=sizes.get(ids_of.get(field.name, field.name), field.distinct_ids)
            ),
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
    """Yields records with their split, `num_impressions` in all, drawn from seeded chunks."""
    shares = [1 - config.validation_share - config.test_share, config.validation_share]
    thresholds = np.cumsum(shares)
    left, chunk = config.num_impressions, 0
    while left > 0:
        rng = np.random.default_rng([config.seed, 3, chunk])
        groups = shop.draw(rng, _GROUPS_AT_ONCE)
        places = np.searchsorted(thresholds, rng.random(_GROUPS_AT_ONCE), side="right")
        for index, start, end in _cuts(groups.sizes, config.max_group_size):
            end = min(end, start + left)
            if end > start:
                split = (keys.TRAIN, keys.VALIDATION, keys.TEST)[places[index]]
                yield split, _record(groups, index, start, end)
                left -= end - start
        chunk += 1


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
