"""The card of an exported model: what it was made of, how good it is, what it is for."""

import dataclasses
import datetime
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

import esmm_tf
from esmm_tf import files
from esmm_tf.reports import words
from esmm_tf.reports.evaluation_result import Evaluation
from esmm_tf.reports.tables import Cell, Column, Section, Table, format_markdown
from esmm_tf.reports.task_metrics import TaskMetrics, shown_metrics, tasks_from_json
from esmm_tf.training import used_shards
from esmm_tf.training.trained_model import TrainedModel

FORMAT_VERSION = 1
FILE = os.path.join("assets.extra", "model_card")

INTENDED_USE = (
    "Ranking and pricing of impressions that come from the traffic that the training records "
    "describe: pctr is the probability that an impression is clicked, pcvr that a click converts, "
    "pctcvr that an impression is clicked and converts."
)
LIMITS = (
    "pCVR of impressions that nobody clicked cannot be checked on a log: only its clicked part is "
    "measured here.",
    "Values that training never saw are out of vocabulary and share a row of their table.",
    "Probabilities hold for the share of clicks and conversions of the training records; when it "
    "moves, calibrate again, and measure before you bid by them.",
    "An interval tells what other users would give with this model, not what another training.",
)
_MOST_SLICE_VALUES = 20
_METRICS = ("auc", "gauc", "average_precision", "log_loss", "normalized_entropy", "calibration")


def build_card(
    trained: TrainedModel,
    *,
    model_dir: str,
    model_name: str,
    version: int,
    evaluation: Evaluation | None,
    serving: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the card.

    Args:
      trained: the model.
      model_dir: where it comes from.
      model_name: under which a server has it.
      version: of the export.
      evaluation: with its origin, if the model was measured as it is.
      serving: what the export says of its signatures and warm-up.
    """
    settings = trained.settings
    return {
        "format_version": FORMAT_VERSION,
        "model": model_name,
        "version": version,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "method": settings.method.method,
        "weights": trained.weights,
        "data": {
            "train_files": settings.train.train_files,
            "training_hash": _hash_of_training(model_dir),
            "negative_keep_rate": settings.negative_keep_rate,
        },
        "schema": {"name": trained.schema.name, "hash": trained.schema.record_hash()},
        "settings": {
            part: dataclasses.asdict(getattr(settings, part))
            for part in ("train", "model", "optimizer", "input", "method")
        },
        "calibration": trained.calibration_methods,
        "evaluation": None if evaluation is None else _measured(evaluation),
        "serving": dict(serving),
        "software": _software(),
        "intended_use": INTENDED_USE,
        "limits": list(LIMITS),
    }


def _software() -> dict[str, str]:
    return {
        "esmm_tf": esmm_tf.__version__,
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
    }


def _hash_of_training(model_dir: str) -> str | None:
    """Returns a hash of the training shards, or None if they are not known."""
    data = used_shards.load_data(model_dir)
    if data is None:
        return None
    prints = sorted(shard.fingerprint for shard in data.train)
    return hashlib.sha256("\n".join(prints).encode()).hexdigest()[:16]


def _measured(evaluation: Evaluation) -> dict[str, Any]:
    """Returns metrics and intervals, of the whole and of the most frequent values of each slice."""
    return {
        "data_hash": evaluation.data_hash,
        "impressions": evaluation.impressions,
        "clicks": evaluation.clicks,
        "conversions": evaluation.conversions,
        "files": None if evaluation.origin is None else evaluation.origin.files,
        "interval": dataclasses.asdict(evaluation.interval),
        "tasks": _metrics(evaluation.tasks),
        "slices": {
            field: {
                value: {"impressions": part.impressions, "tasks": _metrics(part.tasks)}
                for value, part in list(by_value.items())[:_MOST_SLICE_VALUES]
            }
            for field, by_value in evaluation.slices.items()
        },
    }


def _metrics(tasks: Mapping[str, TaskMetrics]) -> dict[str, Any]:
    return {
        task: {
            "impressions": metrics.impressions,
            "positives": metrics.positives,
            **{metric.name: getattr(metrics, metric.name) for metric in shown_metrics([metrics])},
            "intervals": dict(metrics.intervals),
        }
        for task, metrics in tasks.items()
    }


def write_card(card: Mapping[str, Any], directory: str) -> None:
    """Writes `model_card.json` and `model_card.md` into a version's directory."""
    path = os.path.join(directory, FILE)
    files.write_json(card, f"{path}.json")
    with open(f"{path}.md", "w", encoding="utf-8") as file:
        file.write(format_card(card))


def format_card(card: Mapping[str, Any]) -> str:
    """Returns the card in Markdown."""
    sections = [
        Section(key="use", title="Intended use", sentences=[card["intended_use"]], tables=[]),
        _evaluation_section(card["evaluation"]),
        Section(key="origin", title="Origin", sentences=[], tables=[_pairs("", _origin(card))]),
        Section(
            key="settings",
            title="Training flags",
            sentences=[],
            tables=[_pairs("", _flags(card["settings"]))],
        ),
        Section(key="serving", title="Serving", sentences=[], tables=[_pairs("", card["serving"])]),
        Section(key="limits", title="Limits", sentences=card["limits"], tables=[]),
    ]
    head = f"# {card['model']}, version {card['version']}"
    return "\n".join([head, "", *map(format_markdown, sections)])


def _evaluation_section(evaluation: Mapping[str, Any] | None) -> Section:
    if evaluation is None:
        sentences = ["These weights were not measured before they were exported."]
        return Section(key="metrics", title="Metrics", sentences=sentences, tables=[])
    sentence = (
        f"Measured on {words.count(evaluation['impressions'])} impressions with "
        f"{words.count(evaluation['clicks'])} clicks and "
        f"{words.count(evaluation['conversions'])} conversions, with 95 % intervals."
    )
    tasks = tasks_from_json(evaluation["tasks"])
    tables = [_metrics_table("", {words.task_title(task): m for task, m in tasks.items()})]
    for field, values in evaluation["slices"].items():
        rows = {
            f"{value}: {words.task_title(task)}": metrics
            for value, part in values.items()
            for task, metrics in tasks_from_json(part["tasks"]).items()
        }
        tables.append(_metrics_table(f"By {field}", rows))
    return Section(key="metrics", title="Metrics", sentences=[sentence], tables=tables)


def _metrics_table(caption: str, rows: Mapping[str, TaskMetrics]) -> Table:
    shown = [name for name in _METRICS if any(name in m.intervals for m in rows.values())]
    columns = [Column(title="", is_text=True)]
    columns += [Column(title=words.METRIC_TITLES[name]) for name in shown]
    columns += [Column(title="Positives"), Column(title="Impressions")]
    return Table(
        caption=caption,
        columns=columns,
        rows=[
            [
                Cell(title),
                *(Cell(metrics.in_words(name)) for name in shown),
                *(Cell(words.count(n)) for n in (metrics.positives, metrics.impressions)),
            ]
            for title, metrics in rows.items()
        ],
    )


def _origin(card: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "created": card["created"],
        "method": card["method"],
        "weights": card["weights"],
        "training data": card["data"]["train_files"],
        "hash of its shards": card["data"]["training_hash"],
        "negative keep rate": card["data"]["negative_keep_rate"],
        "schema": card["schema"]["name"],
        "hash of the schema": card["schema"]["hash"],
        "calibration": card["calibration"],
        **card["software"],
    }


def _flags(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"--{name}": value for part in settings.values() for name, value in part.items()}


def _pairs(caption: str, values: Mapping[str, Any]) -> Table:
    return Table(
        caption=caption,
        columns=[Column(title="", is_text=True), Column(title="", is_text=True)],
        rows=[[Cell(name), Cell(_cell_text(value))] for name, value in values.items()],
    )


def _cell_text(value: Any) -> str:
    if value is None or value in ("", {}, []):
        return words.DASH
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)
