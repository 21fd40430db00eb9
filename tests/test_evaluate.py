"""What the command of evaluation keeps, compares and refuses; the scores are simulated."""

import dataclasses
import json
import subprocess

import numpy as np
import pytest

from esmm_tf import evaluate
from esmm_tf.config.evaluation import EvaluateConfig, ScoreConfig
from esmm_tf.errors import UserError
from esmm_tf.estimator import evaluating
from esmm_tf.evaluation import evaluation
from esmm_tf.evaluation.scores import Divided, Scores
from esmm_tf.training import trained_model

NUM_ROWS = 20
CLICK = np.tile([1, 0], 10).astype(np.uint8)
LOG_RATIO = np.linspace(-2, 1, NUM_ROWS, dtype=np.float32)
RATIOS = Divided(ctcvr_logits=LOG_RATIO[::-1].copy(), cvr_log_ratio=LOG_RATIO)


def simulate(seed):
    """Returns impressions with the same labels and with other logits for each seed."""
    ctr, cvr = np.random.default_rng(seed).normal(0, 1, (2, NUM_ROWS)).astype(np.float32)
    conversion = CLICK * (np.arange(NUM_ROWS) % 4 == 0).astype(np.uint8)
    return Scores(ctr_logits=ctr, cvr_logits=cvr, click=CLICK, conversion=conversion)


@pytest.fixture
def models(model_dir, trained, tmp_path, monkeypatch):
    """Returns two model directories; the `model` that is loaded from each is its path."""
    paths = [tmp_path / "first", tmp_path / "second"]
    known = {}
    for path in paths:
        subprocess.run(["cp", "-r", str(model_dir), str(path)], check=True)  # noqa: S607
        known[str(path)] = dataclasses.replace(trained, model=str(path))
    load_model = trained_model.load_model
    monkeypatch.setattr(
        trained_model, "load_model", lambda path, **_: known.get(path) or load_model(path)
    )
    return paths


@pytest.fixture
def collected(models, monkeypatch):
    """Returns the scores of each model, by its path, and what of them has been asked for."""
    by_model = {str(path): simulate(seed) for seed, path in enumerate(models)}
    asked = []

    def collect_scores(model, _schema, source, config, *, slices):
        assert source.impressions == NUM_ROWS
        asked.append((model, config.batch_size, slices))
        return by_model[model]

    monkeypatch.setattr(evaluating, "collect_scores", collect_scores)
    return by_model, asked


@pytest.fixture
def run(scored_data):
    """Returns a function that evaluates a model directory and reads its file, which is JSON."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    def evaluate_and_read(directory, **changes):
        score = ScoreConfig(model_dir=str(directory), files=str(scored_data), batch_size=7)
        evaluate.main(score, EvaluateConfig(**changes))
        text = (directory / "evaluation.json").read_text(encoding="utf-8")
        return json.loads(text, parse_constant=refuse)

    return evaluate_and_read


def test_the_file_holds_the_evaluation_of_the_scores(models, collected, run):
    by_model, _ = collected

    result = run(models[0])

    tree = evaluation.evaluate_scores(by_model[str(models[0])]).evaluation.to_json()
    assert {name: result[name] for name in tree} == json.loads(json.dumps(tree))
    low, high = result["tasks"]["ctr"]["intervals"]["auc"]
    assert low < result["tasks"]["ctr"]["auc"] < high
    assert "comparison" not in result


def test_the_file_is_json_where_nothing_is_defined(models, collected, run):
    by_model, _ = collected
    none = np.zeros(NUM_ROWS, np.uint8)
    for path, found in by_model.items():
        by_model[path] = dataclasses.replace(found, click=none, conversion=none)

    result = run(models[0], baseline_model_dir=str(models[1]))

    assert result["tasks"]["ctr"]["auc"] is None
    assert result["comparison"]["tasks"]["ctr"]["auc"]["difference"] is None


def test_a_baseline_is_read_from_its_file_or_scored_again_alike(models, collected, run, capsys):
    first, second = models
    baseline, file = run(first), str(first / "evaluation.json")

    read = run(second, baseline=file, slices=("query",))
    lines = capsys.readouterr().out.splitlines()
    scored = run(second, baseline_model_dir=str(first), slices=("query",))

    assert read["comparison"]["tasks"] == scored["comparison"]["tasks"]
    assert read["comparison"]["baseline"] == file
    assert scored["comparison"]["baseline"] == str(first)
    assert f"difference from {file}:" in lines
    for task, found in read["comparison"]["tasks"].items():
        loss = read["tasks"][task]["log_loss"]
        assert found["log_loss"]["baseline"] == baseline["tasks"][task]["log_loss"]
        assert found["log_loss"]["difference"] == loss - found["log_loss"]["baseline"] != 0
    # The baseline is scored in the same batches, and its slices are not asked for.
    _, asked = collected
    assert asked == [
        (str(first), 7, ()),
        (str(second), 7, ("query",)),
        (str(second), 7, ("query",)),
        (str(first), 7, ()),
    ]


@pytest.mark.usefixtures("collected")
def test_an_evaluation_can_be_compared_with_the_one_that_it_replaces(models, run):
    path = models[0] / "evaluation.json"
    run(models[0])

    result = run(models[0], baseline=str(path))

    assert result["comparison"]["tasks"]["ctr"]["auc"]["difference"] == 0


@pytest.mark.usefixtures("collected")
def test_scores_that_are_not_kept_leave_none_of_an_older_evaluation(models, run, capsys):
    first, second = models
    run(first)
    assert (first / "evaluation.scores.npz").exists()

    run(first, save_scores=False)

    assert not (first / "evaluation.scores.npz").exists()
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {first / 'evaluation.json'}"
    with pytest.raises(UserError, match=r"its scores are not in"):
        run(second, baseline=str(first / "evaluation.json"))


def test_a_baseline_whose_pcvr_is_a_ratio_is_read_and_scored_again_alike(models, collected, run):
    by_model, _ = collected
    first, second = models
    by_model[str(first)] = dataclasses.replace(by_model[str(first)], divided=RATIOS)
    baseline = run(first)

    read = run(second, baseline=str(first / "evaluation.json"))
    scored = run(second, baseline_model_dir=str(first))

    assert read["comparison"]["tasks"] == scored["comparison"]["tasks"]
    assert baseline["tasks"]["cvr_clicked"]["predictions_above_1"] > 0
    for task in ("cvr_clicked", "ctcvr"):
        found = read["comparison"]["tasks"][task]["auc"]
        assert found["baseline"] == baseline["tasks"][task]["auc"]
    assert read["comparison"]["tasks"]["cvr_clicked"]["log_loss"]["baseline"] is None


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("baseline", r"--baseline is '.*nowhere', which is not there"),
        ("baseline_model_dir", r"'.*nowhere' has no config\.json, so it is no model directory"),
    ],
)
def test_a_wrong_baseline_is_refused_before_the_records_are_scored(
    models, collected, run, flag, message
):
    with pytest.raises(UserError, match=message):
        run(models[0], **{flag: str(models[0] / "nowhere")})

    _, asked = collected
    assert asked == []
    assert not (models[0] / "evaluation.json").exists()


def test_a_baseline_of_other_impressions_is_refused_before_the_records_are_scored(
    models, collected, run
):
    first, second = models
    run(first)
    path = first / "evaluation.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(tree | {"impressions": NUM_ROWS + 1}), encoding="utf-8")

    with pytest.raises(UserError, match=r"evaluation\.json', an evaluation of other impressions"):
        run(second, baseline=str(path))

    _, asked = collected
    assert len(asked) == 1


def test_a_baseline_of_other_labels_is_refused(models, collected, run):
    by_model, _ = collected
    first, second = models
    run(first)
    by_model[str(second)] = dataclasses.replace(by_model[str(second)], click=1 - CLICK)

    with pytest.raises(UserError, match=r"an evaluation of other impressions"):
        run(second, baseline=str(first / "evaluation.json"))

    assert not (second / "evaluation.json").exists()


def test_a_page_with_plots_is_written_on_demand_of_a_ratio_too(models, collected, run, capsys):
    by_model, _ = collected
    path, directory = str(models[0]), models[0] / "report"
    truth = np.linspace(0.1, 0.9, NUM_ROWS, dtype=np.float32)
    by_model[path] = dataclasses.replace(
        by_model[path], divided=RATIOS, oracle={"oracle_pctr": truth, "oracle_pcvr": truth}
    )

    result = run(models[0], report_dir=str(directory))

    assert "cvr_entire" in result["tasks"]
    assert result["tasks"]["cvr_clicked"]["predictions_above_1"] > 0
    assert "<html" in (directory / "index.html").read_text(encoding="utf-8")
    assert capsys.readouterr().out.endswith(f", {directory / 'index.html'}\n")
