"""The CTR network that BASE, AMAN, OVERSAMPLING, UNBIAS and DIVISION share: one click tower.

By itself it knows only how many conversions there are: its pCVR is the share of the training data's
clicks that convert, the same for every impression.
"""

from esmm_tf import keys
from esmm_tf.methods import Method, NetworkBuilder
from esmm_tf.model.layers import EntireSpaceOutputs
from esmm_tf.model.losses import Outputs, cross_entropy_of


def _network(builder: NetworkBuilder) -> Outputs:
    ctr_logits = builder.ctr_network(trainable=True)
    return EntireSpaceOutputs(name="outputs")(ctr_logits, builder.constant_cvr())


METHOD = Method(
    title="CTR",
    network=_network,
    losses={"ctr_loss": cross_entropy_of(keys.CLICK, keys.CTR_LOGITS)},
    tasks=(keys.CTR,),
)
