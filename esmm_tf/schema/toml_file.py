"""The TOML form of a schema: reading, writing, and checks that name the file and the place."""

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from typing import Any

import tomli_w

from esmm_tf import files
from esmm_tf.errors import UserError
from esmm_tf.schema import columns
from esmm_tf.schema import schema as schema_lib
from esmm_tf.schema.vocabulary_file import count_values, read_text

FORMAT_VERSION = 1
VOCABULARY_DIRECTORY = "vocabularies"

COLUMNS = {
    "identity": columns.IdentityColumn,
    "hash_bucket": columns.HashBucketColumn,
    "vocabulary": columns.VocabularyColumn,
    "numeric": columns.NumericColumn,
    "bucketized": columns.BucketizedColumn,
}
_TOP_KEYS = [
    "format_version",
    "name",
    "group_key",
    "carry",
    "oracle",
    "labels",
    "keys",
    "tables",
    "features",
]


def load_schema(path: str) -> schema_lib.Schema:
    """Returns the schema in the TOML file at `path`.

    Raises:
      UserError: if the file cannot be read or is wrong; the message names the file, the place
        within, what was received and the remedy.
    """
    try:
        with open(path, "rb") as file:
            tree = tomllib.load(file)
    except OSError as error:
        raise UserError(f"Cannot read schema {path!r}: {error.strerror}. Check --schema.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a TOML file: {error}. Mend the syntax there.") from None
    try:
        return _schema(tree, directory=os.path.dirname(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def save_schema(schema: schema_lib.Schema, directory: str, file_name: str) -> None:
    """Writes the schema, and in `vocabularies/` beside it a copy of every vocabulary file.

    The directory is self-contained: it can be copied to another machine.
    """

    def copy(feature: schema_lib.Feature, path: str) -> str:
        relative = f"{VOCABULARY_DIRECTORY}/{feature.name}.txt"
        files.write_text(os.path.join(directory, relative), read_text(path))
        return relative

    tree = _tree(schema.with_vocabulary_files(copy))
    files.write_text(os.path.join(directory, file_name), tomli_w.dumps(tree))


def _schema(tree: Mapping[str, Any], *, directory: str) -> schema_lib.Schema:
    _check_keys(tree, _TOP_KEYS, place="top level")
    if tree.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"top level: format_version is {tree.get('format_version')!r}. "
            f"This release reads format_version = {FORMAT_VERSION}."
        )
    tables = _typed(tree, "tables", dict, default={}, place="top level")
    features = _typed(tree, "features", list, default=[], place="top level")
    records = _typed(tree, "keys", list, default=[], place="top level")
    scalars = {
        name: tree[name] for name in ("name", "group_key", "carry", "oracle") if name in tree
    }
    return _build(
        schema_lib.Schema,
        scalars,
        place="top level",
        labels=_build(schema_lib.Labels, tree.get("labels", {}), place="[labels]"),
        keys=tuple(
            _build(schema_lib.Key, entry, place=_place("keys", index, entry))
            for index, entry in enumerate(records)
        ),
        tables=tuple(
            _build(schema_lib.Table, entry, place=f"[tables.{name}]", name=name)
            for name, entry in tables.items()
        ),
        features=tuple(
            _feature(entry, place=_place("features", index, entry), directory=directory)
            for index, entry in enumerate(features)
        ),
    )


def _place(what: str, index: int, entry: Any) -> str:
    name = f" {entry['name']!r}" if isinstance(entry, dict) and "name" in entry else ""
    return f"[[{what}]] number {index + 1}{name}"


def _feature(entry: Any, *, place: str, directory: str) -> schema_lib.Feature:
    _check_table(entry, place=place)
    entry = dict(entry)
    embedding = entry.pop("embedding", {})
    _check_table(embedding, place=f"{place}, embedding")
    _check_keys(embedding, ["table", "combiner"], place=f"{place}, embedding")
    for name in ("table", "combiner"):
        if name in entry:
            raise UserError(
                f"{place}: {name!r} stands at the feature. Write embedding = {{ {name} = ... }}."
            )
    if "column" not in entry:
        raise UserError(f"{place}: 'column' is missing. Add column = {{ kind = ... }}.")
    column = _column(
        entry.pop("column"),
        place=f"{place}, column",
        directory=directory,
        dtype=entry.get("dtype"),
    )
    if embedding and isinstance(column, columns.NumericColumn):
        raise UserError(
            f"{place}: a numeric column has no embedding. Remove it, or use a bucketized column."
        )
    return _build(schema_lib.Feature, {**entry, **embedding}, place=place, column=column)


def _column(entry: Any, *, place: str, directory: str, dtype: Any) -> columns.Column:
    _check_table(entry, place=place)
    entry = dict(entry)
    kind = entry.pop("kind", None)
    if not isinstance(kind, str) or kind not in COLUMNS:
        raise UserError(f"{place}: kind is {kind!r}. Use one of {', '.join(COLUMNS)}.")
    given = {}
    if kind == "vocabulary":
        given = {"file_size": 0}
        if isinstance(entry.get("file"), str):
            entry["file"] = os.path.join(directory, entry["file"])
            given = {"file_size": count_values(entry["file"], place=place, dtype=dtype)}
    return _build(COLUMNS[kind], entry, place=place, **given)


def _build(cls: type, entry: Any, *, place: str, **given: Any) -> Any:
    """Returns `cls(**entry, **given)`; the message of every error names the place."""
    _check_table(entry, place=place)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in given}
    _check_keys(entry, list(fields), place=place)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and name not in entry:
            raise UserError(f"{place}: {name!r} is missing. Add it.")
    values = {name: _cast(value, hints[name], f"{place}: {name}") for name, value in entry.items()}
    try:
        return cls(**values, **given)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _cast(value: Any, hint: Any, place: str) -> Any:
    """Returns `value` as the annotated type: lists become tuples, integers may be floats."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if typing.get_origin(option) is tuple and isinstance(value, list):
            return tuple(_cast(item, typing.get_args(option)[0], place) for item in value)
        if option is float and type(value) is int:
            return float(value)
        if type(value) is option:
            return value
    names = [getattr(o, "__name__", str(o)) for o in options if o is not types.NoneType]
    raise UserError(
        f"{place} is {value!r}, of type {type(value).__name__}. "
        f"Give a value of type {' or '.join(names)}."
    )


def _typed(tree: Mapping[str, Any], name: str, kind: type, *, default: Any, place: str) -> Any:
    value = tree.get(name, default)
    if not isinstance(value, kind):
        form = f"[[{name}]]" if kind is list else f"[{name}.NAME]"
        raise UserError(f"{place}: {name!r} is {value!r}. Write {form} sections.")
    return value


def _check_table(entry: Any, *, place: str) -> None:
    if not isinstance(entry, dict):
        raise UserError(f"{place} is {entry!r}. Write a table: {{ key = value, ... }}.")


def _check_keys(entry: Mapping[str, Any], known: list[str], *, place: str) -> None:
    for name in entry:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{place}: unknown key {name!r}.{hint} Known keys: {', '.join(known)}.")


def _tree(schema: schema_lib.Schema) -> dict[str, Any]:
    tree: dict[str, Any] = {"format_version": FORMAT_VERSION, **_entry(schema)}
    tree["labels"] = _entry(schema.labels)
    tree["keys"] = [_entry(key) for key in schema.keys]
    tree["tables"] = {table.name: _entry(table, skip=("name",)) for table in schema.tables}
    tree["features"] = [_feature_tree(feature) for feature in schema.features]
    return {name: value for name, value in tree.items() if value not in ({}, [])}


def _feature_tree(feature: schema_lib.Feature) -> dict[str, Any]:
    entry = _entry(feature, skip=("column", "table", "combiner"))
    column = _entry(feature.column, skip=("file_size",))
    kind = next(k for k, cls in COLUMNS.items() if cls is type(feature.column))
    embedding = {
        name: value for name, value in _entry(feature).items() if name in ("table", "combiner")
    }
    return {**entry, "column": {"kind": kind, **column}} | (
        {"embedding": embedding} if embedding else {}
    )


def _entry(item: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the plain fields of a dataclass that differ from their defaults."""
    entry = {}
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if field.name in skip or value == field.default or dataclasses.is_dataclass(value):
            continue
        if isinstance(value, tuple):
            if value and dataclasses.is_dataclass(value[0]):
                continue
            value = list(value)
        entry[field.name] = value
    return entry
