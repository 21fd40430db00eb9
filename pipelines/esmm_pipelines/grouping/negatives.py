"""Negative down-sampling: unclicked impressions that are left out of training.

An impression with a click or a conversion is always kept, and so is every one of the split `test`,
which stays a sample of what is served. Any other is kept with the probability `negative_keep_rate`,
which the manifest states. The odds of a click among what is left are higher by the inverse of that
rate, so that its logarithm corrects the logit of pCTR; pCVR, given the click, needs no correction.
"""

import numpy as np

from esmm_pipelines.grouping import hashing
from esmm_tf import keys
from esmm_tf.data.writer import DataSetWriter

SAMPLED_SPLITS = (keys.TRAIN, keys.VALIDATION)


def keep_rates(rate: float) -> dict[str, float]:
    """Returns the rate of each split that is sampled; none if everything is kept."""
    return dict.fromkeys(SAMPLED_SPLITS, rate) if rate < 1 else {}


def is_kept(
    draws: np.ndarray,
    *,
    rate: float,
    is_sampled: np.ndarray,
    click: np.ndarray,
    conversion: np.ndarray,
) -> np.ndarray:
    """Returns which impressions are kept, bool `[impressions]`.

    Args:
      draws: a uniform number in [0, 1) for each impression.
      rate: the probability with which one without click and conversion is kept.
      is_sampled: whether an impression is of a split that is sampled.
      click: labels.
      conversion: labels.
    """
    return (draws < rate) | ~is_sampled | (click != 0) | (conversion != 0)


def hashed_draws(groups: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Returns a uniform number in [0, 1) for each impression, from its group and position in it.

    Args:
      groups: a random number of the group of each impression, uint64.
      positions: of each impression in its group, from 0.
    """
    state = groups + (positions + 1).astype(np.uint64) * hashing.GOLDEN
    return (hashing.mix(state) >> np.uint64(11)) * 2.0**-53


def report(writer: DataSetWriter) -> None:
    """Prints how many unclicked impressions were left out of each split that is sampled."""
    for split, rate in writer.negative_keep_rate.items():
        left_out = writer.sampled_out[split]
        total = left_out + writer.count_unclicked(split)
        if total:
            print(
                f"left out {left_out:,} of {total:,} unclicked impressions of {split} "
                f"(--negative_keep_rate={rate:g})"
            )
