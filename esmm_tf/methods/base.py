"""BASE: one CVR tower, trained on clicked impressions."""

from esmm_tf.method import cvr_tower_method
from esmm_tf.sampling import Sampling

METHOD = cvr_tower_method("BASE", lambda _: Sampling())
