"""Negative down-sampling: what is always kept, what a draw decides, and what is told of it."""

import numpy as np
import pytest

from esmm_pipelines.grouping import negatives
from esmm_pipelines.grouping.config import DataSetConfig
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError

RATES = [0.0, -0.5, 1.01, float("nan"), float("inf")]


def test_the_splits_for_training_are_sampled_and_the_test_is_not():
    assert negatives.keep_rates(0.25) == {"train": 0.25, "validation": 0.25}


def test_no_split_is_sampled_if_everything_is_kept():
    assert negatives.keep_rates(1.0) == {}


@pytest.mark.parametrize(
    ("draw", "is_sampled", "click", "conversion", "expected"),
    [
        (0.24, True, 0, 0, True),
        (0.25, True, 0, 0, False),
        (0.99, True, 1, 0, True),
        (0.99, True, 1, 1, True),
        (0.99, True, 0, 1, True),  # an anomaly that is to be kept
        (0.99, False, 0, 0, True),
    ],
)
def test_only_a_negative_of_a_sampled_split_depends_on_its_draw(
    draw, is_sampled, click, conversion, expected
):
    kept = negatives.is_kept(
        np.array([draw]),
        rate=0.25,
        is_sampled=np.array([is_sampled]),
        click=np.array([click]),
        conversion=np.array([conversion]),
    )

    assert kept.tolist() == [expected]


def test_what_a_lower_rate_keeps_a_higher_one_keeps_too():
    draws = np.random.default_rng(1).random(1_000)
    zeros = np.zeros(1_000)

    low, high = (
        negatives.is_kept(draws, rate=rate, is_sampled=zeros == 0, click=zeros, conversion=zeros)
        for rate in (0.1, 0.3)
    )

    assert 50 < low.sum() < 150
    assert high[low].all()


@pytest.mark.parametrize("size", [1, 50])
def test_hashed_draws_are_uniform_over_groups_and_places(size):
    groups = np.repeat(np.random.default_rng(1).integers(0, 2**63, 20_000 // size), size)
    places = np.tile(np.arange(size), 20_000 // size)

    draws = negatives.hashed_draws(groups.astype(np.uint64), places)

    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert counts.sum() == 20_000
    assert np.sum((counts - 1_000) ** 2 / 1_000) < 50  # chi-squared of 19, p = 0.0001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 4 / np.sqrt(20_000)


def test_the_draws_of_a_group_are_those_of_splitmix64_seeded_with_it():
    mask = 2**64 - 1
    state = (2**63 + 17) & mask
    expected = []
    for _ in range(3):
        state = (state + 0x9E3779B97F4A7C15) & mask
        number = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & mask
        expected.append(((number ^ (number >> 31)) >> 11) / 2**53)

    draws = negatives.hashed_draws(np.full(3, 2**63 + 17, np.uint64), np.arange(3))

    assert draws.tolist() == expected


def test_the_report_tells_what_was_left_out_of_the_splits_that_have_something(
    tmp_path, schema, build_group, capsys
):
    with DataSetWriter(
        str(tmp_path), schema, negative_keep_rate=negatives.keep_rates(0.25)
    ) as writer:
        writer.write("train", build_group(0, 5))  # 1 and 3 are not clicked
        writer.write("test", build_group(10, 4))
        writer.sampled_out["train"] = 6_000

    negatives.report(writer)

    assert capsys.readouterr().out == (
        "left out 6,000 of 6,002 unclicked impressions of train (--negative_keep_rate=0.25)\n"
    )


@pytest.mark.parametrize("rate", RATES)
def test_the_flag_is_a_probability_above_0(rate):
    message = f"--negative_keep_rate is {rate}. Give a probability above 0, at most 1"

    with pytest.raises(UserError, match=message):
        DataSetConfig(output_dir="unused", negative_keep_rate=rate)
