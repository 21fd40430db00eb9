"""`python -m benchmarks.serving`: how long an exported model takes, and what `rank` saves.

The SavedModel runs as TF Serving runs it, in a session of TensorFlow 1 loaded by the tag `serve`,
but in this process: a request is not sent, and its strings are copied into TensorFlow once. Kinds
of requests take turns, so that all meet the same machine. The processor time is that of all
threads; where other programs run, it changes less than a latency does.
"""

import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf.data.source import Source, find_source

# isort: split
import tensorflow as tf

from esmm_pipelines.synthetic import command
from esmm_tf import keys
from esmm_tf.config import flags
from esmm_tf.config.fields import setting
from esmm_tf.config.training import (
    GuardConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.errors import UserError
from esmm_tf.schema.schema import Schema
from esmm_tf.serving import dense_inputs, saved_model
from esmm_tf.serving.requests import (
    Impression,
    build_request,
    parse_examples,
    read_impressions,
    take,
)
from esmm_tf.serving.saved_model import PREDICT_TENSORS, RANK, SERVING_DEFAULT
from esmm_tf.training import trained_model
from esmm_tf.training.run import train

_PERCENTILES = (50, 90, 99)
_POOL = 10_000
_MS = 1e3


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to measure."""

    model_dir: str = setting(
        "", help="directory of a trained model; by default one of simulated logs, with --files"
    )
    files: str = setting("", help="records of which requests are made: with --model_dir")
    split: str = setting("test", help="split that a directory in --files stands for")
    batch_sizes: tuple[int, ...] = setting((1, 64), help="impressions of any users in a request")
    num_candidates: int = setting(500, help="impressions of one user in a request")
    users: int = setting(32, help="users who take turns")
    calls: int = setting(64, help="calls of each kind in a repetition")
    repetitions: int = setting(5, help="how often each figure is measured")
    num_impressions: int = setting(100_000, help="impressions of the simulated logs")

    def __post_init__(self) -> None:
        if bool(self.model_dir) != bool(self.files):
            raise UserError("Give both of --model_dir and --files, or neither.")


class Arm(NamedTuple):
    """Requests of one kind, and what scores them."""

    name: str
    batch_size: int
    call: Callable[..., Any]
    requests: Sequence[Sequence[np.ndarray]]


@dataclasses.dataclass
class Times:
    """Seconds of each call in a repetition: on the clock, and of the processor."""

    wall: list[float] = dataclasses.field(default_factory=list)
    processor: list[float] = dataclasses.field(default_factory=list)


def main(config: BenchmarkConfig) -> None:
    """Prints latencies and impressions/s of the signatures, and the ratio of flat to `rank`."""
    tf.get_logger().setLevel("ERROR")  # its loader for sessions is said to be deprecated
    with tempfile.TemporaryDirectory() as directory:
        model_dir, files = config.model_dir, config.files
        if not model_dir:
            model_dir, files = _train(config, directory)
        trained = trained_model.load_model(model_dir)
        pool = _read_pool(trained.schema, find_source(files, split=config.split))
        path = os.path.join(directory, "saved_model")
        widths = _choose_widths(pool, trained.schema)
        saved_model.save(trained.model, trained.schema, path, widths=widths)
        arms = _build_arms(_load(path), pool, trained.schema, config, widths=widths)
        _describe(pool, trained.schema, config)
        _report(arms, [_repetition(arms, config.calls) for _ in range(config.repetitions)], config)


def _train(config: BenchmarkConfig, directory: str) -> tuple[str, str]:
    """Returns a model directory and its records: one epoch on logs of Ali-CCP's shape."""
    logs, model_dir = os.path.join(directory, "logs"), os.path.join(directory, "model")
    command.generate(
        command.SyntheticConfig(
            output_dir=logs,
            num_impressions=config.num_impressions,
            click_rate=0.1,
            conversion_rate=0.1,
        )
    )
    train(
        TrainConfig(train_files=logs, model_dir=model_dir),
        ModelConfig(),
        OptimizerConfig(),
        InputConfig(),
        GuardConfig(),
    )
    return model_dir, logs


def _read_pool(schema: Schema, source: Source) -> list[Impression]:
    """Returns impressions in the order of the files."""
    return list(itertools.islice(read_impressions(source, schema), _POOL))


def _choose_widths(pool: Sequence[Impression], schema: Schema) -> dict[str, int]:
    """Returns powers of two that hold the impressions, as an export has them."""
    counts = dense_inputs.count_values(parse_examples(pool), schema)
    return {name: 1 << max(count - 1, 0).bit_length() for name, count in counts.items()}


def _load(path: str) -> Callable[[str], tuple[Any, list[str]]]:
    """Returns a function of a signature: to its callable and the names of its inputs in order."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def

    def build(signature: str) -> tuple[Any, list[str]]:
        inputs, outputs = signatures[signature].inputs, signatures[signature].outputs
        names = sorted(inputs)
        call = session.make_callable(
            [outputs[output].name for output in keys.PROBABILITIES],
            feed_list=[inputs[name].name for name in names],
        )
        return call, names

    return build


def _build_arms(
    build: Callable[[str], tuple[Any, list[str]]],
    pool: Sequence[Impression],
    schema: Schema,
    config: BenchmarkConfig,
    *,
    widths: Mapping[str, int],
) -> list[Arm]:
    """Returns what is compared; flat Examples and `rank` are of the same users and candidates."""

    def arm(
        signature: str, batches: Sequence[Sequence[Impression]], whose: str = "", **parts: slice
    ) -> Arm:
        call, names = build(signature)
        requests = []
        for batch in batches:
            request = build_request(signature, batch, schema, widths=widths)
            requests.append([request[name][parts.get(name, slice(None))] for name in names])
        return Arm(f"{signature}, {len(batches[0])}{whose}", len(batches[0]), call, requests)

    mixed = [pool[index] for index in np.random.default_rng(1).permutation(len(pool))]
    arms = [
        arm(SERVING_DEFAULT, _batches(mixed, size, config.users)) for size in config.batch_sizes
    ]
    arms.append(arm(PREDICT_TENSORS, _batches(mixed, config.batch_sizes[-1], config.users)))
    ranked = [
        [Impression(user.context, impression.candidate) for impression in batch]
        for user, batch in zip(
            _users(pool, config), _batches(mixed, config.num_candidates, config.users), strict=True
        )
    ]
    whose = " of one user"
    return [*arms, arm(SERVING_DEFAULT, ranked, whose), arm(RANK, ranked, whose, context=slice(1))]


def _users(pool: Sequence[Impression], config: BenchmarkConfig) -> list[Impression]:
    """Returns evenly spaced impressions: users are taken as often as they have impressions."""
    return [pool[number * len(pool) // config.users] for number in range(config.users)]


def _batches(every: Sequence[Impression], size: int, count: int) -> list[list[Impression]]:
    taken = take(every, size * count)
    return [taken[start : start + size] for start in range(0, len(taken), size)]


def _repetition(arms: Sequence[Arm], calls: int) -> list[Times]:
    """Returns the times of each arm; arms take turns, and the first call of each is not counted."""
    repetition = [Times() for _ in arms]
    for number in range(-1, calls):
        for arm, times in zip(arms, repetition, strict=True):
            request = arm.requests[number % len(arm.requests)]
            processor, wall = time.process_time(), time.perf_counter()
            arm.call(*request)
            if number >= 0:
                times.wall.append(time.perf_counter() - wall)
                times.processor.append(time.process_time() - processor)
    return repetition


def _describe(pool: Sequence[Impression], schema: Schema, config: BenchmarkConfig) -> None:
    """Prints the machine and how many values a request holds."""
    singles = len(schema.features) - len(dense_inputs.many_valued(schema))
    counts = [
        singles + sum(dense_inputs.count_values([example], schema).values())
        for example in parse_examples(_users(pool, config))
    ]
    print(
        f"{os.cpu_count()} cores, TensorFlow {tf.__version__}; an impression of a ranked user has "
        f"{statistics.mean(counts):.0f} values ({min(counts)} to {max(counts)})"
    )


def _report(
    arms: Sequence[Arm], repetitions: Sequence[Sequence[Times]], config: BenchmarkConfig
) -> None:
    heads = [f"p{percentile} ms" for percentile in _PERCENTILES]
    print(f"\n| signature, impressions | {' | '.join(heads)} | impressions/s | processor ms |")
    print(f"|---|{'---|' * (len(heads) + 2)}")
    for index, arm in enumerate(arms):
        runs = [repetition[index] for repetition in repetitions]
        cells = [
            _spread([float(np.percentile(run.wall, rank)) * _MS for run in runs])
            for rank in _PERCENTILES
        ]
        cells.append(_spread([arm.batch_size / statistics.mean(run.wall) for run in runs], ",.0f"))
        cells.append(_spread([statistics.mean(run.processor) * _MS for run in runs]))
        print(f"| {arm.name} | {' | '.join(cells)} |")
    print()
    flat, ranked = ([repetition[index] for repetition in repetitions] for index in (-2, -1))
    _print_ratio("median latency", flat, ranked, lambda run: statistics.median(run.wall), config)
    _print_ratio("processor time", flat, ranked, lambda run: sum(run.processor), config)


def _print_ratio(
    name: str,
    flat: Sequence[Times],
    ranked: Sequence[Times],
    cost: Callable[[Times], float],
    config: BenchmarkConfig,
) -> None:
    ratios = [cost(run) / cost(peer) for run, peer in zip(flat, ranked, strict=True)]
    print(
        f"{name} of {config.num_candidates} flat Examples: {_spread(ratios)} times that of `rank`, "
        f"median and range of {len(ratios)} repetitions"
    )


def _spread(values: Sequence[float], form: str = ".1f") -> str:
    middle = format(statistics.median(values), form)
    return f"{middle} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
