"""What a model directory holds, and what is refused."""

import dataclasses
import json
import os
import re
import shutil

import numpy as np
import pytest

from esmm_tf.config.training import (
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.errors import UserError
from esmm_tf.methods import load_method
from esmm_tf.schema.columns import IdentityColumn, VocabularyColumn
from esmm_tf.training import model_directory, trained_model


def build_settings(directory, *, model=None, optimizer=None, reading=None, method=None, **settings):
    train = {"train_files": "train/*", "validation_files": "validation/*", "seed": 5, "epochs": 2}
    return model_directory.Settings(
        train=TrainConfig(model_dir=str(directory), **train | settings),
        model=model or ModelConfig(embedding_dim=3, hidden_units=(7, 5)),
        optimizer=optimizer or OptimizerConfig(learning_rate=0.25),
        input=reading or InputConfig(batch_size=11),
        method=method or MethodConfig(method="aman", ctr_model_dir="ctr", sampling_rate=0.5),
    )


def replace_column(schema, name, column):
    features = tuple(
        dataclasses.replace(f, column=column) if f.name == name else f for f in schema.features
    )
    return dataclasses.replace(schema, features=features)


@pytest.fixture
def saved(tmp_path, served_schema):
    """Returns a model directory with settings and schema and nothing else."""
    directory = tmp_path / "model_dir"
    model_directory.save_settings(build_settings(directory), served_schema, str(directory))
    return directory


def test_settings_are_read_as_they_were_saved(saved):
    settings = model_directory.load_settings(str(saved))

    assert settings == build_settings(saved)
    assert settings.model.hidden_units == (7, 5)


def test_settings_of_a_release_that_knew_esmm_alone_are_those_of_esmm(saved):
    path = saved / "config.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    del tree["method"], tree["train"]["train_fraction"]
    path.write_text(json.dumps(tree), encoding="utf-8")

    settings = model_directory.load_settings(str(saved))

    assert settings == build_settings(saved, method=MethodConfig())
    assert settings.method.method == "esmm"


def test_the_directory_is_whole_in_itself(saved):
    names = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}

    assert names == {"config.json", "schema.toml", "vocabularies/query.txt"}
    tree = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert tree["format_version"] == 1
    assert tree["optimizer"]["learning_rate"] == 0.25


def test_a_directory_without_settings_is_no_model_directory(tmp_path):
    message = (
        f"{str(tmp_path)!r} has no config.json, so it is no model directory. "
        "Train a model into it, or check --model_dir."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        trained_model.load_model(str(tmp_path))


@pytest.mark.parametrize("version", [2, None])
def test_another_format_is_refused(saved, version):
    path = saved / "config.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(tree | {"format_version": version}), encoding="utf-8")
    message = (
        f"{path} has format_version {version}; this release reads 1. Train again with this release."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        model_directory.load_settings(str(saved))


def test_a_run_without_a_finished_epoch_has_no_model(saved):
    message = (
        f"{str(saved)!r} has no trained weights yet. Run the training command again: it resumes "
        "where it stopped."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        trained_model.load_model(str(saved))


def test_the_model_has_the_weights_that_were_saved(trained, model_dir):
    fresh = load_method("esmm").build(trained.schema, trained.settings.model)

    again = trained_model.load_model(str(model_dir))

    for name, one, other in zip(
        [w.name for w in trained.model.weights],
        again.model.get_weights(),
        trained.model.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other, err_msg=name)
    first_kernel = fresh.get_layer("ctr_tower").layers[0].kernel
    assert not np.array_equal(again.model.get_layer("ctr_tower").layers[0].kernel, first_kernel)
    assert again.settings.model.hidden_units == (4,)


def test_a_directory_that_was_moved_is_read_with_its_own_vocabulary(model_dir, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(model_dir, moved)

    schema = trained_model.load_model(str(moved)).schema

    column = next(f.column for f in schema.features if f.name == "query")
    assert column.file == str(moved / "vocabularies/query.txt")


def test_there_is_no_history_before_the_first_epoch_ends(saved):
    assert model_directory.load_history(str(saved)) == []


def test_history_is_read_as_it_was_saved(saved):
    history = [{"train": {"loss": 0.5, "ctr_auc": None}}, {"train": {"loss": 0.25}}]

    model_directory.save_history(history, str(saved))

    assert model_directory.load_history(str(saved)) == history
    assert "history.json.tmp" not in os.listdir(saved)


def test_the_same_settings_may_be_saved_again_with_more_epochs(saved, served_schema):
    more = build_settings(saved, epochs=9)

    model_directory.save_settings(more, served_schema, str(saved))

    assert model_directory.load_settings(str(saved)) == more


def test_a_run_may_go_on_under_another_path(saved, served_schema, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(saved, moved)

    model_directory.save_settings(build_settings(moved), served_schema, str(moved))

    assert model_directory.load_settings(str(moved)).train.model_dir == str(moved)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 6}, "--seed: 5, now 6"),
        ({"train_files": "other"}, "--train_files: 'train/*', now 'other'"),
        ({"deterministic": True}, "--deterministic: False, now True"),
        ({"early_stopping_patience": 2}, "--early_stopping_patience: 0, now 2"),
        (
            {"model": ModelConfig(embedding_dim=3, hidden_units=(7,))},
            "--hidden_units: (7, 5), now (7,)",
        ),
        ({"optimizer": OptimizerConfig()}, "--learning_rate: 0.25, now 0.001"),
        ({"reading": InputConfig(batch_size=12)}, "--batch_size: 11, now 12"),
        ({"train_fraction": 0.5}, "--train_fraction: 1.0, now 0.5"),
        (
            {"method": MethodConfig(method="base", ctr_model_dir="other", sampling_rate=0.2)},
            "--method: 'aman', now 'base'; --ctr_model_dir: 'ctr', now 'other'; "
            "--sampling_rate: 0.5, now 0.2",
        ),
        (
            {"seed": 6, "reading": InputConfig(batch_size=12)},
            "--seed: 5, now 6; --batch_size: 11, now 12",
        ),
    ],
)
def test_a_run_with_other_settings_is_refused_and_kept(saved, served_schema, changes, told):
    message = (
        f"{str(saved)!r} holds a run with other settings ({told}). Give the same to resume it, or "
        "another --model_dir to start anew."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        model_directory.save_settings(build_settings(saved, **changes), served_schema, str(saved))

    assert model_directory.load_settings(str(saved)) == build_settings(saved)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("item", IdentityColumn(vocabulary_size=51)),
        ("query", VocabularyColumn(values=("shoes", "hats"))),
    ],
)
def test_a_run_with_another_schema_is_refused_and_kept(saved, served_schema, name, column):
    before = (saved / "schema.toml").read_bytes()
    other = replace_column(served_schema, name, column)
    message = (
        f"{str(saved)!r} holds a run with another schema. Give the same to resume it, or another "
        "--model_dir to start anew."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        model_directory.save_settings(build_settings(saved), other, str(saved))

    assert (saved / "schema.toml").read_bytes() == before


def test_a_run_with_another_vocabulary_is_refused_and_kept(saved, served_schema, tmp_path):
    path = tmp_path / "other.txt"
    path.write_text("hats\nshoes\n", encoding="utf-8")
    column = next(f.column for f in served_schema.features if f.name == "query")
    other = replace_column(served_schema, "query", dataclasses.replace(column, file=str(path)))

    with pytest.raises(UserError, match="holds a run with another schema"):
        model_directory.save_settings(build_settings(saved), other, str(saved))

    assert (saved / "vocabularies/query.txt").read_text(encoding="utf-8") == "shoes\nhats\n"


def test_the_same_schema_at_another_path_is_accepted(saved, served_schema, tmp_path):
    path = tmp_path / "copy.txt"
    path.write_text("shoes\nhats\n", encoding="utf-8")
    column = next(f.column for f in served_schema.features if f.name == "query")
    same = replace_column(served_schema, "query", dataclasses.replace(column, file=str(path)))

    model_directory.save_settings(build_settings(saved), same, str(saved))

    assert (saved / "vocabularies/query.txt").read_text(encoding="utf-8") == "shoes\nhats\n"
