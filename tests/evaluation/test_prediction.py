"""Predictions as rows of a file."""

import csv
import importlib
import json
import os
import re

import numpy as np
import pyarrow.parquet
import pytest

from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn
from esmm_tf.data.source import find_source
from esmm_tf.errors import UserError
from esmm_tf.evaluation import prediction

FIRST = {
    "sample": np.array([7, 2**62]),
    "request": np.array(["schöne Schuhe", 'a,"b"\nc'], dtype=object),
    "pctr": np.array([0.1, 1e-9], np.float32),
    "pcvr": np.array([0.2, 0.7], np.float32),
    "pctcvr": np.array([0.02, 7e-10], np.float32),
}
SECOND = {
    "sample": np.array([9]),
    "request": np.array([""], dtype=object),
    "pctr": np.array([1 / 3], np.float32),
    "pcvr": np.array([0.25], np.float32),
    "pctcvr": np.array([1 / 12], np.float32),
}


def read_rows(path):
    """Returns the rows of a file of predictions as dictionaries of the types of `FIRST`."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    with path.open(encoding="utf-8", newline="") as file:
        types = {"sample": int, "request": str, "user": int}
        return [{k: types.get(k, float)(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def batches(trained, scored_data):
    """Returns the predictions of the 20 impressions, in batches of at most 6."""
    source = find_source(str(scored_data), split="test")
    config = InputConfig(batch_size=6)
    return list(prediction.Prediction(trained.model, trained.schema, source, config))


def test_predictions_are_the_models_probabilities_beside_the_carried_keys(
    trained, scored_data, varied_groups, batches
):
    source = find_source(str(scored_data), split="test")
    (batch,) = input_fn.build_dataset(source, trained.schema, InputConfig())

    outputs = trained.model(batch.features, training=False)

    assert len(batches) > 2
    columns = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
    assert list(columns) == ["sample", "user", "pctr", "pcvr", "pctcvr"]
    for name in ("pctr", "pcvr", "pctcvr"):
        assert columns[name].dtype == np.float32
        np.testing.assert_allclose(columns[name], outputs[name], rtol=1e-5)
    assert columns["sample"].tolist() == list(range(2000, 2020))
    users = [group["user"][0] for group in varied_groups for _ in group["click"]]
    assert columns["user"].tolist() == users


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("schöne Schuhe".encode(), "schöne Schuhe"),
        (b"caf\xe9", "caf\\xe9"),
        (b"", ""),
    ],
)
def test_bytes_are_text_and_what_is_not_utf_8_is_escaped(raw, text):
    values = prediction._text(np.array([raw, b"next"], dtype=object))

    assert values.tolist() == [text, "next"]


def test_integers_stay_integers():
    values = np.array([2**62])

    assert prediction._text(values) is values


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_file_holds_every_row_in_order_and_the_same_float32(tmp_path, ending):
    path = tmp_path / "new" / f"predictions.{ending}"

    num_rows = prediction.write_predictions(iter([FIRST, SECOND]), str(path))

    assert num_rows == 3
    rows = read_rows(path)
    assert list(rows[0]) == list(FIRST)
    for name in FIRST:
        expected = np.concatenate([FIRST[name], SECOND[name]])
        found = np.array([row[name] for row in rows], dtype=expected.dtype)
        assert found.tolist() == expected.tolist(), name
    assert os.listdir(path.parent) == [path.name]


def test_text_files_hold_the_shortest_decimal_of_a_float32_and_plain_unicode(tmp_path):
    for ending in ("jsonl", "csv"):
        prediction.write_predictions(iter([FIRST]), str(tmp_path / f"p.{ending}"))

    assert (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()[0] == (
        '{"sample": 7, "request": "schöne Schuhe", "pctr": 0.1, "pcvr": 0.2, "pctcvr": 0.02}'
    )
    assert (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()[:2] == [
        "sample,request,pctr,pcvr,pctcvr",
        "7,schöne Schuhe,0.1,0.2,0.02",
    ]


def test_a_parquet_file_keeps_the_types_of_the_columns(tmp_path):
    path = tmp_path / "predictions.parquet"

    prediction.write_predictions(iter([FIRST, SECOND]), str(path))

    types = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(path)}
    assert types == {
        "sample": "int64",
        "request": "string",
        "pctr": "float",
        "pcvr": "float",
        "pctcvr": "float",
    }


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_the_predictions_of_a_model_survive_the_file(tmp_path, batches, ending):
    path = tmp_path / f"predictions.{ending}"

    prediction.write_predictions(iter(batches), str(path))

    rows = read_rows(path)
    for name in batches[0]:
        expected = np.concatenate([batch[name] for batch in batches])
        found = np.array([row[name] for row in rows], dtype=expected.dtype)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("path", ["predictions.txt", "predictions", "a.parquet.gz"])
def test_another_ending_is_refused_before_anything_is_read(tmp_path, path):
    path = tmp_path / "new" / path
    message = f"--output is '{path}'. Its ending must be one of .jsonl, .csv, .parquet."

    def fail():
        raise AssertionError("read a batch")
        yield

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        prediction.write_predictions(fail(), str(path))

    assert os.listdir(tmp_path) == []


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    def find_nothing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", find_nothing)
    message = (
        "Parquet needs pyarrow. Install it with pip install 'esmm_tf[pipelines]', or write .jsonl "
        "or .csv."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        prediction.write_predictions(iter([FIRST]), str(tmp_path / "p.parquet"))


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_write_that_fails_keeps_the_older_file(tmp_path, ending):
    path = tmp_path / f"predictions.{ending}"
    prediction.write_predictions(iter([SECOND]), str(path))
    before = path.read_bytes()

    def broken():
        yield FIRST
        raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        prediction.write_predictions(broken(), str(path))

    assert path.read_bytes() == before


def test_a_file_in_the_current_directory_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    prediction.write_predictions(iter([SECOND]), "predictions.csv")

    assert len(read_rows(tmp_path / "predictions.csv")) == 1
