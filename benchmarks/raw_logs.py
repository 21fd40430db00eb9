"""`python -m benchmarks.raw_logs`: a model of raw logs beside one of the records they stand for.

One simulated log is written twice: as records by the simulator itself, and as raw files in
Tianchi's format, which `esmm_pipelines.ali_ccp` converts, truth included. A model of either is
measured on the same test impressions.
"""

import dataclasses
import pathlib
import tempfile

import numpy as np

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_pipelines.ali_ccp.command import AliCcpConfig, convert
from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.grouping.config import DataSetConfig
from esmm_pipelines.synthetic.command import SyntheticConfig, generate
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
from esmm_tf.data.source import find_source
from esmm_tf.evaluation import evaluation
from esmm_tf.evaluation.scores import collect_scores
from esmm_tf.training import trained_model
from esmm_tf.training.run import train

_READ = InputConfig(batch_size=4096, shuffle_buffer=0, num_readers=1)
_TASKS = ("ctr", "cvr_clicked", "ctcvr", "cvr_entire")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to run; the rates are those of `make demo`."""

    num_impressions: int = setting(500_000, help="impressions of the log")
    click_rate: float = setting(0.1, help="clicks per impression")
    conversion_rate: float = setting(0.1, help="conversions per click")
    epochs: int = setting(2, help="passes over the training records")
    seeds: int = setting(3, help="number of models of each")


def main(config: BenchmarkConfig) -> None:
    """Prints test AUCs of both models: mean and standard deviation over seeds."""
    with tempfile.TemporaryDirectory() as directory:
        records = _records(config, pathlib.Path(directory))
        print("| test AUC | " + " | ".join(records) + " |\n|---|" + "---|" * len(records))
        results: dict[str, list[dict[str, float]]] = {name: [] for name in records}
        for seed in range(1, config.seeds + 1):
            for name, path in records.items():
                model_dir = f"{directory}/model_{name.replace(' ', '_')}_{seed}"
                results[name].append(_aucs(config, path, model_dir=model_dir, seed=seed))
    for task in _TASKS:
        aucs = [np.array([run[task] for run in runs]) for runs in results.values()]
        cells = (f"{auc.mean():.4f} ± {auc.std(ddof=1):.4f}" for auc in aucs)
        print(f"| {task} | " + " | ".join(cells) + " |")


def _records(config: BenchmarkConfig, directory: pathlib.Path) -> dict[str, str]:
    """Returns where each way has left its records."""
    raw, direct, converted = (str(directory / name) for name in ("raw", "direct", "converted"))
    log = SyntheticConfig(
        output_dir=direct,
        num_impressions=config.num_impressions,
        click_rate=config.click_rate,
        conversion_rate=config.conversion_rate,
    )
    generate(log)
    generate(dataclasses.replace(log, output_dir=raw, format="ali_ccp_raw", label_anomaly_rate=0.0))
    convert(
        AliCcpConfig(
            skeleton=(f"{raw}/sample_skeleton_train.csv",),
            common_features=(f"{raw}/common_features_train.csv",),
            oracle=(f"{raw}/oracle_train.csv",),
            test_skeleton=(f"{raw}/sample_skeleton_test.csv",),
            test_common_features=(f"{raw}/common_features_test.csv",),
            test_oracle=(f"{raw}/oracle_test.csv",),
            validation_share=log.validation_share / (1 - log.test_share),
            vocabulary_min_count=1,
        ),
        DataSetConfig(output_dir=converted),
        EngineConfig(),
    )
    return {"direct records": direct, "raw files": converted}


def _aucs(config: BenchmarkConfig, records: str, *, model_dir: str, seed: int) -> dict[str, float]:
    """Returns the test AUCs of one model."""
    train(
        TrainConfig(train_files=records, model_dir=model_dir, epochs=config.epochs, seed=seed),
        ModelConfig(),
        OptimizerConfig(),
        InputConfig(),
        GuardConfig(),
    )
    trained = trained_model.load_model(model_dir)
    source = find_source(records, split=keys.TEST)
    scores = collect_scores(trained.model, trained.schema, source, _READ)
    tasks = evaluation.evaluate_scores(scores).evaluation.tasks
    return {task: tasks[task].auc for task in _TASKS}


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
