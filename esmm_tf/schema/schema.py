"""The schema of a data set: what a record holds and how the model reads it.

One schema decides what the writer writes, what the input function parses, what the model embeds
and what the serving signatures accept. `tfrecords_schema/README.md` defines its file format.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable

from esmm_tf import keys
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import (
    DTYPES,
    INT64,
    STRING,
    Column,
    NumericColumn,
    VocabularyColumn,
    check_choice,
    check_positive,
)
from esmm_tf.schema.record_field import MANY, ONE, SIDES, VALUES, RecordField

COMBINERS = ("sum", "mean", "sqrtn")
INITIALIZERS = ("truncated_normal", "uniform", "zeros")
CATEGORICAL_MISSING = ("zero", "embed")
NUMERIC_MISSING = ("zero", "indicator")


def _check_name(what: str, name: str) -> None:
    if not name or ":" in name:
        raise UserError(f"{what} has the name {name!r}. Give a non-empty name without ':'.")
    if name in keys.RESERVED_RECORD_KEYS or name == keys.GROUP_INDEX:
        raise UserError(
            f"{what} has the name {name!r}, which is reserved for labels, weight, truth or groups. "
            "Give it another name."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """An embedding table. `embedding_dim=None` takes the model's `--embedding_dim`."""

    name: str
    embedding_dim: int | None = None
    initializer: str = "truncated_normal"
    initializer_scale: float = 0.05

    def __post_init__(self) -> None:
        check_choice("initializer", self.initializer, INITIALIZERS)
        check_positive("initializer_scale", self.initializer_scale)
        if self.embedding_dim is not None:
            check_positive("embedding_dim", self.embedding_dim)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feature(RecordField):
    """One input of the model: its field of a record and how the model reads it."""

    column: Column
    values: str = ONE
    weighted: bool = False
    missing: str = "zero"
    table: str | None = None
    combiner: str = "sum"

    def __post_init__(self) -> None:
        _check_name("a feature", self.name)
        check_choice("side", self.side, SIDES)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("values", self.values, VALUES)
        check_choice("combiner", self.combiner, COMBINERS)
        if self.dtype not in self.column.dtypes:
            raise UserError(
                f"dtype is {self.dtype!r}, which its column cannot read. "
                f"Use {' or '.join(map(repr, self.column.dtypes))}, or another column."
            )
        if self.values == ONE and self.missing != "zero":
            raise UserError(
                f"missing is {self.missing!r} and values is 'one', so that nothing can be missing. "
                "Set values = 'optional' or remove missing."
            )
        if isinstance(self.column, NumericColumn):
            self._check_numeric()
        else:
            check_choice("missing", self.missing, CATEGORICAL_MISSING)
        if isinstance(self.column, VocabularyColumn):
            self._check_vocabulary(self.column)

    def _check_numeric(self) -> None:
        check_choice("missing", self.missing, NUMERIC_MISSING)
        if self.values == MANY or self.weighted:
            raise UserError(
                "a numeric column has one value and no weight. Set values to 'one' or 'optional' "
                "and remove weighted, or use a bucketized column."
            )
        if self.table is not None:
            raise UserError(
                "a numeric column has no embedding. Remove it, or use a bucketized column."
            )

    def _check_vocabulary(self, column: VocabularyColumn) -> None:
        value_type = int if self.dtype == INT64 else str
        wrong = [value for value in column.values if type(value) is not value_type]
        if wrong:
            raise UserError(
                f"the vocabulary holds {wrong[0]!r}, which is no {self.dtype}. "
                "Give values of the feature's dtype."
            )

    @property
    def is_embedded(self) -> bool:
        """Returns whether the feature is read through an embedding table."""
        return not isinstance(self.column, NumericColumn)

    @property
    def table_name(self) -> str:
        """Returns the name of the feature's embedding table: its own unless it shares one."""
        return self.table or self.name

    @property
    def num_rows(self) -> int:
        """Returns the number of rows of its table: ids, and rows for unknown and missing values."""
        if isinstance(self.column, NumericColumn):
            raise TypeError(f"Feature {self.name!r} is numeric and has no table.")
        return self.column.num_ids + (self.missing == "embed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key(RecordField):
    """A single value that records carry and no model reads, such as a request id."""

    def __post_init__(self) -> None:
        _check_name("a key", self.name)
        check_choice("side", self.side, SIDES)
        check_choice("dtype", self.dtype, (INT64, STRING))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """The log's columns that hold the labels; records call them `click` and `conversion`."""

    click: str = keys.CLICK
    conversion: str = keys.CONVERSION
    example_weight: str | None = None

    def __post_init__(self) -> None:
        if self.click == self.conversion:
            raise UserError(f"click and conversion are both {self.click!r}. Name two columns.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
    """Everything about a data set that code needs to know.

    Raises:
      UserError: if names clash, or a name refers to nothing.
    """

    name: str
    features: tuple[Feature, ...]
    tables: tuple[Table, ...] = ()
    keys: tuple[Key, ...] = ()
    labels: Labels = Labels()
    group_key: str | None = None
    carry: tuple[str, ...] = ()
    oracle: bool = False

    def __post_init__(self) -> None:
        if not self.features:
            raise UserError("there are no features. Declare at least one under [[features]].")
        self._check_names()
        self._check_tables()
        for what, name in [("group_key", self.group_key), *(("carry", n) for n in self.carry)]:
            if name is not None:
                self._check_single(what, name)

    def _check_names(self) -> None:
        names = [field.name for field in self.fields]
        for name in names:
            if names.count(name) > 1:
                raise UserError(
                    f"the name {name!r} is given {names.count(name)} times. "
                    "Features and keys need different names."
                )
            if name in dataclasses.astuple(self.labels):
                raise UserError(
                    f"{name!r} is a label and also listed as a feature or key, which would leak "
                    "the answer. Remove it from [[features]] and [[keys]]."
                )

    def _check_tables(self) -> None:
        declared = {table.name: table for table in self.tables}
        if len(declared) != len(self.tables):
            raise UserError("a table is declared twice. Give every table one name.")
        rows: dict[str, tuple[str, int]] = {}
        for feature in filter(lambda f: f.is_embedded, self.features):
            if feature.table is not None and feature.table not in declared:
                raise UserError(
                    f"Feature {feature.name!r} refers to embedding table {feature.table!r}, which "
                    f"is not in `tables`. Known tables: {sorted(declared)}. "
                    f"Add [tables.{feature.table}]."
                )
            first, num_rows = rows.setdefault(feature.table_name, (feature.name, feature.num_rows))
            if num_rows != feature.num_rows:
                raise UserError(
                    f"Features {first!r} and {feature.name!r} share table "
                    f"{feature.table_name!r} and have {num_rows} and {feature.num_rows} rows. "
                    "Give both the same ids, out_of_vocabulary and missing, or two tables."
                )
        unused = sorted(set(declared) - set(rows))
        if unused:
            raise UserError(
                f"table {unused[0]!r} is used by no feature. "
                "Remove it, or name it in a feature's embedding."
            )

    def _check_single(self, what: str, name: str) -> None:
        single = {key.name for key in self.keys}
        single |= {f.name for f in self.features if f.values == ONE and not f.weighted}
        if name not in single:
            raise UserError(
                f"{what} names {name!r}, which is no key and no feature with values = 'one'. "
                f"Known: {sorted(single)}."
            )

    @property
    def fields(self) -> tuple[Feature | Key, ...]:
        """Returns features and keys, in the order of the file."""
        return (*self.features, *self.keys)

    @property
    def carried_names(self) -> tuple[str, ...]:
        """Returns the names of `carry`, and the group key if there is one, each once."""
        names = [*self.carry, *([self.group_key] if self.group_key else [])]
        return tuple(dict.fromkeys(names))

    def side_features(self, side: str) -> tuple[Feature, ...]:
        """Returns the features of one side, in the order of the file."""
        return tuple(f for f in self.features if f.side == side)

    def field(self, name: str) -> Feature | Key:
        """Returns the feature or key of that name."""
        return next(f for f in self.fields if f.name == name)

    def table(self, name: str) -> Table:
        """Returns the declared table, or the default table of a feature that shares none."""
        return next((t for t in self.tables if t.name == name), Table(name=name))

    def with_vocabulary_files(self, replace: Callable[[Feature, str], str]) -> "Schema":
        """Returns the schema with other paths of vocabulary files.

        Args:
          replace: returns the path to use, given the feature and its file's path.
        """
        features = []
        for feature in self.features:
            column = feature.column
            if isinstance(column, VocabularyColumn) and column.file is not None:
                column = dataclasses.replace(column, file=replace(feature, column.file))
                feature = dataclasses.replace(feature, column=column)
            features.append(feature)
        return dataclasses.replace(self, features=tuple(features))

    def record_hash(self) -> str:
        """Returns a hash of what the records hold, 16 hex digits.

        Two schemas with the same hash write and parse the same records. Columns, tables and
        embeddings are not covered: they may change without writing the data again.
        """
        layout = {
            "features": [(f.name, f.side, f.dtype, f.values, f.weighted) for f in self.features],
            "keys": [dataclasses.astuple(key) for key in self.keys],
            "example_weight": self.labels.example_weight is not None,
            "oracle": self.oracle,
        }
        text = json.dumps(layout, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
