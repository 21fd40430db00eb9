"""What is watched while a model trains: labels, heads, the loss and calibration."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from esmm_tf import keys
from esmm_tf.config.training import OFF, GuardConfig
from esmm_tf.training import progress
from esmm_tf.training.findings import Finding, act

MIN_POSITIVES = 20  # the standard error of a calibration is then 22 %

_WARM_UP_STEPS = 100  # every head is constant at first
_SPREADS = tuple(
    f"{logits}_std" for logits in (keys.CTR_LOGITS, keys.CVR_LOGITS, keys.CTCVR_LOGITS)
)
_POSITIVES = {keys.CTR: "clicks", keys.CTCVR: "conversions"}  # the tasks that have a loss

Logs = Mapping[str, float]
SaveBatch = Callable[[str, int], str]


class EpochGuards(tf_keras.callbacks.Callback):
    """Guards of one epoch: each batch of training and validation, then the metrics of both.

    A guard that warns does so once per epoch. A guard that stops does so before the epoch's weights
    are saved, so that a second start meets it again.

    Args:
      config: what each guard does.
      writer: of TensorBoard, for scalars whose names begin with `guard/`.
      impressions: of the training data.
      save_batch: saves a batch, given by its split and its index in the epoch, and returns a
        sentence that says where.
      tasks: what the model is trained on, and so should be calibrated for.
    """

    def __init__(
        self,
        config: GuardConfig,
        *,
        writer: tf.summary.SummaryWriter,
        impressions: int,
        save_batch: SaveBatch,
        tasks: Sequence[str] = keys.TASKS,
    ) -> None:
        super().__init__()
        self._config = config
        self._writer = writer
        self._impressions = impressions
        self._save_batch = save_batch
        self._tasks = tasks
        self._reported: set[str] = set()
        self._halfway: Logs | None = None
        self._began_finite = True
        self._step = 0

    def on_train_begin(self, logs: Any = None) -> None:
        """Notes whether the weights are finite, so that no batch is blamed if they are not."""
        self._began_finite = has_finite_weights(self.model)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Judges the loss, the labels and the heads so far."""
        self._step = int(self.model.optimizer.iterations)
        self._judge_batch(keys.TRAIN, batch, logs)
        if self._halfway is None and logs["impressions"] >= self._impressions / 2:
            self._halfway = dict(logs)
        if self._step >= _WARM_UP_STEPS and self._is_due("collapsed_head"):
            self._report(judge_heads(logs, self._config), _spreads(logs))

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Judges the loss and the labels of validation so far."""
        self._judge_batch(keys.VALIDATION, batch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Judges the weights: the last update may have spoilt them."""
        if self._is_due("non_finite_loss") and not has_finite_weights(self.model):
            self._report(
                Finding(
                    guard="non_finite_loss",
                    message=f"The weights are no finite numbers after step {self._step}, though "
                    "the loss was one. Lower --learning_rate, or scale the numeric features; the "
                    "last checkpoint is kept.",
                ),
                {"non_finite_loss": 1.0},
            )

    def judge_epoch(
        self, train: Logs, validation: Logs | None = None, *, sampled_alike: bool = True
    ) -> None:
        """Writes the scalars of the epoch and judges calibration.

        Calibration is judged on validation, or without it on the second half of the epoch.

        Args:
          train: metrics of the epoch.
          validation: metrics after the epoch.
          sampled_alike: whether training and validation keep the same share of negatives; if not,
            predictions for one cannot be compared with labels of the other.
        """
        if validation is not None and sampled_alike:
            split, judged, since = keys.VALIDATION, validation, None
        else:
            split, judged, since = keys.TRAIN, train, self._halfway
        ratios = {
            task: calibration(judged, task, since=since)
            for task in _POSITIVES
            if task in self._tasks
        }
        unnested = train["unnested_labels"] + (validation or {}).get("unnested_labels", 0)
        self._write(
            {
                "unnested_labels": unnested,
                "non_finite_loss": float("non_finite_loss" in self._reported),
                **_spreads(train),
                **{f"{task}_calibration": ratio for task, ratio in ratios.items()},
            }
        )
        self._report(judge_calibration(ratios, split, self._config))

    def _judge_batch(self, split: str, index: int, logs: Logs) -> None:
        is_finite = math.isfinite(logs["loss"]) and not logs["non_finite_logits"]
        if not is_finite and self._is_due("non_finite_loss"):
            self._report(self._blame(split, index, logs), {"non_finite_loss": 1.0})
        if logs["unnested_labels"] and self._is_due("unnested_labels"):
            scalars = {"unnested_labels": logs["unnested_labels"]}
            self._report(judge_labels(logs, split), scalars)

    def _blame(self, split: str, index: int, logs: Logs) -> Finding:
        """Returns what is wrong with the loss of a batch; saves it if it may be the cause."""
        loss = logs["loss"]
        what = "some logits are infinite" if math.isfinite(loss) else f"the loss is {loss}"
        if self._began_finite:
            cause = (
                f"The weights were finite when the epoch began. {self._save_batch(split, index)}"
            )
        else:
            cause = "The weights were not finite when the epoch began."
        return Finding(
            guard="non_finite_loss",
            message=f"Loss and logits must be finite, and at step {self._step}, batch {index + 1} "
            f"of {split}, {what}. {cause} Lower --learning_rate, or scale the numeric features; "
            "the last checkpoint is kept.",
        )

    def _is_due(self, guard: str) -> bool:
        """Returns whether a finding would be new in this epoch, and heard."""
        return guard not in self._reported and getattr(self._config, f"on_{guard}") != OFF

    def _report(self, finding: Finding | None, scalars: Logs | None = None) -> None:
        if finding is None:
            return
        self._reported.add(finding.guard)
        self._write(scalars or {})
        act(finding, self._config)

    def _write(self, scalars: Logs) -> None:
        progress.write_guards(self._writer, scalars, self._step)


def has_finite_weights(model: tf_keras.Model) -> bool:
    """Returns whether no weight is infinite or NaN."""
    return all(bool(tf.reduce_all(tf.math.is_finite(weight))) for weight in model.weights)


def judge_labels(logs: Logs, split: str) -> Finding | None:
    """Returns what is wrong if there are conversions without a click."""
    if not logs["unnested_labels"]:
        return None
    return Finding(
        guard="unnested_labels",
        message=f"A conversion needs a click, and {int(logs['unnested_labels']):,} of the first "
        f"{int(logs['conversions']):,} conversions of {split} have none. Set click where "
        "conversion is, or leave those rows out.",
    )


def judge_heads(logs: Logs, config: GuardConfig) -> Finding | None:
    """Returns what is wrong if a head gives the same logit to every impression."""
    collapsed = [
        f"{name} {std:.2g}" for name, std in _spreads(logs).items() if std < config.collapsed_std
    ]
    if not collapsed:
        return None
    return Finding(
        guard="collapsed_head",
        message="A head must tell impressions apart, and the standard deviation of its logits is "
        f"below --collapsed_std={config.collapsed_std:g}: {', '.join(collapsed)}. Lower "
        "--learning_rate, scale the numeric features, and check that features have values.",
    )


def _spreads(logs: Logs) -> dict[str, float]:
    return {name: logs[name] for name in _SPREADS}


def calibration(logs: Logs, task: str, *, since: Logs | None = None) -> float:
    """Returns mean prediction / mean label of a task; NaN below 20 positives.

    Args:
      logs: cumulative metrics.
      task: `ctr` or `ctcvr`.
      since: metrics at an earlier step of the same epoch, to leave out what was counted by then.
        This is exact if a positive weighs as much before as after.
    """
    name, count = f"{task}_calibration", _POSITIVES[task]
    positives = logs[count] - (since[count] if since else 0)
    if positives < MIN_POSITIVES:
        return math.nan
    predicted = logs[name] * logs[count] - (since[name] * since[count] if since else 0)
    return predicted / positives


def judge_calibration(ratios: Logs, split: str, config: GuardConfig) -> Finding | None:
    """Returns what is wrong if predictions are too high or too low by a factor."""
    band = config.calibration_band
    outside = [
        f"{task} {ratio:.3g}" for task, ratio in ratios.items() if ratio < 1 / band or ratio > band
    ]
    if not outside:
        return None
    return Finding(
        guard="miscalibration",
        message=f"Mean prediction / mean label must lie in [{1 / band:.3g}, {band:.3g}] "
        f"(--calibration_band), and is on {split}: {', '.join(outside)}. Train longer if the loss "
        "still falls; else check sample weights, and that training and validation data are "
        "sampled alike.",
    )
