"""A trained model: its network and weights, read from a model directory and written into it."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from esmm_tf.calibration.layers import build_calibrated
from esmm_tf.calibration.maps import CalibrationMap
from esmm_tf.errors import UserError
from esmm_tf.methods import load_method
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.schema.schema import Schema
from esmm_tf.training import model_directory
from esmm_tf.training.model_directory import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model with its trained weights, and what it was trained with.

    `weights` tells them from others; `calibration` holds the maps that the model applies, by the
    probability that each corrects.
    """

    model: Any
    schema: Schema
    settings: Settings
    weights: str
    calibration: Mapping[str, CalibrationMap] = dataclasses.field(default_factory=dict)

    @property
    def calibration_methods(self) -> dict[str, str]:
        """Returns the calibration method of each probability that is calibrated."""
        return {name: fitted.method for name, fitted in self.calibration.items()}


def load_model(
    model_dir: str,
    *,
    calibrated: bool = True,
    model_class: type[EntireSpaceModel] = EntireSpaceModel,
) -> TrainedModel:
    """Returns the trained model of a directory, corrected for down-sampled training records.

    Args:
      model_dir: a model directory.
      calibrated: whether the model applies the maps of `calibration.json`, if there are any.
      model_class: of the model before it is corrected.

    Raises:
      UserError: if there is no model, or the maps were fitted for other weights than the model's.
    """
    network = load_network(model_dir, model_class=model_class)
    maps = _load_maps(model_dir, network.weights) if calibrated else {}
    rate = network.settings.negative_keep_rate
    model = build_calibrated(network.model, maps, negative_keep_rate=rate)
    return dataclasses.replace(network, model=model, calibration=maps)


def load_network(
    model_dir: str, *, model_class: type[EntireSpaceModel] = EntireSpaceModel
) -> TrainedModel:
    """Returns the model as it was trained, neither calibrated nor corrected.

    Raises:
      UserError: if there is none.
    """
    settings = model_directory.load_settings(model_dir)
    path = _latest_weights(model_dir)
    if path is None:
        raise UserError(
            f"{model_dir!r} has no trained weights yet. Run the training command again: it "
            "resumes where it stopped."
        )
    schema = model_directory.load_schema(model_dir)
    method = load_method(settings.method.method)
    model = method.build(schema, settings.model, model_class=model_class)
    tf.train.Checkpoint(model=model).restore(path).expect_partial()
    return TrainedModel(model=model, schema=schema, settings=settings, weights=_identity(path))


def has_weights(model_dir: str) -> bool:
    """Returns whether a model is trained in the directory."""
    return _latest_weights(model_dir) is not None


def _latest_weights(model_dir: str) -> str | None:
    return tf.train.latest_checkpoint(os.path.join(model_dir, model_directory.WEIGHTS))


def save_weights(model: EntireSpaceModel, model_dir: str) -> str:
    """Writes the weights that later commands read, and returns their path.

    Those before are removed when these are whole; calibration maps fitted for them are refused.
    """
    directory = os.path.join(model_dir, model_directory.WEIGHTS)
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), directory, max_to_keep=1)
    before = manager.latest_checkpoint
    number = int(before.rpartition("-")[2]) + 1 if before else 1
    return manager.save(checkpoint_number=number)


def _identity(checkpoint: str) -> str:
    """Returns a name that no other weights have: an index holds the checksum of every tensor."""
    with open(f"{checkpoint}.index", "rb") as file:
        return f"{os.path.basename(checkpoint)}:{hashlib.sha256(file.read()).hexdigest()[:16]}"


def _load_maps(model_dir: str, weights: str) -> Mapping[str, CalibrationMap]:
    calibration = model_directory.load_calibration(model_dir)
    if calibration is None:
        return {}
    if calibration.weights != weights:
        raise UserError(
            f"The calibration in {model_dir!r} was fitted for the weights "
            f"{calibration.weights}, and training has gone on since: they are {weights}. Run "
            "python -m esmm_tf.calibrate again, or with --calibration=none to do without."
        )
    return calibration.maps
