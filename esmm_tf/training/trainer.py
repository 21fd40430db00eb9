"""Runs the epochs of a training, and goes on after the last finished one when interrupted."""

import contextlib
import dataclasses
import functools
import math
import os
from typing import Any

import tensorflow as tf

from esmm_tf import console, keys
from esmm_tf.config.training import GuardConfig
from esmm_tf.data import input_fn
from esmm_tf.data.sampling import Sampler
from esmm_tf.data.source import ALL, Source, Subset
from esmm_tf.errors import UserError
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.schema.schema import Schema
from esmm_tf.training import (
    data_guards,
    epoch_guards,
    model_directory,
    offending_batch,
    progress,
    used_shards,
)


class Trainer:
    """Runs epochs and keeps what a later start needs to go on."""

    def __init__(
        self,
        model: EntireSpaceModel,
        schema: Schema,
        settings: model_directory.Settings,
        *,
        guards: GuardConfig,
        source: Source,
        validation: Source | None,
        sampler: Sampler | None,
    ) -> None:
        self._sampler = sampler
        self._model = model
        self._schema = schema
        self._settings = settings
        self._guards = guards
        self._sources = {keys.TRAIN: source}
        if validation is not None:
            self._sources[keys.VALIDATION] = validation
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
            for name in self._sources
        }

    def run(self) -> None:
        """Trains what is left to train.

        Raises:
          UserError: if a guard stops the run, or there is nothing to train on.
        """
        with contextlib.ExitStack() as stack:  # keeps what a guard writes before it ends the run
            for writer in self._writers.values():
                stack.callback(writer.close)
            is_resumed = self._checkpoints.restore_or_initialize() is not None
            if is_resumed:
                what = "nothing left to train" if self._is_finished() else "resuming"
                done, epochs = int(self._epochs_done), self._settings.train.epochs
                console.say(f"{what} after epoch {done} of {epochs}")
            if not self._is_finished():
                self._check_data(is_resumed=is_resumed)
            while not self._is_finished():
                self._run_epoch(int(self._epochs_done))

    def _check_data(self, *, is_resumed: bool) -> None:
        """Lets the guards see the data, and then keeps in `data.json` what is trained on."""
        train, writer = self._sources[keys.TRAIN], self._writers[keys.TRAIN]
        data = used_shards.identify_data(
            train,
            self._sources.get(keys.VALIDATION),
            early_stopping=self._settings.train.early_stopping_patience > 0,
        )
        data_guards.check_shards(data, self._guards, writer)
        self._check_not_empty()
        if not is_resumed:
            data_guards.check_features(train, self._schema, self._guards, writer)
        used_shards.save_data(data, self._settings.train.model_dir)

    def _check_not_empty(self) -> None:
        """Checks that a share of the groups, or a sample, holds an impression."""
        fraction = self._settings.train.train_fraction
        if fraction == 1 and self._sampler is None:
            return
        first = self._dataset(keys.TRAIN, seed=self._settings.train.seed).take(1)
        if next(iter(first), None) is None:
            raise UserError(
                f"Of the training records, the share --train_fraction={fraction:g} and what is "
                "sampled of it hold no impression. Give a larger share or more --train_files."
            )

    @property
    def _impressions(self) -> int:
        """Returns the mean number of impressions that an epoch trains on."""
        labels = self._sources[keys.TRAIN].labels
        drawn = self._sampler.sampling.count(labels) if self._sampler else labels.impressions
        return max(round(drawn * self._settings.train.train_fraction), 1)

    def _is_finished(self) -> bool:
        patience = self._settings.train.early_stopping_patience
        if patience and int(self._epochs_since_best) >= patience:
            return True
        return int(self._epochs_done) >= self._settings.train.epochs

    def _run_epoch(self, epoch: int) -> None:
        title = f"epoch {epoch + 1} of {self._settings.train.epochs}"
        seed = self._settings.train.seed * 1_000_003 + epoch
        guards = epoch_guards.EpochGuards(
            self._guards,
            writer=self._writers[keys.TRAIN],
            impressions=self._impressions,
            save_batch=functools.partial(self._save_batch, seed),
            tasks=self._model.trained_tasks,
        )
        logs = self._fit(epoch, title, seed=seed, guards=guards)
        self._report(keys.TRAIN, title, logs)
        console.say(f"{title}, trained {logs['impressions_per_second']:,.0f} impressions/s")
        entry = {keys.TRAIN: _finite(logs)}
        validation_logs = None
        if keys.VALIDATION in self._sources:
            validation_logs = self._model.evaluate(
                self._dataset(keys.VALIDATION), verbose=0, return_dict=True, callbacks=[guards]
            )
            self._report(keys.VALIDATION, title, validation_logs)
            entry[keys.VALIDATION] = _finite(validation_logs)
        rates = {source.negative_keep_rate for source in self._sources.values()}
        guards.judge_epoch(logs, validation_logs, sampled_alike=len(rates) == 1)
        # Before the checkpoint: a run that ends in between writes this epoch's entry again.
        past = model_directory.load_history(self._settings.train.model_dir)[:epoch]
        model_directory.save_history([*past, entry], self._settings.train.model_dir)
        self._finish_epoch(validation_logs["loss"] if validation_logs else None)

    def _fit(
        self, epoch: int, title: str, *, seed: int, guards: epoch_guards.EpochGuards
    ) -> dict[str, Any]:
        """Trains an epoch and returns its metrics."""
        throughput = progress.Throughput()
        steps_before = int(self._model.optimizer.iterations)
        history = self._model.fit(
            self._dataset(keys.TRAIN, seed=seed),
            epochs=epoch + 1,
            initial_epoch=epoch,
            verbose=0,
            callbacks=[
                throughput,
                progress.TensorBoardCurves(self._writers[keys.TRAIN]),
                progress.Progress(self._impressions, title),
                guards,
            ],
        )
        # Keras' graph of a step may count it before it finds that the data has ended: a race.
        self._model.optimizer.iterations.assign(steps_before + throughput.batches)
        logs = {name: values[-1] for name, values in history.history.items()}
        return logs | {"impressions_per_second": throughput.impressions_per_second}

    def _save_batch(self, seed: int, split: str, index: int) -> str:
        """Saves a batch of the epoch that is trained with `seed`; returns where."""
        is_training = split == keys.TRAIN
        return offending_batch.save_batch(
            self._sources[split],
            self._schema,
            self._settings.input,
            seed=seed if is_training else None,
            index=index,
            split=split,
            model_dir=self._settings.train.model_dir,
            subset=self._subset(seed) if is_training else ALL,
        )

    def _subset(self, seed: int) -> Subset:
        """Returns which part of the training records an epoch sees."""
        return Subset(
            fraction=self._settings.train.train_fraction,
            sampler=self._sampler and dataclasses.replace(self._sampler, seed=seed),
        )

    def _dataset(self, split: str, *, seed: int | None = None) -> tf.data.Dataset:
        dataset = input_fn.build_dataset(
            self._sources[split],
            self._schema,
            self._settings.input,
            seed=seed,
            subset=ALL if seed is None else self._subset(seed),
        )
        return input_fn.training_tuples(dataset)

    def _finish_epoch(self, validation_loss: float | None) -> None:
        """Keeps the progress, and the weights if they are the best so far or are not compared."""
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
        progress.write_scalars(self._writers[name], logs, step)
        console.say(f"{title}, {name}: {summary(logs)}")


def _finite(logs: dict[str, Any]) -> dict[str, float | None]:
    return {name: float(v) if math.isfinite(v) else None for name, v in logs.items()}


def summary(logs: dict[str, Any]) -> str:
    """Returns one line: loss, and each AUC that is defined, with its space and its positives."""
    clicks, conversions = int(logs["clicks"]), int(logs["conversions"])
    aucs = {
        "ctr_auc": f"{clicks:,} clicks",
        "cvr_auc_clicked": f"{conversions:,} conversions of {clicks:,} clicks",
        "ctcvr_auc": f"{conversions:,} conversions",
    }
    parts = [f"loss {logs['loss']:.4f}", f"{int(logs['impressions']):,} impressions"]
    parts += [
        f"{name} {logs[name]:.4f} ({positives})"
        for name, positives in aucs.items()
        if math.isfinite(logs[name])
    ]
    return " | ".join(parts)
