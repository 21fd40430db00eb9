"""A comparison from its settings to its table: tune every method, repeat the chosen, measure."""

import dataclasses
import json
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from esmm_tf import files, keys
from esmm_tf.config.experiments import CompareConfig
from esmm_tf.data.source import find_source
from esmm_tf.errors import UserError
from esmm_tf.experiments import execute, results
from esmm_tf.experiments.execute import ComparisonSettings
from esmm_tf.experiments.runs import (
    TEST_FILE,
    TRAINING_FILE,
    VALIDATION_FILE,
    Run,
    candidates,
    choose,
    repetitions,
    uses_ctr_network,
)
from esmm_tf.training import ctr_network, model_directory

FORMAT_VERSION = 1
_SETTINGS_FILE = "settings.json"
_FREE = ("output_dir", "processes", "seeds", "fractions", "methods")


def run_comparison(settings: ComparisonSettings) -> dict[str, Any]:
    """Returns the content of `comparison.json`, after training and measuring what is not done yet.

    Raises:
      UserError: if a split is missing, or the output directory holds a comparison with other
        settings.
    """
    config = settings.compare
    data = _describe_data(config)
    _check_settings(settings)
    tried, chosen = _tune(settings)
    _repeat(chosen, settings)
    return {
        "format_version": FORMAT_VERSION,
        "machine": _describe_machine(config.processes),
        "data": data,
        "settings": _comparable(settings),
        **results.build_tree(chosen, tried, config),
    }


def _tune(settings: ComparisonSettings) -> tuple[dict[str, list[Run]], dict[str, Run]]:
    """Returns the candidates of each method and the chosen ones, trained on all training groups.

    The CTR network comes first: the others take pCTR from the one that is chosen.
    """
    config = settings.compare
    tried: dict[str, list[Run]] = {}
    chosen: dict[str, Run] = {}
    ctr_learning_rate = config.learning_rates[0]
    stages = [list(config.methods)]
    if uses_ctr_network(config.methods):
        stages = [[ctr_network.METHOD], [m for m in config.methods if m != ctr_network.METHOD]]
    for stage, names in enumerate(stages, start=1):
        for name in names:
            tried[name] = candidates(name, config, ctr_learning_rate=ctr_learning_rate)
        runs = [run for name in names for run in tried[name]]
        title = f"tuning, stage {stage} of {len(stages)}"
        execute.execute(runs, settings, title=title, file=VALIDATION_FILE)
        chosen |= {name: choose(tried[name], config.output_dir) for name in names}
        ctr_learning_rate = chosen[names[0]].learning_rate
    return tried, chosen


def _repeat(chosen: dict[str, Run], settings: ComparisonSettings) -> None:
    """Trains the chosen candidates for every fraction and seed and measures them on test."""
    config = settings.compare
    ctr = chosen.get(ctr_network.METHOD)
    if ctr is not None:
        runs = list(repetitions(ctr, config))
        is_compared = ctr_network.METHOD in config.methods
        file = TEST_FILE if is_compared else TRAINING_FILE
        execute.execute(runs, settings, title="CTR networks", file=file)
    names = [name for name in config.methods if name != ctr_network.METHOD]
    runs = [run for name in names for run in repetitions(chosen[name], config)]
    execute.execute(runs, settings, title="methods", file=TEST_FILE)


def _describe_data(config: CompareConfig) -> dict[str, Any]:
    """Returns the directory and, by split, its counts.

    Raises:
      UserError: if a split is missing.
    """
    splits = {}
    for split in (keys.TRAIN, keys.VALIDATION, keys.TEST):
        source = find_source(config.data_dir, split=split)
        splits[split] = dataclasses.asdict(source.labels)
    return {"directory": config.data_dir, "splits": splits}


def _describe_machine(processes: int) -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "runs at a time": processes,
        "python": sys.version.split()[0],
        "tensorflow": tf.__version__,
    }


def _processor() -> str:
    """Returns the processor's name, as Linux knows it, or its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return next(iter(names), platform.processor() or platform.machine())


def _comparable(settings: ComparisonSettings) -> dict[str, Any]:
    """Returns what may not change between two starts of one comparison, as JSON holds it."""
    tree = dataclasses.asdict(settings)
    for name in _FREE:
        del tree["compare"][name]
    return json.loads(json.dumps(tree))


def _as_flags(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"--{name}": value for part in parts.values() for name, value in part.items()}


def _check_settings(settings: ComparisonSettings) -> None:
    """Keeps the settings in the output directory.

    Raises:
      UserError: if it holds a comparison with other settings. More seeds, fractions and methods may
        be asked for.
    """
    path = os.path.join(settings.compare.output_dir, _SETTINGS_FILE)
    now = _comparable(settings)
    if os.path.exists(path):
        before = files.read_json(path, remedy="Give another --output_dir to start anew.")
        changed = model_directory.describe_changes(_as_flags(before), _as_flags(now))
        if changed:
            raise UserError(
                f"{settings.compare.output_dir!r} holds a comparison with other settings "
                f"({'; '.join(changed)}). Give the same to go on with it, or another --output_dir."
            )
    files.write_json(now, path)
