"""`python -m esmm_pipelines.validate`: statistics of a data set, and what is wrong with it.

One pass counts every value; a second one scores features of many values. Ends with exit code 1 if
there are findings.
"""

import dataclasses
import os
from typing import Any, NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_pipelines.validation import drift, findings, report, statistics
from esmm_pipelines.validation.collector import Collector
from esmm_pipelines.validation.findings import ThresholdConfig
from esmm_tf import keys
from esmm_tf.config import flags
from esmm_tf.config.fields import setting
from esmm_tf.data import manifest
from esmm_tf.data.numpy_batches import read_batches
from esmm_tf.data.source import Source, find_source
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file
from esmm_tf.schema.schema import Schema
from esmm_tf.training import label_leaks

_ALL = "all"
_HAS_FINDINGS = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Which data set to describe, and what to compare it with."""

    data_dir: str = setting(help="directory of the data set")
    split: str = setting(
        "", help="split to read, or 'all'; by default 'train' if there is one, else all"
    )
    schema: str = setting("", help="schema file; by default schema.toml of the data set")
    baseline: str = setting(
        "",
        help="what to compare with: a data set's directory, or a .json file that --output wrote; "
        "with --baseline_split alone, the same data set",
    )
    baseline_split: str = setting(
        "", help="split of the baseline, or 'all'; by default as for --split"
    )
    leaks: bool = setting(
        True, help="measure what each feature alone predicts; about doubles the time"
    )
    output: str = setting("", help="JSON file to write; it can be a later run's --baseline")

    def __post_init__(self) -> None:
        if self.baseline.endswith(".json") and self.baseline_split:
            raise UserError(
                f"--baseline_split is {self.baseline_split!r} and --baseline is a file, which "
                "holds one split. Leave out --baseline_split, or name a directory."
            )


def main(config: ValidateConfig, thresholds: ThresholdConfig) -> None:
    """Prints statistics of a data set and its differences from a baseline; exits 1 on findings.

    Raises:
      SystemExit: with code 1 if there are findings.
    """
    source = find_split(config.data_dir, config.split)
    schema = toml_file.load_schema(config.schema or os.path.join(config.data_dir, keys.SCHEMA_FILE))
    baseline = load_baseline(config, schema)  # a wrong one is told before the data set is read
    described = describe(source, schema, measure_leaks=config.leaks)
    differences = drift.compare_statistics(described, baseline) if baseline is not None else None
    data_findings = findings.find_all(described, source, differences, thresholds)
    print(report.format_report(described, differences, data_findings))
    if config.output:
        tree: dict[str, Any] = statistics.to_tree(described) | {
            "differences": None if differences is None else dataclasses.asdict(differences),
            "findings": [dataclasses.asdict(finding) for finding in data_findings],
        }
        statistics.write_json(tree, config.output)
        print(f"wrote {config.output}")
    if data_findings:
        raise SystemExit(_HAS_FINDINGS)


def find_split(directory: str, split: str) -> Source:
    """Returns the shards of a split, of all splits for `all`, or by default those of `train`.

    Raises:
      UserError: if the directory is no data set, has no such split, or is to be read as a whole and
        only some splits were sampled.
    """
    data_set = manifest.load_manifest(directory)
    splits = data_set.splits
    if split and split != _ALL:
        return find_source(directory, split=split)
    if not split and keys.TRAIN in splits:
        return find_source(directory, split=keys.TRAIN)
    rates = {name: data_set.keep_rate(name) for name in splits}
    if len(set(rates.values())) > 1:
        raise UserError(
            f"The splits of {directory!r} have different --negative_keep_rate ({rates}), so that "
            "no rate of all would mean anything. Read one of them with --split or --baseline_split."
        )
    files = [os.path.join(directory, shard.file) for shards in splits.values() for shard in shards]
    return find_source(",".join(files), split=_ALL)


def describe(source: Source, schema: Schema, *, measure_leaks: bool) -> statistics.DataStatistics:
    """Returns the statistics of all features, with `aucs` if leaks are measured."""
    collector, meter = Collector(schema), label_leaks.LeakMeter(schema)
    for batch in read_batches(source, schema):
        collector.add(batch)
        if measure_leaks:
            meter.add(batch)
    result = dataclasses.replace(
        collector.result(_name(source)), negative_keep_rate=source.negative_keep_rate
    )
    if not measure_leaks:
        return result
    if meter.needs_scores:
        meter.score(read_batches(source, schema))
    aucs = meter.result()
    features = [dataclasses.replace(f, aucs=aucs[f.name]) for f in result.features]
    return dataclasses.replace(result, features=tuple(features))


def load_baseline(config: ValidateConfig, schema: Schema) -> statistics.DataStatistics | None:
    """Returns the statistics to compare with, if a baseline is named.

    A data set is read by `schema` if its records have that layout, so that columns agree, and else
    by its own schema.
    """
    if config.baseline.endswith(".json"):
        return statistics.load_json(config.baseline)
    if not config.baseline and not config.baseline_split:
        return None
    directory = config.baseline or config.data_dir
    source = find_split(directory, config.baseline_split)
    if source.schema_hash != schema.record_hash():
        schema = toml_file.load_schema(os.path.join(directory, keys.SCHEMA_FILE))
    return describe(source, schema, measure_leaks=False)


def _name(source: Source) -> str:
    splits = {os.path.basename(file).rsplit("-", 3)[0] for file in source.files}
    return f"{source.directory} ({', '.join(sorted(splits))})"


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(main, ValidateConfig, ThresholdConfig)


if __name__ == "__main__":
    run()
