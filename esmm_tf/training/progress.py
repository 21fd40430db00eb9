"""What a run shows while it trains: a progress bar and TensorBoard curves."""

import math
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras
from tqdm import tqdm

from esmm_tf import console

SHOWN = ("loss", "ctr_auc", "cvr_auc_clicked", "ctcvr_auc")
_STEPS_BETWEEN_POINTS = 20


class Progress(tf_keras.callbacks.Callback):
    """A bar that counts impressions, with the metrics so far; on a terminal only."""

    def __init__(self, impressions: int, title: str) -> None:
        super().__init__()
        self._impressions = impressions
        self._title = title
        self._bar: tqdm | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the bar."""
        self._bar = console.build_bar(self._impressions, self._title)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the bar."""
        if self._bar is not None:
            shown = {name: f"{logs[name]:.4f}" for name in SHOWN if math.isfinite(logs[name])}
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(int(logs["impressions"]) - self._bar.n)

    def on_train_end(self, logs: Any = None) -> None:
        """Leaves the bar on the screen."""
        if self._bar is not None:
            self._bar.close()


class Throughput(tf_keras.callbacks.Callback):
    """Measures impressions per second, from the second batch on: the first one builds the graph.

    `batches` is the number of batches so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0
        self._start = self._first = self._seen = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Takes the time."""
        seen = float(logs["impressions"])
        self.batches = batch + 1
        if batch == 0:
            self._start, self._first = time.perf_counter(), seen
        self._seconds = time.perf_counter() - self._start
        self._seen = seen

    @property
    def impressions_per_second(self) -> float:
        """Returns the mean rate of the epoch; NaN if it had one batch."""
        if self._seen == self._first:
            return math.nan
        return (self._seen - self._first) / self._seconds


class TensorBoardCurves(tf_keras.callbacks.Callback):
    """Writes every training metric under its own name, against the number of steps."""

    def __init__(self, writer: tf.summary.SummaryWriter) -> None:
        super().__init__()
        self._writer = writer

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Writes a point now and then."""
        step = int(self.model.optimizer.iterations)
        if step % _STEPS_BETWEEN_POINTS == 0:
            write_scalars(self._writer, logs, step)


def write_scalars(writer: tf.summary.SummaryWriter, logs: dict[str, Any], step: int) -> None:
    """Writes finite values as scalars; a metric that is not yet defined leaves a gap."""
    with writer.as_default():
        for name, value in logs.items():
            if math.isfinite(value):
                tf.summary.scalar(name, value, step=step)


def write_guards(writer: tf.summary.SummaryWriter, scalars: Mapping[str, float], step: int) -> None:
    """Writes what guards look at as scalars, each under the name `guard/<name>`."""
    write_scalars(writer, {f"guard/{name}": value for name, value in scalars.items()}, step)
