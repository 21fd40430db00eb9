"""A model card tells what the model was made of, how good it is and what it is for."""

import dataclasses
import json

import pytest
from evaluation_results import build_result

import esmm_tf
from esmm_tf.calibration.maps import Platt
from esmm_tf.reports.evaluation_result import Evaluation
from esmm_tf.serving import model_card
from esmm_tf.training import used_shards

SERVING = {
    "signatures": ["serving_default", "rank"],
    "widths": {"tags": 4, "visits": 8},
    "warm-up requests": 28,
    "warm-up files": ["held_out.tfrecord"],
    "batch sizes": [1, 8],
}


def build(trained, model_dir, *, evaluation=None):
    return model_card.build_card(
        trained,
        model_dir=str(model_dir),
        model_name="shop",
        version=3,
        evaluation=evaluation,
        serving=SERVING,
    )


def test_a_card_names_the_model_its_weights_and_its_flags(trained, model_dir):
    card = build(trained, model_dir)

    assert (card["model"], card["version"], card["method"]) == ("shop", 3, "esmm")
    assert card["weights"] == trained.weights
    assert card["schema"] == {"name": "shop", "hash": trained.schema.record_hash()}
    assert card["settings"]["model"]["hidden_units"] == (4,)
    assert card["settings"]["train"]["train_files"] == "data"
    assert card["software"]["esmm_tf"] == esmm_tf.__version__
    assert json.loads(json.dumps(card))["serving"] == SERVING


def test_the_hash_of_the_training_data_is_that_of_its_shards_in_any_order(trained, tmp_path):
    shards = [
        used_shards.IdentifiedShard(file=f"{n}.tfrecord", fingerprint=f"5-{n}") for n in range(3)
    ]
    hashes = []

    for place, found in enumerate((shards, shards[::-1], shards[:2])):
        directory = tmp_path / str(place)
        directory.mkdir()
        used_shards.save_data(used_shards.TrainingData(train=tuple(found)), str(directory))
        hashes.append(build(trained, directory)["data"]["training_hash"])

    assert hashes[0] == hashes[1] != hashes[2]
    assert len(hashes[0]) == 16


def test_training_data_of_an_older_release_has_no_hash(trained, model_dir):
    assert build(trained, model_dir)["data"]["training_hash"] is None


def test_metrics_have_their_intervals_and_slices(trained, model_dir):
    evaluation = Evaluation.from_json(build_result(slices={"brand": ["acme", "other"]}))

    found = build(trained, model_dir, evaluation=evaluation)["evaluation"]

    task = evaluation.tasks["cvr_clicked"]
    assert found["files"] == evaluation.origin.files
    assert found["tasks"]["cvr_clicked"]["auc"] == task.auc
    assert found["tasks"]["cvr_clicked"]["intervals"] == task.intervals
    assert set(found["slices"]["brand"]) == {"acme", "other"}
    assert "reliability" not in found["tasks"]["cvr_clicked"]


def test_of_a_slice_the_twenty_most_frequent_values_are_shown(trained, model_dir):
    values = [f"item {place}" for place in range(30)]
    evaluation = Evaluation.from_json(build_result(slices={"item": values}))

    found = build(trained, model_dir, evaluation=evaluation)["evaluation"]

    assert list(found["slices"]["item"]) == values[:20]


def test_the_text_of_a_card_shows_all_of_it(trained, model_dir):
    evaluation = Evaluation.from_json(build_result(slices={"brand": ["acme"]}))
    calibration = {"pctr": Platt(slope=1.0, offset=0.0)}
    calibrated = dataclasses.replace(trained, calibration=calibration)

    text = model_card.format_card(build(calibrated, model_dir, evaluation=evaluation))

    assert text.startswith("# shop, version 3\n\n## Intended use\n")
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    titles = ("Intended use", "Metrics", "Origin", "Training flags", "Serving", "Limits")
    assert heads == [f"## {title}" for title in titles]
    for shown in (
        trained.weights,
        "| CVR, clicked ",
        "| acme: CTCVR ",
        "pctr platt",
        "--hidden\\_units",
        "tags 4, visits 8",
        "cannot be checked on a log",
    ):
        assert shown in text or shown.replace("\\", "") in text


def test_a_model_that_was_not_measured_says_so(trained, model_dir):
    text = model_card.format_card(build(trained, model_dir))

    assert "These weights were not measured before they were exported." in text


@pytest.mark.parametrize("ending", ["json", "md"])
def test_a_card_is_written_for_machines_and_for_people(trained, model_dir, tmp_path, ending):
    (tmp_path / "assets.extra").mkdir()

    model_card.write_card(build(trained, model_dir), str(tmp_path))

    text = (tmp_path / "assets.extra" / f"model_card.{ending}").read_text(encoding="utf-8")
    assert "shop" in text
