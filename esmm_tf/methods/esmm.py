"""ESMM: two towers on shared embeddings, supervised on click and on click-and-conversion.

The Entire Space Multi-Task Model (Ma et al., SIGIR 2018, Figure 2, Eq. 3).
"""

from esmm_tf import keys
from esmm_tf.methods import Method, NetworkBuilder
from esmm_tf.model.layers import EntireSpaceOutputs
from esmm_tf.model.losses import ENTIRE_SPACE_LOSSES, Outputs


def _network(builder: NetworkBuilder) -> Outputs:
    encoded = builder.encode()
    ctr_logits = builder.tower("ctr_tower", encoded)
    cvr_logits = builder.tower("cvr_tower", encoded)
    return EntireSpaceOutputs(name="outputs")(ctr_logits, cvr_logits)


METHOD = Method(
    title="ESMM",
    network=_network,
    losses=ENTIRE_SPACE_LOSSES,
    tasks=keys.TASKS,
)
