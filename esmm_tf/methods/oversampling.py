"""OVERSAMPLING: clicked impressions, each conversion several times."""

from esmm_tf.data.sampling import Sampling
from esmm_tf.errors import UserError
from esmm_tf.methods import cvr_tower_method


def _sampling(rate: float) -> Sampling:
    if not rate >= 1:
        raise UserError(
            f"--sampling_rate is {rate:g}, and OVERSAMPLING's is how often a conversion is "
            "trained on. Give 1 or more."
        )
    return Sampling(converted=rate)


METHOD = cvr_tower_method("OVERSAMPLING", _sampling, rates=(2.0, 3.0, 5.0, 10.0))
