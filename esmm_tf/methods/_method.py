"""What a method declares: the impressions that it trains on, its network and its losses."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import tf_keras

from esmm_tf import keys
from esmm_tf.config.training import ModelConfig
from esmm_tf.data.sampling import Sampling
from esmm_tf.errors import UserError
from esmm_tf.model.feature_columns import build_inputs
from esmm_tf.model.layers import (
    ConstantLogits,
    EntireSpaceOutputs,
    ImpressionEncoder,
    TowerLogits,
    build_tower,
)
from esmm_tf.model.losses import LossTerm, Outputs, cross_entropy_of
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.schema.schema import Schema

_SEED_STRIDE = 1000


class NetworkBuilder:
    """Builds the parts of a method's network; each part has its own initial values.

    Args:
      schema: of the data.
      config: sizes of towers and tables.
      seed: of the initial values.
      conversion_share: conversions / clicks of the training data.
    """

    def __init__(
        self, schema: Schema, config: ModelConfig, *, seed: int = 0, conversion_share: float = 0.5
    ) -> None:
        self.inputs = build_inputs(schema)
        self._schema = schema
        self._config = config
        self._seed = seed
        self._parts = 0
        self._conversion_share = conversion_share

    def encode(self, name: str = "encoder") -> Any:
        """Returns all embedded features, `[impressions, width]`; each name has its own tables."""
        return self._encode(self.inputs, name)

    def tower(self, name: str, encoded: Any) -> Any:
        """Returns the logits of a tower, `[impressions]`."""
        tower = build_tower(name, self._config.hidden_units, seed=self._next_seed())
        return TowerLogits(name=f"{name}_logits")(tower(encoded))

    def ctr_network(self, *, trainable: bool = False) -> Any:
        """Returns the click logits, `[impressions]`, of the network that methods share.

        Unless it is trainable, its weights are those of a trained `ctr` model and do not change.
        """
        inputs = build_inputs(self._schema)
        logits = self.tower("ctr_tower", self._encode(inputs, "ctr_encoder"))
        network = tf_keras.Model(inputs, logits, name=keys.CTR_NETWORK)
        network.trainable = trainable
        return network(self.inputs)

    def constant_cvr(self) -> Any:
        """Returns the logit of conversions per click in the training data, `[impressions]`."""
        constant = ConstantLogits(self._conversion_share, name="constant_cvr")
        return constant(self.inputs[keys.GROUP_INDEX])

    def _encode(self, inputs: Mapping[str, Any], name: str) -> Any:
        encoder = ImpressionEncoder(self._schema, self._config, seed=self._next_seed(), name=name)
        return encoder(inputs)

    def _next_seed(self) -> int:
        self._parts += 1
        return self._seed + (self._parts - 1) * _SEED_STRIDE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A system that estimates pCTR, pCVR and pCTCVR.

    Args:
      title: as the paper writes it.
      network: returns the outputs of `layers.EntireSpaceOutputs` or `layers.DividedOutputs`.
      losses: the terms of the loss, whose weighted sum is minimized.
      tasks: what the method is trained on, and so what its training curves show.
      sampling: returns which impressions are trained on, given a rate; None trains on each once.
      rates: the choices of the rate, the default first; empty if there is nothing to choose.
      uses_ctr_network: whether pCTR is that of a trained `ctr` model.
    """

    title: str
    network: Callable[[NetworkBuilder], Outputs]
    losses: Mapping[str, LossTerm]
    tasks: tuple[str, ...]
    sampling: Callable[[float], Sampling] | None = None
    rates: tuple[float, ...] = ()
    uses_ctr_network: bool = False

    def choose_sampling(self, rate: float | None = None) -> Sampling | None:
        """Returns which impressions are trained on, at the default rate if none is given.

        Raises:
          UserError: if a rate is given to a method that has none, or it is out of bounds.
        """
        if rate is not None and not self.rates:
            raise UserError(
                f"--sampling_rate is {rate:g}, and {self.title} has no rate. Leave it out."
            )
        if self.sampling is None:
            return None
        return self.sampling(next(iter(self.rates), 1.0) if rate is None else rate)

    def build(
        self,
        schema: Schema,
        config: ModelConfig,
        *,
        seed: int = 0,
        conversion_share: float = 0.5,
        sampling: Sampling | None = None,
        model_class: type[EntireSpaceModel] = EntireSpaceModel,
    ) -> EntireSpaceModel:
        """Returns the method's model, an instance of `model_class`, not compiled.

        Its inputs are those that `feature_columns.build_inputs` returns.
        """
        builder = NetworkBuilder(schema, config, seed=seed, conversion_share=conversion_share)
        outputs = self.network(builder)
        return model_class(
            inputs=builder.inputs,
            outputs=outputs,
            losses=self.losses,
            loss_weights=config.loss_weights,
            tasks=self.tasks,
            sampling=sampling,
            name=re.sub("[^a-z0-9_]", "_", self.title.lower()),
        )


def cvr_tower_method(
    title: str, sampling: Callable[[float], Sampling], *, rates: tuple[float, ...] = ()
) -> Method:
    """Returns a method that trains one CVR tower on a sample; pCTR is that of a `ctr` model."""

    def network(builder: NetworkBuilder) -> Outputs:
        cvr_logits = builder.tower("cvr_tower", builder.encode())
        return EntireSpaceOutputs(name="outputs")(builder.ctr_network(), cvr_logits)

    return Method(
        title=title,
        network=network,
        losses={"cvr_loss": cross_entropy_of(keys.CONVERSION, keys.CVR_LOGITS)},
        tasks=(keys.CVR_CLICKED,),
        sampling=sampling,
        rates=rates,
        uses_ctr_network=True,
    )
