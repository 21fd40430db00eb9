"""Fixtures shared by the tests: one schema with every kind of feature, and a data set of it."""

import dataclasses
import importlib
import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

# What tests start inherits these: several workers share a few cores, and most work is to start.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "SPARK_CONF_DIR": str(pathlib.Path(__file__).parent / "spark"),
    "SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow

# isort: split
import hypothesis
import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.config.training import InputConfig, ModelConfig, OptimizerConfig, TrainConfig
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.methods import load_method
from esmm_tf.schema import columns
from esmm_tf.schema import schema as schema_lib
from esmm_tf.training import model_directory, trained_model

hypothesis.settings.register_profile("tests", deadline=None, max_examples=25, database=None)
hypothesis.settings.load_profile("tests")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests of Spark where Java is missing, and lets the files with slow tests begin.

    Were they not the first, a worker would be left with one at the end.
    """
    if not shutil.which("java"):
        for item in items:
            if item.get_closest_marker("spark"):
                item.add_marker(pytest.mark.skip(reason="Spark needs Java 17"))
    slow = {
        item.path for item in items if {"slow", "spark"} & {m.name for m in item.iter_markers()}
    }
    items.sort(key=lambda item: item.path not in slow)  # stable: a file stays together


BuildGroup = Callable[[int, int], dict[str, Any]]


def _context(name: str, dtype: str, column: columns.Column, **more: Any) -> schema_lib.Feature:
    return schema_lib.Feature(name=name, side="context", dtype=dtype, column=column, **more)


def _impression(name: str, dtype: str, column: columns.Column, **more: Any) -> schema_lib.Feature:
    return schema_lib.Feature(name=name, side="impression", dtype=dtype, column=column, **more)


@pytest.fixture(autouse=True)
def _commands_end_without_ending_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a command that is called in this process end as where tensorflow-io is not installed.

    Where it is, a command's last act is `os._exit`.
    """
    monkeypatch.delitem(sys.modules, "tensorflow_io", raising=False)


@pytest.fixture
def hide_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Returns a function that lets a module look as if it were not installed."""
    load = importlib.import_module

    def hide(missing: str) -> None:
        def find(name: str) -> Any:
            if name == missing:
                raise ModuleNotFoundError(f"No module named {name!r}")
            return load(name)

        monkeypatch.setattr(importlib, "import_module", find)

    return hide


@pytest.fixture(scope="session")
def schema() -> schema_lib.Schema:
    """Returns a schema that uses everything a schema can hold."""
    hashed = columns.HashBucketColumn(hash_buckets=100)
    return schema_lib.Schema(
        name="shop",
        features=(
            _context("user", "int64", hashed),
            _context("interests", "int64", hashed, values="many", weighted=True, combiner="mean"),
            _context(
                "query",
                "string",
                columns.VocabularyColumn(
                    values=("shoes", "hats"), out_of_vocabulary="hash", oov_buckets=3
                ),
                values="optional",
                missing="embed",
            ),
            _context(
                "age",
                "float32",
                columns.NumericColumn(scaling="standard", mean=40.0, stddev=12.5),
                values="optional",
                missing="indicator",
            ),
            _impression("item", "int64", columns.IdentityColumn(vocabulary_size=50)),
            _impression("boost", "int64", hashed, weighted=True),
            _impression("brand", "string", hashed, values="optional", table="brands"),
            _impression("tags", "string", hashed, values="many", weighted=True, table="brands"),
            _impression("visits", "int64", hashed, values="many"),
            _impression("price", "float32", columns.NumericColumn(scaling="log")),
            _impression("stock", "int64", columns.NumericColumn(), values="optional"),
            _impression(
                "discount",
                "float32",
                columns.BucketizedColumn(boundaries=(0.1, 0.5)),
                values="optional",
            ),
        ),
        tables=(
            schema_lib.Table(name="brands", embedding_dim=4, initializer="uniform"),
            schema_lib.Table(name="item", initializer_scale=0.01),
        ),
        keys=(
            schema_lib.Key(name="request", side="context", dtype="string"),
            schema_lib.Key(name="sample", side="impression", dtype="int64"),
        ),
        labels=schema_lib.Labels(
            click="clicked", conversion="bought", example_weight="sample_weight"
        ),
        group_key="request",
        carry=("sample", "user"),
        oracle=True,
    )


@pytest.fixture(scope="session")
def build_group() -> BuildGroup:
    """Returns a function of a first sample id and a number of impressions that makes a group.

    The impression `n` clicks if `n` is even and converts if 4 divides it; its price is `n`.
    """

    def build(first: int, num_impressions: int) -> dict[str, Any]:
        samples = np.arange(first, first + num_impressions)
        return {
            "user": [first],
            "interests": [7, 8],
            "interests:weight": [0.5, 1.5],
            "query": ["shoes"],
            "age": [30.5],
            "item": samples % 50,
            "boost": samples,
            "boost:weight": np.full(num_impressions, 2.5),
            "brand": ["acme"],
            "brand:lengths": [1] + [0] * (num_impressions - 1),
            "tags": ["new", "sale"],
            "tags:weight": [0.25, 0.75],
            "tags:lengths": [2] + [0] * (num_impressions - 1),
            "visits": [],
            "visits:lengths": [0] * num_impressions,
            "price": samples.astype(np.float32),
            "stock": samples,
            "stock:lengths": [1] * num_impressions,
            "discount:lengths": [0] * num_impressions,
            "request": [f"r{first}"],
            "sample": samples,
            "click": (samples % 2 == 0).astype(np.int64),
            "conversion": (samples % 4 == 0).astype(np.int64),
            "example_weight": np.full(num_impressions, 1.25),
            "oracle_pctr": np.full(num_impressions, 0.5),
            "oracle_pcvr": np.full(num_impressions, 0.125),
        }

    return build


@pytest.fixture(scope="session")
def finished_data_set(
    tmp_path_factory: pytest.TempPathFactory, schema: schema_lib.Schema, build_group: BuildGroup
) -> pathlib.Path:
    """Returns the directory of a data set, for reading only.

    Its split `train` is samples 0 to 38, in 12 groups of 1, 2, 3, 7, 1, 2, 3, 7, ... impressions
    on 3 shards, and its split `test` samples 1000 to 1003, one group on the first of 3.
    """
    directory = tmp_path_factory.mktemp("finished") / "data"
    first = 0
    with DataSetWriter(str(directory), schema, num_shards=3) as writer:
        for size in (1, 2, 3, 7) * 3:
            writer.write("train", build_group(first, size))
            first += size
        writer.write("test", build_group(1000, 4))
    return directory


@pytest.fixture
def data_set(finished_data_set: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Returns a copy of `finished_data_set` that a test may change."""
    return pathlib.Path(shutil.copytree(finished_data_set, tmp_path / "data"))


@pytest.fixture(scope="session")
def served_schema(
    schema: schema_lib.Schema, tmp_path_factory: pytest.TempPathFactory
) -> schema_lib.Schema:
    """Returns `schema` with its vocabulary in a file, and with all three combiners."""
    path = tmp_path_factory.mktemp("vocabulary") / "query.txt"
    path.write_text("shoes\nhats\n", encoding="utf-8")
    query = columns.VocabularyColumn(
        file=str(path), file_size=2, out_of_vocabulary="hash", oov_buckets=3
    )
    changes = {"query": {"column": query}, "visits": {"combiner": "sqrtn"}}
    features = tuple(
        dataclasses.replace(feature, **changes.get(feature.name, {})) for feature in schema.features
    )
    return dataclasses.replace(schema, features=features)


@pytest.fixture(scope="session")
def varied_groups() -> list[dict[str, Any]]:
    """Returns 8 groups of 1 to 4 impressions with present, absent, known and unknown values."""
    rng = np.random.default_rng(7)
    groups = []
    first = 2000
    for size in (1, 4, 2, 3, 1, 2, 4, 3):
        samples = np.arange(first, first + size)
        clicks = (samples % 3 > 0).astype(np.int64)
        group = {
            "user": [first],
            "interests": rng.integers(0, 1000, first % 3),
            "interests:weight": rng.uniform(0.5, 2.0, first % 3),
            "query": [["shoes"], ["boots"], []][first % 3],
            "age": [30.5][: first % 2],
            "item": rng.integers(-5, 60, size),
            "boost": samples,
            "boost:weight": rng.uniform(0.5, 2.0, size),
            "price": rng.uniform(0.0, 100.0, size),
            "request": [f"request {first}"],
            "sample": samples,
            "click": clicks,
            "conversion": clicks * (samples % 2),
            "example_weight": rng.uniform(0.5, 2.0, size),
            "oracle_pctr": rng.uniform(0.1, 0.9, size),
            "oracle_pcvr": rng.uniform(0.1, 0.9, size),
        }
        for name, most in {"brand": 1, "tags": 3, "visits": 3, "stock": 1, "discount": 1}.items():
            lengths = rng.integers(0, most + 1, size)
            values = rng.integers(0, 9, lengths.sum())
            if name in ("brand", "tags"):
                values = np.array([f"{name} {value}" for value in values], dtype=object)
            group[name] = values / 10 if name == "discount" else values
            group[f"{name}:lengths"] = lengths
        group["tags:weight"] = rng.uniform(0.5, 2.0, len(group["tags"]))
        groups.append(group)
        first += size
    return groups


@pytest.fixture(scope="session")
def scored_data(
    schema: schema_lib.Schema,
    varied_groups: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
    """Returns a data set whose split `test` is `varied_groups` on one shard: 20 impressions."""
    directory = tmp_path_factory.mktemp("scored") / "data"
    with DataSetWriter(str(directory), schema, num_shards=1) as writer:
        for group in varied_groups:
            writer.write("test", group)
    return directory


@pytest.fixture(scope="session")
def model_dir(
    served_schema: schema_lib.Schema, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """Returns a model directory of `served_schema` with random weights, for reading only."""
    directory = tmp_path_factory.mktemp("model") / "model_dir"
    settings = model_directory.Settings(
        train=TrainConfig(train_files="data", model_dir=str(directory)),
        model=ModelConfig(embedding_dim=2, hidden_units=(4,)),
        optimizer=OptimizerConfig(),
        input=InputConfig(),
    )
    model = load_method(settings.method.method).build(served_schema, settings.model)
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0.0, 0.5, weight.shape) for weight in model.get_weights()])
    model_directory.save_settings(settings, served_schema, str(directory))
    model_directory.save_history([{"train": {"impressions_per_second": 1234.5}}], str(directory))
    weights = str(directory / model_directory.WEIGHTS)
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), weights, max_to_keep=1).save()
    return directory


@pytest.fixture(scope="session")
def trained(model_dir: pathlib.Path) -> trained_model.TrainedModel:
    """Returns the model of `model_dir`."""
    return trained_model.load_model(str(model_dir))
