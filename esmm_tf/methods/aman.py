"""AMAN, all missing as negative: clicks, and a share of the unclicked impressions as negatives."""

from esmm_tf.data.sampling import Sampling
from esmm_tf.errors import UserError
from esmm_tf.methods import cvr_tower_method


def _sampling(rate: float) -> Sampling:
    if not 0 < rate <= 1:
        raise UserError(
            f"--sampling_rate is {rate:g}, and AMAN's is the share of unclicked impressions that "
            "are negatives. Give a number above 0 and at most 1."
        )
    return Sampling(unclicked=rate)


METHOD = cvr_tower_method("AMAN", _sampling, rates=(0.1, 0.2, 0.5, 1.0))
