"""Fixtures shared by the tests: one schema with every kind of feature, and a data set of it."""

import pathlib
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest

import esmm_tf.startup  # noqa: F401 - holds back TensorFlow's start-up messages
from esmm_tf import schema as schema_lib
from esmm_tf import shards

hypothesis.settings.register_profile("tests", deadline=None, max_examples=25, database=None)
hypothesis.settings.load_profile("tests")

BuildGroup = Callable[[int, int], dict[str, Any]]


def _context(name: str, dtype: str, column: schema_lib.Column, **more: Any) -> schema_lib.Feature:
    return schema_lib.Feature(name=name, side="context", dtype=dtype, column=column, **more)


def _impression(
    name: str, dtype: str, column: schema_lib.Column, **more: Any
) -> schema_lib.Feature:
    return schema_lib.Feature(name=name, side="impression", dtype=dtype, column=column, **more)


@pytest.fixture(scope="session")
def schema() -> schema_lib.Schema:
    """Returns a schema that uses everything a schema can hold."""
    hashed = schema_lib.HashBucketColumn(hash_buckets=100)
    return schema_lib.Schema(
        name="shop",
        features=(
            _context("user", "int64", hashed),
            _context("interests", "int64", hashed, values="many", weighted=True, combiner="mean"),
            _context(
                "query",
                "string",
                schema_lib.VocabularyColumn(
                    values=("shoes", "hats"), out_of_vocabulary="hash", oov_buckets=3
                ),
                values="optional",
                missing="embed",
            ),
            _context(
                "age",
                "float32",
                schema_lib.NumericColumn(scaling="standard", mean=40.0, stddev=12.5),
                values="optional",
                missing="indicator",
            ),
            _impression("item", "int64", schema_lib.IdentityColumn(vocabulary_size=50)),
            _impression("boost", "int64", hashed, weighted=True),
            _impression("brand", "string", hashed, values="optional", table="brands"),
            _impression("tags", "string", hashed, values="many", weighted=True, table="brands"),
            _impression("visits", "int64", hashed, values="many"),
            _impression("price", "float32", schema_lib.NumericColumn(scaling="log")),
            _impression("stock", "int64", schema_lib.NumericColumn(), values="optional"),
            _impression(
                "discount",
                "float32",
                schema_lib.BucketizedColumn(boundaries=(0.1, 0.5)),
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


@pytest.fixture
def data_set(
    tmp_path: pathlib.Path, schema: schema_lib.Schema, build_group: BuildGroup
) -> pathlib.Path:
    """Returns the directory of a data set.

    Its split `train` is samples 0 to 38, in 12 groups of 1, 2, 3, 7, 1, 2, 3, 7, ... impressions
    on 3 shards, and its split `test` samples 1000 to 1003, one group on the first of 3.
    """
    directory = tmp_path / "data"
    first = 0
    with shards.DataSetWriter(str(directory), schema, num_shards=3) as writer:
        for size in (1, 2, 3, 7) * 3:
            writer.write("train", build_group(first, size))
            first += size
        writer.write("test", build_group(1000, 4))
    return directory
