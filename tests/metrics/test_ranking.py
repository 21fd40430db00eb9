"""The order of rows, their levels and the sums below each."""

import numpy as np
import pytest

from esmm_tf.metrics.ranking import Ranking, order_of, packed_order

EXTREMES = [0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf, 3e38, -3e38, 1.0, -1.0, 1e-30]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_order_is_that_of_a_stable_sort(dtype):
    rng = np.random.default_rng(1)
    scores = rng.permutation(np.concatenate([rng.normal(size=500), np.repeat(EXTREMES, 20)]))

    order = order_of(scores.astype(dtype))

    np.testing.assert_array_equal(order, np.argsort(scores.astype(dtype), kind="stable"))


def test_packed_order_is_stable_up_to_the_largest_number():
    numbers = np.array([2**32 - 1, 0, 7, 2**32 - 1, 0], np.uint32)

    assert packed_order(numbers).tolist() == [1, 4, 2, 0, 3]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_rows_have_no_order(dtype):
    assert order_of(np.zeros(0, dtype)).tolist() == []


def test_equal_scores_share_a_level_and_plus_and_minus_zero_are_equal():
    scores = np.array([0.0, -1.0, 2.0, -0.0, 2.0], np.float32)

    ranking = Ranking(scores, np.array([1, 0, 1, 0, 1]), np.array([0, 1, 0, 1, 0]))

    assert ranking.level.tolist() == [0, 1, 1, 2, 2]
    assert ranking.positives.tolist() == [0, 1, 2]
    assert ranking.negatives.tolist() == [1, 1, 0]
    assert ranking.positives_below.tolist() == [0, 0, 1]
    assert ranking.negatives_below.tolist() == [0, 1, 2]
    assert (ranking.num_positives, ranking.num_negatives) == (3, 2)


def test_a_value_of_each_level_goes_back_to_its_rows():
    scores = np.array([5.0, 1.0, 5.0, 3.0])
    ranking = Ranking(scores, np.ones(4), np.zeros(4))

    values = ranking.by_row(np.array([10, 20, 30]))

    assert values.tolist() == [30, 10, 30, 20]


def test_an_influence_is_that_of_both_sides_of_a_row():
    ranking = Ranking(np.array([2.0, 1.0]), np.array([1.0, 0.25]), np.array([0.0, 0.75]))

    influence = ranking.influence(np.array([8.0, 1.0]), np.array([4.0, 100.0]))

    assert influence.tolist() == [1.0, 0.25 * 8 + 0.75 * 4]


def test_small_weights_are_not_lost_beside_large_counts():
    labels = np.ones(300_000, np.uint8)
    scores = np.arange(300_000, dtype=np.float32)

    ranking = Ranking(scores, labels, 1 - labels)

    assert ranking.num_positives == 300_000
    assert ranking.positives_below[-1] == 299_999


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"A score is NaN and has no rank"):
        Ranking(np.array([0.0, np.nan]), np.ones(2), np.ones(2))


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"There are 3 scores, 2 positives and 3 negatives"):
        Ranking(np.zeros(3), np.ones(2), np.ones(3))
