"""What the runs of a comparison say together: means over seeds, and what may be chance.

A difference of two methods is one of their mean AUCs over the same seeds on the same test
impressions. It varies with the users of the test, by the influences of its clusters (as in
`esmm_tf.metrics.intervals`), and with the seeds; both variances are added.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from esmm_tf import keys
from esmm_tf.config.experiments import CompareConfig
from esmm_tf.experiments import execute
from esmm_tf.experiments.runs import (
    TEST_FILE,
    TRAINING_FILE,
    VALIDATION_FILE,
    Run,
    criterion,
    load_result,
    load_tasks,
    repetitions,
)
from esmm_tf.methods import load_method
from esmm_tf.metrics import intervals, student
from esmm_tf.reports.task_metrics import TaskMetrics
from esmm_tf.training.ctr_network import METHOD as CTR

METRICS = ("auc", "gauc", "log_loss", "calibration", "way_to_oracle", "regret", "bias")
BASELINE = "base"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repeated:
    """A method's runs at one fraction: one per seed, in the same order for every method.

    Args:
      method: its name.
      tests: the metrics by task of each run's test.
      influences: of the clusters on each run's test AUCs, by task, `[clusters]`.
    """

    method: str
    tests: Sequence[Mapping[str, TaskMetrics]]
    influences: Sequence[Mapping[str, np.ndarray]]

    def values(self, task: str, metric: str) -> list[float]:
        """Returns a metric of each seed; nothing where it is not defined for every seed."""
        values: list[Any] = [getattr(test.get(task), metric, None) for test in self.tests]
        return [] if None in values else values

    def mean_influence(self, task: str) -> np.ndarray:
        """Returns the influences on the mean AUC over seeds, `[clusters]`."""
        return np.mean([influence[task] for influence in self.influences], axis=0)


def load_repeated(runs: Sequence[Run], output_dir: str) -> Repeated:
    """Returns the results of a method's runs, one per seed."""
    return Repeated(
        method=runs[0].method,
        tests=[load_tasks(run, output_dir, TEST_FILE) for run in runs],
        influences=[execute.load_influences(run, output_dir) for run in runs],
    )


def summarize(repeated: Repeated) -> dict[str, Any]:
    """Returns, by task and metric, `mean`, `std` (null for one seed) and the `values`."""
    return {
        task: {
            metric: _spread(values)
            for metric in METRICS
            if (values := repeated.values(task, metric))
        }
        | _above_1(repeated, task)
        for task in repeated.tests[0]
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": list(values)}


def _above_1(repeated: Repeated, task: str) -> dict[str, Any]:
    """Returns the share of predictions above 1, if the method has any."""
    metrics = [test[task] for test in repeated.tests]
    shares = [
        m.predictions_above_1 / m.impressions for m in metrics if m.predictions_above_1 is not None
    ]
    return {"share_above_1": _spread(shares)} if shares else {}


def compare_runs(method: Repeated, rival: Repeated) -> dict[str, Any]:
    """Returns, by task, the difference of the mean AUCs, its interval and its p-value."""
    tasks = [task for task in method.tests[0] if method.values(task, "auc")]
    return {task: _difference(method, rival, task) for task in tasks if rival.values(task, "auc")}


def _difference(method: Repeated, rival: Repeated, task: str) -> dict[str, Any]:
    pairs = zip(method.values(task, "auc"), rival.values(task, "auc"), strict=True)
    differences = [auc - rival_auc for auc, rival_auc in pairs]
    influence = method.mean_influence(task) - rival.mean_influence(task)
    user_variance = float(np.square(influence).sum()) * len(influence) / (len(influence) - 1)
    number = len(differences)
    seed_variance = statistics.variance(differences) / number if number > 1 else math.nan
    error = math.sqrt(user_variance + seed_variance)
    mean = statistics.fmean(differences)
    result: dict[str, Any] = {"difference": mean, "interval": None, "p_value": None}
    if error > 0:
        # Welch and Satterthwaite: of the variance only the part of the seeds is uncertain.
        degrees = (number - 1) * (error**2 / seed_variance) ** 2 if seed_variance > 0 else math.inf
        reach = error * student.quantile(intervals.LEVEL, degrees)
        result["interval"] = (mean - reach, mean + reach)
        result["p_value"] = student.p_value(mean / error, degrees)
    return result


def build_tree(
    chosen: Mapping[str, Run], tried: Mapping[str, Sequence[Run]], config: CompareConfig
) -> dict[str, Any]:
    """Returns the results of a comparison, the content of `comparison.json` that follows from runs.

    Args:
      chosen: the candidate of each method that validation prefers, the CTR network's among them.
      tried: the candidates of each method.
      config: of the comparison.
    """
    repeated = {
        fraction: {
            name: load_repeated(
                [run for run in repetitions(chosen[name], config) if run.fraction == fraction],
                config.output_dir,
            )
            for name in config.methods
        }
        for fraction in config.fractions
    }
    whole = repeated[max(config.fractions)]
    methods = {
        name: {
            "title": load_method(name).title,
            **_effort(chosen[name], config),
            "candidates": [_candidate(run, config.output_dir) for run in tried[name]],
            "tasks": summarize(whole[name]),
        }
        for name in config.methods
    }
    for name, rivals in _rivals(whole).items():
        methods[name] |= {
            f"against_{role}": {"method": other, "tasks": compare_runs(whole[name], whole[other])}
            for role, other in rivals.items()
        }
    return {
        "methods": methods,
        "ctr_network": _ctr_network(chosen, tried, config),
        "fractions": {
            f"{fraction:g}": {name: summarize(runs) for name, runs in by_name.items()}
            for fraction, by_name in repeated.items()
        },
        "fractions_against_base": _against_base(repeated),
    }


def _against_base(repeated: Mapping[float, Mapping[str, Repeated]]) -> dict[str, Any]:
    """Returns how the methods differ from BASE at each fraction; nothing without BASE."""
    return {
        f"{fraction:g}": {
            name: compare_runs(runs, by_name[BASELINE])
            for name, runs in by_name.items()
            if name != BASELINE
        }
        for fraction, by_name in repeated.items()
        if BASELINE in by_name
    }


def _candidate(run: Run, output_dir: str) -> dict[str, Any]:
    """Returns what validation says of a candidate."""
    tasks = load_tasks(run, output_dir, VALIDATION_FILE)
    trained = load_result(run, output_dir, TRAINING_FILE)
    return {
        "learning_rate": run.learning_rate,
        "sampling_rate": run.rate,
        "criterion": criterion(run.method, tasks),
        "best_epoch": trained["best_epoch"],
        "aucs": {task: metrics.auc for task, metrics in tasks.items()},
    }


def _ctr_network(
    chosen: Mapping[str, Run], tried: Mapping[str, Sequence[Run]], config: CompareConfig
) -> dict[str, Any] | None:
    """Returns candidates and effort of the CTR network that methods share, if some do."""
    if CTR not in chosen:
        return None
    candidates = [_candidate(run, config.output_dir) for run in tried[CTR]]
    return {"title": "CTR network", "candidates": candidates, **_effort(chosen[CTR], config)}


def _effort(chosen: Run, config: CompareConfig) -> dict[str, Any]:
    """Returns what a method was trained with, and what that took."""
    runs = [r for r in repetitions(chosen, config) if r.fraction == max(config.fractions)]
    trainings = [load_result(run, config.output_dir, TRAINING_FILE) for run in runs]
    candidate = load_result(chosen, config.output_dir, VALIDATION_FILE)
    return {
        "learning_rate": chosen.learning_rate,
        "sampling_rate": chosen.rate,
        "best_epochs": [run["best_epoch"] for run in trainings],
        "epochs": [run["epochs"] for run in trainings],
        "impressions_an_epoch": _spread([run["impressions_an_epoch"] for run in trainings]),
        "seconds": _spread([run["seconds"] for run in trainings]),
        "parameters": candidate["parameters"],
    }


def _rivals(repeated: Mapping[str, Repeated]) -> dict[str, dict[str, str]]:
    """Returns the methods that each is compared with: BASE, and the best of the others.

    The best has the highest mean AUC of CTCVR, so that the best of all meets the second best.
    """

    def auc(name: str) -> float:
        values = repeated[name].values(keys.CTCVR, "auc")
        return statistics.fmean(values) if values else 0.0

    rivals: dict[str, dict[str, str]] = {}
    for name in repeated:
        others = [other for other in repeated if other != name]
        rivals[name] = {"best_other": max(others, key=auc)} if others else {}
        if BASELINE in others:
            rivals[name]["base"] = BASELINE
    return rivals
