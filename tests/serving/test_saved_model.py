"""An exported model gives what `predict` gives, in a process that knows only TensorFlow."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from esmm_tf.config.training import InputConfig
from esmm_tf.data import records
from esmm_tf.data.source import find_source
from esmm_tf.evaluation import prediction

pytestmark = pytest.mark.slow

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
    for name in ("serving_default", "pctr", "pcvr", "pctcvr", "regress"):
        signature = graph.signature_def[name]
        fetches = {key: info.name for key, info in signature.outputs.items()}
        fed = {info.name: examples for info in signature.inputs.values()}
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


def build_tensors(impressions, schema, widths):
    """Returns the dense inputs of `predict_tensors`."""
    tensors = {}
    for feature in schema.features:
        rows = [impression[feature.name] for impression in impressions]
        many = feature.values == "many"
        width = widths[feature.name] if many else 1
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
def impressions(varied_groups, served_schema):
    return impressions_of(varied_groups, served_schema)


@pytest.fixture(scope="module")
def examples(impressions, served_schema):
    return [build_example(impression, served_schema) for impression in impressions]


@pytest.fixture(scope="module")
def predicted(trained, scored_data):
    """Returns what `predict` gives for the same impressions."""
    source = find_source(str(scored_data), split="test")
    batches = list(prediction.Prediction(trained.model, trained.schema, source, InputConfig()))
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in PROBABILITIES}
    assert len(np.unique(columns["pctcvr"])) == 20
    return columns


def assert_same(outputs, predicted, names=PROBABILITIES):
    assert set(outputs) == set(names)
    for name in names:
        np.testing.assert_allclose(outputs[name], predicted[name], rtol=0, atol=1e-6)


def test_the_signatures_have_names_dtypes_and_shapes(exported, served_schema, widths):
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
    strings = (tf.string.as_datatype_enum, [-1])
    assert found.pop("regress") == ({"inputs": strings}, {"outputs": score})
    assert found.pop("rank") == (
        {"context": strings, "candidates": strings},
        dict.fromkeys(PROBABILITIES, score),
    )
    tensors = {}
    for feature in served_schema.features:
        shape = [-1, widths[feature.name]] if feature.values == "many" else [-1]
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


def test_padded_tensors_are_served_as_predict_scores_them(
    signatures, impressions, served_schema, widths, predicted
):
    tensors = build_tensors(impressions, served_schema, widths)

    outputs = signatures["predict_tensors"](**tensors)

    combiners = {f.combiner for f in served_schema.features if f.values == "many"}
    assert combiners == {"sum", "mean", "sqrtn"}
    assert_same(outputs, predicted)


def test_padding_may_stand_before_the_values(
    signatures, impressions, served_schema, widths, predicted
):
    tensors = build_tensors(impressions, served_schema, widths)
    for name, tensor in tensors.items():
        if tensor.shape.rank == 2:
            tensors[name] = tf.reverse(tensor, axis=[1])

    outputs = signatures["predict_tensors"](**tensors)

    assert_same(outputs, predicted)


def test_one_impression_is_scored_as_in_a_batch(signatures, examples, predicted):
    outputs = signatures["serving_default"](tf.constant(examples[5:6]))

    assert_same(outputs, {name: predicted[name][5:6] for name in PROBABILITIES})


def test_regress_is_pctcvr_under_the_names_of_the_regression_interface(
    signatures, examples, predicted
):
    outputs = signatures["regress"](inputs=tf.constant(examples))

    assert_same({"pctcvr": outputs.pop("outputs")}, predicted, names=("pctcvr",))
    assert outputs == {}


@pytest.mark.parametrize("name", ["serving_default", *PROBABILITIES, "regress"])
def test_an_empty_batch_has_empty_outputs(signatures, name):
    outputs = signatures[name](tf.zeros([0], tf.string))

    assert {tuple(output.shape) for output in outputs.values()} == {(0,)}


@pytest.mark.parametrize("rows", [0, 1])
def test_no_candidates_have_no_scores(signatures, sides, rows):
    outputs = signatures["rank"](
        context=tf.constant([context for context, _ in sides[:rows]], tf.string),
        candidates=tf.zeros([0], tf.string),
    )

    assert {tuple(output.shape) for output in outputs.values()} == {(0,)}


@pytest.fixture(scope="module")
def sides(varied_groups, served_schema):
    """Returns the context and the candidates of each group."""
    return [
        records.split_group(records.encode_group(group), served_schema) for group in varied_groups
    ]


def test_a_context_and_its_candidates_are_ranked_as_predict_scores_them(
    signatures, sides, predicted
):
    ranked = [
        signatures["rank"](context=tf.constant([context]), candidates=tf.constant(candidates))
        for context, candidates in sides
    ]

    outputs = {name: np.concatenate([one[name] for one in ranked]) for name in PROBABILITIES}
    assert_same(outputs, predicted)


def test_requests_of_several_contexts_are_ranked_in_one_batch(signatures, sides, predicted):
    contexts = [row for context, found in sides for row in [context, *[b"^"] * (len(found) - 1)]]
    candidates = [candidate for _, found in sides for candidate in found]

    outputs = signatures["rank"](context=tf.constant(contexts), candidates=tf.constant(candidates))

    assert contexts.count(b"^") == 12
    assert_same(outputs, predicted)


def test_an_empty_context_is_a_context_of_its_own(signatures, sides):
    (known, candidates), other = sides[1], sides[2][1]

    outputs = signatures["rank"](
        context=tf.constant([known, b"^", b"", b"^"]),
        candidates=tf.constant([*candidates[:2], *other]),
    )

    alone = signatures["rank"](context=tf.constant([b""]), candidates=tf.constant(other))
    np.testing.assert_allclose(outputs["pctr"][2:], alone["pctr"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ([b"", b""], "`context` needs one row, or as many as `candidates`"),
        ([], "`context` needs one row, or as many as `candidates`"),
        ([b"^"], "The first row of `context` must be a serialized Example"),
        ([b"^", b"", b""], "The first row of `context` must be a serialized Example"),
    ],
)
def test_contexts_that_fit_no_candidates_are_refused(signatures, sides, contexts, message):
    candidates = tf.constant(sides[3][1])

    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["rank"](context=tf.constant(contexts, tf.string), candidates=candidates)


@pytest.mark.parametrize("weights", [[], [0.5], [0.5, 1.0, 2.0]])
def test_a_request_without_one_weight_a_value_is_refused(signatures, weights):
    example = records.encode_group({"interests": [7, 8], "interests:weight": weights})

    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"Feature interests needs one weight per value, under interests:weight\.",
    ):
        signatures["serving_default"](tf.constant([example]))


@pytest.mark.parametrize("name", ["serving_default", "rank"])
def test_a_malformed_example_is_refused(signatures, name):
    rows = tf.constant([b"no Example"])
    inputs = {"context": rows, "candidates": rows} if name == "rank" else {"examples": rows}

    with pytest.raises(tf.errors.InvalidArgumentError, match="Could not parse example input"):
        signatures[name](**inputs)


def test_an_empty_batch_of_tensors_has_empty_outputs(
    signatures, impressions, served_schema, widths
):
    tensors = build_tensors(impressions, served_schema, widths)
    tensors = {name: tensor[:0] for name, tensor in tensors.items()}

    outputs = signatures["predict_tensors"](**tensors)

    assert {tuple(output.shape) for output in outputs.values()} == {(0,)}


def test_a_request_without_any_feature_is_scored_as_one_with_all_missing(
    signatures, served_schema, widths
):
    missing = {f.name: (np.zeros(0), np.zeros(0)) for f in served_schema.features}

    outputs = signatures["serving_default"](tf.constant([b"", b""]))

    padded = signatures["predict_tensors"](**build_tensors([missing], served_schema, widths))
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


def test_the_vocabulary_is_an_asset(exported):
    assert (exported / "assets" / "query.txt").read_text(encoding="utf-8") == "shoes\nhats\n"
    assert not (exported.parents[1] / "model_dir").exists()


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
    regressed = found["answers"].pop("regress")
    assert_same({"pctcvr": regressed["outputs"]}, predicted, names=("pctcvr",))
    for name, outputs in found["answers"].items():
        assert_same(outputs, predicted, names=(name,))
