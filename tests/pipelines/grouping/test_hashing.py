"""Numbers that follow from others: those of SplitMix64's reference implementation."""

import numpy as np

from esmm_pipelines.grouping import hashing


def test_states_are_mixed_as_by_splitmix64():
    # The first outputs of the reference implementation for the seeds 0 and 1234567.
    states = np.arange(1, 4, dtype=np.uint64) * hashing.GOLDEN

    from_0, from_seed = hashing.mix(states), hashing.mix(states + np.uint64(1234567))

    assert from_0.tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert from_seed.tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_no_number_comes_twice():
    states = np.arange(100_000, dtype=np.uint64) * hashing.GOLDEN

    assert len(np.unique(hashing.mix(states))) == 100_000
