"""A share of the groups, and batches of which impressions are drawn: sizes, order, finding one."""

import itertools

import numpy as np
import pytest

from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn, parsing
from esmm_tf.data.sampling import Sampler, Sampling
from esmm_tf.data.source import ALL, Subset, find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.schema.columns import IdentityColumn
from esmm_tf.schema.schema import Feature, Schema
from esmm_tf.training import offending_batch

SCHEMA = Schema(
    name="tiny",
    features=(
        Feature(
            name="sample",
            side="impression",
            dtype="int64",
            column=IdentityColumn(vocabulary_size=9999),
        ),
    ),
    carry=("sample",),
)
NUM_GROUPS, SIZE = 1_000, 3
# One group in ten has a click, its first impression; in one of twenty it converts. A hundred groups
# in a row have none.
CLICKED = [3 * g for g in range(NUM_GROUPS) if g % 10 == 0 and g // 100 != 4]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns samples 0 to 2,999 in 1,000 groups of 3 on 4 shards."""
    directory = tmp_path_factory.mktemp("tiny")
    with DataSetWriter(str(directory), SCHEMA, num_shards=4) as writer:
        for group in range(NUM_GROUPS):
            samples = np.arange(SIZE * group, SIZE * (group + 1))
            click = np.isin(samples, CLICKED).astype(int)
            labels = {"click": click, "conversion": click * (group % 20 == 0)}
            writer.write("train", {"sample": samples, **labels})
    return find_source(str(directory), split="train")


@pytest.fixture(scope="module")
def of_fraction(source):
    """Returns the samples of each fraction, by the fraction."""
    fractions = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
    return {fraction: read_fraction(source, fraction) for fraction in fractions}


@pytest.fixture(scope="module")
def whole(source):
    """Returns the samples of each batch that there is without a sample."""
    return [set(batch) for batch in read(source, ALL)]


def sampler(*, seed=1, **copies):
    return Sampler(sampling=Sampling(**copies), schema=SCHEMA, seed=seed)


def read(source, subset, *, seed=1, **settings):
    """Returns the samples of each batch."""
    config = InputConfig(**{"batch_size": 20} | settings)
    dataset = input_fn.build_dataset(source, SCHEMA, config, seed=seed, carry=True, subset=subset)
    return [batch.carry["sample"].numpy().tolist() for batch in dataset]


def joined(batches):
    return list(itertools.chain.from_iterable(batches))


def read_fraction(source, fraction, **settings):
    return set(joined(read(source, Subset(fraction=fraction), **settings)))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_a_fraction_is_about_that_share_of_the_groups_and_each_is_whole(of_fraction, fraction):
    samples = of_fraction[fraction]

    groups = {sample // SIZE for sample in samples}
    assert len(samples) == SIZE * len(groups)
    deviation = np.sqrt(NUM_GROUPS * fraction * (1 - fraction))
    assert abs(len(groups) - NUM_GROUPS * fraction) < 4 * deviation


def test_a_fraction_of_one_is_everything(of_fraction):
    assert of_fraction[1.0] == set(range(SIZE * NUM_GROUPS))


@pytest.mark.parametrize(
    "settings",
    [{"seed": 2}, {"seed": None}, {"batch_size": 7}, {"shuffle_buffer": 0}, {"num_readers": 1}],
)
def test_a_fraction_holds_the_same_groups_in_every_order(source, of_fraction, settings):
    assert read_fraction(source, 0.2, **settings) == of_fraction[0.2]


def test_a_larger_fraction_holds_the_smaller_ones(of_fraction):
    for smaller, larger in itertools.pairwise(of_fraction.values()):
        assert smaller < larger


def test_a_fraction_goes_by_the_content_of_a_group_and_not_by_its_place(of_fraction, tmp_path):
    with DataSetWriter(str(tmp_path), SCHEMA, num_shards=2) as writer:
        for group in reversed(range(0, NUM_GROUPS, 2)):
            samples = np.arange(SIZE * group, SIZE * (group + 1))
            click = np.isin(samples, CLICKED).astype(int)
            labels = {"click": click, "conversion": click * (group % 20 == 0)}
            writer.write("train", {"sample": samples, **labels})
    other = find_source(str(tmp_path), split="train")

    assert read_fraction(other, 0.2) == {s for s in of_fraction[0.2] if s // SIZE % 2 == 0}


def test_a_fraction_is_cut_into_full_batches(source):
    batches = read(source, Subset(fraction=0.2))

    assert {len(batch) for batch in batches[:-1]} == {18}  # six groups of at most 20 impressions


@pytest.mark.parametrize(
    "copies",
    [{}, {"unclicked": 0.1}, {"unclicked": 0.5}, {"converted": 5.0}],
    ids=["clicks", "a tenth", "half", "copies"],
)
def test_a_sample_is_drawn_of_the_batches_that_there_are_without_it(source, whole, copies):
    batches = read(source, Subset(sampler=sampler(**copies)))

    places = [whole.index(next(of for of in whole if batch[0] in of)) for batch in batches]
    assert places == sorted(set(places))  # each is drawn of another, in their order
    assert all(set(batch) <= whole[place] for place, batch in zip(places, batches, strict=True))
    assert len(joined(batches)) == pytest.approx(Sampling(**copies).count(source.labels), rel=0.1)


def test_no_batch_of_a_sample_is_empty_and_nothing_is_lost(source):
    batches = read(source, Subset(sampler=sampler()), seed=None, batch_size=1)

    # A batch is drawn of one group; where there is no click it would be empty.
    assert sorted(batches) == [[sample] for sample in CLICKED]


def test_batches_of_a_sample_are_the_same_for_a_seed_and_others_for_another(source):
    def build(seed):
        subset = Subset(sampler=sampler(seed=seed, unclicked=0.1))
        config = InputConfig(batch_size=20)
        return input_fn.build_dataset(source, SCHEMA, config, seed=3, carry=True, subset=subset)

    dataset = build(1)

    first, read_again, built_again, other = (
        [batch.carry["sample"].numpy().tolist() for batch in batches]
        for batches in (dataset, dataset, build(1), build(2))
    )

    assert first == read_again == built_again
    assert first != other


def test_a_sample_of_a_fraction_is_of_its_groups(source, of_fraction):
    batches = read(source, Subset(fraction=0.5, sampler=sampler()), batch_size=5)

    assert set(joined(batches)) == of_fraction[0.5] & set(CLICKED)


def test_a_sample_that_copies_much_has_larger_batches(source):
    batches = read(source, Subset(sampler=sampler(unclicked=8.0, clicked=8.0)), batch_size=4)

    # One group, of three impressions, eight times each; but a conversion once.
    assert {len(batch) for batch in batches} == {24, 17}
    assert all(len({sample // SIZE for sample in batch}) == 1 for batch in batches)


@pytest.mark.parametrize(("batch_size", "fraction"), [(1, 1.0), (5, 0.5)])
def test_the_groups_of_a_sampled_batch_are_found_again(source, batch_size, fraction):
    config = InputConfig(batch_size=batch_size)
    subset = Subset(fraction=fraction, sampler=sampler())
    batches = read(source, subset, seed=5, batch_size=batch_size)

    seen = []
    for place in (0, 7, len(batches) - 1):
        groups = input_fn.read_groups(
            source, SCHEMA, config, seed=5, batches=range(place, place + 1), subset=subset
        )
        parsed = parsing.parse_groups(groups, SCHEMA, carry=True)
        samples = parsed.carry["sample"].numpy()
        # All groups that it was drawn of, and no click besides those that were drawn.
        assert [s for s in samples.tolist() if s in CLICKED] == batches[place]
        assert len(samples) > len(batches[place])
        seen.append(set(samples.tolist()))
    assert not set.intersection(*seen)


def test_a_broken_batch_of_a_sampled_run_is_saved_with_its_groups(source, tmp_path):
    config, subset = InputConfig(batch_size=5), Subset(sampler=sampler())
    batches = read(source, subset, seed=5, batch_size=5)

    offending_batch.save_batch(
        source,
        SCHEMA,
        config,
        seed=5,
        index=3,
        split="train",
        model_dir=str(tmp_path),
        subset=subset,
    )

    saved = find_source(str(tmp_path / "offending_batch"), split="train")
    samples = joined(read(saved, ALL, seed=None))
    assert [sample for sample in samples if sample in CLICKED] == batches[2] + batches[3]
    assert saved.labels.clicks == len(batches[2] + batches[3])
    assert saved.impressions == len(samples)
