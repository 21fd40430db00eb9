"""Scores of impressions: collected in the order of the files, and put together from shards."""

import dataclasses
import json
import types

import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn
from esmm_tf.data.source import find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.evaluation import evaluation
from esmm_tf.evaluation.scores import Scores, collect_scores, ctcvr_logits
from esmm_tf.schema.columns import IdentityColumn
from esmm_tf.schema.schema import Feature, Key, Labels, Schema

CLICK = np.array([1, 1, 0, 1, 0], np.uint8)
CONVERSION = np.array([1, 0, 0, 0, 0], np.uint8)
WEIGHT = np.array([1.0, 2.0, 0.5, 3.0, 1.5], np.float32)


def build_scores(**changes):
    """Returns five impressions; every array has values of its own, so that a mix-up shows."""
    fields = {
        "ctr_logits": np.array([0.5, -0.25, 0.0, 1.0, -2.0], np.float32),
        "cvr_logits": np.array([-1.0, 0.75, 3.0, -0.5, 2.5], np.float32),
        "click": CLICK,
        "conversion": CONVERSION,
        "weight": WEIGHT,
        "oracle": {"oracle_pctr": np.array([0.9, 0.6, 0.3, 0.7, 0.2], np.float32)},
        "groups": np.array([70, 70, -3, -3, 9]),
    }
    return Scores(**fields | changes)


def joined(groups, key):
    return np.concatenate([group[key] for group in groups])


def same_group(groups):
    """Returns which pairs of impressions are of one group, bool `[n, n]`."""
    groups = np.asarray(groups)
    return groups[:, np.newaxis] == groups


def constant_model(ctr_logit, cvr_logit):
    """Returns what stands for a model with these logits."""

    def call(features, training):
        assert not training
        index = tf.cast(features["group_index"], tf.float32)
        return {"ctr_logits": 0 * index + ctr_logit, "cvr_logits": 0 * index + cvr_logit}

    return call


@pytest.fixture(scope="module")
def scored_source(scored_data):
    return find_source(str(scored_data), split="test")


@pytest.fixture(scope="module")
def collected(trained, scored_source):
    """Returns the scores of the 20 impressions, read in batches of at most 3 or one group."""
    return collect_scores(
        trained.model, trained.schema, scored_source, InputConfig(batch_size=3), slices=("brand",)
    )


@pytest.fixture
def write_plain(tmp_path):
    """Returns a function that writes groups of an item and labels, and reads their scores."""

    def run(groups, *, labels=Labels(), key=None, negative_keep_rate=1.0):  # noqa: B008 - frozen
        schema = Schema(
            name="plain",
            features=(
                Feature(
                    name="item",
                    side="impression",
                    dtype="int64",
                    column=IdentityColumn(vocabulary_size=9),
                ),
            ),
            keys=() if key is None else (key,),
            labels=labels,
            group_key=None if key is None else key.name,
        )
        with DataSetWriter(
            str(tmp_path), schema, num_shards=2, negative_keep_rate={"test": negative_keep_rate}
        ) as writer:
            for group in groups:
                writer.write("test", {"item": np.arange(len(group["click"])), **group})
        source = find_source(str(tmp_path), split="test")
        return collect_scores(constant_model(0.5, -2.0), schema, source, InputConfig())

    return run


def test_scores_are_those_of_the_impressions_in_the_order_of_the_files(
    trained, scored_source, varied_groups, collected
):
    dataset = input_fn.build_dataset(scored_source, trained.schema, InputConfig())
    (batch,) = dataset

    outputs = trained.model(batch.features, training=False)

    for name in ("ctr_logits", "cvr_logits", "ctcvr_logits"):
        found = getattr(collected, name)
        np.testing.assert_allclose(found, outputs[name], rtol=1e-5, atol=1e-5)
        assert np.unique(found).size == 20
    np.testing.assert_array_equal(collected.click, joined(varied_groups, "click"))
    np.testing.assert_array_equal(collected.conversion, joined(varied_groups, "conversion"))
    np.testing.assert_allclose(collected.weight, joined(varied_groups, "example_weight"), rtol=1e-6)
    assert list(collected.oracle) == ["oracle_pctr", "oracle_pcvr"]
    for name, truth in collected.oracle.items():
        np.testing.assert_allclose(truth, joined(varied_groups, name), rtol=1e-6)
    requests = [g["request"][0] for g in varied_groups for _ in g["click"]]
    np.testing.assert_array_equal(same_group(collected.groups), same_group(requests))
    assert len(collected) == 20


def test_arrays_are_as_small_as_they_can_be(collected):
    dtypes = {
        "ctr_logits": np.float32,
        "cvr_logits": np.float32,
        "click": np.uint8,
        "conversion": np.uint8,
        "weight": np.float32,
        "groups": np.int64,
    }

    assert {name: getattr(collected, name).dtype for name in dtypes} == dtypes
    assert collected.slices["brand"].codes.dtype == np.int32
    assert collected.ctcvr_logits.dtype == np.float32


def test_the_size_of_batches_does_not_matter(trained, scored_source, collected):
    config = InputConfig(batch_size=4096)

    whole = collect_scores(trained.model, trained.schema, scored_source, config, slices=("brand",))

    for name in ("ctr_logits", "cvr_logits"):
        np.testing.assert_allclose(getattr(whole, name), getattr(collected, name), rtol=1e-5)
    for name in ("click", "conversion", "weight", "groups"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(collected, name))
    brands = [
        np.array(s.slices["brand"].values)[s.slices["brand"].codes] for s in (whole, collected)
    ]
    np.testing.assert_array_equal(*brands)


def test_a_slice_that_is_named_twice_is_read_once(trained, scored_source, varied_groups):
    names = ("brand", "item", "brand")

    found = collect_scores(
        constant_model(0.0, 0.0), trained.schema, scored_source, InputConfig(), slices=names
    ).slices

    assert list(found) == ["brand", "item"]
    items = np.array(found["item"].values)[found["item"].codes]
    assert items.tolist() == [str(item) for item in joined(varied_groups, "item")]


def test_records_without_weight_truth_and_groups_have_none(write_plain):
    scores = write_plain([{"click": [1, 0, 1], "conversion": [0, 0, 1]}])

    assert scores.ctr_logits.tolist() == [0.5] * 3
    assert scores.cvr_logits.tolist() == [-2.0] * 3
    assert scores.weight is None
    assert scores.oracle == {}
    assert scores.groups is None
    assert scores.group_numbers is None
    assert scores.slices == {}


@pytest.mark.parametrize(
    ("dtype", "first", "second"), [("int64", -(2**62), 2**62), ("string", "user a", "user b")]
)
def test_groups_are_equal_across_records_and_shards(write_plain, dtype, first, second):
    # Records go to the two shards in turn, so that the files hold 1, 3 and then 2, 4.
    users = [first, second, second, first]
    sizes = [1, 2, 3, 1]
    groups = [
        {"click": [0] * size, "conversion": [0] * size, "user": [user]}
        for user, size in zip(users, sizes, strict=True)
    ]

    scores = write_plain(groups, key=Key(name="user", side="context", dtype=dtype))

    expected = [first, *[second] * 3, *[second] * 2, first]
    np.testing.assert_array_equal(same_group(scores.groups), same_group(expected))
    assert sorted(set(scores.group_numbers)) == [0, 1]


def test_a_group_key_of_the_impressions_tells_groups_apart(write_plain):
    group = {"click": [0, 1, 0], "conversion": [0, 0, 0], "session": [7, 8, 7]}

    scores = write_plain([group], key=Key(name="session", side="impression", dtype="int64"))

    assert scores.groups.tolist() == [7, 8, 7]
    assert scores.group_numbers.tolist() == [0, 1, 0]


def test_of_sampled_records_each_unclicked_impression_weighs_as_many_as_it_stands_for(write_plain):
    # The last one is the anomaly of a conversion without click, which is never left out.
    group = {"click": [1, 0, 1, 0], "conversion": [1, 0, 0, 1]}

    scores = write_plain([group], negative_keep_rate=0.25)

    assert scores.weight.tolist() == [1, 4, 1, 1]
    assert scores.weight.dtype == np.float32


def test_the_weight_of_a_sampled_impression_is_multiplied_with_its_own(write_plain):
    group = {"click": [1, 0, 0], "conversion": [1, 0, 0], "example_weight": [0.5, 0.75, 3.0]}
    labels = Labels(example_weight="weight")

    scores = write_plain([group], labels=labels, negative_keep_rate=0.125)

    assert scores.weight.tolist() == [0.5, 6, 24]


@pytest.mark.parametrize("missing", [-1, 1])
def test_a_manifest_of_another_number_of_impressions_is_refused(trained, scored_source, missing):
    (shard,) = scored_source.shards
    shard = dataclasses.replace(shard, impressions=20 + missing)
    source = dataclasses.replace(scored_source, shards=(shard,))

    with pytest.raises(UserError, match=rf"hold 20 impressions .* says {20 + missing}\. Write"):
        collect_scores(constant_model(0.0, 0.0), trained.schema, source, InputConfig(batch_size=3))


@pytest.mark.parametrize(
    ("name", "logits"),
    [("ctr_logits", (np.nan, 0.0)), ("cvr_logits", (0.0, np.inf)), ("ctr_logits", (-np.inf, 1.0))],
)
def test_a_model_whose_logits_are_not_finite_is_refused(trained, scored_source, name, logits):
    message = rf"'{name}' of the model must be finite .* 20 of 20 .* a lower --learning_rate"

    with pytest.raises(UserError, match=message):
        collect_scores(constant_model(*logits), trained.schema, scored_source, InputConfig())


def test_an_unknown_slice_is_refused_before_a_record_is_read(trained):
    nothing = types.SimpleNamespace()

    with pytest.raises(UserError, match=r"--slices has 'colour'"):
        collect_scores(trained.model, trained.schema, nothing, InputConfig(), slices=("colour",))


def test_ctcvr_logits_are_those_of_the_product_of_both_probabilities():
    ctr, cvr = (grid.ravel() for grid in np.meshgrid(*[np.linspace(-40, 40, 161)] * 2))

    found = ctcvr_logits(ctr.astype(np.float32), cvr.astype(np.float32))

    # p / (1 - p) of p = 1 / ((1 + e^-a) (1 + e^-b)) is 1 / (e^-a + e^-b + e^-(a+b)).
    expected = -np.logaddexp(np.logaddexp(-ctr, -cvr), -ctr - cvr)
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_ctcvr_logits_are_worked_out_in_chunks_of_any_number_of_rows(size):
    found = ctcvr_logits(np.full(size, 2, np.float32), np.full(size, -1, np.float32))

    assert found.shape == (size,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, -np.log(np.exp(-2) + np.exp(1) + np.exp(-1)), rtol=1e-6)


@pytest.mark.parametrize("logit", [-1e30, -1000.0, 1000.0, 1e30])
def test_ctcvr_logits_of_extreme_logits_are_finite(logit):
    both = np.array([logit], np.float32)

    found = ctcvr_logits(both, both)

    # Of two that are sure to fail the logits add up; of two that are sure, the log of two is lost.
    assert found == pytest.approx(2 * logit if logit < 0 else logit, rel=1e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {"click": CLICK[::-1]},
        {"conversion": CLICK},
        {"weight": WEIGHT * 2},
        {"weight": None},
        {"click": CLICK[:4], "conversion": CONVERSION[:4], "weight": WEIGHT[:4]},
    ],
)
def test_the_hash_changes_with_labels_weights_and_their_order(changes):
    assert build_scores(**changes).data_hash() != build_scores().data_hash()


def test_the_hash_does_not_change_with_what_a_model_gives():
    scores = build_scores()

    other = scores.with_logits(scores.cvr_logits, scores.ctr_logits)

    assert other.data_hash() == scores.data_hash()
    assert len(scores.data_hash()) == 16


def test_other_logits_on_the_same_impressions_have_a_ctcvr_of_their_own():
    scores = build_scores()
    before = scores.ctcvr_logits
    ctr, cvr = np.full((2, 5), 0.5, np.float32)

    other = scores.with_logits(ctr, cvr)

    assert other.ctr_logits is ctr
    assert other.cvr_logits is cvr
    np.testing.assert_array_equal(other.ctcvr_logits, ctcvr_logits(ctr, cvr))
    np.testing.assert_array_equal(scores.ctcvr_logits, before)
    assert other.click is scores.click
    assert other.groups is scores.groups


def test_some_of_the_impressions_are_taken_in_any_order():
    rows = np.array([4, 0, 2])

    part = build_scores().take(rows)

    assert part.ctr_logits.tolist() == [-2.0, 0.5, 0.0]
    assert part.cvr_logits.tolist() == [2.5, -1.0, 3.0]
    assert part.click.tolist() == [0, 1, 0]
    assert part.conversion.tolist() == [0, 1, 0]
    assert part.weight.tolist() == [1.5, 1.0, 0.5]
    assert part.oracle["oracle_pctr"].tolist() == np.float32([0.2, 0.9, 0.3]).tolist()
    assert part.groups.tolist() == [9, 70, -3]
    assert part.group_numbers.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(part.ctcvr_logits, build_scores().ctcvr_logits[rows])


def test_what_is_not_there_is_not_taken():
    part = build_scores(weight=None, groups=None, oracle={}).take(np.array([1]))

    assert part.weight is None
    assert part.groups is None
    assert part.oracle == {}


def test_the_scores_of_two_shards_put_together_measure_as_both_files_at_once(schema, data_set):
    def score(features, training):
        assert not training
        return {"ctr_logits": features["price"] / 10, "cvr_logits": 1 - features["price"] / 20}

    def collect(pattern):
        source = find_source(f"{data_set}/{pattern}", split="train")
        return collect_scores(score, schema, source, InputConfig(batch_size=5))

    first, second = collect("train-00000*"), collect("train-0000[12]*")
    names = ("ctr_logits", "cvr_logits", "click", "conversion", "weight", "groups")

    merged = Scores(
        **{name: np.concatenate([getattr(s, name) for s in (first, second)]) for name in names},
        oracle={
            name: np.concatenate([first.oracle[name], second.oracle[name]]) for name in first.oracle
        },
    )

    assert min(len(first), len(second)) > 0
    found = evaluation.evaluate_scores(merged).evaluation
    assert found == evaluation.evaluate_scores(collect("train-*")).evaluation
    assert json.dumps(found.to_json(), allow_nan=False)
