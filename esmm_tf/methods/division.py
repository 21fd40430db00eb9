"""DIVISION: a CTR and a CTCVR network, both trained on all impressions; pCVR is their ratio.

pCVR = pCTCVR / pCTR may exceed 1 and is no probability then: evaluation ranks by the ratio without
a limit and counts the cases, and served pCVR is cut off just below 1.
"""

from esmm_tf import keys
from esmm_tf.methods import Method, NetworkBuilder
from esmm_tf.model.layers import DividedOutputs
from esmm_tf.model.losses import Outputs, cross_entropy_of


def _network(builder: NetworkBuilder) -> Outputs:
    ctcvr_logits = builder.tower("ctcvr_tower", builder.encode())
    return DividedOutputs(name="outputs")(builder.ctr_network(), ctcvr_logits)


METHOD = Method(
    title="DIVISION",
    network=_network,
    losses={"ctcvr_loss": cross_entropy_of(keys.CONVERSION, keys.CTCVR_LOGITS)},
    tasks=(keys.CTCVR,),
    uses_ctr_network=True,
)
