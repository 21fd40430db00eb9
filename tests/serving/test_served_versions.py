"""Versions that are loaded, changed and unloaded while requests come."""

import re
import shutil
import threading
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from esmm_tf.errors import UserError
from esmm_tf.serving.loaded_version import LoadedVersion
from esmm_tf.serving.served_versions import ServedVersions

pytestmark = pytest.mark.slow


class Doubler(tf.Module):
    """Gives `by` times the feature `x` of Examples, and `x` itself."""

    def __init__(self, by):
        super().__init__()
        self.by = tf.Variable(by, dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def score(self, examples):
        x = tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"]
        return {"scaled": self.by * x, "x": x}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.float32, name="a"),
            tf.TensorSpec([None, 2], tf.float32, name="b"),
        ]
    )
    def add(self, a, b):
        return {"sum": self.by * (a + tf.reduce_sum(b, axis=1))}


def write_version(export_dir, version, *, by):
    """Writes a version that multiplies by a number; returns its directory."""
    module = Doubler(by)
    path = export_dir / str(version)
    signatures = {"serving_default": module.score, "add": module.add}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def example(x):
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=[x]))
    features = tf.train.Features(feature={"x": feature})
    return tf.train.Example(features=features).SerializeToString()


def strings(*values):
    return np.array(values, object)


def scaled(versions, x=3.0, *, version=None):
    """Returns `x` times the number of the version that is found."""
    loaded = versions.find("shop", version)
    return loaded.predict("serving_default", {"examples": strings(example(x))})["scaled"].tolist()


def states(versions):
    """Returns the number and the state of each version."""
    return {
        status.version: ModelVersionStatus.State.Name(status.state)
        for status in versions.find_statuses("shop")
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns a directory of versions 2 and 3, which multiply by their numbers."""
    directory = tmp_path_factory.mktemp("written")
    for version in (2, 3):
        write_version(directory, version, by=version)
    return directory


@pytest.fixture
def export_dir(written, tmp_path):
    """Returns a directory that holds a copy of version 2."""
    directory = tmp_path / "export"
    shutil.copytree(written / "2", directory / "2")
    return directory


@pytest.fixture
def reported():
    return []


@pytest.fixture
def versions(export_dir, reported):
    """Returns the versions of `export_dir`, with version 2 loaded."""
    versions = ServedVersions(str(export_dir), model_name="shop", report=reported.append)
    versions.refresh()
    return versions


@pytest.fixture(scope="module")
def loaded(written):
    return LoadedVersion(str(written / "2"), 2)


def test_the_highest_version_is_served(written):
    versions = ServedVersions(str(written), model_name="shop", report=str)

    versions.refresh()

    assert scaled(versions) == [9.0]
    assert versions.find("shop").version == 3
    assert states(versions) == {3: "AVAILABLE"}
    assert versions.check_serving().version == 3


def test_a_newer_version_takes_the_place_of_the_one_before(versions, export_dir, written, reported):
    before = scaled(versions)
    shutil.copytree(written / "3", export_dir / "3")

    versions.refresh()

    assert (before, scaled(versions), scaled(versions, version=3)) == ([6.0], [9.0], [9.0])
    assert states(versions) == {3: "AVAILABLE", 2: "END"}
    assert list(states(versions)) == [3, 2]
    assert reported == ["serving version 2", "serving version 3", "unloaded version 2"]


def test_a_version_that_is_removed_makes_room_for_the_one_before(versions, export_dir, written):
    shutil.copytree(written / "3", export_dir / "3")
    versions.refresh()
    shutil.rmtree(export_dir / "3")

    versions.refresh()

    assert scaled(versions) == [6.0]
    assert states(versions) == {2: "AVAILABLE", 3: "END"}


def test_the_newer_version_is_available_before_the_older_is_unloaded(
    export_dir, written, monkeypatch
):
    seen = []
    versions = ServedVersions(
        str(export_dir),
        model_name="shop",
        report=lambda line: seen.append((line, scaled(versions))),
    )
    versions.refresh()
    shutil.copytree(written / "3", export_dir / "3")
    collect = []
    monkeypatch.setattr("gc.collect", lambda: collect.append(states(versions)))

    versions.refresh()

    assert seen == [
        ("serving version 2", [6.0]),
        ("serving version 3", [9.0]),
        ("unloaded version 2", [9.0]),
    ]
    assert collect == [{3: "AVAILABLE", 2: "UNLOADING"}]


def test_the_state_is_loading_while_a_version_is_loaded(export_dir, monkeypatch):
    versions = ServedVersions(str(export_dir), model_name="shop", report=str)
    seen = []
    load = tf.saved_model.load

    def record(path):
        seen.append(states(versions))
        return load(path)

    monkeypatch.setattr(tf.saved_model, "load", record)

    versions.refresh()

    assert seen == [{2: "LOADING"}]


def test_a_request_ends_on_the_version_that_it_found(versions, export_dir, written):
    found = versions.find("shop")
    shutil.copytree(written / "3", export_dir / "3")

    versions.refresh()

    with pytest.raises(tf.errors.NotFoundError):
        versions.find("shop", 2)
    outputs = found.predict("serving_default", {"examples": strings(example(5.0))})
    assert outputs["scaled"].tolist() == [10.0]


@pytest.mark.parametrize("broken", ["saved_model.pb", "variables/variables.index"])
def test_the_old_version_keeps_serving_when_the_new_one_is_broken(
    versions, export_dir, written, reported, broken
):
    shutil.copytree(written / "3", export_dir / "3")
    (export_dir / "3" / broken).write_bytes(b"broken")

    for _ in range(3):
        versions.refresh()

    assert scaled(versions) == [6.0]
    assert states(versions) == {3: "END", 2: "AVAILABLE"}
    (status,) = versions.find_statuses("shop", 3)
    assert status.status.error_code != 0
    assert status.status.error_message
    assert reported == [
        "serving version 2",
        f"version 3 cannot be loaded: {status.status.error_message}",
    ]


def test_a_broken_version_is_tried_again_when_its_files_have_changed(
    versions, export_dir, written, reported
):
    shutil.copytree(written / "3", export_dir / "3")
    (export_dir / "3" / "variables" / "variables.index").unlink()
    versions.refresh()
    shutil.copy(written / "3" / "variables" / "variables.index", export_dir / "3" / "variables")

    versions.refresh()

    assert scaled(versions) == [9.0]
    assert states(versions) == {3: "AVAILABLE", 2: "END"}
    assert versions.find_statuses("shop", 3)[0].status.error_code == 0
    assert reported[2:] == ["serving version 3", "unloaded version 2"]


def test_only_numbered_directories_with_a_saved_model_are_versions(versions, export_dir, written):
    for name in (".3.tmp", "3.tmp", "v3", "-3", "³"):
        shutil.copytree(written / "3", export_dir / name)
    (export_dir / "4").mkdir()
    (export_dir / "5").write_text("no directory", encoding="utf-8")

    versions.refresh()

    assert states(versions) == {2: "AVAILABLE"}


def test_a_directory_without_a_version_unloads_all(versions, export_dir):
    shutil.rmtree(export_dir / "2")

    versions.refresh()

    assert states(versions) == {2: "END"}
    with pytest.raises(
        tf.errors.NotFoundError, match=r"^Servable not found for request: Latest\(shop\)$"
    ):
        versions.find("shop")


def test_a_directory_that_is_gone_unloads_nothing(versions, export_dir):
    shutil.rmtree(export_dir)

    versions.refresh()

    assert scaled(versions) == [6.0]


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("hats", None, "Servable not found for request: Latest(hats)"),
        ("hats", 2, "Servable not found for request: Specific(hats, 2)"),
        ("shop", 7, "Servable not found for request: Specific(shop, 7)"),
        ("shop", 0, "Servable not found for request: Specific(shop, 0)"),
    ],
)
def test_another_model_or_version_is_not_found(versions, name, version, message):
    with pytest.raises(tf.errors.NotFoundError, match=f"^{re.escape(message)}$"):
        versions.find(name, version)


def test_a_request_names_its_model(versions):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"^ModelSpec has no name specified\.$"
    ):
        versions.find("")


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("hats", None, "Could not find any versions of model hats"),
        ("hats", 2, "Could not find version 2 of model hats"),
        ("shop", 7, "Could not find version 7 of model shop"),
    ],
)
def test_another_model_or_version_has_no_status(versions, name, version, message):
    with pytest.raises(tf.errors.NotFoundError, match=f"^{message}$"):
        versions.find_statuses(name, version)


@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_without_a_version_is_the_users_mistake(tmp_path, exists):
    directory = tmp_path if exists else tmp_path / "none"
    versions = ServedVersions(str(directory), model_name="shop", report=str)
    versions.refresh()
    message = (
        f"There is no version in '{directory}'. Write one with python -m esmm_tf.export "
        f"--model_dir=... --export_dir={directory}."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        versions.check_serving()


def test_a_directory_whose_highest_version_is_broken_is_the_users_mistake(export_dir):
    (export_dir / "3").mkdir()
    (export_dir / "3" / "saved_model.pb").write_bytes(b"broken")
    versions = ServedVersions(str(export_dir), model_name="shop", report=str)
    versions.refresh()
    message = (
        rf"^Version 3 in '{export_dir}' cannot be loaded: .*\. Export it again with "
        r"python -m esmm_tf\.export\.$"
    )

    with pytest.raises(UserError, match=message):
        versions.check_serving()


def test_the_outputs_are_those_that_are_asked_for(loaded):
    request = {"examples": strings(example(3.0), example(0.5))}

    every = loaded.predict("serving_default", request)
    one = loaded.predict("serving_default", request, output_filter=["x"])

    assert {name: values.tolist() for name, values in every.items()} == {
        "scaled": [6.0, 1.0],
        "x": [3.0, 0.5],
    }
    assert {name: values.tolist() for name, values in one.items()} == {"x": [3.0, 0.5]}


def test_an_empty_batch_has_empty_outputs(loaded):
    outputs = loaded.predict("serving_default", {"examples": strings()})

    assert {name: values.shape for name, values in outputs.items()} == {"scaled": (0,), "x": (0,)}


FLOATS = np.float32([1.0])


@pytest.mark.parametrize(
    ("signature", "inputs", "output_filter", "error", "message"),
    [
        (
            "other",
            {},
            (),
            tf.errors.FailedPreconditionError,
            'Serving signature key "other" not found.',
        ),
        (
            "__saved_model_init_op",
            {},
            (),
            tf.errors.InternalError,
            "Expected prediction signature method_name to be one of "
            "{tensorflow/serving/predict}. Was: ",
        ),
        (
            "add",
            {"a": FLOATS},
            (),
            tf.errors.InvalidArgumentError,
            "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. "
            "Missing but required: {b}.",
        ),
        (
            "add",
            {"a": FLOATS, "c": FLOATS},
            (),
            tf.errors.InvalidArgumentError,
            "input tensor alias not found in signature: c. Inputs expected to be in the set {a,b}.",
        ),
        (
            "serving_default",
            {"examples": FLOATS},
            (),
            tf.errors.InvalidArgumentError,
            "Expects arg[0] to be string but float32 is provided, for input examples",
        ),
        (
            "add",
            {"a": FLOATS, "b": np.float32([[1, 2, 3]])},
            (),
            tf.errors.InvalidArgumentError,
            "Input b has shape [1, 3]. Give [None, 2].",
        ),
        (
            "serving_default",
            {"examples": strings(b"")},
            (),
            tf.errors.InvalidArgumentError,
            "Name: <unknown>, Feature: x (data type: float) is required but could not be found.\n"
            "\t [[{{node ParseExample/ParseExampleV2}}]]",
        ),
        (
            "serving_default",
            {"examples": strings(b"no Example")},
            (),
            tf.errors.InvalidArgumentError,
            "Could not parse example input, value: 'no Example'\n"
            "\t [[{{node ParseExample/ParseExampleV2}}]]",
        ),
        (
            "serving_default",
            {"examples": strings(example(1.0))},
            ("y",),
            tf.errors.InvalidArgumentError,
            "output tensor alias not found in signature: y Outputs expected to be in the set "
            "{scaled,x}.",
        ),
        (
            "serving_default",
            {"examples": strings(example(1.0))},
            ("x", "x"),
            tf.errors.InvalidArgumentError,
            "duplicate output tensor alias: x",
        ),
    ],
)
def test_a_request_that_cannot_be_scored_has_the_error_of_tf_serving(
    loaded, signature, inputs, output_filter, error, message
):
    with pytest.raises(error) as error_info:
        loaded.predict(signature, inputs, output_filter=output_filter)

    assert error_info.value.message == message


def test_requests_of_many_threads_are_answered_while_versions_change(versions, export_dir, written):
    changed = threading.Event()

    def ask(x):
        """Returns the answers of requests, the last after the last change."""
        answers = []
        while not changed.is_set():
            answers += scaled(versions, x)
        return answers + scaled(versions, x)

    with futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, float(x)) for x in range(1, 5)]
        shutil.copytree(written / "3", export_dir / "3")
        versions.refresh()
        changed.set()
        answers = [future.result() for future in asked]

    for x, found in enumerate(answers, start=1):
        assert found[-1] == 3 * x
        assert set(found) <= {2 * x, 3 * x}
