"""Student's t distribution, against SciPy's."""

import math

import pytest
from scipy import stats

from esmm_tf.metrics import student

DEGREES = [1, 4, 7.3, 200]


@pytest.mark.parametrize("degrees", DEGREES)
@pytest.mark.parametrize("t", [0.0, 0.7, -2.5, 12.0])
def test_the_p_value_is_that_of_both_tails(t, degrees):
    expected = 2 * stats.t.sf(abs(t), degrees)

    assert student.p_value(t, degrees) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("degrees", DEGREES)
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_the_quantile_leaves_half_of_the_rest_on_either_side(level, degrees):
    expected = stats.t.ppf((1 + level) / 2, degrees)

    assert student.quantile(level, degrees) == pytest.approx(expected, rel=1e-10)


def test_with_infinitely_many_degrees_of_freedom_it_is_the_normal_distribution():
    assert student.p_value(-1.3, math.inf) == pytest.approx(2 * stats.norm.sf(1.3), rel=1e-12)
    assert student.quantile(0.9, math.inf) == pytest.approx(stats.norm.ppf(0.95), rel=1e-12)
