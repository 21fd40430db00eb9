"""A data set that is broken in each way is caught while a model trains on it; a healthy one is not.

Each broken data set is met by a run that one guard stops, and that goes on when all of them warn.
"""

import contextlib
import dataclasses
import io
import json
import pathlib
import re
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from esmm_tf import calibrate, evaluate
from esmm_tf.config.evaluation import CalibrateConfig, EvaluateConfig, ScoreConfig
from esmm_tf.config.training import (
    GuardConfig,
    InputConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.data import input_fn
from esmm_tf.data.source import check_schema, find_source
from esmm_tf.data.writer import DataSetWriter, ShardWriter
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import HashBucketColumn, IdentityColumn, NumericColumn
from esmm_tf.schema.schema import Feature, Schema
from esmm_tf.training import (
    data_guards,
    model_directory,
    run,
    trained_model,
    trainer,
    used_shards,
)

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
        Feature(name="price", side="impression", dtype="float32", column=NumericColumn()),
    ),
)
NUM_GROUPS, SIZE = 60, 5
SHARD = {split: f"{split}-00000-of-00001.tfrecord" for split in ("train", "validation")}


def draw_group(rng, number):
    """Returns a group with a click rate and a conversion rate of clicks of one half."""
    click = rng.integers(0, 2, SIZE)
    return {
        "user": [number % 7],
        "item": rng.integers(0, 10, SIZE),
        "price": rng.random(SIZE),
        "click": click,
        "conversion": click * rng.integers(0, 2, SIZE),
    }


def keep(group, _number):
    return group


def write_data(directory, *, train=keep, validation=keep, num_groups=NUM_GROUPS):
    """Writes 5 impressions a group and split, changed by functions of a group and its number.

    What the changes break, a writer of records would refuse; so they are written unchecked.
    """
    rng = np.random.default_rng(0)
    with DataSetWriter(str(directory), SCHEMA) as writer:
        for split, change in (("train", train), ("validation", validation)):
            shard = ShardWriter(str(directory), f"{split}.tfrecord.tmp")
            for number in range(num_groups):
                shard.write(change(draw_group(rng, number), number))
            shard.close()
            writer.adopt(split, shard.counts())
    return directory


def train(
    data,
    model_dir,
    *,
    epochs=1,
    **guards,
):
    run.train(
        TrainConfig(
            train_files=str(data),
            validation_files=str(data),
            model_dir=str(model_dir),
            epochs=epochs,
        ),
        ModelConfig(embedding_dim=2, hidden_units=(4,)),
        OptimizerConfig(),
        InputConfig(batch_size=SIZE, num_readers=1),
        GuardConfig(**guards),
    )


def read_guards(model_dir, name="train"):
    """Returns the latest value of each scalar under `guard/` of one of the curves."""
    values = {}
    for path in sorted((model_dir / "tensorboard" / name).iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag.startswith("guard/"):
                    values[value.tag[len("guard/") :]] = float(tf.make_ndarray(value.tensor))
    return values


def unnest(group, number):
    """Converts an impression without a click in one group of 20."""
    if number % 20 == 7:
        group["click"][0], group["conversion"][0] = 0, 1
    return group


def empty(group, _number):
    """Gives all impressions the same features, as a failed join does."""
    return group | {"user": [0], "item": np.zeros(SIZE, np.int64), "price": np.zeros(SIZE)}


def overflow(group, number):
    """Makes a price infinite in one group."""
    if number == 40:
        group["price"][2] = np.inf
    return group


def spoil(group, number):
    """Breaks labels and a price, and makes the item tell the click."""
    group = overflow(unnest(group, number), number)
    return group | {"item": 2 * (group["item"] // 2) + group["click"]}


def click_less(group, number):
    """Leaves one click in two groups."""
    click = np.zeros(SIZE, np.int64)
    click[0] = number % 2
    return group | {"click": click, "conversion": np.zeros(SIZE, np.int64)}


def write_spoilt(directory):
    """Writes a data set of wrong labels and numbers that is validated on the training shard."""
    write_data(directory, train=spoil)
    shutil.copyfile(directory / SHARD["train"], directory / SHARD["validation"])


# How to write each broken data set.
DATA_SETS = {
    "spoilt": write_spoilt,
    # Heads are judged after 100 steps.
    "empty": lambda directory: write_data(
        directory, train=empty, validation=click_less, num_groups=110
    ),
}


@dataclasses.dataclass(frozen=True)
class Break:
    """A broken data set, what is said of it, and a scalar that shows it."""

    data_set: str
    message: str
    scalar: str
    is_bad: Callable[[float], bool]


BREAKS = {
    "unnested_labels": Break(
        "spoilt",
        r"A conversion needs a click, and 1 of the first \d+ conversions of train have none\. Set ",
        "unnested_labels",
        lambda value: value >= 1,
    ),
    "collapsed_head": Break(
        "empty",
        r"A head must tell impressions apart, and the standard deviation of its logits is below "
        r"--collapsed_std=0\.0001: ctr_logits_std 0, cvr_logits_std 0, ctcvr_logits_std 0\. "
        r"Lower --learning_rate, ",
        "ctr_logits_std",
        lambda value: value < 1e-4,
    ),
    "non_finite_loss": Break(
        "spoilt",
        r"Loss and logits must be finite, and at step (\d+), batch \1 of train, "
        r"(some logits are infinite|the loss is nan)\. The weights were finite when the epoch "
        r"began\. The 10 impressions of its batch and the one before are saved in "
        r"'.*/offending_batch': 'price' holds numbers that are not finite\. Lower ",
        "non_finite_loss",
        lambda value: value == 1,
    ),
    "label_like_feature": Break(
        "spoilt",
        r"A feature alone predicts a label with an AUC up to --leak_auc=0\.95, and 'item' has "
        r"ctr_auc 1\.0000\. It knows the answer: remove it from the schema, ",
        "leak_auc",
        lambda value: value == 1,
    ),
    "miscalibration": Break(
        "empty",
        r"Mean prediction / mean label must lie in \[0\.5, 2\] \(--calibration_band\), and is on "
        r"validation: ctr [45]\.\d+\. Train longer ",
        "ctr_calibration",
        lambda value: 4 < value < 6,
    ),
    "shared_data": Break(
        "spoilt",
        r"Validation needs impressions that are not trained on, and 1 of 1 validation shards are: "
        r"'.*/validation-00000-of-00001\.tfrecord' holds the same as "
        r"'.*/train-00000-of-00001\.tfrecord'\. Name other files with --validation_files\.",
        "shared_shards",
        lambda value: value == 1,
    ),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Returns the directory of each broken data set."""
    directories = {name: tmp_path_factory.mktemp(name) / "data" for name in DATA_SETS}
    for name, directory in directories.items():
        DATA_SETS[name](directory)
    return directories


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("healthy") / "data")


@dataclasses.dataclass(frozen=True)
class Stopped:
    """What a guard that ended a run has said and left."""

    message: str
    scalars: dict[str, float]
    history: list


def stop(guard, data, model_dir):
    """Trains with one guard that stops the run and others that are off."""
    actions = {f"on_{name}": "stop" if name == guard else "off" for name in BREAKS}
    with pytest.raises(UserError) as stopped:
        train(data, model_dir, **actions)
    return Stopped(
        message=str(stopped.value),
        scalars=read_guards(model_dir),
        history=model_directory.load_history(str(model_dir)),
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that one guard stopped, and what it said when it was started again and all warned."""

    stopped: Stopped
    model_dir: pathlib.Path
    warnings: list[str]


def start_twice(guard, data, model_dir, *, epochs=1):
    """Returns a run of the guards that find the data set of `guard` broken; others are off."""
    stopped = stop(guard, data, model_dir)
    name = BREAKS[guard].data_set
    actions = {f"on_{g}": "warn" if case.data_set == name else "off" for g, case in BREAKS.items()}
    with contextlib.redirect_stderr(io.StringIO()) as told:
        train(data, model_dir, epochs=epochs, **actions)
    return Run(stopped=stopped, model_dir=model_dir, warnings=told.getvalue().splitlines())


@pytest.fixture(scope="module")
def runs(broken, tmp_path_factory):
    """Returns a run on each broken data set; the weights of one are broken by its second epoch."""
    directory = tmp_path_factory.mktemp("runs")
    return {
        "spoilt": start_twice("unnested_labels", broken["spoilt"], directory / "spoilt", epochs=2),
        "empty": start_twice("miscalibration", broken["empty"], directory / "empty"),
    }


def assert_stopped(guard, stopped):
    """Asserts that a guard ended a run before its weights were saved."""
    case = BREAKS[guard]
    assert re.match(
        f"^{case.message}.* To go on all the same, give --on_{guard}=warn\\.$", stopped.message
    )
    assert case.is_bad(stopped.scalars[case.scalar])
    assert stopped.history == []


def test_every_guard_of_training_has_a_broken_data_set():
    names = {field.name for field in dataclasses.fields(GuardConfig)}

    assert {f"on_{guard}" for guard in BREAKS} == {n for n in names if n.startswith("on_")}


@pytest.mark.parametrize("guard", ["shared_data", "label_like_feature"])
def test_a_guard_of_data_stops_the_run_before_it_trains(guard, broken, tmp_path):
    stopped = stop(guard, broken[BREAKS[guard].data_set], tmp_path)

    assert_stopped(guard, stopped)


@pytest.mark.parametrize("guard", ["unnested_labels", "miscalibration"])
def test_a_guard_of_steps_or_epochs_stops_the_run_before_its_weights_are_saved(guard, runs):
    stopped = runs[BREAKS[guard].data_set].stopped

    assert_stopped(guard, stopped)


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_run_that_a_guard_stopped_meets_it_again_and_goes_on_when_it_only_warns(name, runs):
    cases = [case for case in BREAKS.values() if case.data_set == name]

    run = runs[name]

    scalars = read_guards(run.model_dir)
    for case in cases:
        assert any(re.match(f"warning: {case.message}", warning) for warning in run.warnings)
        assert case.is_bad(scalars[case.scalar])


def test_each_guard_warns_once_an_epoch(runs):
    starts = {name: [w.split(",")[0] for w in run.warnings] for name, run in runs.items()}
    epochs = {
        name: len(model_directory.load_history(str(run.model_dir))) for name, run in runs.items()
    }

    labels, loss = "warning: A conversion needs a click", "warning: Loss and logits must be finite"
    assert starts["spoilt"] == [
        "warning: Validation needs impressions that are not trained on",
        "warning: A feature alone predicts a label with an AUC up to --leak_auc=0.95",
        labels,
        loss,
        loss,
        labels,
    ]
    assert len(starts["empty"]) == 2
    assert epochs == {"spoilt": 2, "empty": 1}


def test_the_offending_batch_is_a_data_set_of_its_own(runs):
    source = find_source(str(runs["spoilt"].model_dir / "offending_batch"), split="train")

    check_schema(source, SCHEMA)
    (batch,) = input_fn.build_dataset(source, SCHEMA, InputConfig())
    assert source.impressions == len(batch.labels["click"]) == 2 * SIZE
    is_infinite = np.isinf(batch.features["price"].numpy())
    assert np.flatnonzero(is_infinite).tolist() == [SIZE + 2]


def test_an_epoch_that_begins_with_broken_weights_blames_no_batch(runs):
    first, second = (w for w in runs["spoilt"].warnings if "must be finite" in w)

    assert "saved in" in first
    assert "at step 61, batch 1 of train, the loss is nan. The weights were not finite" in second
    assert "saved in" not in second


def test_a_guard_of_data_that_is_off_says_nothing(broken, tmp_path, capsys):
    source, validation = (
        find_source(str(broken["spoilt"]), split=split) for split in ("train", "validation")
    )
    data = used_shards.identify_data(source, validation, early_stopping=False)
    off = GuardConfig(on_shared_data="off", on_label_like_feature="off")
    unseen = GuardConfig(on_label_like_feature="stop", leak_impressions=0)

    with tf.summary.create_file_writer(str(tmp_path / "tensorboard" / "train")).as_default() as w:
        data_guards.check_shards(data, off, w)
        data_guards.check_features(source, SCHEMA, off, w)
        data_guards.check_features(source, SCHEMA, unseen, w)

    assert capsys.readouterr() == ("", "")
    assert read_guards(tmp_path) == {"shared_shards": 1}


def test_a_validation_batch_that_breaks_the_loss_is_saved(tmp_path):
    data = write_data(tmp_path / "data", validation=overflow)
    message = (
        r"at step 60, batch 41 of validation, .* The 5 impressions of its batch are saved in "
        r"'.*/offending_batch': 'price' holds numbers that are not finite\."
    )

    with pytest.raises(UserError, match=message):
        train(data, tmp_path / "model", leak_impressions=0)

    source = find_source(str(tmp_path / "model" / "offending_batch"), split="validation")
    assert source.impressions == SIZE


def test_weights_that_the_last_step_spoils_are_not_saved(healthy, tmp_path):
    with pytest.raises(UserError, match=r"^The weights are no finite numbers after step 1, though"):
        run.train(
            TrainConfig(train_files=str(healthy), model_dir=str(tmp_path)),
            ModelConfig(embedding_dim=2, hidden_units=(4,)),
            OptimizerConfig(learning_rate=1e39),  # infinite in float32
            InputConfig(batch_size=NUM_GROUPS * SIZE),
            GuardConfig(leak_impressions=0),
        )

    with pytest.raises(UserError, match="has no trained weights yet"):
        trained_model.load_model(str(tmp_path))


@pytest.fixture(scope="module")
def trained(healthy, tmp_path_factory):
    """Returns the directory of a model that no guard stopped; beside it is its output."""
    model_dir = tmp_path_factory.mktemp("trained") / "model"
    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        contextlib.redirect_stderr(io.StringIO()) as told,
    ):
        train(healthy, model_dir, **{f"on_{guard}": "stop" for guard in BREAKS})
    (model_dir.parent / "stdout").write_text(output.getvalue(), encoding="utf-8")
    (model_dir.parent / "stderr").write_text(told.getvalue(), encoding="utf-8")
    return model_dir


def test_a_healthy_data_set_triggers_no_guard(trained):
    output, told = ((trained.parent / name).read_text() for name in ("stdout", "stderr"))

    assert told == ""
    assert output.startswith("a feature alone reaches: ctr_auc 0.")
    scalars = read_guards(trained)
    assert {name: scalars[name] for name in ("unnested_labels", "non_finite_loss")} == {
        "unnested_labels": 0,
        "non_finite_loss": 0,
    }
    assert scalars["shared_shards"] == 0
    assert 0.5 < scalars["leak_auc/item"] <= scalars["leak_auc"] < 0.95
    assert min(scalars["ctr_logits_std"], scalars["cvr_logits_std"]) > 1e-4
    assert 0.5 < scalars["ctr_calibration"] < 2
    assert 0.5 < scalars["ctcvr_calibration"] < 2


def test_a_model_knows_on_which_shards_it_was_trained(healthy, trained):
    data = used_shards.load_data(str(trained))

    assert [shard.file for shard in data.train] == [str(healthy / SHARD["train"])]
    assert [shard.file for shard in data.validation] == [str(healthy / SHARD["validation"])]
    assert data.early_stopping is False


@pytest.fixture
def trained_copy(trained, tmp_path):
    """Returns the directory of a trained model that a test may write to."""
    return shutil.copytree(trained, tmp_path / "model")


@pytest.fixture
def stopped_early(trained_copy):
    """Returns the directory of a model whose training the validation split may have ended."""
    data = used_shards.load_data(str(trained_copy))
    used_shards.save_data(dataclasses.replace(data, early_stopping=True), str(trained_copy))
    return trained_copy


def evaluate_on(model_dir, data, *, split, **changes):
    evaluate.main(
        ScoreConfig(model_dir=str(model_dir), files=str(data), split=split),
        EvaluateConfig(**changes),
    )


def test_evaluation_on_data_of_early_stopping_is_refused_when_asked(healthy, stopped_early):
    message = (
        r"A model is measured or calibrated on impressions that it has not seen, and 1 of 1 shards "
        r"were used for early stopping, such as '.*/validation-00000-of-00001\.tfrecord': .*"
        r"give --on_used_data=warn\.$"
    )

    with pytest.raises(UserError, match=message):
        evaluate_on(stopped_early, healthy, split="validation", on_used_data="stop")

    assert read_guards(stopped_early, "evaluation")["used_shards"] == 1


def test_evaluation_on_data_of_early_stopping_and_calibration_is_warned_of(
    healthy, stopped_early, capsys
):
    calibrate.main(CalibrateConfig(model_dir=str(stopped_early), files=str(healthy)))
    assert capsys.readouterr().err == ""

    evaluate_on(stopped_early, healthy, split="validation")

    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: A model is measured or calibrated on impressions that it ")
    assert "1 of 1 shards were used for early stopping" in warning
    assert "1 of 1 shards were used for calibration" in warning
    found = json.loads((stopped_early / "evaluation.json").read_text())
    assert found["used_in_training"] == ["early stopping", "calibration"]


def test_calibration_on_training_data_is_warned_of(healthy, trained_copy, capsys):
    calibrate.main(CalibrateConfig(model_dir=str(trained_copy), files=str(healthy), split="train"))

    assert "1 of 1 shards were used for training" in capsys.readouterr().err


def test_validation_that_is_sampled_otherwise_is_warned_of(healthy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer.Trainer, "run", lambda _: None)
    manifest = json.loads((healthy / "manifest.json").read_text())
    sampled = tmp_path / "sampled"
    shutil.copytree(healthy, sampled)
    manifest["negative_keep_rate"] = {"train": 0.5}
    (sampled / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")

    train(sampled, tmp_path / "model")

    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(
        "warning: Training keeps 0.5 of the unclicked impressions and validation 1, so that the "
    )
