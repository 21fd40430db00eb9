"""Feature columns as the schema declares them: they map a feature's values to rows of a table.

`esmm_tf.model.feature_columns` holds their tensor ops.
"""

import collections
import dataclasses
import math
from typing import Literal

from esmm_tf.errors import UserError

INT64: Literal["int64"] = "int64"
FLOAT32: Literal["float32"] = "float32"
STRING: Literal["string"] = "string"

DTYPES = (INT64, FLOAT32, STRING)
SCALINGS = ("none", "log", "standard")
OUT_OF_VOCABULARY = ("embed", "drop", "hash")


def check_choice(what: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises a `UserError` unless `value` is one of `choices`."""
    if value not in choices:
        raise UserError(f"{what} is {value!r}. Use one of {', '.join(map(repr, choices))}.")


def check_positive(what: str, value: float) -> None:
    """Raises a `UserError` unless `value` is finite and above 0."""
    if not 0 < value < math.inf:
        raise UserError(f"{what} is {value!r}. Give a finite number above 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentityColumn:
    """An integer id in `[0, vocabulary_size)` is its own table row."""

    vocabulary_size: int
    out_of_vocabulary: str = "embed"
    dtypes = (INT64,)

    def __post_init__(self) -> None:
        check_positive("vocabulary_size", self.vocabulary_size)
        check_choice("out_of_vocabulary", self.out_of_vocabulary, ("embed", "drop"))

    @property
    def num_ids(self) -> int:
        """Returns the number of table rows for values, with the out-of-vocabulary row."""
        return self.vocabulary_size + (self.out_of_vocabulary == "embed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HashBucketColumn:
    """A value's row is its 64-bit FarmHash modulo `hash_buckets`; integers as decimal text."""

    hash_buckets: int
    dtypes = (INT64, STRING)

    def __post_init__(self) -> None:
        check_positive("hash_buckets", self.hash_buckets)

    @property
    def num_ids(self) -> int:
        """Returns the number of table rows for values."""
        return self.hash_buckets


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabularyColumn:
    """A value's row is its index in `values`, or that of its line in `file`.

    `file_size` is the number of lines of `file`, which the reader of the schema counts.
    """

    values: tuple[int | str, ...] = ()
    file: str | None = None
    file_size: int = 0
    out_of_vocabulary: str = "embed"
    oov_buckets: int = 1
    dtypes = (INT64, STRING)

    def __post_init__(self) -> None:
        check_choice("out_of_vocabulary", self.out_of_vocabulary, OUT_OF_VOCABULARY)
        check_positive("oov_buckets", self.oov_buckets)
        if self.oov_buckets > 1 and self.out_of_vocabulary != "hash":
            raise UserError(
                f"oov_buckets is {self.oov_buckets} and out_of_vocabulary is "
                f"{self.out_of_vocabulary!r}. More than one bucket needs "
                "out_of_vocabulary = 'hash'."
            )
        if bool(self.values) == bool(self.file):
            raise UserError(
                "a vocabulary needs either values = [...] with at least one value, or "
                "file = '...', and one of them only."
            )
        repeated = [v for v, count in collections.Counter(self.values).items() if count > 1]
        if repeated:
            raise UserError(f"the vocabulary repeats {repeated[0]!r}. Give every value once.")

    @property
    def vocabulary_size(self) -> int:
        """Returns the number of known values."""
        return len(self.values) or self.file_size

    @property
    def num_oov_ids(self) -> int:
        """Returns the number of rows that values outside the vocabulary share."""
        return 0 if self.out_of_vocabulary == "drop" else self.oov_buckets

    @property
    def num_ids(self) -> int:
        """Returns the number of table rows for values, with the out-of-vocabulary rows."""
        return self.vocabulary_size + self.num_oov_ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumericColumn:
    """A number that enters the towers as it is, without an embedding.

    `scaling`: `none`; `log`, which is `sign(x) * ln(1 + |x|)`; `standard`, which is
    `(x - mean) / stddev`.
    """

    scaling: str = "none"
    mean: float = 0.0
    stddev: float = 1.0
    dtypes = (INT64, FLOAT32)

    def __post_init__(self) -> None:
        check_choice("scaling", self.scaling, SCALINGS)
        check_positive("stddev", self.stddev)
        if not math.isfinite(self.mean):
            raise UserError(f"mean is {self.mean}. Give a finite number.")
        if self.scaling != "standard" and (self.mean, self.stddev) != (0.0, 1.0):
            raise UserError(
                f"mean and stddev are given and scaling is {self.scaling!r}. "
                "Set scaling = 'standard' or remove them."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class BucketizedColumn:
    """A number's row is how many of `boundaries` are at or below it."""

    boundaries: tuple[float, ...]
    dtypes = (INT64, FLOAT32)

    def __post_init__(self) -> None:
        finite = all(math.isfinite(b) for b in self.boundaries)
        rising = all(a < b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False))
        if not (self.boundaries and finite and rising):
            raise UserError(
                f"boundaries are {list(self.boundaries)}. Give at least one, finite and rising."
            )

    @property
    def num_ids(self) -> int:
        """Returns the number of buckets."""
        return len(self.boundaries) + 1


CategoricalColumn = IdentityColumn | HashBucketColumn | VocabularyColumn | BucketizedColumn
Column = CategoricalColumn | NumericColumn
