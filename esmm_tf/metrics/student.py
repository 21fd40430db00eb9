"""Student's t distribution, for means over a few seeds."""

import math

import tensorflow as tf

_BISECTIONS = 80


def p_value(t: float, degrees: float) -> float:
    """Returns the probability of a value at least as far from 0 as `t`.

    It is the regularized incomplete beta function; with infinitely many degrees of freedom the
    distribution is normal.

    >>> f"{p_value(2.776, 4):.4f} {p_value(1.96, math.inf):.4f}"
    '0.0500 0.0500'
    """
    if math.isinf(degrees):
        return math.erfc(abs(t) / math.sqrt(2))
    a, b, x = degrees / 2, 0.5, degrees / (degrees + t * t)
    return float(tf.math.betainc(*(tf.constant(number, tf.float64) for number in (a, b, x))))


def quantile(level: float, degrees: float) -> float:
    """Returns the distance from 0 within which a value lies with probability `level`.

    >>> f"{quantile(0.95, 4):.3f} {quantile(0.95, math.inf):.3f}"
    '2.776 1.960'
    """
    low, high = 0.0, 1.0
    while p_value(high, degrees) > 1 - level:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle, degrees) > 1 - level else (low, middle)
    return high
