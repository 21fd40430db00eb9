"""Numbers as a reader wants them."""

import doctest

import pytest

from esmm_tf.reports import words


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(words).failed == 0


@pytest.mark.parametrize(
    ("value", "interval", "shown"),
    [
        (0.66123, [0.6551, 0.6673], "0.6612"),
        (0.66123, [0.66101, 0.66145], "0.661230"),
        (0.98, [0.2, 4.8], "0.980"),
        (0.66123, [0.66123, 0.66123], "0.6612"),
        (0.0, None, "0.000"),
        (-0.0021, None, "-0.002100"),
        (-0.0001, [-0.3, 0.3], "0.000"),
        (3e-9, None, "3.00e-09"),
        (12345.678, None, "12,345.7"),
    ],
)
def test_decimals_follow_the_width_of_the_interval(value, interval, shown):
    assert words.number(value, interval) == shown


@pytest.mark.parametrize(
    ("part", "whole", "expected"), [(1, 4, 0.25), (1, 0, None), (None, 4, None), (1, None, None)]
)
def test_a_share_without_meaning_is_none(part, whole, expected):
    assert words.share(part, whole) == expected
