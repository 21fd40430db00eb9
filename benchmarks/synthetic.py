"""`python -m benchmarks.synthetic`: impressions per second of simulated logs, on one core."""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_pipelines.synthetic import command
from esmm_pipelines.synthetic.shop import Shop
from esmm_tf.config import flags
from esmm_tf.config.fields import setting
from esmm_tf.data.writer import DataSetWriter


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to measure."""

    num_impressions: int = setting(200_000, help="impressions of one repetition")
    cardinality_scale: float = setting(0.0118, help="size of the world as a share of Ali-CCP's")
    repetitions: int = setting(5, help="how often each figure is measured")


def main(config: BenchmarkConfig) -> None:
    """Prints the speed of drawing impressions, and of drawing and writing them as records."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as directory:
        log = command.SyntheticConfig(
            output_dir=directory,
            num_impressions=config.num_impressions,
            cardinality_scale=config.cardinality_scale,
            overwrite=True,
        )
        shop = Shop(log.truth(), log.sizes(), seed=log.seed)
        num_groups = round(config.num_impressions / log.mean_group_size)

        def draw() -> int:
            groups = (shop.draw(np.random.default_rng(n), 256) for n in range(num_groups // 256))
            return sum(int(group.sizes.sum()) for group in groups)

        def write() -> int:
            schema = command.build_schema(log.sizes())
            with DataSetWriter(directory, schema, overwrite=True) as writer:
                command.write_groups(shop, log, writer)
                return writer.num_impressions

        for name, run in (("draw", draw), ("draw and write records", write)):
            _report(name, run, config.repetitions)


def _report(name: str, run: Callable[[], int], repetitions: int) -> None:
    rates = []
    for _ in range(repetitions):
        start = time.perf_counter()
        impressions = run()
        rates.append(impressions / (time.perf_counter() - start))
    print(
        f"{name}: median {statistics.median(rates):,.0f} impressions/s, "
        f"{min(rates):,.0f} to {max(rates):,.0f} over {repetitions} repetitions"
    )


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
