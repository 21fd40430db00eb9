"""The command that calibrates, from fitting to what the other commands make of it."""

import json
import shutil

import numpy as np
import pytest

from esmm_tf import calibrate, keys
from esmm_tf.calibration import report as calibration_report
from esmm_tf.calibration.maps import Calibration, Platt
from esmm_tf.config.evaluation import CalibrateConfig
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
from esmm_tf.evaluation import scores
from esmm_tf.evaluation.evaluation import measure_tasks
from esmm_tf.evaluation.scores import Scores
from esmm_tf.schema.toml_file import load_schema
from esmm_tf.training import model_directory, run, trained_model

pytestmark = pytest.mark.slow

SCHEMA = """
format_version = 1
name = "shelf"
group_key = "user"

[[features]]
name = "user"
side = "context"
dtype = "int64"
column = { kind = "hash_bucket", hash_buckets = 50 }

[[features]]
name = "item"
side = "impression"
dtype = "int64"
column = { kind = "identity", vocabulary_size = 10 }
"""
CLICK_RATES = np.linspace(0.02, 0.2, 10)
CONVERSION_RATES = np.linspace(0.6, 0.1, 10)


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def simulate(seed, *, num_rows=40_000, shift=1.0, num_groups=2_000):
    """Returns scores whose click logits are too high by `shift`, and whose pCVR is too flat."""
    rng = np.random.default_rng(seed)
    ctr, cvr = rng.normal(-2, 1, num_rows), rng.normal(-1, 1, num_rows)
    click = rng.random(num_rows) < sigmoid(ctr)
    conversion = click & (rng.random(num_rows) < sigmoid(cvr))
    return Scores(
        ctr_logits=(ctr + shift).astype(np.float32),
        cvr_logits=(cvr / 2).astype(np.float32),
        click=click.astype(np.uint8),
        conversion=conversion.astype(np.uint8),
        groups=rng.integers(0, num_groups, num_rows),
    )


@pytest.mark.parametrize("method", keys.CALIBRATIONS)
def test_maps_bring_each_probability_to_its_labels(method):
    found = simulate(1, shift=0.0 if method == "temperature" else 1.0)

    maps = calibration_report.fit_maps(found, method)
    report = calibration_report.build_report(found, maps, method)

    assert set(maps) == {"pctr", "pcvr"}
    for task in ("ctr", "cvr_clicked", "ctcvr"):
        before, after = (report["tasks"][task][when] for when in ("before", "after"))
        assert after["log_loss"] < before["log_loss"] + 1e-4
        assert after["calibration"] == pytest.approx(1, abs=0.05)
    assert report["tasks"]["cvr_clicked"]["before"]["calibration"] > 1.05


def test_before_is_what_an_evaluation_says():
    found = simulate(2)
    maps = calibration_report.fit_maps(found, "platt")

    report = calibration_report.build_report(found, maps, "platt")

    measured = measure_tasks(found)
    for task, times in report["tasks"].items():
        for name, value in times["before"].items():
            assert value == measured[task].estimates[name].value


def test_after_is_measured_out_of_fold():
    # Labels are coins. A map fitted to all of them would find some; one fitted to the other half of
    # the groups cannot.
    rng = np.random.default_rng(3)
    found = simulate(3, num_rows=3000)
    click = np.arange(3000) % 10 > 0
    found = Scores(
        ctr_logits=np.zeros(3000, np.float32),
        cvr_logits=rng.normal(size=3000).astype(np.float32),
        click=click.astype(np.uint8),
        conversion=(click & (rng.random(3000) < 0.5)).astype(np.uint8),
        groups=found.groups,
    )
    maps = calibration_report.fit_maps(found, "isotonic")

    report = calibration_report.build_report(found, maps, "isotonic")

    assert report["tasks"]["cvr_clicked"]["after"]["log_loss"] > np.log(2) - 1e-3


def test_halves_part_groups_and_not_impressions():
    found = simulate(4)

    second = calibration_report.in_second_half(found)

    for half in (second, ~second):
        assert 0.45 < half.mean() < 0.55
    assert not set(found.groups[second]) & set(found.groups[~second])


@pytest.mark.parametrize(
    ("method", "num_rows", "message"),
    [
        ("platt", 300, r"To calibrate pcvr, --calibration=platt needs at least 20 of each"),
        ("isotonic", 3000, r"needs at least 200 .* or use --calibration=platt"),
    ],
)
def test_too_few_conversions_are_refused(method, num_rows, message):
    with pytest.raises(UserError, match=message):
        calibration_report.fit_maps(simulate(5, num_rows=num_rows), method)


def write_groups(directory, *, keep=1.0, num_groups=12_000, seed=0):
    """Writes groups of ten items, each shown once; in training a share of the unclicked."""
    (directory.parent / "schema.toml").write_text(SCHEMA, encoding="utf-8")
    schema = load_schema(str(directory.parent / "schema.toml"))
    rng = np.random.default_rng(seed)
    rates = {"train": keep, "validation": keep}
    with DataSetWriter(
        str(directory), schema, num_shards=1, negative_keep_rate=rates if keep < 1 else None
    ) as writer:
        for user in range(num_groups):
            split = ("train", "train", "validation", "test")[user % 4]
            click = rng.random(10) < CLICK_RATES
            kept = click | (rng.random(10) < rates.get(split, 1.0))
            if not kept.any():
                continue
            group = {
                "item": np.arange(10),
                "click": click.astype(np.int64),
                "conversion": (click & (rng.random(10) < CONVERSION_RATES)).astype(np.int64),
            }
            columns = {name: values[kept] for name, values in group.items()}
            writer.write(split, {"user": [user], **columns})
    return directory


def train(data, model_dir):
    run.train(
        TrainConfig(train_files=str(data), model_dir=str(model_dir), epochs=1),
        ModelConfig(embedding_dim=4, hidden_units=(8,)),
        OptimizerConfig(learning_rate=0.005),
        InputConfig(batch_size=64),
        GuardConfig(leak_impressions=0, on_miscalibration="off"),
    )
    return model_dir


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Returns a data set whose training keeps a tenth of the unclicked, and a model of it."""
    directory = tmp_path_factory.mktemp("sampled")
    data = write_groups(directory / "data", keep=0.1)
    return data, train(data, directory / "model")


def collect(model_dir, data, split):
    trained = trained_model.load_model(str(model_dir))
    source = find_source(str(data), split=split)
    config = InputConfig(shuffle_buffer=0)
    return scores.collect_scores(trained.model, trained.schema, source, config)


@pytest.fixture(scope="module")
def found(sampled):
    """Returns the scores of the test split, of which all impressions were kept."""
    data, model_dir = sampled
    return collect(model_dir, data, "test")


def calibration_of(found, task):
    return measure_tasks(found)[task].estimates["calibration"].value


def test_a_model_of_down_sampled_records_is_calibrated_on_all(found):
    assert calibration_of(found, "ctr") == pytest.approx(1, abs=0.1)
    assert calibration_of(found, "ctcvr") == pytest.approx(1, abs=0.15)
    assert calibration_of(found, "cvr_clicked") == pytest.approx(1, abs=0.1)
    uncorrected = found.with_logits(found.ctr_logits - np.float32(np.log(0.1)), found.cvr_logits)
    assert calibration_of(uncorrected, "ctr") > 4
    assert calibration_of(uncorrected, "ctcvr") > 4


def test_down_sampled_records_measure_as_all_of_them_would(sampled):
    data, model_dir = sampled

    validation = collect(model_dir, data, "validation")

    # Unclicked impressions weigh 10, so that predictions for the whole log fit the sample.
    assert sorted(set(validation.weight.tolist())) == [1, 10]
    assert calibration_of(validation, "ctr") == pytest.approx(1, abs=0.1)


def test_the_command_keeps_maps_that_later_commands_apply(sampled, found, tmp_path, capsys):
    data, model_dir = sampled
    copied = tmp_path / "model"
    shutil.copytree(model_dir, copied)

    calibrate.main(CalibrateConfig(model_dir=str(copied), files=str(data)))

    printed = capsys.readouterr().out
    assert "cvr_clicked  before" in printed
    assert f"wrote {copied / 'calibration.json'}" in printed
    kept = json.loads((copied / "calibration.json").read_text(encoding="utf-8"))
    assert kept["files"] == [str(data / "validation-00000-of-00001.tfrecord")]
    assert kept["counts"]["clicks"] > 400
    trained = trained_model.load_model(str(copied))
    assert {name: one.method for name, one in trained.calibration.items()} == {
        "pctr": "platt",
        "pcvr": "platt",
    }
    after = collect(copied, data, "test")
    assert np.abs(after.ctr_logits - found.ctr_logits).max() > 1e-3
    assert calibration_of(after, "ctr") == pytest.approx(1, abs=0.1)

    calibrate.main(CalibrateConfig(model_dir=str(copied), calibration="none"))

    assert "has no calibration now" in capsys.readouterr().out
    again = collect(copied, data, "test")
    np.testing.assert_array_equal(again.ctr_logits, found.ctr_logits)


def test_maps_of_other_weights_are_refused(sampled, tmp_path):
    _, model_dir = sampled
    copied = tmp_path / "model"
    shutil.copytree(model_dir, copied)
    maps = {"pctr": Platt(slope=1.0, offset=0.5)}
    stale = Calibration(maps=maps, weights="ckpt-9:0123456789abcdef")

    model_directory.save_calibration(stale, str(copied))

    message = r"fitted for the weights ckpt-9.*training has gone on since"
    with pytest.raises(UserError, match=message):
        trained_model.load_model(str(copied))
    assert trained_model.load_model(str(copied), calibrated=False).calibration == {}


@pytest.mark.parametrize("text", ["{", '{"format_version": 9}', "[]"])
def test_a_damaged_calibration_is_refused(tmp_path, text):
    (tmp_path / "calibration.json").write_text(text, encoding="utf-8")

    with pytest.raises(UserError, match=r"calibration.json"):
        model_directory.load_calibration(str(tmp_path))


def test_files_are_asked_for_unless_the_calibration_is_removed():
    with pytest.raises(UserError, match=r"--files is missing"):
        CalibrateConfig(model_dir="model")

    assert CalibrateConfig(model_dir="model", calibration="none").split == "validation"
