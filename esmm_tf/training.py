"""The trainer: composes data, model, optimizer and callbacks, and resumes what was interrupted."""

import dataclasses
import math
import os
from typing import Any

import tensorflow as tf
import tf_keras

from esmm_tf import callbacks, input_fn, keys, model_directory, schema_file
from esmm_tf.config import InputConfig, ModelConfig, OptimizerConfig, TrainConfig
from esmm_tf.methods import esmm
from esmm_tf.model import EntireSpaceModel
from esmm_tf.optimizers import RowwiseAdam
from esmm_tf.schema import Schema


def train(
    train_config: TrainConfig,
    model_config: ModelConfig,
    optimizer_config: OptimizerConfig,
    input_config: InputConfig,
) -> None:
    """Trains ESMM on TFRecords and leaves the model in --model_dir.

    A run that was interrupted goes on after its last finished epoch when started again with the
    same settings; the order of the records depends on seed and epoch alone, so that the result is
    the same.
    """
    source = input_fn.find_source(train_config.train_files, split=keys.TRAIN)
    schema = schema_file.load_schema(
        train_config.schema or os.path.join(source.directory, keys.SCHEMA_FILE)
    )
    input_fn.check_schema(source, schema)
    validation = None
    if train_config.validation_files:
        validation = input_fn.find_source(train_config.validation_files, split=keys.VALIDATION)
        input_fn.check_schema(validation, schema)
    settings = model_directory.Settings(
        train=train_config, model=model_config, optimizer=optimizer_config, input=input_config
    )
    model_directory.save_settings(settings, schema, train_config.model_dir)

    tf_keras.utils.set_random_seed(train_config.seed)
    if train_config.deterministic:
        tf.config.experimental.enable_op_determinism()
    model = esmm.build_esmm(schema, model_config, seed=train_config.seed)
    optimizer = RowwiseAdam(**dataclasses.asdict(optimizer_config))
    model.compile(optimizer=optimizer, weighted_metrics=[])  # else Keras warns of sample weights
    model.optimizer.build(model.trainable_variables)
    _Trainer(model, schema, settings, source=source, validation=validation).run()


class _Trainer:
    """Runs epochs and keeps what a later start needs to go on."""

    def __init__(
        self,
        model: EntireSpaceModel,
        schema: Schema,
        settings: model_directory.Settings,
        *,
        source: input_fn.Source,
        validation: input_fn.Source | None,
    ) -> None:
        self._model = model
        self._schema = schema
        self._settings = settings
        self._source = source
        self._validation = validation
        model_dir = settings.train.model_dir
        self._epochs_done = tf.Variable(0, dtype=tf.int64)
        self._best_loss = tf.Variable(math.inf, dtype=tf.float64)
        self._epochs_since_best = tf.Variable(0, dtype=tf.int64)
        self._checkpoints = tf.train.CheckpointManager(
            tf.train.Checkpoint(
                model=model,
                optimizer=model.optimizer,
                epochs_done=self._epochs_done,
                best_loss=self._best_loss,
                epochs_since_best=self._epochs_since_best,
            ),
            os.path.join(model_dir, model_directory.CHECKPOINTS),
            max_to_keep=2,
        )
        self._weights = tf.train.CheckpointManager(
            tf.train.Checkpoint(model=model),
            os.path.join(model_dir, model_directory.WEIGHTS),
            max_to_keep=1,
        )
        self._writers = {
            name: tf.summary.create_file_writer(
                os.path.join(model_dir, model_directory.TENSORBOARD, name)
            )
            for name in (keys.TRAIN, keys.VALIDATION)
            if name == keys.TRAIN or validation is not None
        }

    def run(self) -> None:
        if self._checkpoints.restore_or_initialize() is not None:
            what = "nothing left to train" if self._is_finished() else "resuming"
            done, epochs = int(self._epochs_done), self._settings.train.epochs
            print(f"{what} after epoch {done} of {epochs}", flush=True)
        while not self._is_finished():
            self._run_epoch(int(self._epochs_done))
        for writer in self._writers.values():
            writer.close()

    def _is_finished(self) -> bool:
        patience = self._settings.train.early_stopping_patience
        if patience and int(self._epochs_since_best) >= patience:
            return True
        return int(self._epochs_done) >= self._settings.train.epochs

    def _run_epoch(self, epoch: int) -> None:
        title = f"epoch {epoch + 1} of {self._settings.train.epochs}"
        throughput = callbacks.Throughput()
        steps_before = int(self._model.optimizer.iterations)
        history = self._model.fit(
            self._dataset(self._source, seed=self._settings.train.seed * 1_000_003 + epoch),
            epochs=epoch + 1,
            initial_epoch=epoch,
            verbose=0,
            callbacks=[
                throughput,
                callbacks.StopOnNonFiniteLoss(),
                callbacks.TensorBoardCurves(self._writers[keys.TRAIN]),
                callbacks.Progress(self._source.impressions, title),
            ],
        )
        # Keras' graph of a step may count it before it finds that the data has ended: a race.
        self._model.optimizer.iterations.assign(steps_before + throughput.batches)
        logs = {name: values[-1] for name, values in history.history.items()}
        logs["impressions_per_second"] = throughput.impressions_per_second
        self._report(keys.TRAIN, title, logs)
        print(f"{title}, trained {logs['impressions_per_second']:,.0f} impressions/s", flush=True)
        entry = {keys.TRAIN: _finite(logs)}
        loss = None
        if self._validation is not None:
            logs = self._model.evaluate(
                self._dataset(self._validation), verbose=0, return_dict=True
            )
            self._report(keys.VALIDATION, title, logs)
            entry[keys.VALIDATION] = _finite(logs)
            loss = logs["loss"]
        # Before the checkpoint: a run that ends in between writes this epoch's entry again.
        past = model_directory.load_history(self._settings.train.model_dir)[:epoch]
        model_directory.save_history([*past, entry], self._settings.train.model_dir)
        self._finish_epoch(loss)

    def _dataset(self, source: input_fn.Source, *, seed: int | None = None) -> tf.data.Dataset:
        dataset = input_fn.build_dataset(source, self._schema, self._settings.input, seed=seed)
        return input_fn.training_tuples(dataset)

    def _finish_epoch(self, validation_loss: float | None) -> None:
        """Keeps the weights, if they are the best so far or none are compared, and the progress."""
        if self._settings.train.early_stopping_patience == 0 or validation_loss is None:
            self._weights.save()
        elif validation_loss < float(self._best_loss):
            self._best_loss.assign(validation_loss)
            self._epochs_since_best.assign(0)
            self._weights.save()
        else:
            self._epochs_since_best.assign_add(1)
        self._epochs_done.assign_add(1)
        self._checkpoints.save()

    def _report(self, name: str, title: str, logs: dict[str, Any]) -> None:
        step = int(self._model.optimizer.iterations)
        callbacks.write_scalars(self._writers[name], logs, step)
        print(f"{title}, {name}: {summary(logs)}", flush=True)


def _finite(logs: dict[str, Any]) -> dict[str, float | None]:
    return {name: float(v) if math.isfinite(v) else None for name, v in logs.items()}


def summary(logs: dict[str, Any]) -> str:
    """Returns one line: loss, and each AUC with its space and its positives."""
    clicks, conversions = int(logs["clicks"]), int(logs["conversions"])
    return (
        f"loss {logs['loss']:.4f} | {int(logs['impressions']):,} impressions | "
        f"ctr_auc {logs['ctr_auc']:.4f} ({clicks:,} clicks) | "
        f"cvr_auc_clicked {logs['cvr_auc_clicked']:.4f} "
        f"({conversions:,} conversions of {clicks:,} clicks) | "
        f"ctcvr_auc {logs['ctcvr_auc']:.4f} ({conversions:,} conversions)"
    )
