"""A field of a record: where it stands, how many values it has, and the keys that hold them."""

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
    """What features and keys have in common: values under a name of a record."""

    name: str
    side: str
    dtype: str

    @property
    def values(self) -> str:
        """Returns how many values it has, one of `VALUES`: one, unless a subclass asks for more."""
        return ONE

    @property
    def weighted(self) -> bool:
        """Returns whether each value has a weight: none, unless a subclass asks for them."""
        return False

    @property
    def is_context(self) -> bool:
        """Returns whether a group holds its values once, and not each impression its own."""
        return self.side == CONTEXT

    @property
    def has_lengths(self) -> bool:
        """Returns whether a record holds how many values each impression has."""
        return not self.is_context and self.values != ONE

    @property
    def weight_key(self) -> str:
        """Returns the record key of its weights, one for each value."""
        return f"{self.name}:weight"

    @property
    def lengths_key(self) -> str:
        """Returns the record key of its lengths, one for each impression."""
        return f"{self.name}:lengths"

    @property
    def value_keys(self) -> tuple[str, ...]:
        """Returns the record keys with an entry for each value: its name, and that of weights."""
        return (self.name, self.weight_key) if self.weighted else (self.name,)

    @property
    def record_keys(self) -> tuple[str, ...]:
        """Returns every record key it may use."""
        return (*self.value_keys, self.lengths_key) if self.has_lengths else self.value_keys
