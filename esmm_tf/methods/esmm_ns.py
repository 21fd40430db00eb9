"""ESMM-NS: ESMM whose towers share nothing; each has embeddings of its own."""

from esmm_tf import keys
from esmm_tf.methods import Method, NetworkBuilder
from esmm_tf.model.layers import EntireSpaceOutputs
from esmm_tf.model.losses import ENTIRE_SPACE_LOSSES, Outputs


def _network(builder: NetworkBuilder) -> Outputs:
    ctr_logits = builder.tower("ctr_tower", builder.encode("ctr_encoder"))
    cvr_logits = builder.tower("cvr_tower", builder.encode("cvr_encoder"))
    return EntireSpaceOutputs(name="outputs")(ctr_logits, cvr_logits)


METHOD = Method(
    title="ESMM-NS",
    network=_network,
    losses=ENTIRE_SPACE_LOSSES,
    tasks=keys.TASKS,
)
