"""`python -m benchmarks.pipeline`: speed, memory and size of the Ali-CCP pipeline.

Raw files are simulated in Tianchi's format and converted by `esmm_pipelines.ali_ccp`, and by the
pandas implementation of `benchmarks.pandas_join`; the pipeline converts other sizes too.
"""

import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_pipelines.ali_ccp import fields
from esmm_pipelines.synthetic import command as synthetic
from esmm_tf.config import flags
from esmm_tf.config.fields import setting
from esmm_tf.data import manifest

_MIB = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to measure."""

    num_impressions: int = setting(2_000_000, help="impressions of the raw files")
    other_sizes: tuple[int, ...] = setting(
        (500_000, 8_000_000), help="impressions of further raw files, for the memory's curve"
    )
    peer_impressions: int = setting(
        100_000, help="impressions of --num_impressions that the pandas implementation converts"
    )
    repetitions: int = setting(3, help="how often --num_impressions are converted, either way")
    memory_limit: str = setting("1GB", help="memory of the pipeline's engine")
    directory: str = setting("", help="where to keep raw files; by default they are removed")


@dataclasses.dataclass(frozen=True)
class Run:
    """What one conversion took."""

    impressions: int
    seconds: float
    peak_mib: float
    bytes_read: int
    bytes_written: int

    @property
    def rate(self) -> float:
        """Returns impressions per second."""
        return self.impressions / self.seconds


def main(config: BenchmarkConfig) -> None:
    """Prints impressions/s, MB/s, peak memory and bytes per impression, beside pandas'."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = pathlib.Path(config.directory or temporary)
        raw = _raw_files(directory, config.num_impressions)
        ours: list[Run] = []
        peers: list[Run] = []
        parsed: list[Run] = []
        for _ in range(config.repetitions):  # in turn, so that both meet the same machine
            ours.append(_convert(config, raw, pathlib.Path(temporary)))
            peers.append(_convert_by_pandas(config, raw, pathlib.Path(temporary)))
            parsed.append(_convert_by_pandas(config, raw, pathlib.Path(temporary), "--parsed"))
        _report("esmm_pipelines.ali_ccp", ours)
        for name, runs in (("pandas", peers), ("pandas, contexts parsed once", parsed)):
            _report(name, runs)
            ratios = [own.rate / run.rate for own, run in zip(ours, runs, strict=True)]
            print(f"speed: {_spread(ratios, '.1f')} times that of {name}", flush=True)
        own, peer = ours[0], peers[0]
        ratio = peer.bytes_written / peer.impressions * own.impressions / own.bytes_written
        print(f"size: {ratio:.1f} times smaller than flat records")
        for size in config.other_sizes:
            run = _convert(config, _raw_files(directory, size), pathlib.Path(temporary))
            _report("esmm_pipelines.ali_ccp", [run])
            ours.append(run)
        largest = max(ours, key=lambda run: run.impressions)
        minutes = fields.NUM_IMPRESSIONS / largest.rate / 60
        print(
            f"Ali-CCP's {fields.NUM_IMPRESSIONS:,} training rows at the rate of the "
            f"largest: {minutes:.0f} minutes"
        )


def _raw_files(directory: pathlib.Path, num_impressions: int) -> pathlib.Path:
    """Returns the directory of raw files, which are simulated if they are not there."""
    raw = directory / f"raw_{num_impressions}"
    if not (raw / "sample_skeleton_train.csv").exists():
        config = synthetic.SyntheticConfig(
            format="ali_ccp_raw",
            output_dir=str(raw),
            num_impressions=num_impressions,
            test_share=0.0,
        )
        synthetic.generate(config)
    return raw


def _convert(config: BenchmarkConfig, raw: pathlib.Path, directory: pathlib.Path) -> Run:
    output = directory / "records"
    skeleton, common = _files(raw)
    command = [
        "esmm_pipelines.ali_ccp",
        f"--skeleton={skeleton}",
        f"--common_features={common}",
        f"--output_dir={output}",
        f"--temp_dir={directory}",
        f"--memory_limit={config.memory_limit}",
        "--overwrite",
    ]
    seconds, peak = _measure(command)
    data_set = manifest.load_manifest(str(output))
    written = sum(path.stat().st_size for path in output.glob("*.tfrecord"))
    impressions = sum(map(data_set.impressions, data_set.splits))
    return Run(impressions, seconds, peak, _size(skeleton, common), written)


def _convert_by_pandas(
    config: BenchmarkConfig, raw: pathlib.Path, directory: pathlib.Path, *extra: str
) -> Run:
    output = directory / "flat.tfrecord"
    skeleton, common = _files(raw)
    command = [
        "benchmarks.pandas_join",
        f"--skeleton={skeleton}",
        f"--common_features={common}",
        f"--output={output}",
        *extra,
    ]
    # What every run takes, whatever its impressions, is subtracted in pandas' favour: above all
    # the making of the dict.
    fixed, _ = _measure([*command, "--num_impressions=1"])
    seconds, peak = _measure([*command, f"--num_impressions={config.peer_impressions}"])
    read = _size(skeleton) * config.peer_impressions // config.num_impressions
    written = output.stat().st_size
    return Run(config.peer_impressions, seconds - fixed, peak, read, written)


def _measure(command: Sequence[str]) -> tuple[float, float]:
    """Returns seconds and peak memory, MiB, of `python -m` with that command."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL)  # noqa: S603 - our own command
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command[0]} failed with status {status}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def _files(raw: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    return raw / "sample_skeleton_train.csv", raw / "common_features_train.csv"


def _size(*paths: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in paths)


def _report(name: str, runs: Sequence[Run]) -> None:
    print(
        f"{name}, {runs[0].impressions:,} impressions: "
        f"{_spread([run.rate for run in runs], ',.0f')} impressions/s, "
        f"{statistics.median(run.bytes_read / run.seconds / 1e6 for run in runs):.1f} MB/s, "
        f"peak memory {max(run.peak_mib for run in runs):,.0f} MiB, "
        f"{runs[0].bytes_written / runs[0].impressions:,.0f} bytes per impression",
        flush=True,
    )


def _spread(values: Sequence[float], form: str) -> str:
    middle = format(statistics.median(values), form)
    return f"{middle} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
