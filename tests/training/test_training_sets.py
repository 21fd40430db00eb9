"""Which impressions each method trains on, as the input pipeline gives them."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn, manifest
from esmm_tf.data.sampling import Sampler
from esmm_tf.data.source import Source, Subset, find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.methods import load_method
from esmm_tf.schema.columns import IdentityColumn
from esmm_tf.schema.schema import Feature, Key, Schema

# Of samples 0 to 38 the even ones are clicked, every second of these converts.
ALL = range(39)
CLICKED = range(0, 39, 2)
CONVERTED = range(0, 39, 4)
LABELLED = {"click": CLICKED, "conversion": CONVERTED}

# Ten items, shown 4,000 times each, clicked at these rates; every fourth click converts.
PCTR = np.linspace(0.05, 0.5, 10)
SHOWN = 4_000
CLICKS = (SHOWN * PCTR).round().astype(int)
CLICK_SHARE = CLICKS.sum() / (10 * SHOWN)
SHELF = Schema(
    name="shelf",
    features=(
        Feature(
            name="item",
            side="impression",
            dtype="int64",
            column=IdentityColumn(vocabulary_size=10),
        ),
    ),
    keys=(Key(name="sample", side="impression", dtype="int64"),),
    carry=("sample",),
)


def true_pctr(features):
    """Stands for a CTR network that knows the truth."""
    return tf.gather(tf.constant(PCTR, tf.float32), features["item"].values)


def count_labels(batches):
    """Returns how often each item is there unclicked, clicked and converted, `[10, 3]`."""
    counts = np.zeros((10, 3), int)
    for batch in batches:
        labels = (batch.labels[name].numpy().astype(int) for name in ("click", "conversion"))
        np.add.at(counts, (batch.features["item"].values.numpy(), sum(labels)), 1)
    return counts


def build_dataset(source, method, rate=None, *, seed=1, score_clicks=None, **settings):
    """Returns the batches that a method trains on, as the trainer puts them together."""
    sampling = load_method(method).choose_sampling(rate)
    sampler = sampling and Sampler(
        sampling=sampling,
        schema=SHELF,
        seed=seed,
        score_clicks=score_clicks,
        click_share=source.click_share,
    )
    return input_fn.build_dataset(
        source,
        SHELF,
        InputConfig(**{"batch_size": 5} | settings),
        seed=seed,
        carry=True,
        subset=Subset(sampler=sampler),
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Returns the source of samples 0 to 38, in groups of 1, 2, 3, 7, 1, 2, ... impressions."""
    directory = tmp_path_factory.mktemp("samples")
    with DataSetWriter(str(directory), SHELF, num_shards=3) as writer:
        first = 0
        for size in (1, 2, 3, 7) * 3:
            sample = np.arange(first, first + size)
            labels = {name: np.isin(sample, s).astype(int) for name, s in LABELLED.items()}
            writer.write("train", {"item": sample % 10, "sample": sample, **labels})
            first += size
    return find_source(str(directory), split="train")


@pytest.fixture
def read_samples(samples):
    """Returns a function that counts how often a method trains on each sample."""

    def read(method, rate=None, **settings):
        batches = build_dataset(samples, method, rate, **settings)
        return collections.Counter(s for b in batches for s in b.carry["sample"].numpy())

    return read


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Returns the source of 40,000 impressions in groups of 50, in random order."""
    clicks = [np.arange(SHOWN) < count for count in CLICKS]
    item = np.repeat(np.arange(10), SHOWN)
    click = np.concatenate(clicks).astype(int)
    conversion = click * (np.concatenate([np.cumsum(c) for c in clicks]) % 4 == 0)
    order = np.random.default_rng(0).permutation(len(item)).reshape(-1, 50)
    directory = tmp_path_factory.mktemp("shelf")
    with DataSetWriter(str(directory), SHELF, num_shards=2) as writer:
        for rows in order:
            labels = {"click": click[rows], "conversion": conversion[rows]}
            writer.write("train", {"item": item[rows], "sample": rows, **labels})
    return find_source(str(directory), split="train")


@pytest.fixture
def read_items(shelf):
    """Returns a function that counts what a method trains on, by item and label."""

    def read(method, rate=None, **settings):
        settings = {"batch_size": 500, "score_clicks": true_pctr} | settings
        return count_labels(build_dataset(shelf, method, rate, **settings))

    return read


def assert_binomial(counts, share, of):
    """Asserts that of so many, `counts` are a draw at this share, within 4.5 standard errors."""
    of, share = np.broadcast_arrays(of, share)
    np.testing.assert_array_less(
        np.abs(counts - share * of), 4.5 * np.sqrt(share * (1 - share) * of)
    )


def test_methods_of_the_entire_space_train_on_every_impression_once(read_samples):
    methods = ["ctr", "division", "esmm", "esmm_ns"]

    assert [load_method(method).choose_sampling(None) for method in methods] == [None] * 4
    assert read_samples("esmm") == dict.fromkeys(ALL, 1)


def test_base_trains_on_each_click_once(read_samples):
    assert read_samples("base") == dict.fromkeys(CLICKED, 1)


@pytest.mark.parametrize("rate", [2.0, 10.0])
def test_oversampling_copies_each_conversion_and_leaves_other_clicks(read_samples, rate):
    copies = dict.fromkeys(CLICKED, 1) | dict.fromkeys(CONVERTED, rate)

    assert read_samples("oversampling", rate) == copies


def test_oversampling_by_a_mixed_number_is_so_on_average(read_items, shelf):
    _, clicked, converted = read_items("oversampling", 2.5).T

    labels = shelf.labels
    assert clicked.sum() == labels.clicks - labels.conversions
    assert_binomial(converted.sum() - 2 * labels.conversions, 0.5, labels.conversions)


def test_aman_at_a_rate_of_one_trains_on_every_impression(read_samples):
    assert read_samples("aman", 1.0) == dict.fromkeys(ALL, 1)


def test_aman_never_leaves_out_a_click_and_never_copies(read_samples):
    samples = read_samples("aman", 0.5)

    assert set(CLICKED) < set(samples) < set(ALL)
    assert set(samples.values()) == {1}


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_aman_takes_its_share_of_the_unclicked_impressions_of_every_item(read_items, rate):
    unclicked, clicked, converted = read_items("aman", rate).T

    np.testing.assert_array_equal(clicked + converted, CLICKS)
    assert_binomial(unclicked, rate, SHOWN - CLICKS)


def test_aman_draws_other_negatives_in_every_epoch_and_the_same_again_in_one(read_samples):
    first, again, second = (read_samples("aman", 0.5, seed=seed) for seed in (1, 1, 2))

    assert first == again
    assert first != second


def test_unbias_at_rate_0_rejects_a_click_with_its_pctr(read_items):
    unclicked, clicked, converted = read_items("unbias", 0.0).T

    # Kept are impressions times pCTR (1 - pCTR): most where pCTR is one half.
    assert unclicked.sum() == 0
    assert_binomial(clicked + converted, 1 - PCTR, CLICKS)
    assert_binomial(converted, 1 - PCTR, CLICKS / 4)


@pytest.mark.parametrize("rate", [0.0625, 0.1818])
def test_unbias_at_a_rate_keeps_clicks_that_are_distributed_as_impressions(read_items, rate):
    assert rate * CLICK_SHARE <= PCTR.min()

    unclicked, clicked, converted = read_items("unbias", rate).T

    # Every item was shown as often, so that each is kept as often, however often it was clicked.
    assert unclicked.sum() == 0
    assert_binomial(clicked + converted, rate * CLICK_SHARE / PCTR, CLICKS)
    kept = clicked + converted
    chi_squared = np.sum((kept - kept.mean()) ** 2) / kept.mean()
    assert chi_squared < 34  # of 9 degrees of freedom, p = 1e-4
    np.testing.assert_allclose(kept.sum(), rate * CLICKS.sum(), rtol=0.1)


def test_unbias_keeps_every_click_whose_pctr_is_below_the_rate(read_items):
    _, clicked, converted = read_items("unbias", 1.0).T

    kept, below = clicked + converted, CLICK_SHARE >= PCTR
    assert 0 < below.sum() < 10
    np.testing.assert_array_equal(kept[below], CLICKS[below])
    assert_binomial(kept[~below], CLICK_SHARE / PCTR[~below], CLICKS[~below])


def test_unbias_never_trains_on_an_unclicked_impression(read_samples):
    samples = read_samples(
        "unbias", score_clicks=lambda f: 0.5 * tf.ones_like(f["item"].values, tf.float32)
    )

    assert set(samples) < set(CLICKED)
    assert set(samples.values()) == {1}


def test_the_clicks_of_down_sampled_records_are_weighed_with_the_share_of_the_whole_log():
    shard = manifest.Shard(file="", records=1, impressions=30, clicks=10, conversions=1)
    source = Source(
        files=("a",), compression="", schema_hash="", shards=(shard,), negative_keep_rate=0.25
    )

    assert source.click_share == 10 / (10 + 20 / 0.25)
