"""An estimator of pCTR, pCVR and pCTCVR: made from settings, or opened from a model directory."""

import os
from typing import Any

from esmm_tf import console, keys
from esmm_tf.calibration.maps import Calibration
from esmm_tf.config.evaluation import CalibrateConfig, EvaluateConfig, ScoreConfig
from esmm_tf.config.fields import build_configs, settings_of
from esmm_tf.config.serving import ExportConfig
from esmm_tf.config.training import (
    GuardConfig,
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.data.source import check_schema, find_source
from esmm_tf.errors import UserError
from esmm_tf.estimator.calibrating import calibrate_model
from esmm_tf.estimator.evaluating import evaluate_model
from esmm_tf.evaluation.prediction import Prediction
from esmm_tf.methods import load_method
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.reports.evaluation_result import Evaluation
from esmm_tf.schema import toml_file
from esmm_tf.schema.schema import Schema
from esmm_tf.serving import exporter
from esmm_tf.training import model_directory, run, trained_model

TRAINING_CONFIGS = (
    TrainConfig,
    ModelConfig,
    OptimizerConfig,
    InputConfig,
    GuardConfig,
    MethodConfig,
)


class Estimator:
    """Trains, measures, calibrates and exports one model, and keeps it in a model directory.

    Every method does what the command of its name does, takes the flags of that command as
    settings, and returns what the command would print. Nothing is printed unless `verbose`; what a
    command warns of is then a Python warning.

    Args:
      schema: of the records, or the path of its file; by default that beside the records.
      model_dir: where the model is kept; a run that was interrupted in it goes on.
      model_class: of the Keras model: a subclass may have another loss, metrics or training step.
      verbose: whether lines, bars and warnings are shown.
      settings: flags of `python -m esmm_tf.train`, such as `epochs=3` or `hidden_units=[64, 32]`.

    Raises:
      UserError: if a setting is not known, or has a value that it cannot have.
    """

    def __init__(
        self,
        schema: Schema | str | None = None,
        *,
        model_dir: str,
        model_class: type[EntireSpaceModel] = EntireSpaceModel,
        verbose: bool = False,
        **settings: Any,
    ) -> None:
        self.model_dir = os.fspath(model_dir)
        self._schema = None if isinstance(schema, str) else schema
        self._model_class = model_class
        self._verbose = verbose
        self._settings = {**settings, "model_dir": self.model_dir}
        if isinstance(schema, str):
            self._settings["schema"] = schema
        build_configs(TRAINING_CONFIGS, {"train_files": "", **self._settings})
        self._keras_model: EntireSpaceModel | None = None

    @classmethod
    def open(
        cls,
        model_dir: str,
        *,
        model_class: type[EntireSpaceModel] = EntireSpaceModel,
        verbose: bool = False,
    ) -> "Estimator":
        """Returns the estimator of a model directory, with the settings it was trained with.

        Raises:
          UserError: if it is no model directory.
        """
        kept = model_directory.load_settings(os.fspath(model_dir))
        settings = settings_of(kept.train, kept.model, kept.optimizer, kept.input, kept.method)
        settings["model_dir"] = model_dir
        return cls(model_class=model_class, verbose=verbose, **settings)

    @property
    def schema(self) -> Schema:
        """Returns the schema of the records.

        Raises:
          UserError: if none was given and nothing is trained yet.
        """
        if self._schema is None:
            kept = os.path.join(self.model_dir, keys.SCHEMA_FILE)
            path = kept if os.path.exists(kept) else self._settings.get("schema")
            if not path:
                raise UserError("The estimator has no schema yet. Give it one, or train it.")
            self._schema = toml_file.load_schema(path)
        return self._schema

    @property
    def keras_model(self) -> EntireSpaceModel:
        """Returns the model as a compiled Keras model, with its trained weights if it has any.

        It maps the features of a batch, as `open_records` gives them, to logits and probabilities
        `[impressions]`, neither calibrated nor corrected for down-sampling. It may be called,
        looked into and trained on; `save_weights` lets the other methods see what it became.
        """
        if self._keras_model is None:
            self._keras_model = self._build_keras_model()
        return self._keras_model

    def save_weights(self) -> str:
        """Keeps the weights of `keras_model` as those of the model directory; returns their path.

        Raises:
          UserError: if nothing was trained in the model directory before.
        """
        model_directory.load_settings(self.model_dir)
        return trained_model.save_weights(self.keras_model, self.model_dir)

    def train(
        self, train_files: str = "", validation_files: str = "", **settings: Any
    ) -> list[dict[str, Any]]:
        """Trains, or goes on, and returns the metrics of each epoch, as `history.json` holds them.

        Args:
          train_files: a data set's directory, files or globs; by default those of the settings.
          validation_files: records to validate on after each epoch, likewise.
          settings: flags of `python -m esmm_tf.train` that change those of the estimator.

        Raises:
          UserError: if a setting or the data is wrong, or a guard stops the training.
        """
        files = {"train_files": train_files, "validation_files": validation_files}
        given = {name: value for name, value in files.items() if value}
        self._settings = {**self._settings, **given, **settings}
        configs = build_configs(TRAINING_CONFIGS, self._settings)
        with console.showing(self._verbose):
            history = run.train(*configs, schema=self._schema, model_class=self._model_class)
        self._keras_model = None
        return history

    def evaluate(self, files: str, **settings: Any) -> Evaluation:
        """Returns the metrics on records, and writes them as `python -m esmm_tf.evaluate` does.

        Args:
          files: a data set's directory, which stands for its split `test`, files or globs.
          settings: flags of the command, such as `slices=["category"]` or `report_dir="report"`.

        Raises:
          UserError: if a setting is wrong, or the records do not fit the model.
        """
        configs = self._configs((ScoreConfig, EvaluateConfig), files=files, **settings)
        with console.showing(self._verbose):
            return evaluate_model(*configs, model_class=self._model_class)

    def calibrate(self, files: str = "", **settings: Any) -> Calibration | None:
        """Returns the maps that make probabilities fit records, once they are kept; else None.

        Args:
          files: a data set's directory, which stands for its split `validation`, files or globs.
          settings: flags of `python -m esmm_tf.calibrate`, such as `calibration="isotonic"`.

        Raises:
          UserError: if a setting is wrong, or the records hold too few clicks or conversions.
        """
        (config,) = self._configs((CalibrateConfig,), files=files, **settings)
        with console.showing(self._verbose):
            return calibrate_model(config, model_class=self._model_class)

    def predict(self, files: str, *, split: str = keys.TEST, **settings: Any) -> Prediction:
        """Returns pCTR, pCVR and pCTCVR of records, to be taken as arrays or written to a file.

        Args:
          files: a data set's directory, files or globs.
          split: that a directory stands for.
          settings: `batch_size`, in impressions.

        Raises:
          UserError: if the records do not fit the model.
        """
        (config,) = self._configs((ScoreConfig,), files=files, split=split, **settings)
        trained = trained_model.load_model(self.model_dir, model_class=self._model_class)
        source = find_source(config.files, split=config.split)
        check_schema(source, trained.schema)
        return Prediction(
            trained.model, trained.schema, source, config.input_config(), is_shown=self._verbose
        )

    def export(self, export_dir: str, **settings: Any) -> str:
        """Writes a SavedModel for TF Serving as the next version, and returns its directory.

        Args:
          export_dir: that holds the versions.
          settings: flags of `python -m esmm_tf.export`, such as `version=7`.

        Raises:
          UserError: if a setting is wrong, or there are no held-out records for warm-up requests.
        """
        (config,) = self._configs((ExportConfig,), export_dir=export_dir, **settings)
        trained = trained_model.load_model(self.model_dir, model_class=self._model_class)
        with console.showing(self._verbose):
            return exporter.export(trained, config)

    def _configs(self, classes: tuple[type, ...], **settings: Any) -> list[Any]:
        return build_configs(classes, {"model_dir": self.model_dir, **settings})

    def _build_keras_model(self) -> EntireSpaceModel:
        settings = {"train_files": "", **self._settings}
        train, model_config, optimizer, *_, method = build_configs(TRAINING_CONFIGS, settings)
        if trained_model.has_weights(self.model_dir):
            network = trained_model.load_network(self.model_dir, model_class=self._model_class)
            model = network.model
        else:
            model = load_method(method.method).build(
                self.schema, model_config, seed=train.seed, model_class=self._model_class
            )
        run.compile_model(model, optimizer)
        return model
