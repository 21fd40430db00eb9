"""An export answers as recorded in a process without Python, loaded as TF Serving loads it."""

import pathlib
import shutil
import subprocess
from typing import NamedTuple

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from esmm_tf.serving import saved_model, warmup

SOURCE = pathlib.Path(__file__).parent / "loader" / "load_saved_model.cc"
SIZES = (1, 3, 30)  # of the export
OTHER_SIZES = (2, 3)
OTHER_STARTS = (1, 5, 7)
LIBRARIES = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")
TAKE_EXAMPLES = sorted(set(saved_model.SIGNATURES) - {saved_model.PREDICT_TENSORS})

pytestmark = pytest.mark.slow


class Line(NamedTuple):
    """What the program prints of one check."""

    check: str
    signature: str
    rows: int
    difference: float


class Outcome(NamedTuple):
    """What the program returned and printed."""

    returncode: int
    lines: list[Line]
    errors: str

    def of(self, check):
        return [line for line in self.lines if line.check == check]


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """Returns the path of the program, built with TensorFlow's C API and libraries."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++, which builds the program, is not installed.")
    path = tmp_path_factory.mktemp("program") / "load_saved_model"
    directory = tf.sysconfig.get_lib()
    libraries = [f"-L{directory}", f"-Wl,-rpath,{directory}"]
    libraries += [f"-l:{name}" for name in LIBRARIES]
    if shutil.which("ld.gold"):
        libraries.append("-fuse-ld=gold")  # the other linker reads a library of a gigabyte slowly
    flags = ["-std=c++17", f"-I{tf.sysconfig.get_include()}", "-O0", "-pthread"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(path), *libraries], check=True)
    return path


@pytest.fixture(scope="module")
def warmup_file(exported):
    """Returns the file that TF Serving looks for in a version."""
    return exported / "assets.extra" / "tf_serving_warmup_requests"


@pytest.fixture(scope="module")
def other_files(impressions, signatures, widths, trained, tmp_path_factory):
    """Returns files of requests that begin with other impressions, so `rank` has other contexts."""
    assert len({impressions[start].context for start in (0, *OTHER_STARTS)}) == 4

    def score(signature, request):
        return signatures[signature](**{name: tf.constant(v) for name, v in request.items()})

    directory = tmp_path_factory.mktemp("other")
    paths = [directory / str(start) for start in OTHER_STARTS]
    for path, start in zip(paths, OTHER_STARTS, strict=True):
        warmup.write_warmup(
            str(path),
            impressions[start:],
            trained.schema,
            widths=widths,
            batch_sizes=OTHER_SIZES,
            model_name="esmm",
            score=score,
        )
    return paths


def run(program, *paths):
    done = subprocess.run(
        [str(path) for path in (program, *paths)], capture_output=True, text=True, check=False
    )
    lines = []
    for line in done.stdout.splitlines():
        check, signature, rows, difference = line.split()
        lines.append(Line(check, signature, int(rows), float(difference)))
    return Outcome(done.returncode, lines, done.stderr)


@pytest.fixture(scope="module")
def outcome(program, exported, warmup_file, other_files):
    return run(program, exported, warmup_file, *other_files)


def largest_difference(lines):
    return max(line.difference for line in lines)


def test_each_warm_up_request_gets_the_response_that_stands_beside_it(outcome):
    lines = outcome.of("replay")

    assert outcome.returncode == 0, outcome.errors
    expected = [(name, size) for name in saved_model.SIGNATURES for size in SIZES]
    assert [(line.signature, line.rows) for line in lines[: len(expected)]] == expected
    assert len(lines) == len(expected) + 42
    assert largest_difference(lines) <= 1e-6


def test_requests_in_one_padded_batch_get_their_own_responses(outcome):
    lines = outcome.of("batch")

    assert sum(SIZES) + len(OTHER_STARTS) * sum(OTHER_SIZES) == 49
    assert [line.rows for line in lines] == [64] * 14
    assert [line.signature for line in lines[::2]] == sorted(saved_model.SIGNATURES)
    assert largest_difference(lines) <= 1e-6


def test_threads_that_share_a_session_get_their_own_responses(outcome):
    lines = outcome.of("thread")

    assert len(lines) == 8
    assert largest_difference(lines) <= 1e-6


def test_an_input_that_is_no_example_is_an_invalid_argument_and_the_session_goes_on(outcome):
    malformed, afterwards = outcome.of("malformed"), outcome.of("afterwards")

    inputs = {line.signature for line in malformed}
    assert {name.split(".")[0] for name in inputs} == set(TAKE_EXAMPLES)
    assert {"rank.context", "rank.candidates", "regress.inputs"} < inputs
    assert largest_difference(malformed) == 0
    assert len(afterwards) == len(malformed) == 7
    assert largest_difference(afterwards) <= 1e-6


def test_a_request_without_rows_gets_a_response_without_rows(outcome):
    lines = outcome.of("empty")

    assert [line.signature for line in lines] == sorted(saved_model.SIGNATURES)
    assert {(line.rows, line.difference) for line in lines} == {(0, 0.0)}


def test_a_response_that_was_changed_is_found(program, exported, warmup_file, tmp_path):
    *_, first, second, last = tf.data.TFRecordDataset(str(warmup_file)).as_numpy_iterator()
    log = prediction_log_pb2.PredictionLog.FromString(last)
    outputs = log.predict_log.response.outputs["outputs"]
    values = tf.make_ndarray(outputs).copy()
    values[-1] += 1e-5
    outputs.CopyFrom(tf.make_tensor_proto(values))
    changed = tmp_path / "changed"
    with tf.io.TFRecordWriter(str(changed)) as writer:
        for record in (first, second, log.SerializeToString()):
            writer.write(record)

    outcome = run(program, exported, changed)

    assert outcome.returncode == 1
    *right, wrong = outcome.of("replay")
    assert [(line.signature, line.rows) for line in right] == [("regress", 1), ("regress", 3)]
    assert largest_difference(right) <= 1e-6
    assert (wrong.signature, wrong.rows) == ("regress", 30)
    assert wrong.difference == pytest.approx(1e-5, rel=0.1)
