"""BASE: one CVR tower, trained on clicked impressions."""

from esmm_tf.data.sampling import Sampling
from esmm_tf.methods import cvr_tower_method

METHOD = cvr_tower_method("BASE", lambda _: Sampling())
