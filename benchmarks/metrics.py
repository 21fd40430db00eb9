"""`python -m benchmarks.metrics`: exact evaluation of many impressions, beside scikit-learn's AUC.

Scores, labels and groups are simulated at rates near Ali-CCP's. Each measurement runs in a process
of its own, so that its peak memory, the arrays themselves included, is its own.
"""

import concurrent.futures
import dataclasses
import math
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from sklearn import metrics as reference

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.config import flags
from esmm_tf.config.fields import setting
from esmm_tf.evaluation import evaluation, scores
from esmm_tf.metrics import exact, intervals
from esmm_tf.metrics.ranking import Ranking

_SEED = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to measure."""

    num_impressions: int = setting(40_000_000, help="impressions to evaluate")
    num_groups: int = setting(10_000_000, help="groups that they belong to")
    repetitions: int = setting(3, help="how often each is measured, in turn")


@dataclasses.dataclass(frozen=True)
class Run:
    """What one measurement took, and what came out."""

    seconds: float
    peak_mib: float
    value: float


def main(config: BenchmarkConfig) -> None:
    """Prints seconds and peak memory of exact metrics, beside scikit-learn's AUC."""
    measurements: dict[str, Callable[[scores.Scores], float]] = {
        "scikit-learn's roc_auc_score": _reference_auc,
        "weighted_auc": _auc,
        "AUC with its 95 % interval": _auc_with_interval,
        "evaluate_scores: 3 tasks, all metrics, intervals and curves": _everything,
    }
    runs: dict[str, list[Run]] = {name: [] for name in measurements}
    for _ in range(config.repetitions):  # in turn, so that all meet the same machine
        for name, measure in measurements.items():
            runs[name].append(_in_a_process(measure, config))
    print(f"{config.num_impressions:,} impressions, {config.num_groups:,} groups")
    (_, peers), *_ = runs.items()
    for name, own in runs.items():
        ratios = [peer.seconds / run.seconds for peer, run in zip(peers, own, strict=True)]
        print(
            f"{name}: {_spread([run.seconds for run in own], '.1f')} s, "
            f"{_spread(ratios, '.2f')} times as fast as scikit-learn, "
            f"peak memory {max(run.peak_mib for run in own):,.0f} MiB, "
            f"AUC - scikit-learn's: {own[0].value - peers[0].value:.1e}"
        )


def _in_a_process(measure: Callable[[scores.Scores], float], config: BenchmarkConfig) -> Run:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_run, measure, config).result()


def _run(measure: Callable[[scores.Scores], float], config: BenchmarkConfig) -> Run:
    scored = _simulate(config)
    start = time.perf_counter()
    value = measure(scored)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Run(seconds, peak, value)


def _simulate(config: BenchmarkConfig) -> scores.Scores:
    rng = np.random.default_rng(_SEED)
    number = config.num_impressions
    ctr_logits = _normal(rng, number, mean=-3.5)
    cvr_logits = _normal(rng, number, mean=-5.5)
    click = _coins(rng, ctr_logits)
    ids = np.sort(rng.integers(0, config.num_groups, number))
    return scores.Scores(
        ctr_logits=ctr_logits,
        cvr_logits=cvr_logits,
        click=click,
        conversion=click * _coins(rng, cvr_logits),
        groups=rng.permutation(config.num_groups)[ids],
    )


def _normal(rng: np.random.Generator, number: int, *, mean: float) -> np.ndarray:
    values = rng.standard_normal(number, dtype=np.float32)
    values += np.float32(mean)
    return values


def _coins(rng: np.random.Generator, logits: np.ndarray) -> np.ndarray:
    return (rng.random(len(logits), dtype=np.float32) < 1 / (1 + np.exp(-logits))).astype(np.uint8)


def _reference_auc(scored: scores.Scores) -> float:
    return float(reference.roc_auc_score(scored.click, scored.ctr_logits))


def _auc(scored: scores.Scores) -> float:
    return exact.weighted_auc(scored.ctr_logits, scored.click, 1 - scored.click)


def _auc_with_interval(scored: scores.Scores) -> float:
    value, influence = exact.auc(Ranking(scored.ctr_logits, scored.click, 1 - scored.click))
    estimate = intervals.Estimate(
        value=value,
        influence=intervals.clusters_of(scored.group_numbers).sum(influence),
        kind=intervals.SHARE,
    )
    estimate.interval()
    return value


def _everything(scored: scores.Scores) -> float:
    auc = evaluation.evaluate_scores(scored).evaluation.tasks["ctr"].auc
    return math.nan if auc is None else auc


def _spread(values: Sequence[float], form: str) -> str:
    middle = format(statistics.median(values), form)
    return f"{middle} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
