"""A field of a record: its side, how many values it has, and the keys that hold them."""

import dataclasses
from typing import Literal

CONTEXT: Literal["context"] = "context"
IMPRESSION: Literal["impression"] = "impression"

ONE: Literal["one"] = "one"
OPTIONAL: Literal["optional"] = "optional"
MANY: Literal["many"] = "many"

SIDES = (CONTEXT, IMPRESSION)
VALUES = (ONE, OPTIONAL, MANY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordField:
    """What features and keys have in common: values in a record under a name."""

    name: str
    side: str
    dtype: str

    @property
    def values(self) -> str:
        """Returns how many values it has, as one of `VALUES`: one, unless a subclass differs."""
        return ONE

    @property
    def weighted(self) -> bool:
        """Returns whether each value has a weight: false, unless a subclass differs."""
        return False

    @property
    def is_context(self) -> bool:
        """Returns whether the values belong to the whole group, not to each impression."""
        return self.side == CONTEXT

    @property
    def has_lengths(self) -> bool:
        """Returns whether a record holds how many values each impression has."""
        return not self.is_context and self.values != ONE

    @property
    def weight_key(self) -> str:
        """Returns the record key of the weights, one per value."""
        return f"{self.name}:weight"

    @property
    def lengths_key(self) -> str:
        """Returns the record key of the lengths, one per impression."""
        return f"{self.name}:lengths"

    @property
    def value_keys(self) -> tuple[str, ...]:
        """Returns the record keys with one entry per value: those of values and weights."""
        return (self.name, self.weight_key) if self.weighted else (self.name,)

    @property
    def record_keys(self) -> tuple[str, ...]:
        """Returns every record key that the field may use."""
        return (*self.value_keys, self.lengths_key) if self.has_lengths else self.value_keys
