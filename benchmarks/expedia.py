"""`python -m benchmarks.expedia --input=train.csv`: ESMM on Expedia's searches, several seeds.

Runs the commands of the README: the records are written once, the model is trained and evaluated
once per seed. Boosted trees from scikit-learn on the same columns and splits stand beside it.
"""

import dataclasses
import os
import shutil
import tempfile

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_pipelines import expedia
from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.grouping.config import DataSetConfig, SplitConfig
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
from esmm_tf.data import input_fn
from esmm_tf.data.source import Source, find_source
from esmm_tf.evaluation.scores import collect_scores
from esmm_tf.metrics import exact
from esmm_tf.schema import toml_file
from esmm_tf.schema.columns import NumericColumn
from esmm_tf.schema.schema import Schema
from esmm_tf.training import trained_model
from esmm_tf.training.run import train

_SPLITS = (keys.TRAIN, keys.VALIDATION, keys.TEST)
_READ = InputConfig(batch_size=4096, shuffle_buffer=0, num_readers=1)
_ROWS = ("ctr", "cvr_clicked", "cvr_clicked, random_bool=0", "ctcvr")
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What to run."""

    input: str = setting(help="the competition's train.csv, or a sample of whole searches")
    seeds: int = setting(5, help="number of seeds")
    epochs: int = setting(30, help="passes over the training records, at most")
    early_stopping_patience: int = setting(4, help="epochs without a lower validation loss")
    batch_size: int = setting(256, help="impressions in a batch, at most")
    learning_rate: float = setting(0.0003, help="step size of Adam")


def main(config: BenchmarkConfig) -> None:
    """Prints the test AUCs of ESMM and of boosted trees: mean and standard deviation over seeds."""
    directory = tempfile.mkdtemp(prefix="esmm_tf_expedia_")
    try:
        records = os.path.join(directory, "records")
        expedia.convert(
            expedia.ExpediaConfig(input=config.input),
            SplitConfig(),
            DataSetConfig(output_dir=records),
            EngineConfig(),
        )
        results: dict[str, list[dict[str, float]]] = {"ESMM": [], "boosted trees": []}
        for seed in range(1, config.seeds + 1):
            model_dir = os.path.join(directory, f"model_{seed}")
            results["ESMM"].append(_esmm(config, records, model_dir, seed))
            results["boosted trees"].append(_trees(records, seed))
        _print_table(results)
    finally:
        shutil.rmtree(directory)


def _esmm(config: BenchmarkConfig, records: str, model_dir: str, seed: int) -> dict[str, float]:
    train(
        TrainConfig(
            train_files=records,
            validation_files=records,
            model_dir=model_dir,
            epochs=config.epochs,
            early_stopping_patience=config.early_stopping_patience,
            seed=seed,
        ),
        ModelConfig(),
        OptimizerConfig(learning_rate=config.learning_rate),
        InputConfig(batch_size=config.batch_size),
        GuardConfig(),
    )
    trained = trained_model.load_model(model_dir)
    source = find_source(records, split=keys.TEST)
    scores = collect_scores(trained.model, trained.schema, source, _READ)
    test = _columns(trained.schema, source)
    return _aucs(test, ctr=scores.ctr_logits, cvr=scores.cvr_logits, ctcvr=scores.ctcvr_logits)


def _trees(records: str, seed: int) -> dict[str, float]:
    """Returns the AUCs of one forest for clicks and one for bookings of clicked hotels."""
    schema = toml_file.load_schema(os.path.join(records, keys.SCHEMA_FILE))
    data = {split: _columns(schema, find_source(records, split=split)) for split in _SPLITS}
    train, test = data[keys.TRAIN], data[keys.TEST]
    clicked = train[keys.CLICK] == 1
    ctr = _fit(train["features"], train[keys.CLICK], seed).predict_proba(test["features"])[:, 1]
    cvr_model = _fit(train["features"][clicked], train[keys.CONVERSION][clicked], seed)
    cvr = cvr_model.predict_proba(test["features"])[:, 1]
    return _aucs(test, ctr=ctr, cvr=cvr, ctcvr=ctr * cvr)


def _fit(features: np.ndarray, labels: np.ndarray, seed: int) -> HistGradientBoostingClassifier:
    model = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=100, max_leaf_nodes=15, random_state=seed
    )
    return model.fit(features, labels)


def _columns(schema: Schema, source: Source) -> Arrays:
    """Returns labels, `random_bool` and the numeric features of every impression."""
    parts: dict[str, list[np.ndarray]] = {}
    for batch in input_fn.build_dataset(source, schema, _READ, carry=True):
        groups = batch.group_index.numpy()
        columns = []
        for feature in schema.features:
            if isinstance(feature.column, NumericColumn):
                values = batch.features[feature.name].numpy()
                columns.append(values[groups] if feature.is_context else values)
        row = {name: labels.numpy() for name, labels in batch.labels.items()}
        row |= {
            "features": np.stack(columns, axis=1),
            "random_bool": batch.carry["random_bool"].numpy(),
        }
        for name, value in row.items():
            parts.setdefault(name, []).append(value)
    return {name: np.concatenate(values) for name, values in parts.items()}


def _aucs(test: Arrays, *, ctr: np.ndarray, cvr: np.ndarray, ctcvr: np.ndarray) -> dict[str, float]:
    click, conversion = test[keys.CLICK], test[keys.CONVERSION]
    clicked = click == 1
    logged = clicked & (test["random_bool"] == 0)

    def auc(scores: np.ndarray, labels: np.ndarray, space: np.ndarray) -> float:
        return exact.weighted_auc(scores[space], labels[space], 1 - labels[space])

    everywhere = np.ones_like(clicked)
    values = (
        auc(ctr, click, everywhere),
        auc(cvr, conversion, clicked),
        auc(cvr, conversion, logged),
        auc(ctcvr, conversion, everywhere),
    )
    return dict(zip(_ROWS, values, strict=True))


def _print_table(results: dict[str, list[dict[str, float]]]) -> None:
    print("\n| test AUC | " + " | ".join(results) + " |")
    print("|---|" + "---|" * len(results))
    for row in _ROWS:
        cells = []
        for runs in results.values():
            values = np.array([run[row] for run in runs])
            cells.append(f"{values.mean():.3f} ± {values.std(ddof=1):.3f}")
        print(f"| {row} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    flags.run(main, BenchmarkConfig)
