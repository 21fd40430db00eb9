"""How many copies of an impression are drawn, and what of a batch comes along with them."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.data import parsing, records, sampling
from esmm_tf.data.batch import Batch
from esmm_tf.data.sampling import LabelCounts, Sampler, Sampling, take_impressions

# An unclicked impression, a click, a conversion, and a conversion whose click was lost.
LABELS = {
    "click": tf.constant([0.0, 1.0, 1.0, 0.0]),
    "conversion": tf.constant([0.0, 0.0, 1.0, 1.0]),
}
CONTEXT = ("user", "interests", "query", "age", "request")


def flat_batch(click, conversion=None):
    """Returns a batch of groups of one with nothing but labels."""
    click = tf.constant(click, tf.float32)
    conversion = tf.zeros_like(click) if conversion is None else tf.constant(conversion, tf.float32)
    return Batch(
        features={"group_index": tf.range(tf.size(click), dtype=tf.int64)},
        labels={"click": click, "conversion": conversion},
        example_weight=None,
        oracle={},
        carry={"sample": tf.range(tf.size(click))},
    )


def draw(schema, batch, *, place=0, seed=1, score_clicks=None, click_share=1.0, **copies):
    """Returns the places of the impressions that are drawn of a batch."""
    sampler = Sampler(
        sampling=Sampling(**copies),
        schema=schema,
        seed=seed,
        score_clicks=score_clicks,
        click_share=click_share,
    )
    drawn = sampler.draw(tf.constant(place, tf.int64), batch)
    return drawn.carry["sample"].numpy().tolist()


def expect_share(counts, share, of):
    """Asserts that so many of `of` are a draw at this share, within 5 standard deviations."""
    np.testing.assert_array_less(np.abs(counts - share * of), 5 * np.sqrt(share * (1 - share) * of))


@pytest.fixture(scope="module")
def batch(schema, build_group):
    """Returns the samples 0 to 38 in groups of 1, 2, 3, 7, ..., such as 3 to 5 and 13."""
    sizes = (1, 2, 3, 7) * 3
    ends = itertools.accumulate(sizes)
    groups = [build_group(end - size, size) for size, end in zip(sizes, ends, strict=True)]
    return parse(groups, schema)


def rows_of(batch, samples):
    """Returns the places of samples in a batch."""
    order = batch.carry["sample"].numpy().tolist()
    return tf.constant([order.index(sample) for sample in samples], tf.int64)


def test_copies_go_by_the_labels_of_an_impression():
    found = Sampling(unclicked=0.25, clicked=2.0, converted=5.0).mean_copies(LABELS)

    assert found.numpy().tolist() == [0.25, 2.0, 5.0, 0.25]


def test_by_default_the_clicked_impressions_are_drawn_once_each():
    assert Sampling().mean_copies(LABELS).numpy().tolist() == [0.0, 1.0, 1.0, 0.0]


def test_the_number_of_copies_is_that_of_all_labels():
    labels = LabelCounts(impressions=100, clicks=10, conversions=4)

    assert Sampling().count(labels) == 10
    assert Sampling(unclicked=0.5).count(labels) == 0.5 * 90 + 10
    assert Sampling(converted=3.0).count(labels) == 6 + 3 * 4


def test_a_whole_number_of_copies_is_exact(schema):
    batch = flat_batch([0, 1, 1, 0, 1], [0, 0, 1, 0, 0])

    drawn = draw(schema, batch, unclicked=1.0, clicked=2.0, converted=3.0)

    assert drawn == [0, 1, 1, 2, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("copies", [1.0, 2.0, 3.0, 5.0, 10.0])
def test_a_whole_number_of_copies_is_exact_whatever_the_chance(schema, monkeypatch, copies):
    highest = np.float32(1 - 2**-23)  # the highest that TensorFlow draws
    monkeypatch.setattr(
        sampling.tf.random, "stateless_uniform", lambda shape, seed: tf.fill(shape, highest)
    )

    drawn = draw(schema, flat_batch([1]), clicked=copies)

    assert len(drawn) == copies


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_a_fraction_is_the_share_that_is_drawn(schema, share):
    click = np.zeros(20_000)
    click[::10] = 1

    drawn = draw(schema, flat_batch(click), unclicked=share)

    expect_share(sum(click[place] == 0 for place in drawn), share, 18_000)
    assert [place for place in drawn if click[place]] == list(range(0, 20_000, 10))
    assert len(set(drawn)) == len(drawn)


def test_a_mixed_number_is_drawn_whole_and_once_more_for_its_fraction(schema):
    drawn = draw(schema, flat_batch(np.ones(20_000), np.ones(20_000)), converted=2.25)

    counts = np.bincount(drawn)
    assert set(counts) == {2, 3}
    expect_share((counts == 3).sum(), 0.25, 20_000)


def test_the_same_seed_and_place_give_the_same_draw_and_others_another(schema):
    batch = flat_batch(np.zeros(100))

    first, again, later, other = (
        draw(schema, batch, place=place, seed=seed, unclicked=0.5)
        for place, seed in ((3, 7), (3, 7), (4, 7), (3, 8))
    )

    assert first == again
    assert first not in (later, other)
    assert later != other


def test_draws_of_places_and_seeds_are_independent_of_each_other(schema):
    batch = flat_batch(np.zeros(500))

    # As in training: seeds far apart, an epoch on is the next seed, and places count from 0.
    drawn = [
        np.isin(np.arange(500), draw(schema, batch, place=place, seed=seed, unclicked=0.5))
        for seed in (1_000_003, 1_000_004, 2_000_006)
        for place in range(4)
    ]

    off_diagonal = np.corrcoef(drawn)[np.triu_indices(len(drawn), 1)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(500)


def test_an_acceptance_thins_the_clicks_by_their_pctr_and_the_share_of_clicks(schema):
    pctr = np.repeat(np.float32([0.2, 0.6]), 10_000)
    batch = flat_batch(np.ones(20_000))
    batch.features["price"] = tf.constant(pctr)

    drawn = draw(
        schema,
        batch,
        score_clicks=lambda features: features["price"],
        click_share=0.5,
        acceptance=lambda pctr, click_share: click_share * (1 - pctr),
    )

    low, high = np.bincount(np.array(drawn) // 10_000)
    expect_share(low, 0.5 * 0.8, 10_000)
    expect_share(high, 0.5 * 0.4, 10_000)


def test_an_acceptance_is_asked_for_clicks_only(schema):
    batch = flat_batch([0, 1, 0, 1, 0])
    batch.features["price"] = tf.constant([0.1, 0.2, 0.3, 0.4, 0.5])
    asked = []

    def score_clicks(features):
        asked.append(features["price"].numpy().tolist())
        return features["price"]

    drawn = draw(
        schema, batch, score_clicks=score_clicks, acceptance=lambda pctr, _: tf.ones_like(pctr)
    )

    assert drawn == [1, 3]
    np.testing.assert_allclose(asked, [[0.2, 0.4]])


def test_a_batch_of_which_nothing_is_drawn_has_no_impressions_and_no_groups(schema, batch):
    nothing = Sampler(sampling=Sampling(clicked=0.0, converted=0.0), schema=schema, seed=1)

    drawn = nothing.draw(tf.constant(0, tf.int64), batch)

    assert len(drawn.labels["click"]) == 0
    assert drawn.features["user"].nrows() == 0
    assert drawn.features["item"].nrows() == 0


def test_a_draw_in_a_graph_is_that_of_eager_code(schema, batch):
    sampler = Sampler(sampling=Sampling(unclicked=0.5), schema=schema, seed=5)
    place = tf.constant(2, tf.int64)

    eager, graph = (
        function(place, batch).carry["sample"]
        for function in (sampler.draw, tf.function(sampler.draw))
    )

    np.testing.assert_array_equal(eager, graph)
    assert 20 < len(eager) < 39


@pytest.mark.parametrize(
    "samples",
    [
        [2002],
        [2002, 2004],
        [2000, 2001, 2003, 2006],
        [2002, 2002, 2002, 2019, 2019],
        range(2005, 2013),
    ],
    ids=["one", "of one group", "of three groups", "copies", "a run"],
)
def test_what_is_taken_is_what_records_of_those_impressions_alone_would_give(
    schema, varied_groups, samples
):
    whole = parse(varied_groups, schema)
    expected = parse([cut_group(group, samples) for group in varied_groups], schema)

    found = take_impressions(whole, rows_of(whole, samples), schema)

    assert_same(found, expected)


def parse(groups, schema):
    serialized = [records.encode_group(group) for group in groups if len(group["click"])]
    return parsing.parse_groups(serialized, schema, carry=True)


def cut_group(group, samples):
    """Returns a group of its impressions with these samples, as often as they are named."""
    order = list(group["sample"])
    rows = [order.index(sample) for sample in samples if sample in order]
    cut = {}
    for name, values in group.items():
        lengths = group.get(f"{name.removesuffix(':weight')}:lengths")
        if name.removesuffix(":weight") in CONTEXT:
            cut[name] = values
        elif lengths is None:
            cut[name] = [values[row] for row in rows]
        else:
            parts = np.split(np.asarray(values), np.cumsum(lengths)[:-1])
            cut[name] = [value for row in rows for value in parts[row]]
    return cut


def assert_same(found, expected):
    """Asserts that two parsed batches hold the same, NaN beside NaN."""
    tf.nest.assert_same_structure(found, expected)
    for one, other in zip(*map(tf.nest.flatten, (found, expected)), strict=True):
        one, other = (t.to_list() if isinstance(t, tf.RaggedTensor) else t for t in (one, other))
        if isinstance(one, list):
            assert one == other
        else:
            np.testing.assert_array_equal(one, other)


def test_a_group_stays_one_context_however_many_of_its_impressions_are_taken(schema, batch):
    rows = rows_of(batch, [3, 3, 3, 5, 13])

    taken = take_impressions(batch, tf.sort(rows), schema)

    features = taken.features
    assert features["user"].nrows() == 2
    assert features["group_index"].shape == [5]
    users = tf.gather(features["user"], features["group_index"]).to_list()
    by_sample = dict(zip(taken.carry["sample"].numpy().tolist(), users, strict=True))
    assert by_sample == {3: [3], 5: [3], 13: [13]}


def test_everything_is_a_whole_batch_again(schema, batch):
    everything = tf.range(39, dtype=tf.int64)

    assert_same(take_impressions(batch, everything, schema), batch)


def test_settings_of_a_sampling_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sampling().clicked = 2.0
