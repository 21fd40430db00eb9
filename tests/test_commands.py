"""The commands as a user starts them."""

import contextlib
import io
import json
import runpy
import shutil
import sys

import pytest

from esmm_tf import evaluate, export, predict
from esmm_tf.config import flags
from esmm_tf.config.evaluation import EvaluateConfig, PredictConfig, ScoreConfig
from esmm_tf.config.serving import ExportConfig
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.estimator import estimator, evaluating


@pytest.fixture
def copied(model_dir, tmp_path):
    """Returns a model directory that a test may write to."""
    directory = tmp_path / "model_dir"
    shutil.copytree(model_dir, directory)
    return directory


@pytest.fixture(scope="module")
def evaluated(model_dir, scored_data, tmp_path_factory):
    """Returns a copied model directory that was evaluated with slices, and what was printed."""
    directory = tmp_path_factory.mktemp("evaluated") / "model_dir"
    shutil.copytree(model_dir, directory)
    score = ScoreConfig(model_dir=str(directory), files=str(scored_data))
    with contextlib.redirect_stdout(io.StringIO()) as output:
        evaluate.main(score, EvaluateConfig(slices=("query", "sample")))
    return directory, output.getvalue().splitlines()


def test_evaluate_writes_its_files_into_the_model_directory(evaluated, scored_data):
    directory, lines = evaluated

    result = json.loads((directory / "evaluation.json").read_text(encoding="utf-8"))

    assert result["impressions"] == 20
    assert result["model_dir"] == str(directory)
    assert result["files"] == [str(scored_data / "test-00000-of-00001.tfrecord")]
    assert result["negative_keep_rate"] == 1.0
    assert result["trained_impressions_per_second"] == 1234.5
    assert "comparison" not in result
    assert lines[-2:] == [
        "trained at 1,234 impressions/s",
        f"wrote {directory / 'evaluation.json'}, {directory / 'evaluation.scores.npz'}",
    ]


def test_evaluate_shows_each_task_and_then_each_beside_the_truth(evaluated):
    _, lines = evaluated

    shown = [line.split()[0] for line in lines[:12] if line]

    tasks = ["task", "ctr", "cvr_clicked", "ctcvr", "cvr_entire"]
    assert shown == [*tasks, "beside", *tasks]


def test_evaluate_measures_the_slices_that_are_named(evaluated):
    directory, lines = evaluated

    result = json.loads((directory / "evaluation.json").read_text(encoding="utf-8"))

    assert list(result["slices"]) == ["query", "sample"]
    assert set(result["slices"]["query"]) == {"shoes", "boots", "(missing)"}
    assert set(result["slices"]["sample"]) == {str(sample) for sample in range(2000, 2020)}
    shown = [line.split() for line in lines]
    heads = [words[0] for words in shown if words and words[-1] == "impressions"]
    assert heads == ["task", "query", "sample"]


def test_evaluate_tells_no_rate_that_was_not_measured(
    copied, data_set, tmp_path, monkeypatch, capsys
):
    history = [{"train": {"impressions_per_second": None}}]
    (copied / "history.json").write_text(json.dumps(history), encoding="utf-8")
    path = tmp_path / "new" / "other.json"
    score = ScoreConfig(model_dir=str(copied), files=str(data_set), split="train", batch_size=7)
    read, collect_scores = [], evaluating.collect_scores

    def record(model, schema, source, config, *, slices):
        read.append((source.impressions, config.batch_size))
        return collect_scores(model, schema, source, config, slices=slices)

    monkeypatch.setattr(evaluating, "collect_scores", record)
    evaluate.main(score, EvaluateConfig(output=str(path)))

    assert read == [(39, 7)]
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["impressions"] == 39
    assert result["trained_impressions_per_second"] is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"wrote {path}, {tmp_path / 'new' / 'other.scores.npz'}"
    assert not [line for line in lines if line.startswith("trained at")]
    assert not (copied / "evaluation.json").exists()


def test_one_baseline_is_given_and_not_two(capsys):
    argv = ["command", "--model_dir=m", "--files=f", "--baseline=a", "--baseline_model_dir=b"]

    with pytest.raises(SystemExit, match=r"^2$"):
        flags.run(evaluate.main, ScoreConfig, EvaluateConfig, argv=argv)

    error = capsys.readouterr().err
    assert "--baseline and --baseline_model_dir are both given. Give one of them." in error


def test_predict_writes_a_row_an_impression_of_the_split(
    model_dir, schema, build_group, tmp_path, capsys
):
    with DataSetWriter(str(tmp_path / "data"), schema, num_shards=1) as writer:
        for first in (0, 7, 14):
            writer.write("train", build_group(first, 7))
        writer.write("test", build_group(100, 4))
    path = tmp_path / "predictions.jsonl"
    data = str(tmp_path / "data")
    score = ScoreConfig(model_dir=str(model_dir), files=data, split="train", batch_size=7)

    predict.main(score, PredictConfig(output=str(path)))

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["sample"] for row in rows] == list(range(21))
    assert capsys.readouterr().out == f"wrote 21 impressions to {path}\n"


def test_export_passes_the_model_and_the_version_on(
    model_dir, served_schema, tmp_path, monkeypatch, capsys
):
    exported = []

    def record(trained, config):
        exported.append((trained.model.name, trained.schema.name, config.version))
        return f"{config.export_dir}/{config.version}"

    monkeypatch.setattr(estimator.exporter, "export", record)
    export.main(ExportConfig(model_dir=str(model_dir), export_dir=str(tmp_path), version=7))

    assert exported == [("esmm", served_schema.name, 7)]
    assert capsys.readouterr().out == f"wrote {tmp_path}/7\n"


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("train", "--early_stopping_patience"),
        ("evaluate", "--split"),
        ("predict", "--output"),
        ("export", "--version"),
    ],
)
def test_each_command_explains_its_flags(name, flag, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, f"esmm_tf.{name}", raising=False)
    monkeypatch.setattr("sys.argv", [name, "--help"])

    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module(f"esmm_tf.{name}", run_name="__main__")

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(".")
    assert {f"  {flag}", "  --model_dir", "  --flagfile"} <= set(lines)


@pytest.mark.parametrize(
    ("main", "config", "args"),
    [
        (evaluate.main, EvaluateConfig, []),
        (predict.main, PredictConfig, ["--output=p.csv"]),
    ],
)
def test_records_of_another_schema_than_the_models_are_refused(
    main, config, args, model_dir, schema, build_group, tmp_path, capsys
):
    with DataSetWriter(str(tmp_path), schema, num_shards=1) as writer:
        writer.write("test", build_group(0, 1))
    path = tmp_path / "manifest.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(tree | {"schema_hash": "0" * 16}), encoding="utf-8")
    argv = ["command", f"--model_dir={model_dir}", f"--files={tmp_path}", *args]

    with pytest.raises(SystemExit, match=r"^2$"):
        flags.run(main, ScoreConfig, config, argv=argv)

    error = capsys.readouterr().err
    assert error.startswith(f"error: The records in '{tmp_path}' were written with schema hash")


def test_a_model_directory_that_is_none_is_told_before_records_are_looked_for(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluate", "--model_dir=/nowhere", "--files=/nothing"])

    with pytest.raises(SystemExit, match=r"^2$"):
        evaluate.run()

    error = capsys.readouterr().err
    assert error.startswith("error: '/nowhere' has no config.json, so it is no model directory.")
