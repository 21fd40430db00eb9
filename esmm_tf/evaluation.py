"""A trained model measured: exact metrics for each task, over the space its name tells."""

import dataclasses
import math
from typing import Any

import numpy as np

from esmm_tf import exact_metrics, input_fn, json_file, keys
from esmm_tf.config import InputConfig
from esmm_tf.model import build_scorer
from esmm_tf.schema import Schema

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores and labels of impressions, arrays `[impressions]`; truth and group key if there."""

    logits: dict[str, np.ndarray]
    click: np.ndarray
    conversion: np.ndarray
    weight: np.ndarray
    oracle: dict[str, np.ndarray]
    groups: np.ndarray | None


def evaluate(
    model: Any, schema: Schema, source: input_fn.Source, config: InputConfig
) -> dict[str, Any]:
    """Returns the content of `evaluation.json`.

    For each task `auc`, `gauc`, `log_loss`, `normalized_entropy`, `calibration` (mean prediction /
    mean label), `positives` and `impressions`; where the data holds the truth, also `oracle_auc`,
    the AUC of the true probability on the same impressions, and `way_to_oracle`, how far of the
    way from 0.5 to it the model came. The task `cvr_entire`, which no log can show, takes every
    impression as a positive with its true conversion probability.
    """
    scores = collect_scores(model, schema, source, config)
    tasks = {
        keys.CTR: _task(scores, keys.CTR_LOGITS, scores.click, np.ones_like(scores.click)),
        keys.CVR_CLICKED: _task(scores, keys.CVR_LOGITS, scores.conversion, scores.click),
        keys.CTCVR: _task(scores, keys.CTCVR_LOGITS, scores.conversion, np.ones_like(scores.click)),
    }
    if scores.oracle:
        truth = scores.oracle[keys.ORACLE_PCVR]
        tasks[keys.CVR_ENTIRE] = _task(scores, keys.CVR_LOGITS, truth, np.ones_like(truth))
    return {
        "format_version": FORMAT_VERSION,
        "files": list(source.files),
        "impressions": len(scores.click),
        "clicks": int(scores.click.sum()),
        "conversions": int(scores.conversion.sum()),
        "tasks": tasks,
    }


def collect_scores(
    model: Any, schema: Schema, source: input_fn.Source, config: InputConfig
) -> Scores:
    """Returns scores and labels of every impression, in the order of the files."""
    dataset = input_fn.build_dataset(source, schema, config, carry=True)
    scorer = build_scorer(model, dataset.element_spec["features"])
    logit_names = (keys.CTR_LOGITS, keys.CVR_LOGITS, keys.CTCVR_LOGITS)
    columns: dict[str, list[np.ndarray]] = {}
    for batch in input_fn.show_progress(dataset, source):
        outputs = scorer(batch["features"])
        row = {name: outputs[name] for name in logit_names} | batch["labels"]
        row |= batch.get("oracle", {})
        if keys.EXAMPLE_WEIGHT in batch:
            row[keys.EXAMPLE_WEIGHT] = batch[keys.EXAMPLE_WEIGHT]
        if schema.group_key:
            row["group"] = batch["carry"][schema.group_key]
        for name, value in row.items():
            columns.setdefault(name, []).append(value.numpy())
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Scores(
        logits={name: arrays[name] for name in logit_names},
        click=arrays[keys.CLICK],
        conversion=arrays[keys.CONVERSION],
        weight=arrays.get(keys.EXAMPLE_WEIGHT, np.ones_like(arrays[keys.CLICK])),
        oracle={n: arrays[n] for n in (keys.ORACLE_PCTR, keys.ORACLE_PCVR) if n in arrays},
        groups=arrays.get("group"),
    )


def _task(scores: Scores, logits: str, labels: np.ndarray, space: np.ndarray) -> dict[str, Any]:
    """Returns the metrics of one task over the impressions where `space` is not 0."""
    inside = np.flatnonzero(space)
    logit, label = scores.logits[logits][inside], labels[inside].astype(np.float64)
    weight = scores.weight[inside].astype(np.float64)
    positives, negatives = weight * label, weight * (1 - label)
    total = float(weight.sum())
    rate = float(positives.sum()) / total if total else math.nan
    loss = exact_metrics.log_loss(logit, positives, negatives)
    prediction = float(np.sum(weight * _sigmoid(logit))) / total if total else math.nan
    result = {
        "auc": exact_metrics.weighted_auc(logit, positives, negatives),
        "log_loss": loss,
        "normalized_entropy": _ratio(loss, exact_metrics.entropy(rate)),
        "calibration": _ratio(prediction, rate),
        "positives": float(label.sum()),
        "impressions": len(inside),
    }
    if scores.groups is not None and np.isin(label, (0.0, 1.0)).all():
        gauc, counted, skipped = exact_metrics.grouped_auc(logit, label, scores.groups[inside])
        result |= {"gauc": gauc, "gauc_groups": counted, "gauc_groups_skipped": skipped}
    if scores.oracle:
        truth = _true_score(scores, logits)[inside]
        best = exact_metrics.weighted_auc(truth, positives, negatives)
        result |= {"oracle_auc": best, "way_to_oracle": _ratio(result["auc"] - 0.5, best - 0.5)}
    return {name: _finite_or_none(value) for name, value in result.items()}


def _true_score(scores: Scores, logits: str) -> np.ndarray:
    pctr, pcvr = scores.oracle[keys.ORACLE_PCTR], scores.oracle[keys.ORACLE_PCVR]
    return {keys.CTR_LOGITS: pctr, keys.CVR_LOGITS: pcvr, keys.CTCVR_LOGITS: pctr * pcvr}[logits]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_evaluation(result: dict[str, Any], path: str) -> None:
    """Writes the JSON file under a temporary name and renames it."""
    json_file.write_json(result, path)


def format_table(result: dict[str, Any]) -> str:
    """Returns the metrics as a table, one task a row."""
    names = ["auc", "gauc", "log_loss", "normalized_entropy", "calibration"]
    if keys.CVR_ENTIRE in result["tasks"]:
        names += ["oracle_auc", "way_to_oracle"]
    head = ["task", *names, "positives", "impressions"]
    rows = [head]
    for task, values in result["tasks"].items():
        shown = [_shown(values.get(name)) for name in names]
        rows.append([task, *shown, f"{values['positives']:,.0f}", f"{values['impressions']:,}"])
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
