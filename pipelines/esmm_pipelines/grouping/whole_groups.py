"""Ordered rows to groups: batches are cut again so that no group spans two of them."""

import abc
import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from esmm_tf.data.records import Group
from esmm_tf.schema.schema import Schema

ORDER = "esmm_tf_order"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WholeGroups(abc.ABC):
    """Turns rows into groups.

    Args:
      schema: of the records.
      max_group_size: impressions at which a group is cut.
    """

    schema: Schema
    max_group_size: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, Group]]:
        """Yields groups with their split; rows are ordered by `ORDER`, which a group shares."""
        for rows in whole_groups(batches, ORDER):
            yield from self.groups(rows)

    @abc.abstractmethod
    def groups(self, rows: pa.Table) -> Iterator[tuple[str, Group]]:
        """Yields the groups in `rows`, each of which is there as a whole."""


def starts(rows: pa.Table, *names: str) -> list[int]:
    """Returns the indices of the rows that differ from the row before in any of the columns."""
    differs = np.append(True, np.zeros(len(rows) - 1, dtype=bool))
    for name in names:
        values = rows[name].to_numpy()
        differs[1:] |= values[1:] != values[:-1]
    return np.flatnonzero(differs).tolist()


def whole_groups(batches: Iterator[pa.RecordBatch], key: str) -> Iterator[pa.Table]:
    """Yields the rows again in tables, without dividing a group among them.

    Args:
      batches: of rows in an order in which those of a group stand together.
      key: a column without nulls, with one value in a group and another in the group after it.
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
