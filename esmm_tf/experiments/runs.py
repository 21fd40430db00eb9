"""A comparison of methods: what is to be run, under which name, and what each run left."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from esmm_tf import files, keys
from esmm_tf.config.experiments import CompareConfig
from esmm_tf.methods import load_method
from esmm_tf.reports.task_metrics import TaskMetrics, tasks_from_json
from esmm_tf.training import ctr_network

TUNING_SEED = 1
MODEL = "model"
TRAINING_FILE = "training.json"
VALIDATION_FILE = "validation.json"
TEST_FILE = "test.json"
INFLUENCE_FILE = "test_influence.npz"
LOG_FILE = "log.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training of one method.

    Args:
      method: its name.
      learning_rate: step size of Adam.
      rate: of its sampling, or None for a method without sampling.
      seed: of initial values, shuffling and sampling.
      fraction: of the training groups.
      ctr_learning_rate: of the CTR network of the same seed and fraction that it takes pCTR from.
    """

    method: str
    learning_rate: float
    rate: float | None = None
    seed: int = TUNING_SEED
    fraction: float = 1.0
    ctr_learning_rate: float | None = None

    @property
    def name(self) -> str:
        """Returns the name of its directory, which no other run has."""
        parts = [self.method, f"lr{self.learning_rate:g}"]
        if self.rate is not None:
            parts.append(f"rate{self.rate:g}")
        return "-".join([*parts, f"fraction{self.fraction:g}", f"seed{self.seed}"])

    def directory(self, output_dir: str) -> str:
        """Returns where the run keeps its model and what was measured."""
        return os.path.join(output_dir, "runs", self.name)

    def ctr_run(self) -> "Run | None":
        """Returns the run whose CTR network it takes, or None."""
        if self.ctr_learning_rate is None:
            return None
        return Run(
            method=ctr_network.METHOD,
            learning_rate=self.ctr_learning_rate,
            seed=self.seed,
            fraction=self.fraction,
        )


def uses_ctr_network(methods: Iterable[str]) -> bool:
    """Returns whether one of the methods takes its pCTR from the shared CTR network."""
    return any(load_method(method).uses_ctr_network for method in methods)


def candidates(method: str, config: CompareConfig, *, ctr_learning_rate: float) -> list[Run]:
    """Returns the runs among which validation chooses a method's learning rate and rate."""
    declared = load_method(method)
    return [
        Run(
            method=method,
            learning_rate=learning_rate,
            rate=rate,
            ctr_learning_rate=ctr_learning_rate if declared.uses_ctr_network else None,
        )
        for rate, learning_rate in itertools.product(
            declared.rates or (None,), config.learning_rates
        )
    ]


def repetitions(chosen: Run, config: CompareConfig) -> Iterator[Run]:
    """Yields the runs of a chosen candidate for every fraction and seed."""
    for fraction, repetition in itertools.product(config.fractions, range(config.seeds)):
        yield dataclasses.replace(chosen, fraction=fraction, seed=TUNING_SEED + repetition)


def criterion(method: str, tasks: Mapping[str, TaskMetrics]) -> float:
    """Returns the criterion by which validation chooses a candidate: larger is better.

    It is the mean of the two AUCs of the paper's table, on clicked impressions for CVR and on all
    for CTCVR; for the CTR network it is the AUC of CTR.
    """
    names = (keys.CTR,) if method == ctr_network.METHOD else (keys.CVR_CLICKED, keys.CTCVR)
    aucs = [tasks[name].auc for name in names]
    return sum(auc if auc is not None else 0.0 for auc in aucs) / len(aucs)


def choose(runs: Sequence[Run], output_dir: str) -> Run:
    """Returns the candidate that validation prefers; of equal ones the first."""

    def score(run: Run) -> float:
        return criterion(run.method, load_tasks(run, output_dir, VALIDATION_FILE))

    return max(runs, key=score)


def is_done(run: Run, output_dir: str, file: str) -> bool:
    """Returns whether a run has written one of its results."""
    return os.path.exists(os.path.join(run.directory(output_dir), file))


def load_result(run: Run, output_dir: str, file: str) -> dict[str, Any]:
    """Returns one of the results of a run."""
    path = os.path.join(run.directory(output_dir), file)
    return files.read_json(
        path, remedy=f"Remove {os.path.dirname(path)!r}; the comparison makes that run again."
    )


def load_tasks(run: Run, output_dir: str, file: str) -> dict[str, TaskMetrics]:
    """Returns the metrics of each task that a run was measured by."""
    return tasks_from_json(load_result(run, output_dir, file)["tasks"])


def save_result(run: Run, output_dir: str, file: str, result: dict[str, Any]) -> None:
    """Writes one of the results of a run; the file tells that the step is done."""
    files.write_json(result, os.path.join(run.directory(output_dir), file))
