"""An exported model gives what `predict` gives, in a process that knows only TensorFlow."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from esmm_tf import input_fn, model_directory, prediction, records, saved_model
from esmm_tf.config import InputConfig
from esmm_tf.errors import UserError

PROBABILITIES = ("pctr", "pcvr", "pctcvr")
PADDING = {"int64": np.iinfo(np.int64).min, "float32": np.nan, "string": b""}

# Reads requests, scores them with the TensorFlow 1 loader and writes what the signatures return.
SERVE = """
import json, sys
import numpy as np
import tensorflow as tf

path, requests = sys.argv[1:]
with open(requests) as file:
    examples = [bytes.fromhex(text) for text in json.load(file)]
answers = {}
with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
    for name in ("serving_default", "pctr", "pcvr", "pctcvr"):
        signature = graph.signature_def[name]
        fetches = {key: info.name for key, info in signature.outputs.items()}
        fed = {signature.inputs["examples"].name: examples}
        found = session.run(fetches, fed)
        answers[name] = {key: np.asarray(value).tolist() for key, value in found.items()}
loaded = [name for name in ("esmm_tf", "tf_keras") if name in sys.modules]
print(json.dumps({"answers": answers, "loaded": loaded}))
"""


def values_of(group, feature, place):
    """Returns the values and weights of one impression."""
    values = np.asarray(group.get(feature.name, []))
    weights = np.asarray(group.get(f"{feature.name}:weight", np.ones(len(values))))
    if feature.side == "context":
        return values, weights
    lengths = group.get(f"{feature.name}:lengths")
    lengths = np.ones(len(group["click"]), int) if lengths is None else np.asarray(lengths)
    start = lengths[:place].sum()
    inside = slice(start, start + lengths[place])
    return values[inside], weights[inside]


def impressions_of(groups, schema):
    """Returns feature -> (values, weights) of every impression."""
    return [
        {feature.name: values_of(group, feature, place) for feature in schema.features}
        for group in groups
        for place in range(len(group["click"]))
    ]


def build_example(impression, schema):
    """Returns a serialized Example of one impression: features alone, absent ones left out."""
    content = {}
    for feature in schema.features:
        values, weights = impression[feature.name]
        content[feature.name] = values
        if feature.weighted:
            content[f"{feature.name}:weight"] = weights
    return records.encode_group(content)


def build_tensors(impressions, schema, *, extra=0):
    """Returns the dense inputs of `predict_tensors`, each `extra` wider than it has to be."""
    tensors = {}
    for feature in schema.features:
        rows = [impression[feature.name] for impression in impressions]
        many = feature.values == "many"
        width = max(len(values) for values, _ in rows) + extra if many else 1
        dtype = object if feature.dtype == "string" else feature.dtype
        dense = np.full((len(rows), width), PADDING[feature.dtype], dtype)
        weights = np.full((len(rows), width), 77.0, np.float32)
        for place, (values, weight) in enumerate(rows):
            if feature.dtype == "string":
                values = [value.encode() for value in values]
            dense[place, : len(values)] = values
            weights[place, : len(values)] = weight
        tensors[feature.name] = tf.constant(dense if many else dense[:, 0], feature.dtype)
        if feature.weighted:
            tensors[f"{feature.name}_weight"] = tf.constant(weights if many else weights[:, 0])
    return tensors


def read_graph(path):
    proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    return proto.meta_graphs[0]


@pytest.fixture(scope="module")
def exported(model_dir, tmp_path_factory):
    """Returns the path of an export whose model directory and vocabulary are gone."""
    directory = tmp_path_factory.mktemp("exported")
    copied = directory / "model_dir"
    shutil.copytree(model_dir, copied)
    found = model_directory.load_model(str(copied))
    path = saved_model.export(found.model, found.schema, str(directory / "export"))
    shutil.rmtree(copied)
    return pathlib.Path(path)


@pytest.fixture(scope="module")
def signatures(exported):
    return tf.saved_model.load(str(exported)).signatures


@pytest.fixture(scope="module")
def impressions(varied_groups, served_schema):
    return impressions_of(varied_groups, served_schema)


@pytest.fixture(scope="module")
def examples(impressions, served_schema):
    return [build_example(impression, served_schema) for impression in impressions]


@pytest.fixture(scope="module")
def predicted(trained, scored_data):
    """Returns what `predict` gives for the same impressions."""
    source = input_fn.find_source(str(scored_data), split="test")
    batches = list(prediction.predict(trained.model, trained.schema, source, InputConfig()))
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in PROBABILITIES}
    assert len(np.unique(columns["pctcvr"])) == 20
    return columns


@pytest.fixture
def nothing_traced(monkeypatch):
    """Lets an export skip the tracing, and write an empty directory."""
    module = types.SimpleNamespace(signatures=dict)
    monkeypatch.setattr(saved_model, "_ServingModule", lambda *_: module)
    monkeypatch.setattr(tf.saved_model, "save", lambda module, path, signatures: os.makedirs(path))


def assert_same(outputs, predicted, names=PROBABILITIES):
    assert set(outputs) == set(names)
    for name in names:
        np.testing.assert_allclose(outputs[name], predicted[name], rtol=0, atol=1e-6)


def test_the_signatures_have_names_dtypes_and_shapes(exported, served_schema):
    found = {
        name: (
            {key: (info.dtype, shape_of(info)) for key, info in signature.inputs.items()},
            {key: (info.dtype, shape_of(info)) for key, info in signature.outputs.items()},
        )
        for name, signature in read_graph(exported).signature_def.items()
        if name != "__saved_model_init_op"
    }

    serialized = {"examples": (tf.string.as_datatype_enum, [-1])}
    score = (tf.float32.as_datatype_enum, [-1])
    assert found.pop("serving_default") == (serialized, dict.fromkeys(PROBABILITIES, score))
    for name in PROBABILITIES:
        assert found.pop(name) == (serialized, {name: score})
    tensors = {}
    for feature in served_schema.features:
        shape = [-1, -1] if feature.values == "many" else [-1]
        dtype = tf.dtypes.as_dtype(feature.dtype).as_datatype_enum
        tensors[feature.name] = (dtype, shape)
        if feature.weighted:
            tensors[f"{feature.name}_weight"] = (tf.float32.as_datatype_enum, shape)
    assert found == {"predict_tensors": (tensors, dict.fromkeys(PROBABILITIES, score))}
    assert len(tensors) == 15


def shape_of(info):
    return [dim.size for dim in info.tensor_shape.dim]


def test_serialized_examples_are_served_as_predict_scores_them(signatures, examples, predicted):
    outputs = signatures["serving_default"](tf.constant(examples))

    assert_same(outputs, predicted)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_a_signature_of_one_output_serves_that_output(signatures, examples, predicted, name):
    outputs = signatures[name](examples=tf.constant(examples))

    assert_same(outputs, predicted, names=(name,))


@pytest.mark.parametrize("extra", [0, 3])
def test_padded_tensors_are_served_as_predict_scores_them(
    signatures, impressions, served_schema, predicted, extra
):
    tensors = build_tensors(impressions, served_schema, extra=extra)

    outputs = signatures["predict_tensors"](**tensors)

    combiners = {f.combiner for f in served_schema.features if f.values == "many"}
    assert combiners == {"sum", "mean", "sqrtn"}
    assert_same(outputs, predicted)


def test_padding_may_stand_before_the_values(signatures, impressions, served_schema, predicted):
    tensors = build_tensors(impressions, served_schema, extra=1)
    for name, tensor in tensors.items():
        if tensor.shape.rank == 2:
            tensors[name] = tf.reverse(tensor, axis=[1])

    outputs = signatures["predict_tensors"](**tensors)

    assert_same(outputs, predicted)


def test_one_impression_is_scored_as_in_a_batch(signatures, examples, predicted):
    outputs = signatures["serving_default"](tf.constant(examples[5:6]))

    assert_same(outputs, {name: predicted[name][5:6] for name in PROBABILITIES})


@pytest.mark.parametrize("name", ["serving_default", *PROBABILITIES])
def test_an_empty_batch_has_empty_outputs(signatures, name):
    outputs = signatures[name](tf.zeros([0], tf.string))

    assert {tuple(output.shape) for output in outputs.values()} == {(0,)}


def test_an_empty_batch_of_tensors_has_empty_outputs(signatures, impressions, served_schema):
    tensors = {name: t[:0] for name, t in build_tensors(impressions, served_schema).items()}

    outputs = signatures["predict_tensors"](**tensors)

    assert {tuple(output.shape) for output in outputs.values()} == {(0,)}


def test_a_request_without_any_feature_is_scored_as_one_with_all_missing(signatures, served_schema):
    missing = {f.name: (np.zeros(0), np.zeros(0)) for f in served_schema.features}

    outputs = signatures["serving_default"](tf.constant([b"", b""]))

    padded = signatures["predict_tensors"](**build_tensors([missing], served_schema, extra=1))
    for name in PROBABILITIES:
        assert np.isfinite(outputs[name]).all()
        np.testing.assert_allclose(outputs[name], np.repeat(padded[name], 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", ["item", "query"])
def test_a_value_that_training_never_saw_is_scored_as_unknown(
    signatures, impressions, served_schema, key
):
    values = {
        "item": ([np.array([-1])], [np.array([50])], [np.array([49])]),
        # Out-of-vocabulary strings of one hash bucket share a row; a known one has its own.
        "query": ([bucket_mates()[0]], [bucket_mates()[1]], [np.array(["hats"])]),
    }[key]
    changed = [impressions[0] | {key: (value[0], np.ones(1))} for value in values]

    outputs = signatures["serving_default"](
        tf.constant([build_example(impression, served_schema) for impression in changed])
    )

    first, second, known = outputs["pctr"].numpy()
    assert first == pytest.approx(second, abs=1e-6)
    assert first != pytest.approx(known, abs=1e-5)


def bucket_mates():
    """Returns two unknown strings that fall into the same of 3 hash buckets."""
    words = [f"unknown {place}" for place in range(4)]
    buckets = tf.strings.to_hash_bucket_fast(words, 3).numpy().tolist()
    bucket = max(buckets, key=buckets.count)
    mates = [word for word, found in zip(words, buckets, strict=True) if found == bucket]
    return np.array(mates[:1]), np.array(mates[1:2])


def test_keys_and_labels_in_a_request_are_not_read(signatures, examples, predicted):
    outputs = signatures["serving_default"](
        tf.constant(
            [
                example + records.encode_group({"click": [1, 0], "request": ["x"], "stray": [1.0]})
                for example in examples
            ]
        )
    )

    assert_same(outputs, predicted)


def test_the_graph_holds_core_ops_only(exported):
    graph = read_graph(exported).graph_def

    ops = {node.op for node in graph.node}
    ops |= {node.op for function in graph.library.function for node in function.node_def}

    assert "ParseExampleV2" in ops
    assert ops <= set(dir(tf.raw_ops))
    assert not {op for op in ops if "PyFunc" in op}


def test_the_vocabulary_is_an_asset(exported):
    assert (exported / "assets" / "query.txt").read_text(encoding="utf-8") == "shoes\nhats\n"
    assert not (exported.parent.parent / "model_dir").exists()


def test_nothing_but_the_version_is_left(exported):
    assert os.listdir(exported.parent) == ["1"]
    assert sorted(os.listdir(exported)) == [
        "assets",
        "fingerprint.pb",
        "saved_model.pb",
        "variables",
    ]


@pytest.mark.usefixtures("nothing_traced")
def test_versions_count_up_from_the_highest(trained, tmp_path):
    for name in ("3", "12", "not_a_version", ".99.tmp"):
        (tmp_path / name).mkdir()

    paths = [saved_model.export(trained.model, trained.schema, str(tmp_path)) for _ in range(2)]

    assert paths == [str(tmp_path / "13"), str(tmp_path / "14")]


def test_a_version_that_exists_is_refused_and_kept(trained, tmp_path):
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "kept").touch()
    message = f"'{tmp_path}/4' exists. Give another --version, or 0 for the next free one."

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        saved_model.export(trained.model, trained.schema, str(tmp_path), version=4)

    assert os.listdir(tmp_path / "4") == ["kept"]


@pytest.mark.usefixtures("nothing_traced")
def test_an_export_that_fails_leaves_no_version_and_can_be_repeated(trained, tmp_path, monkeypatch):
    def fail(_module, path, **_):
        os.makedirs(path)
        pathlib.Path(path, "half").touch()
        raise OSError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(tf.saved_model, "save", fail)
        with pytest.raises(OSError, match="disk is full"):
            saved_model.export(trained.model, trained.schema, str(tmp_path), version=2)
    assert not (tmp_path / "2").exists()

    saved_model.export(trained.model, trained.schema, str(tmp_path), version=2)

    assert os.listdir(tmp_path) == ["2"]
    assert os.listdir(tmp_path / "2") == []


@pytest.mark.slow
def test_a_process_that_knows_only_tensorflow_serves_the_same_numbers(
    exported, examples, predicted, tmp_path
):
    requests = tmp_path / "requests.json"
    requests.write_text(json.dumps([example.hex() for example in examples]), encoding="utf-8")
    moved = tmp_path / "moved"
    shutil.copytree(exported, moved)

    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(moved), str(requests)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loaded"] == []
    assert_same(found["answers"].pop("serving_default"), predicted)
    for name, outputs in found["answers"].items():
        assert_same(outputs, predicted, names=(name,))
