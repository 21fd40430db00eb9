"""A model directory: settings and schema, checkpoints to resume from, weights to serve.

```
model_dir/
  config.json       the resolved settings
  history.json      the metrics of each epoch
  calibration.json  maps fitted after training, which later commands apply; if there are any
  schema.toml       the schema, with its vocabularies beside it
  checkpoints/      model, optimizer and progress after each epoch, for resuming
  weights/          the model that later commands read
  tensorboard/      curves of train and validation
```
"""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from esmm_tf import files, keys
from esmm_tf.calibration.maps import FORMAT_VERSION as CALIBRATION_FORMAT
from esmm_tf.calibration.maps import Calibration
from esmm_tf.config.training import (
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file, vocabulary_file
from esmm_tf.schema.schema import Schema

FORMAT_VERSION = 1
CHECKPOINTS = "checkpoints"
WEIGHTS = "weights"
TENSORBOARD = "tensorboard"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a run was started with.

    `negative_keep_rate` is that of the training records, for which the model is corrected.
    """

    train: TrainConfig
    model: ModelConfig
    optimizer: OptimizerConfig
    input: InputConfig
    method: MethodConfig = dataclasses.field(default_factory=MethodConfig)
    negative_keep_rate: float = 1.0


def save_settings(settings: Settings, schema: Schema, model_dir: str) -> None:
    """Writes `config.json`, `schema.toml` and vocabularies.

    Raises:
      UserError: if the directory holds a run with other settings or another schema. More epochs
        may be asked for.
    """
    os.makedirs(model_dir, exist_ok=True)
    path = os.path.join(model_dir, keys.CONFIG_FILE)
    if os.path.exists(path):
        _check_same(load_settings(model_dir), settings, model_dir)
        _check_same_schema(schema, model_dir)
    toml_file.save_schema(schema, model_dir, keys.SCHEMA_FILE)
    tree = {"format_version": FORMAT_VERSION, **dataclasses.asdict(settings)}
    files.write_json(tree, path, sort_keys=True)


def load_history(model_dir: str) -> list[dict[str, Any]]:
    """Returns the metrics of each epoch; none before the first one has ended."""
    path = os.path.join(model_dir, keys.HISTORY_FILE)
    if not os.path.exists(path):
        return []
    return files.read_json(
        path, remedy="Restore it from a copy, or train again into another --model_dir."
    )


def save_history(history: list[dict[str, Any]], model_dir: str) -> None:
    """Writes `history.json`; a metric that is not defined is null."""
    files.write_json(history, os.path.join(model_dir, keys.HISTORY_FILE), sort_keys=True)


def load_settings(model_dir: str) -> Settings:
    """Returns the settings of a run.

    Raises:
      UserError: if `model_dir` holds no run, or one of another format.
    """
    path = os.path.join(model_dir, keys.CONFIG_FILE)
    remedy = "Train again with this release."
    tree = files.read_json(
        path,
        version=FORMAT_VERSION,
        remedy=remedy,
        missing=f"{model_dir!r} has no {keys.CONFIG_FILE}, so it is no model directory. "
        "Train a model into it, or check --model_dir.",
    )
    with files.told_as_damaged(path, remedy=remedy):
        model = {**tree["model"], "hidden_units": tuple(tree["model"]["hidden_units"])}
        return Settings(
            train=TrainConfig(**tree["train"]),
            model=ModelConfig(**model),
            optimizer=OptimizerConfig(**tree["optimizer"]),
            input=InputConfig(**tree["input"]),
            method=MethodConfig(**tree.get("method", {})),
            negative_keep_rate=tree.get("negative_keep_rate", 1.0),
        )


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns which settings differ between two starts, by their names."""
    return [
        f"{name}: {before.get(name)!r}, now {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]


def _check_same(old: Settings, new: Settings, model_dir: str) -> None:
    def comparable(settings: Settings) -> dict[str, Any]:
        parts = dataclasses.asdict(settings)
        for free in ("epochs", "model_dir"):
            del parts["train"][free]
        rate = {"negative_keep_rate": parts.pop("negative_keep_rate")}
        return {f"--{k}": v for part in (*parts.values(), rate) for k, v in part.items()}

    changed = describe_changes(comparable(old), comparable(new))
    if changed:
        raise UserError(
            f"{model_dir!r} holds a run with other settings ({'; '.join(changed)}). Give the same "
            "to resume it, or another --model_dir to start anew."
        )


def _check_same_schema(schema: Schema, model_dir: str) -> None:
    old = load_schema(model_dir)
    if not is_same_schema(old, schema):
        raise UserError(
            f"{model_dir!r} holds a run with another schema. Give the same to resume it, or "
            "another --model_dir to start anew."
        )


def is_same_schema(first: Schema, second: Schema) -> bool:
    """Returns whether two schemas are the same, wherever their vocabularies stand."""
    return _with_vocabularies(first) == _with_vocabularies(second)


def _with_vocabularies(schema: Schema) -> Schema:
    """Returns the schema with the text of each vocabulary in place of its path, for comparing."""
    return schema.with_vocabulary_files(lambda _, path: vocabulary_file.read_text(path))


def load_schema(model_dir: str) -> Schema:
    """Returns the schema that a run was started with."""
    return toml_file.load_schema(os.path.join(model_dir, keys.SCHEMA_FILE))


def save_calibration(calibration: Calibration, model_dir: str) -> str:
    """Writes `calibration.json` and returns its path."""
    path = os.path.join(model_dir, keys.CALIBRATION_FILE)
    files.write_json(calibration.to_json(), path)
    return path


def load_calibration(model_dir: str) -> Calibration | None:
    """Returns the calibration of a directory, if there is one.

    Raises:
      UserError: if the file is damaged or of another format.
    """
    path = os.path.join(model_dir, keys.CALIBRATION_FILE)
    if not os.path.exists(path):
        return None
    remedy = "Run python -m esmm_tf.calibrate again, or with --calibration=none to do without."
    tree = files.read_json(path, version=CALIBRATION_FORMAT, remedy=remedy)
    with files.told_as_damaged(path, remedy=remedy):
        return Calibration.from_json(tree)


def remove_calibration(model_dir: str) -> None:
    """Removes `calibration.json`, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(model_dir, keys.CALIBRATION_FILE))
