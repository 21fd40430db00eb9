"""Training runs: what they leave, how they resume, when they stop."""

import contextlib
import io
import json
import math
import os
import re

import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.config.training import (
    GuardConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.data.source import find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.schema import toml_file
from esmm_tf.schema.columns import HashBucketColumn, IdentityColumn
from esmm_tf.schema.schema import Feature, Labels, Schema
from esmm_tf.training import model_directory, run, trained_model, trainer, used_shards

pytestmark = pytest.mark.slow

SCHEMA = Schema(
    name="tiny",
    features=(
        Feature(
            name="user", side="context", dtype="int64", column=HashBucketColumn(hash_buckets=30)
        ),
        Feature(
            name="item",
            side="impression",
            dtype="int64",
            column=IdentityColumn(vocabulary_size=10),
        ),
    ),
    labels=Labels(example_weight="weight"),
)
# 20 groups of 3 impressions in batches of 2 groups.
STEPS_PER_EPOCH = 10


def write_data(directory, *, splits=(("train", 20), ("validation", 4)), weight=1.0):
    """Writes groups of 3 impressions whose even items are clicked and converted more often."""
    rng = np.random.default_rng(0)
    with DataSetWriter(str(directory), SCHEMA, num_shards=2) as writer:
        for split, num_groups in splits:
            for user in range(num_groups):
                item = rng.integers(0, 10, 3)
                click = (rng.uniform(size=3) < np.where(item % 2, 0.2, 0.8)).astype(np.int64)
                conversion = click * (rng.uniform(size=3) < np.where(item % 3, 0.3, 0.7))
                writer.write(
                    split,
                    {
                        "user": [user],
                        "item": item,
                        "click": click,
                        "conversion": conversion,
                        "example_weight": weight * np.arange(1.0, 4.0),
                    },
                )
    return directory


def train(
    data,
    model_dir,
    *,
    batch_size=6,
    learning_rate=0.05,
    validate=True,
    leak_impressions=0,
    **settings,
):
    if validate:
        settings["validation_files"] = str(data)
    run.train(
        TrainConfig(train_files=str(data), model_dir=str(model_dir), **settings),
        ModelConfig(embedding_dim=2, hidden_units=(4,)),
        OptimizerConfig(learning_rate=learning_rate),
        InputConfig(batch_size=batch_size, num_readers=2),
        GuardConfig(leak_impressions=leak_impressions),
    )


def read_checkpoint(model_dir, name):
    """Returns every array in the latest checkpoint of `checkpoints` or `weights`, by its key.

    They are the variables of the model and, in `checkpoints`, the slots of the optimizer and the
    progress. `save_counter` counts saves of this process's manager.
    """
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(model_dir / name)))
    return {
        key: reader.get_tensor(key)
        for key in reader.get_variable_to_shape_map()
        if key not in ("_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/.ATTRIBUTES/VARIABLE_VALUE")
    }


def is_same(one, other):
    assert set(one) == set(other)
    return all(np.array_equal(one[key], other[key]) for key in one)


def read_scalars(directory):
    """Returns tag -> {step: value} of all event files."""
    points = {}
    for path in directory.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                points.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return points


def end_before_checkpoint(monkeypatch, n):
    """Lets a run end as by Ctrl-C, when it would save a checkpoint for the nth time."""
    save, saved = tf.train.CheckpointManager.save, []

    def count(manager, *args, **kwargs):
        saved.append(os.path.basename(manager.directory))
        if saved.count(model_directory.CHECKPOINTS) == n:
            raise KeyboardInterrupt
        return save(manager, *args, **kwargs)

    monkeypatch.setattr(tf.train.CheckpointManager, "save", count)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("training") / "data")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Returns the model directory of an uninterrupted run of 3 epochs; beside it is its output."""
    model_dir = tmp_path_factory.mktemp("finished") / "model_dir"
    with (
        (model_dir.parent / "stdout").open("w", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
    ):
        train(data, model_dir, epochs=3, seed=11, deterministic=True, leak_impressions=60)
    return model_dir


@pytest.fixture(scope="module")
def stopped_early(data, tmp_path_factory):
    """Returns a run of another seed, its output when started again, and each epoch's weights.

    Its validation losses are given: epochs 3 and 4 are no better than epoch 2.
    """
    model_dir = tmp_path_factory.mktemp("stopped") / "model_dir"
    losses = iter([1.0, 0.5, 0.7, 0.5, 0.1])
    weights = []
    counts = ["impressions", "clicks", "conversions", "unnested_labels", "non_finite_logits"]
    logs = dict.fromkeys([*counts, "ctr_auc", "cvr_auc_clicked", "ctcvr_auc"], 0.0)

    def evaluate(model, *_, **__):
        weights.append(model.get_weights())
        return {"loss": next(losses), **logs}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EntireSpaceModel, "evaluate", evaluate)
        settings = {"seed": 12, "deterministic": True, "epochs": 5, "early_stopping_patience": 2}
        train(data, model_dir, **settings)
        with contextlib.redirect_stdout(io.StringIO()) as output:
            train(data, model_dir, **settings)
    return model_dir, output.getvalue(), weights


def test_a_run_leaves_settings_schema_history_checkpoints_weights_and_curves(finished):
    names = {path.name for path in finished.iterdir()}

    assert names == {
        "checkpoints",
        "config.json",
        "data.json",
        "history.json",
        "schema.toml",
        "tensorboard",
        "weights",
    }
    assert tf.train.latest_checkpoint(str(finished / "checkpoints")).endswith("ckpt-3")
    assert tf.train.latest_checkpoint(str(finished / "weights")).endswith("ckpt-3")


def test_settings_and_schema_of_a_run_can_be_read(data, finished):
    settings = model_directory.load_settings(str(finished))

    assert settings.train == TrainConfig(
        train_files=str(data),
        validation_files=str(data),
        model_dir=str(finished),
        epochs=3,
        seed=11,
        deterministic=True,
    )
    assert settings.input.batch_size == 6
    assert toml_file.load_schema(str(finished / "schema.toml")) == SCHEMA


def test_history_has_the_metrics_of_each_epoch_and_split(data, finished):
    history = model_directory.load_history(str(finished))

    assert [sorted(entry) for entry in history] == [["train", "validation"]] * 3
    counts = {
        split: sum(shard.clicks for shard in find_source(str(data), split=split).shards)
        for split in ("train", "validation")
    }
    for entry in history:
        assert (entry["train"]["impressions"], entry["validation"]["impressions"]) == (60, 12)
        assert {split: entry[split]["clicks"] for split in entry} == counts
        assert entry["train"]["impressions_per_second"] > 0
    losses = [entry["train"]["loss"] for entry in history]
    assert losses[0] > losses[1] > losses[2]
    assert history[2]["train"]["ctr_auc"] > 0.6


def test_curves_hold_every_metric_of_history_under_its_name(finished):
    last = model_directory.load_history(str(finished))[-1]

    for split in ("train", "validation"):
        points = read_scalars(finished / "tensorboard" / split)
        defined = {name: value for name, value in last[split].items() if value is not None}
        assert {"loss", "ctr_auc", "cvr_auc_clicked", "ctcvr_auc", "ctr_calibration"} <= set(
            defined
        )
        shown = {name: points[name][3 * STEPS_PER_EPOCH] for name in defined}
        assert shown == pytest.approx(defined, rel=1e-6)
        assert set(points["loss"]) == {10, 20, 30}


def test_a_step_is_counted_once_a_batch(finished):
    checkpoint = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(finished / "checkpoints")))

    steps = checkpoint.get_tensor("optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE")

    assert steps == 3 * STEPS_PER_EPOCH


def test_the_model_of_a_run_is_the_one_of_its_last_epoch(finished):
    model = trained_model.load_model(str(finished)).model

    kernel = model.get_layer("ctr_tower").layers[0].kernel.numpy()

    arrays = read_checkpoint(finished, "checkpoints").values()
    assert any(np.array_equal(kernel, array) for array in arrays)


def test_a_run_reports_each_epoch_in_one_line_a_split_and_its_rate(finished):
    lines = (finished.parent / "stdout").read_text(encoding="utf-8").splitlines()

    history = model_directory.load_history(str(finished))
    few = "too few positives"
    expected = [f"a feature alone reaches: ctr_auc {few} | ctcvr_auc {few} | cvr_auc_clicked {few}"]
    for number, entry in enumerate(history, start=1):
        rate = entry["train"]["impressions_per_second"]
        expected += [
            f"epoch {number} of 3, train: {trainer.summary(entry['train'])}",
            f"epoch {number} of 3, trained {rate:,.0f} impressions/s",
            f"epoch {number} of 3, validation: {trainer.summary(entry['validation'])}",
        ]
    assert lines == expected


def test_an_interrupted_run_that_is_resumed_for_longer_ends_as_if_it_had_not_been(
    data, finished, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        end_before_checkpoint(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path, epochs=2, seed=11, deterministic=True, leak_impressions=60)
    assert len(model_directory.load_history(str(tmp_path))) == 2
    assert "a feature alone reaches" in capsys.readouterr().out

    train(data, tmp_path, epochs=3, seed=11, deterministic=True, leak_impressions=60)

    output = capsys.readouterr().out
    assert output.startswith("resuming after epoch 1 of 3\n")
    assert "a feature alone reaches" not in output
    for name in ("checkpoints", "weights"):
        assert is_same(read_checkpoint(tmp_path, name), read_checkpoint(finished, name))
    history, expected = (
        [
            {split: {**logs, "impressions_per_second": 0} for split, logs in entry.items()}
            for entry in model_directory.load_history(str(directory))
        ]
        for directory in (tmp_path, finished)
    )
    assert history == expected
    assert model_directory.load_settings(str(tmp_path)).train.epochs == 3


def test_a_run_of_another_seed_differs_from_its_first_epoch(finished, stopped_early):
    model_dir, _, _ = stopped_early

    (one, *_), (other, *_) = (
        model_directory.load_history(str(directory)) for directory in (finished, model_dir)
    )

    assert one["train"]["impressions"] == other["train"]["impressions"]
    assert one["train"]["loss"] != other["train"]["loss"]


def test_a_finished_run_that_is_started_again_changes_nothing(data, finished, capsys):
    before = read_checkpoint(finished, "weights")
    history = (finished / "history.json").read_bytes()

    train(data, finished, epochs=3, seed=11, deterministic=True)

    assert capsys.readouterr().out == "nothing left to train after epoch 3 of 3\n"
    assert is_same(read_checkpoint(finished, "weights"), before)
    assert (finished / "history.json").read_bytes() == history


def test_a_run_with_other_settings_is_not_resumed(data, finished):
    message = (
        f"{str(finished)!r} holds a run with other settings "
        "(--seed: 11, now 12; --learning_rate: 0.05, now 0.5)."
    )

    with pytest.raises(UserError, match=re.escape(message)):
        train(data, finished, epochs=3, seed=12, deterministic=True, learning_rate=0.5)


def test_early_stopping_keeps_the_weights_of_the_best_epoch(stopped_early):
    model_dir, output, weights = stopped_early

    kept = trained_model.load_model(str(model_dir)).model.get_weights()

    for place, array in enumerate(kept):
        np.testing.assert_array_equal(array, weights[1][place])
        assert not np.array_equal(array, weights[3][place])
    history = model_directory.load_history(str(model_dir))
    assert [entry["validation"]["loss"] for entry in history] == [1.0, 0.5, 0.7, 0.5]
    assert output == "nothing left to train after epoch 4 of 5\n"
    assert used_shards.load_data(str(model_dir)).early_stopping is True


def test_the_example_weight_of_the_records_scales_the_loss(tmp_path):
    data = write_data(tmp_path / "data", splits=(("train", 5),), weight=0.5)

    train(data, tmp_path / "model", batch_size=1000, validate=False)

    # One batch, with every probability one half: the loss of step 0.
    groups = [
        tf.train.Example.FromString(r.numpy())
        for r in tf.data.TFRecordDataset(list(find_source(str(data), split="train").files))
    ]
    conversion = np.concatenate(
        [group.features.feature["conversion"].int64_list.value for group in groups]
    )
    weight = np.tile([0.5, 1.0, 1.5], 5)
    losses = math.log(2.0) + np.where(conversion, math.log(4.0), math.log(4.0 / 3.0))
    (entry,) = model_directory.load_history(str(tmp_path / "model"))
    assert entry["train"]["loss"] == pytest.approx(np.mean(weight * losses), rel=1e-6)
    assert entry["train"]["impressions_per_second"] is None
    assert list(entry) == ["train"]
    assert 0 < conversion.sum() < 15


def test_records_of_another_schema_are_refused(data, tmp_path):
    schema = Schema(name="other", features=SCHEMA.features[:1])
    toml_file.save_schema(schema, str(tmp_path), "other.toml")

    with pytest.raises(UserError, match=f"{data}' were written with schema hash"):
        train(data, tmp_path / "model", schema=str(tmp_path / "other.toml"))

    assert not (tmp_path / "model").exists()


def test_validation_records_of_another_schema_are_refused(data, tmp_path):
    other = tmp_path / "data"
    item = Schema(name="other", features=SCHEMA.features[1:])
    with DataSetWriter(str(other), item, num_shards=1) as writer:
        writer.write("validation", {"item": [1], "click": [0], "conversion": [0]})

    with pytest.raises(UserError, match=f"{other}' were written with schema hash"):
        train(data, tmp_path / "model", validate=False, validation_files=str(other))


def test_records_without_a_schema_beside_them_need_one(tmp_path):
    data = write_data(tmp_path / "data")
    (data / "schema.toml").unlink()
    message = f"Cannot read schema '{data}/schema.toml': No such file or directory. Check --schema."

    with pytest.raises(UserError, match=re.escape(message)):
        train(data, tmp_path / "model")


def test_a_schema_with_other_columns_than_the_one_beside_the_records_is_used(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(trainer.Trainer, "run", lambda _: None)
    column = IdentityColumn(vocabulary_size=3)
    features = (
        SCHEMA.features[0],
        Feature(name="item", side="impression", dtype="int64", column=column),
    )
    schema = Schema(name="small", features=features, labels=SCHEMA.labels)
    toml_file.save_schema(schema, str(tmp_path), "small.toml")

    train(data, tmp_path / "model", schema=str(tmp_path / "small.toml"), validate=False)

    assert toml_file.load_schema(str(tmp_path / "model" / "schema.toml")) == schema


def test_summary_tells_each_auc_that_is_defined_with_its_space_and_its_positives():
    logs = {
        "loss": 1.23456,
        "impressions": 1234567.0,
        "clicks": 4321.0,
        "conversions": 21.0,
        "ctr_auc": 0.61,
        "cvr_auc_clicked": math.nan,
        "ctcvr_auc": 0.63,
    }

    line = trainer.summary(logs)

    assert line == (
        "loss 1.2346 | 1,234,567 impressions | ctr_auc 0.6100 (4,321 clicks) | "
        "ctcvr_auc 0.6300 (21 conversions)"
    )


def test_the_files_of_a_run_hold_valid_json(finished):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    for name in ("config.json", "history.json"):
        text = (finished / name).read_text(encoding="utf-8")
        assert json.loads(text, parse_constant=refuse)
