"""The batch that broke a step: found again, described, and kept as a data set."""

import numpy as np
import pytest

from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn, manifest, parsing, records
from esmm_tf.data.source import check_schema, find_source
from esmm_tf.training import offending_batch

CONFIG = InputConfig(batch_size=7, shuffle_buffer=5, num_readers=2)


@pytest.fixture
def source(data_set):
    return find_source(str(data_set), split="train")


def read_samples(dataset):
    """Returns the ids of the impressions of each batch."""
    return [batch.carry["sample"].numpy().tolist() for batch in dataset]


def save(source, schema, model_dir, **changes):
    settings = {"seed": None, "index": 0, "split": "train", **changes}
    return offending_batch.save_batch(source, schema, CONFIG, model_dir=str(model_dir), **settings)


@pytest.mark.parametrize("seed", [None, 3])
def test_the_groups_of_a_batch_are_read_again_whichever_iterator_gave_it(source, schema, seed):
    dataset = input_fn.build_dataset(source, schema, CONFIG, seed=seed, carry=True)
    read_samples(dataset)
    batches = read_samples(dataset)

    for index in (1, len(batches) - 1):
        groups = input_fn.read_groups(
            source, schema, CONFIG, seed=seed, batches=range(index, index + 1)
        )
        found = parsing.parse_groups(groups, schema, carry=True).carry["sample"]
        assert found.numpy().tolist() == batches[index]
    assert len(batches) > 5


def test_a_batch_of_training_is_saved_with_the_one_before(source, schema, tmp_path):
    dataset = input_fn.build_dataset(source, schema, CONFIG, seed=3, carry=True)
    batches = read_samples(dataset)

    text = save(source, schema, tmp_path, seed=3, index=4)

    saved = find_source(str(tmp_path / "offending_batch"), split="train")
    check_schema(saved, schema)
    everything = input_fn.build_dataset(
        saved, schema, InputConfig(batch_size=99, shuffle_buffer=0), carry=True
    )
    expected = batches[3] + batches[4]
    assert read_samples(everything) == [expected]
    (shard,) = saved.shards
    samples = np.array(expected)
    assert (shard.impressions, shard.clicks, shard.conversions) == (
        len(samples),
        np.sum(samples % 2 == 0),
        np.sum(samples % 4 == 0),
    )
    assert text.startswith(
        f"The {len(samples)} impressions of its batch and the one before are saved in "
        f"'{tmp_path}/offending_batch': its largest number is "
    )


@pytest.mark.parametrize("changes", [{"seed": 3}, {"seed": None, "index": 2}])
def test_the_first_batch_and_a_batch_of_validation_are_saved_alone(
    source, schema, tmp_path, changes
):
    text = save(source, schema, tmp_path, **changes)

    assert " impressions of its batch are saved in " in text


def test_a_later_batch_takes_the_place_of_an_earlier_one(source, schema, tmp_path):
    save(source, schema, tmp_path, index=0)
    save(source, schema, tmp_path, index=3, split="validation")

    assert list(manifest.load_manifest(str(tmp_path / "offending_batch")).splits) == ["validation"]
    assert {path.name for path in tmp_path.iterdir()} == {"data", "offending_batch"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "its largest number is 39, in 'price'"),
        ({"price": [1.0, 1e30, -2e30]}, "its largest number is 2e+30, in 'price'"),
        ({"price": [1.0, np.inf, 2.0]}, "'price' holds numbers that are not finite"),
        ({"tags:weight": [0.5, np.nan]}, "'tags:weight' holds numbers that are not finite"),
        ({"example_weight": [1.0, np.nan, 1.0]}, "'example_weight' holds numbers that are not"),
        (
            {"discount": [np.inf], "discount:lengths": [1, 0, 0]},
            "'discount' holds numbers that are not finite",
        ),
    ],
)
def test_numbers_that_stand_out_are_named(schema, build_group, changes, text):
    group = build_group(37, 3) | {"boost:weight": np.ones(3), "interests:weight": [0.5, 1.5]}
    serialized = [records.encode_group(group | {"age": [30.5]} | changes)]

    found = offending_batch.describe_numbers(parsing.parse_groups(serialized, schema), schema)

    assert found.startswith(text)


def test_a_batch_of_zeros_has_no_number_that_stands_out(schema, build_group):
    weights = {"interests:weight": [0.0, 0.0], "boost:weight": [0.0], "tags:weight": [0.0, 0.0]}
    numbers = {"age": [0.0], "price": [0.0], "stock": [0], "example_weight": [0.0]}
    serialized = [records.encode_group(build_group(1, 1) | weights | numbers)]

    found = offending_batch.describe_numbers(parsing.parse_groups(serialized, schema), schema)

    assert found == "it holds no number but 0"
