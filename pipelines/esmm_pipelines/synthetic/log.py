"""A log to be simulated, whatever its format: its settings and its seeded chunks of groups."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from esmm_pipelines.ali_ccp import fields
from esmm_pipelines.synthetic.shop import Groups, Shop, TruthConfig
from esmm_pipelines.synthetic.world import BEHAVIOURS, num_visited_ids
from esmm_tf import keys
from esmm_tf.config.fields import setting
from esmm_tf.data.writer import check_keep_rate
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import check_choice

TFRECORD = "tfrecord"
ALI_CCP_RAW = "ali_ccp_raw"
FORMATS = (TFRECORD, ALI_CCP_RAW)
# Field -> the field whose ids it holds: itself, or for behaviours and overlaps the item's.
ID_FIELD = {
    **{field.name: field.name for field in fields.FIELDS},
    **{behaviour: item for behaviour, (item, _) in BEHAVIOURS.items()},
    **{cross: item for item, cross in BEHAVIOURS.values()},
}
_GROUPS_AT_ONCE = 256
_MIN_IDS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """How large a log to simulate, what is true in it, and where to write it."""

    output_dir: str = setting(help="directory of the data set")
    num_impressions: int = setting(
        500_000, help="impressions in all splits together, before any is left out"
    )
    format: str = setting(
        TFRECORD,
        help=f"{TFRECORD!r}, to train on as they are, or {ALI_CCP_RAW!r}: CSV files in the format "
        "that Tianchi ships, with the truth beside them",
    )
    validation_share: float = setting(
        0.1,
        help="share of the groups in split 'validation'; Tianchi has none, so that "
        f"{ALI_CCP_RAW!r} adds it to the training files",
    )
    test_share: float = setting(0.2, help="share of the groups in split 'test'")
    click_rate: float = setting(fields.CLICK_RATE, help="clicks per impression")
    conversion_rate: float = setting(fields.CONVERSION_RATE_OF_CLICKS, help="conversions per click")
    correlation: float = setting(0.5, help="correlation of click and conversion propensity, 0 to 1")
    click_strength: float = setting(1.0, help="standard deviation of the click logit")
    conversion_strength: float = setting(1.0, help="standard deviation of the conversion logit")
    policy_strength: float = setting(
        1.0, help="how much the logging policy prefers what will be clicked; 0 shows at random"
    )
    overlap: float = setting(
        1.0,
        help="how often items are of a category, shop, brand or node that the user has visited, as "
        "a multiple of Ali-CCP's; 0 shows nothing for having been visited",
    )
    mean_group_size: float = setting(
        round(fields.NUM_IMPRESSIONS / fields.NUM_CONTEXTS, 1),
        help="mean number of impressions of one context",
    )
    max_group_size: int = setting(
        64, help="impressions at which a group is cut into records; raw files keep it whole"
    )
    cardinality_scale: float = setting(
        0.0,
        help="size of the world as a share of Ali-CCP's: users, items, shops and brands are "
        "multiplied by it, categories and nodes by its square root; 0 takes num_impressions as a "
        "share of Ali-CCP's",
    )
    label_anomaly_rate: float = setting(
        fields.LABEL_ANOMALY_RATE,
        help="share of the impressions with a conversion and no click, as Ali-CCP has them; in raw "
        "files only",
    )
    negative_keep_rate: float = setting(
        1.0,
        help="probability with which an impression without click and conversion is kept in the "
        f"splits 'train' and 'validation', above 0 to 1, which keeps all; {TFRECORD!r} only",
    )
    num_shards: int = setting(8, help="files of each split; raw files have one")
    compressed: bool = setting(False, help="write .tfrecord.gz, or .csv.gz")
    overwrite: bool = setting(False, help="replace a finished data set in output_dir")
    seed: int = setting(1, help="seed of the world and of all draws")

    def __post_init__(self) -> None:
        check_choice("--format", self.format, FORMATS)
        for name in ("num_impressions", "max_group_size", "num_shards"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}. Give at least 1.")
        if min(self.validation_share, self.test_share, self.seed, self.cardinality_scale) < 0:
            raise UserError("Shares, --cardinality_scale and --seed must be 0 or more.")
        if self.validation_share + self.test_share >= 1:
            raise UserError("--validation_share and --test_share leave nothing to train on.")
        if not 0 <= self.label_anomaly_rate < 1:
            raise UserError(
                f"--label_anomaly_rate is {self.label_anomaly_rate}. Give a number in [0, 1)."
            )
        check_keep_rate(self.negative_keep_rate)
        if self.format == ALI_CCP_RAW and self.negative_keep_rate < 1:
            raise UserError(
                f"--negative_keep_rate is {self.negative_keep_rate}, and raw files hold the whole "
                f"log. Give it to esmm_pipelines.ali_ccp, which reads them, or give "
                f"--format={TFRECORD}."
            )

    def sizes(self) -> dict[str, int]:
        """Returns the number of ids shown of each field whose size follows the log's."""
        scale = self.cardinality_scale or self.num_impressions / fields.NUM_IMPRESSIONS
        return {
            field.name: max(
                min(_MIN_IDS, field.distinct_ids),
                round(field.distinct_ids * scale**field.scaling),
            )
            for field in fields.FIELDS
            if field.scaling
        }

    def truth(self) -> TruthConfig:
        """Returns the settings that the simulated shop takes."""
        names = [field.name for field in dataclasses.fields(TruthConfig)]
        return TruthConfig(**{name: getattr(self, name) for name in names})


def num_ids(sizes: Mapping[str, int]) -> dict[str, int]:
    """Returns the number of ids of each field, given those of `SyntheticConfig.sizes`.

    Fields that hold the same ids have the same number of them. It counts all ids that are visited;
    only the first `sizes` are shown.
    """
    visited = num_visited_ids(sizes)
    counts = {field.name: field.distinct_ids for field in fields.FIELDS} | dict(sizes)
    counts |= {item: visited[behaviour] for behaviour, (item, _) in BEHAVIOURS.items()}
    return {name: counts[owner] for name, owner in ID_FIELD.items()}


def draw_chunks(shop: Shop, config: SyntheticConfig) -> Iterator[tuple[Groups, np.ndarray]]:
    """Yields groups with the split of each, `num_impressions` in all, from seeded chunks.

    The last group is cut where the log ends, and groups after it have the size 0. Their features
    and labels remain: only the first `sizes.sum()` impressions belong to the log.
    """
    shares = [1 - config.validation_share - config.test_share, config.validation_share]
    splits = np.array([keys.TRAIN, keys.VALIDATION, keys.TEST])
    left, chunk = config.num_impressions, 0
    while left > 0:
        rng = np.random.default_rng([config.seed, 3, chunk])
        groups = shop.draw(rng, _GROUPS_AT_ONCE)
        indices = np.searchsorted(np.cumsum(shares), rng.random(_GROUPS_AT_ONCE), side="right")
        sizes = np.diff(np.minimum(np.cumsum(groups.sizes), left), prepend=0)
        yield dataclasses.replace(groups, sizes=sizes), splits[indices]
        left -= int(sizes.sum())
        chunk += 1
