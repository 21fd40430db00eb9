"""What a run shows while it trains."""

import io
import math
import types

import pytest
import tensorflow as tf
from tqdm import tqdm

from esmm_tf import console
from esmm_tf.training import progress

LOGS = {"loss": 0.5, "ctr_auc": 0.61, "cvr_auc_clicked": math.nan, "ctcvr_auc": 0.63}


def attach(callback, *, step=0):
    """Gives the callback a model whose optimizer has taken `step` steps."""
    callback.set_model(types.SimpleNamespace(optimizer=types.SimpleNamespace(iterations=step)))
    return callback


def read_scalars(directory):
    """Returns `(step, tag, value)` of every scalar, in the order of writing."""
    (path,) = directory.iterdir()
    points = []
    for event in tf.compat.v1.train.summary_iterator(str(path)):
        for value in event.summary.value:
            points.append((event.step, value.tag, round(float(tf.make_ndarray(value.tensor)), 6)))
    return points


@pytest.fixture
def bar(monkeypatch):
    """Returns the bar that the callback draws, on a terminal that keeps its text."""
    drawn = tqdm(total=30, file=io.StringIO(), mininterval=0, disable=False, ncols=200)
    monkeypatch.setattr(console, "build_bar", lambda *_: drawn)
    return drawn


def test_the_bar_counts_impressions_and_shows_the_metrics_that_are_defined_so_far(bar):
    callback = progress.Progress(30, "epoch 1 of 2")

    callback.on_train_begin()
    for place, impressions in enumerate((12.0, 19.0, 30.0)):
        callback.on_train_batch_end(place, LOGS | {"impressions": impressions})
        assert bar.n == impressions
    callback.on_train_end()

    text = bar.fp.getvalue()
    assert "30/30" in text
    assert "loss=0.5000, ctr_auc=0.6100, ctcvr_auc=0.6300]" in text  # one AUC is not defined yet
    assert text.endswith("\n")


def test_a_bar_that_was_never_started_does_nothing():
    callback = progress.Progress(30, "epoch 1 of 2")

    callback.on_train_batch_end(0, LOGS | {"impressions": 12.0})

    assert callback.on_train_end() is None


def test_the_bar_is_silent_where_there_is_no_terminal(capfd):
    with console.build_bar(30, "title") as drawn:
        drawn.update(30)

    assert drawn.disable is True
    assert capfd.readouterr() == ("", "")


def test_a_bar_on_a_terminal_names_its_unit_and_total(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)

    with console.build_bar(30, "epoch 1 of 2") as drawn:
        drawn.update(30)

    assert "epoch 1 of 2: 100%" in terminal.getvalue()
    assert "30.0/30.0" in terminal.getvalue()
    assert " impressions/s]" in terminal.getvalue()


def test_throughput_is_the_rate_after_the_first_batch(monkeypatch):
    # The first batch takes 100 s, the two others half a second each.
    times = iter([100.0, 100.0, 100.5, 101.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(times))
    throughput = progress.Throughput()

    for place, impressions in enumerate((10.0, 50.0, 110.0)):
        throughput.on_train_batch_end(place, {"impressions": impressions})

    assert throughput.impressions_per_second == 100.0


@pytest.mark.parametrize("num_batches", [0, 1])
def test_throughput_of_fewer_than_two_batches_is_not_defined(num_batches):
    throughput = progress.Throughput()

    for place in range(num_batches):
        throughput.on_train_batch_end(place, {"impressions": 10.0})

    assert math.isnan(throughput.impressions_per_second)


def test_curves_have_a_point_every_20_steps(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    callback = progress.TensorBoardCurves(writer)

    for step in range(1, 61):
        attach(callback, step=step).on_train_batch_end(0, {"loss": step / 10})
    writer.close()

    assert read_scalars(tmp_path) == [(20, "loss", 2.0), (40, "loss", 4.0), (60, "loss", 6.0)]


def test_scalars_that_are_not_defined_leave_a_gap(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))

    progress.write_scalars(writer, LOGS | {"ctr_calibration": math.inf}, step=3)
    writer.close()

    assert read_scalars(tmp_path) == [
        (3, "loss", 0.5),
        (3, "ctr_auc", 0.61),
        (3, "ctcvr_auc", 0.63),
    ]


def test_scalars_of_guards_have_names_of_their_own(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))

    progress.write_guards(writer, {"unnested_labels": 2.0, "leak_auc": math.nan}, step=5)
    writer.close()

    assert read_scalars(tmp_path) == [(5, "guard/unnested_labels", 2.0)]
