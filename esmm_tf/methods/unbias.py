"""UNBIAS: clicked impressions by rejection sampling, with pCTR as the rejection probability.

Taken literally, as at the default rate 0, a click is rejected with probability pCTR. That does not
undo the selection by clicks: the distribution of clicked impressions is that of all impressions
times pCTR, and the distribution of the kept ones is that of all impressions times pCTR (1 - pCTR).
A rate f above 0 keeps a click with probability min(1, f * click_share / pCTR) instead: where pCTR
is at least f * click_share, the kept impressions are distributed as all impressions are (the
weights of Zhang et al., KDD 2016, used as acceptance probabilities).
"""

import tensorflow as tf

from esmm_tf.data.sampling import Sampling
from esmm_tf.errors import UserError
from esmm_tf.methods import cvr_tower_method


def _sampling(rate: float) -> Sampling:
    if not rate >= 0:
        raise UserError(
            f"--sampling_rate is {rate:g}, and UNBIAS keeps a click with probability "
            "min(1, rate * click_share / pCTR), or 1 - pCTR if the rate is 0. Give 0 or more."
        )

    def acceptance(pctr: tf.Tensor, click_share: float) -> tf.Tensor:
        if rate == 0:
            return 1 - pctr
        return tf.minimum(1.0, rate * click_share / pctr)

    return Sampling(acceptance=acceptance)


METHOD = cvr_tower_method("UNBIAS", _sampling, rates=(0.0, 0.25, 0.5, 1.0))
