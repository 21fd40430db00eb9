"""What guards make of the metrics of a step and of an epoch."""

import dataclasses
import math
import types

import pytest
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.config.training import GuardConfig
from esmm_tf.errors import UserError
from esmm_tf.training import epoch_guards

LOGS = {
    "loss": 0.5,
    "impressions": 100.0,
    "clicks": 50.0,
    "conversions": 25.0,
    "unnested_labels": 0.0,
    "non_finite_logits": 0.0,
    "ctr_logits_std": 0.7,
    "cvr_logits_std": 0.3,
    "ctcvr_logits_std": 0.4,
    "ctr_calibration": 1.1,
    "ctcvr_calibration": 0.9,
}


def model(*, step=0, weights=(0.0,)):
    """Returns a model that has taken so many steps."""
    return types.SimpleNamespace(
        optimizer=types.SimpleNamespace(iterations=step), weights=[tf.constant(weights)]
    )


def build_guards(
    tmp_path,
    *,
    step=0,
    weights=(0.0,),
    tasks=keys.TASKS,
    save_batch="Saved {} {}.".format,
    **settings,
):
    """Returns the guards of an epoch of 200 impressions; saving a batch says which."""
    guards = epoch_guards.EpochGuards(
        GuardConfig(**settings),
        writer=tf.summary.create_file_writer(str(tmp_path)),
        impressions=200,
        save_batch=save_batch,
        tasks=tasks,
    )
    guards.set_model(model(step=step, weights=weights))
    return guards


def read_scalars(tmp_path):
    """Returns tag -> (step, value) of what was written last."""
    points = {}
    for path in sorted(tmp_path.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                points[value.tag] = (event.step, round(float(tf.make_ndarray(value.tensor)), 4))
    return points


def judge_epoch(guards, *logs, **settings):
    guards.judge_epoch(*logs, **settings)
    guards._writer.close()


def test_healthy_steps_and_epochs_are_let_pass(tmp_path, capsys):
    guards = build_guards(tmp_path, step=500)

    guards.on_train_begin()
    guards.on_train_batch_end(0, LOGS)
    guards.on_train_end()
    guards.on_test_batch_end(0, LOGS)
    judge_epoch(guards, LOGS, LOGS)

    assert capsys.readouterr().err == ""
    assert read_scalars(tmp_path) == {
        "guard/unnested_labels": (500, 0.0),
        "guard/non_finite_loss": (500, 0.0),
        "guard/ctr_logits_std": (500, 0.7),
        "guard/cvr_logits_std": (500, 0.3),
        "guard/ctcvr_logits_std": (500, 0.4),
        "guard/ctr_calibration": (500, 1.1),
        "guard/ctcvr_calibration": (500, 0.9),
    }


@pytest.mark.parametrize(
    ("tasks", "told"),
    [(("cvr_clicked",), None), (("ctr",), "ctr 5"), (("ctcvr",), "ctcvr 9")],
)
def test_only_what_is_trained_on_has_to_be_calibrated(tmp_path, capsys, tasks, told):
    guards = build_guards(tmp_path, step=500, tasks=tasks)
    logs = LOGS | {"ctr_calibration": 5.0, "ctcvr_calibration": 9.0}

    judge_epoch(guards, LOGS, logs)

    written = {tag for tag in read_scalars(tmp_path) if tag.endswith("_calibration")}
    err = capsys.readouterr().err
    if told is None:
        assert err == ""
        assert written == set()
    else:
        assert f"and is on validation: {told}. Train longer" in err
        assert written == {f"guard/{tasks[0]}_calibration"}


def test_curves_of_tasks_that_are_not_trained_on_are_not_judged(tmp_path, capsys):
    guards = build_guards(tmp_path, step=500, tasks=("cvr_clicked",))
    undefined = ("ctr_logits_std", "ctcvr_logits_std", "ctr_calibration", "ctcvr_calibration")
    logs = LOGS | dict.fromkeys(undefined, math.nan)

    guards.on_train_batch_end(0, logs)
    judge_epoch(guards, logs, LOGS)

    assert capsys.readouterr().err == ""
    assert set(read_scalars(tmp_path)) == {
        "guard/unnested_labels",
        "guard/non_finite_loss",
        "guard/cvr_logits_std",
    }


@pytest.mark.parametrize("step", [99, 100])
def test_a_head_is_judged_after_its_first_100_steps(tmp_path, capsys, step):
    guards = build_guards(tmp_path, step=step)

    guards.on_train_batch_end(0, LOGS | {"cvr_logits_std": 9e-5})

    assert ("cvr_logits_std 9e-05. Lower" in capsys.readouterr().err) == (step == 100)


def test_a_spread_that_is_not_defined_is_not_judged():
    logs = LOGS | {"ctr_logits_std": math.nan, "cvr_logits_std": math.nan}

    assert epoch_guards.judge_heads(logs, GuardConfig()) is None


def test_a_guard_warns_once_an_epoch_however_many_steps_it_sees(tmp_path, capsys):
    logs = LOGS | {"unnested_labels": 3.0, "loss": math.inf, "ctr_logits_std": 0.0}
    guards = build_guards(tmp_path, step=500, on_unnested_labels="warn", on_non_finite_loss="warn")

    for place in range(4):
        guards.on_train_batch_end(place, logs)
    guards.on_test_batch_end(0, logs)

    starts = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert starts == [
        "warning: Loss and logits must be finite",
        "warning: A conversion needs a click",
        "warning: A head must tell impressions apart",
    ]


BROKEN = {"unnested_labels": 3.0, "loss": math.inf, "ctr_logits_std": 0.0, "ctr_calibration": 9.0}


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"unnested_labels": 3.0}, {}, "A conversion needs a click.* --on_unnested_labels=warn"),
        (
            {"ctr_logits_std": 0.0},
            {"on_collapsed_head": "stop"},
            "A head must tell impressions apart.* --on_collapsed_head=warn",
        ),
    ],
)
def test_a_guard_can_stop_a_step(tmp_path, changes, settings, message):
    guards = build_guards(tmp_path, step=500, **settings)

    with pytest.raises(UserError, match=rf"^{message}\.$"):
        guards.on_train_batch_end(0, LOGS | changes)


def test_guards_that_are_off_say_nothing_and_save_no_batch(tmp_path, capsys):
    saved = []
    guards = build_guards(
        tmp_path,
        step=500,
        weights=(math.nan,),
        save_batch=lambda *batch: saved.append(batch),
        **{
            field.name: "off"
            for field in dataclasses.fields(GuardConfig)
            if field.name[:3] == "on_"
        },
    )

    guards.on_train_begin()
    guards.on_train_batch_end(0, LOGS | BROKEN)
    guards.on_train_end()
    guards.on_test_batch_end(0, LOGS | BROKEN)
    judge_epoch(guards, LOGS | BROKEN, LOGS | BROKEN)

    assert capsys.readouterr().err == ""
    assert saved == []
    assert read_scalars(tmp_path)["guard/ctr_calibration"] == (500, 9.0)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"loss": math.nan}, "the loss is nan"),
        ({"loss": -math.inf}, "the loss is -inf"),
        ({"non_finite_logits": 1.0}, "some logits are infinite"),
    ],
)
def test_a_loss_that_is_no_number_names_its_step_and_saves_its_batch(tmp_path, changes, what):
    guards = build_guards(tmp_path, step=17)
    message = (
        rf"^Loss and logits must be finite, and at step 17, batch 4 of train, {what}\. The weights "
        r"were finite when the epoch began\. Saved train 3\. Lower --learning_rate, or scale the "
        r"numeric features; the last checkpoint is kept\. To go on all the same, give "
        r"--on_non_finite_loss=warn\.$"
    )

    guards.on_train_begin()
    with pytest.raises(UserError, match=message):
        guards.on_train_batch_end(3, LOGS | changes)


def test_a_loss_of_validation_is_told_apart(tmp_path):
    guards = build_guards(tmp_path, step=17)
    guards.on_train_batch_end(0, LOGS)

    with pytest.raises(UserError, match=r"at step 17, batch 6 of validation, .* Saved validation"):
        guards.on_test_batch_end(5, LOGS | {"loss": math.nan})


def test_no_batch_is_saved_if_the_weights_were_broken_before_the_epoch(tmp_path):
    guards = build_guards(tmp_path, weights=(1.0, math.nan))

    guards.on_train_begin()
    with pytest.raises(UserError, match=r"began\. Lower") as stop:
        guards.on_train_batch_end(0, LOGS | {"loss": math.nan})

    assert "Saved" not in str(stop.value)


def test_weights_that_are_broken_after_the_epoch_stop_it(tmp_path):
    guards = build_guards(tmp_path, step=9, weights=(math.inf,))
    guards.on_train_batch_end(0, LOGS)

    with pytest.raises(UserError, match="The weights are no finite numbers after step 9, though"):
        guards.on_train_end()


def test_unnested_labels_of_training_and_validation_add_up(tmp_path):
    guards = build_guards(tmp_path, on_unnested_labels="off")

    judge_epoch(guards, LOGS | {"unnested_labels": 2.0}, LOGS | {"unnested_labels": 5.0})

    assert read_scalars(tmp_path)["guard/unnested_labels"] == (0, 7.0)


@pytest.mark.parametrize(
    ("ratios", "shown"),
    [
        ({"ctr": 2.01, "ctcvr": 1.0}, "ctr 2.01."),
        ({"ctr": 1.99, "ctcvr": 0.49}, "ctcvr 0.49."),
        ({"ctr": 0.3, "ctcvr": 12.0}, "ctr 0.3, ctcvr 12."),
    ],
)
def test_predictions_that_are_too_high_or_too_low_are_told(ratios, shown):
    finding = epoch_guards.judge_calibration(ratios, "validation", GuardConfig())

    assert finding.message.startswith(
        "Mean prediction / mean label must lie in [0.5, 2] (--calibration_band), and is on "
        f"validation: {shown} Train longer"
    )


@pytest.mark.parametrize("ratios", [{"ctr": 2.0, "ctcvr": 0.5}, {"ctr": math.nan}])
def test_a_calibration_within_the_band_or_not_defined_is_fine(ratios):
    assert epoch_guards.judge_calibration(ratios, "train", GuardConfig()) is None


@pytest.mark.parametrize(("positives", "expected"), [(19, math.nan), (20, 3.0)])
def test_a_calibration_needs_20_positives(positives, expected):
    logs = {"ctcvr_calibration": 3.0, "conversions": positives}

    assert epoch_guards.calibration(logs, "ctcvr") == pytest.approx(expected, nan_ok=True)


def test_calibration_since_a_step_leaves_out_what_came_before():
    # Predicted 90 for 30 clicks at first, and then 55 for 50.
    halfway = {"ctr_calibration": 3.0, "clicks": 30.0}
    logs = {"ctr_calibration": 145 / 80, "clicks": 80.0}

    assert epoch_guards.calibration(logs, "ctr", since=halfway) == pytest.approx(1.1)


def test_without_validation_calibration_is_that_of_the_second_half_of_the_epoch(tmp_path):
    guards = build_guards(tmp_path)
    first = {"clicks": 10.0, "ctr_calibration": 9.0, "conversions": 5.0, "ctcvr_calibration": 9.0}
    half = {"clicks": 30.0, "ctr_calibration": 3.0, "conversions": 9.0, "ctcvr_calibration": 5.0}
    end = {"clicks": 80.0, "ctr_calibration": 145 / 80, "conversions": 20, "ctcvr_calibration": 4}

    for place, (impressions, logs) in enumerate(((40, first), (101, half), (200, end))):
        guards.on_train_batch_end(place, LOGS | logs | {"impressions": impressions})
    judge_epoch(guards, LOGS | end)

    scalars = read_scalars(tmp_path)
    assert scalars["guard/ctr_calibration"] == (0, 1.1)
    assert "guard/ctcvr_calibration" not in scalars  # 11 conversions are too few


def test_validation_that_is_sampled_otherwise_is_not_compared(tmp_path, capsys):
    guards = build_guards(tmp_path)
    sampled_otherwise = LOGS | {"ctr_calibration": 9.0, "ctcvr_calibration": 9.0}

    guards.on_train_batch_end(0, LOGS | {"impressions": 100.0, "clicks": 10.0, "conversions": 5.0})
    judge_epoch(guards, LOGS, sampled_otherwise, sampled_alike=False)

    assert capsys.readouterr().err == ""
    assert read_scalars(tmp_path)["guard/ctr_calibration"] == (0, 1.1)
