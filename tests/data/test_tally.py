"""Sums by value: merged exactly, whatever the batches."""

import numpy as np
import pytest

from esmm_tf.data import tally


def as_dict(found):
    return {value: sums.tolist() for value, sums in zip(found[0].tolist(), found[1], strict=True)}


def test_sums_of_one_value_are_added_within_and_across_batches():
    counts = tally.Tally(2)

    counts.add(np.array([3, 1, 3]), np.array([[1, 0], [1, 1], [1, 1]]))
    counts.add(np.array([7, 3]), np.array([[1, 0], [1, 5]]))

    assert as_dict(counts.result()) == {1: [1, 1], 3: [3, 6], 7: [1, 0]}


def test_strings_are_counted_as_bytes():
    counts = tally.Tally(1)

    counts.add(np.array([b"b", b"a", b"b"], dtype=object), np.ones([3, 1], np.int64))
    counts.add(np.array([b"a\0"], dtype=object), np.ones([1, 1], np.int64))

    assert as_dict(counts.result()) == {b"a": [1], b"a\0": [1], b"b": [2]}


@pytest.mark.parametrize("min_pending", [1, 7, 100_000])
def test_early_merges_change_nothing(monkeypatch, min_pending):
    monkeypatch.setattr(tally, "_MIN_PENDING", min_pending)
    values = np.random.default_rng(3).integers(0, 50, 500)
    counts = tally.Tally(1)

    for part in np.array_split(values, 40):
        counts.add(part, np.ones([len(part), 1], np.int64))

    found, sums = counts.result()
    expected, expected_counts = np.unique(values, return_counts=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(sums[:, 0], expected_counts)


def test_nothing_added_is_nothing_found():
    counts = tally.Tally(3)

    counts.add(np.zeros([0]), np.zeros([0, 3], np.int64))

    values, sums = counts.result()
    assert values.shape == (0,)
    assert sums.shape == (0, 3)


def test_shortened_numbers_are_near_and_keep_their_order():
    numbers = np.sort(np.random.default_rng(1).normal(0.0, 1e6, 10_000)).astype(np.float32)

    short = tally.shorten_numbers(numbers)

    np.testing.assert_allclose(short, numbers, rtol=2**-15)
    assert (np.diff(short) >= 0).all()


def test_zero_has_one_sign():
    assert not np.signbit(tally.shorten_numbers(np.array([-0.0], np.float32)))[0]
