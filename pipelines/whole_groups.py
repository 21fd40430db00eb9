"""Batches of ordered rows, cut again so that no group spans two of them."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa


def whole_groups(batches: Iterator[pa.RecordBatch], key: str) -> Iterator[pa.Table]:
    """Yields the rows again, never those of a group in two pieces.

    Args:
      batches: of rows in an order in which those of a group stand together.
      key: a column without nulls that has one value in a group, and others in its neighbours.
    """
    held: list[pa.RecordBatch] = []
    last = None
    for batch in filter(len, batches):
        values = batch[key].to_numpy(zero_copy_only=False)
        different = np.flatnonzero(values != values[-1])
        start = int(different[-1]) + 1 if len(different) else 0
        if start or (held and values[-1] != last):
            yield pa.Table.from_batches([*held, batch.slice(0, start)])
            held = []
        held.append(batch.slice(start))
        last = values[-1]
    if held:
        yield pa.Table.from_batches(held)
