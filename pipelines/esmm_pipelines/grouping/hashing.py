"""Numbers that look random and follow from others."""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(state: np.ndarray) -> np.ndarray:
    """Returns the output of SplitMix64 (Steele et al., 2014) for each state, uint64.

    It gives no number twice. States should be multiples of `GOLDEN`, plus a seed.
    """
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
