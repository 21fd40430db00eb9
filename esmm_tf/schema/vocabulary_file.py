"""Vocabulary files: one value per line, whose number from 0 on is the value's row."""

import re
from typing import Any

from esmm_tf import files
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import INT64


def read_text(path: str) -> str:
    """Returns the content of a vocabulary file; line ends other than LF are part of a value."""
    with files.open_file(path, "r") as file:
        return file.read()


def read_values(path: str) -> list[str]:
    """Returns the values, in the order of their rows."""
    return read_text(path).removesuffix("\n").split("\n")


def count_values(path: str, *, place: str, dtype: Any) -> int:
    """Returns the number of values, each checked to be a new one.

    Args:
      path: of the file.
      place: of its column in the schema file, with which a message begins.
      dtype: of the feature; for `int64` every value must be an integer.

    Raises:
      UserError: if the file cannot be read, or a line is empty, repeated or no integer.
    """
    try:
        values = read_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{place}: cannot read vocabulary {path!r}: {error}. "
            "Give a UTF-8 file with one value per line, its path relative to the schema."
        ) from None
    seen: set[str] = set()
    for number, value in enumerate(values, start=1):
        if not value or value in seen:
            what = f"repeats {value!r}" if value else "is empty"
            raise UserError(
                f"{place}: vocabulary {path!r}, line {number} {what}. Give one new value per line."
            )
        if dtype == INT64 and not re.fullmatch(r"-?\d+", value):
            raise UserError(
                f"{place}: vocabulary {path!r}, line {number} is {value!r}, and the feature's "
                "dtype is int64. Give one integer per line."
            )
        seen.add(value)
    return len(values)
