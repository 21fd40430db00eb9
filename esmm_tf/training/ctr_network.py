"""The CTR network that methods share: taken from the run that trained it."""

from typing import Any

from esmm_tf import keys
from esmm_tf.data.sampling import ScoreClicks
from esmm_tf.errors import UserError
from esmm_tf.methods import Method
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.schema.schema import Schema
from esmm_tf.training import model_directory, trained_model
from esmm_tf.training.model_directory import Settings
from esmm_tf.training.trained_model import TrainedModel

METHOD = "ctr"


def load_ctr_network(method: Method, settings: Settings, schema: Schema) -> TrainedModel | None:
    """Returns the trained model whose pCTR a method takes, or None if it has its own.

    Raises:
      UserError: if a CTR network is needed and not named, or named and not needed, or does not
        fit: it has another method, other sizes or another schema, or records sampled otherwise.
    """
    directory = settings.method.ctr_model_dir
    if not method.uses_ctr_network:
        if directory:
            raise UserError(
                f"--ctr_model_dir is {directory!r}, and {method.title} trains its own pCTR. "
                "Leave it out."
            )
        return None
    if not directory:
        raise UserError(
            f"--ctr_model_dir is missing, and {method.title} takes its pCTR from a trained CTR "
            "network. Train one with --method=ctr, and name its --model_dir."
        )
    trained = trained_model.load_model(directory, calibrated=False)
    _check_fits(trained, settings, schema, directory)
    return trained


def _check_fits(trained: TrainedModel, settings: Settings, schema: Schema, directory: str) -> None:
    required = {"--method": METHOD, **_sizes(settings)}
    actual = {"--method": trained.settings.method.method, **_sizes(trained.settings)}
    different = [
        f"{name} {actual[name]!r} for {value!r}"
        for name, value in required.items()
        if actual[name] != value
    ]
    if not model_directory.is_same_schema(trained.schema, schema):
        different.append("another schema")
    if different:
        raise UserError(
            f"--ctr_model_dir is {directory!r}, which does not fit: it has "
            f"{', '.join(different)}. Train one with --method=ctr and the same settings."
        )


def _sizes(settings: Settings) -> dict[str, Any]:
    return {
        "--embedding_dim": settings.model.embedding_dim,
        "--hidden_units": settings.model.hidden_units,
        "--negative_keep_rate": settings.negative_keep_rate,
    }


def copy_weights(trained: TrainedModel, model: EntireSpaceModel) -> None:
    """Gives a model the CTR network of a trained one."""
    source, target = (m.get_layer(keys.CTR_NETWORK) for m in (trained.model, model))
    for weight, value in zip(target.weights, source.weights, strict=True):
        weight.assign(value)


def build_scorer(trained: TrainedModel) -> ScoreClicks:
    """Returns a function from the features of a batch to its pCTR, float32 `[impressions]`."""
    return lambda features: trained.model(features, training=False)[keys.PCTR]
