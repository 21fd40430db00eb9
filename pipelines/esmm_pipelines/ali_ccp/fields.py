"""The fields of Ali-CCP, the paper's public data set, with its published statistics."""

import dataclasses

from esmm_tf.schema.record_field import CONTEXT, IMPRESSION, MANY, ONE, OPTIONAL

NUM_IMPRESSIONS = 42_300_135
NUM_CONTEXTS = 730_600
CLICK_RATE = 0.0389
CONVERSION_RATE_OF_CLICKS = 0.00535
# Rows of the training files whose conversion is 1 and whose click is 0.
NUM_LABEL_ANOMALIES = 230
LABEL_ANOMALY_RATE = NUM_LABEL_ANOMALIES / NUM_IMPRESSIONS


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of Ali-CCP.

    `mean_values` is the mean number of values per row; `distinct_ids` is counted over the training
    files; `scaling` is the power of the log's size with which the number of ids grows when a
    smaller log is simulated: 1 for what a log samples (users, items), 1/2 for what it saturates.
    """

    name: str
    side: str
    meaning: str
    values: str
    mean_values: float
    distinct_ids: int
    weighted: bool = False
    scaling: float = 0.0
    table: str | None = None


_USER = CONTEXT
_ITEM = IMPRESSION

FIELDS = (
    Field("101", _USER, "user id", ONE, 1, 295_787, scaling=1),
    Field("121", _USER, "profile id", OPTIONAL, 0.95, 97),
    Field("122", _USER, "profile group", OPTIONAL, 0.95, 13),
    Field("124", _USER, "gender", OPTIONAL, 0.95, 2),
    Field("125", _USER, "age", OPTIONAL, 0.95, 7),
    Field("126", _USER, "consumption level I", OPTIONAL, 0.95, 3),
    Field("127", _USER, "consumption level II", OPTIONAL, 0.95, 3),
    Field("128", _USER, "occupation", OPTIONAL, 0.95, 2),
    Field("129", _USER, "geography", OPTIONAL, 0.95, 4),
    Field("109_14", _USER, "categories visited", MANY, 69, 12_223, True, table="206"),
    Field("110_14", _USER, "shops visited", MANY, 250, 2_545_609, True, table="207"),
    Field("127_14", _USER, "brands visited", MANY, 154, 396_460, True, table="216"),
    Field("150_14", _USER, "intention nodes visited", MANY, 136, 99_226, True, table="210"),
    Field("205", _ITEM, "item", ONE, 1, 3_206_396, scaling=1),
    Field("206", _ITEM, "category", ONE, 1, 8_627, scaling=0.5),
    Field("207", _ITEM, "shop", ONE, 1, 614_739, scaling=1),
    Field("216", _ITEM, "brand", OPTIONAL, 0.71, 210_973, scaling=1),
    Field("210", _ITEM, "intention nodes", MANY, 6.1, 98_714, scaling=0.5),
    Field("508", _ITEM, "109_14 x 206", MANY, 0.70, 7_753, True),
    Field("509", _ITEM, "110_14 x 207", MANY, 0.22, 389_788, True),
    Field("702", _ITEM, "127_14 x 216", MANY, 0.22, 143_919, True),
    Field("853", _ITEM, "150_14 x 210", MANY, 1.4, 86_895, True),
    Field("301", _ITEM, "scene", ONE, 1, 3),
)

BY_NAME = {field.name: field for field in FIELDS}
