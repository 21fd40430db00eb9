"""Tables that are written once and shown three ways: in Markdown, in a terminal, on a page."""

import dataclasses
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from esmm_tf.reports.words import DASH


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table.

    Args:
      title: at its head.
      note: below it, in small letters.
      definition: what its values mean; nothing if the title says it.
      is_text: whether its values are words, which begin at the left.
    """

    title: str
    note: str = ""
    definition: str = ""
    is_text: bool = False

    @property
    def name(self) -> str:
        """Returns title and note on one line."""
        return f"{self.title} ({self.note})" if self.note else self.title


@dataclasses.dataclass(frozen=True)
class Cell:
    """A value as it is shown, and whether it stands out."""

    text: str
    is_bold: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Columns and rows of as many cells; the first cell names the row."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report: sentences, then tables. Its key is its address on a page."""

    key: str
    title: str
    sentences: Sequence[str]
    tables: Sequence[Table]


def spread(values: Mapping[str, Any] | None, decimals: int = 4, scale: float = 1.0) -> str:
    """Returns `mean ± std` of values times a scale, with three digits at least.

    >>> spread({"mean": 0.66123, "std": 0.0021}), spread({"mean": 0.0123, "std": None}, 2)
    ('0.6612 ± 0.0021', '0.0123')
    >>> spread(None)
    '—'
    """
    if values is None or values["mean"] is None:
        return DASH
    mean = scale * values["mean"]
    if mean:
        decimals = max(decimals, min(2 - math.floor(math.log10(abs(mean))), 7))
    shown = f"{mean:z,.{decimals}f}"
    std = values["std"]
    return shown if std is None else f"{shown} ± {scale * std:z,.{decimals}f}"


def definitions(sections: Iterable[Section]) -> dict[str, str]:
    """Returns what the columns mean, by their names, in the order of their first use."""
    columns = (column for part in sections for table in part.tables for column in table.columns)
    return {column.name: column.definition for column in columns if column.definition}


def format_markdown(section: Section) -> str:
    """Returns a section with its heading; every text in it is shown as it is."""
    parts = [f"## {escape_markdown(section.title)}"]
    if section.sentences:
        parts.append(escape_markdown(" ".join(section.sentences)))
    for table in section.tables:
        if table.caption:
            parts.append(f"### {escape_markdown(table.caption)}")
        parts.append(_markdown_table(table))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    def bold(cell: Cell) -> str:
        text = escape_markdown(cell.text)
        return f"**{text}**" if cell.is_bold else text

    head = [escape_markdown(column.name) for column in table.columns]
    rows = [head, *([bold(cell) for cell in row] for row in table.rows)]
    widths = [max(3, *map(_width, column)) for column in zip(*rows, strict=True)]
    lines = [f"| {line} |" for line in _aligned(rows, table.columns, widths, " | ")]
    rules = [
        f":{'-' * (width + 1)}" if column.is_text else f"{'-' * (width + 1)}:"
        for column, width in zip(table.columns, widths, strict=True)
    ]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])


def escape_markdown(text: str) -> str:
    r"""Returns one line that Markdown shows as the text is.

    >>> print(escape_markdown("a|b <i>\n*c* _d_e_"))
    a\|b \<i> \*c\* \_d_e\_
    """
    return re.sub(r"([\\`*\[\]<|~$&#]|(?<!\w)_|_(?!\w))", r"\\\1", one_line(text))


def format_text(table: Table) -> str:
    """Returns a table for a terminal, with titles on one line and notes, if any, on the next."""
    heads = [[one_line(column.title) for column in table.columns]]
    if any(column.note for column in table.columns):
        heads.append([one_line(column.note) for column in table.columns])
    rows = [*heads, *([one_line(cell.text) for cell in row] for row in table.rows)]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return "\n".join(line.rstrip() for line in _aligned(rows, table.columns, widths, "  "))


def format_rows(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """Returns rows of texts as a table for a terminal."""
    cells = [[Cell(text) for text in row] for row in rows]
    return format_text(Table(caption="", columns=columns, rows=cells))


def one_line(text: str) -> str:
    r"""Returns text without line breaks and without characters that steer a terminal.

    >>> one_line("a\n b\x1b[2J")
    'a b�[2J'
    """
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _aligned(
    rows: Sequence[Sequence[str]], columns: Sequence[Column], widths: Sequence[int], between: str
) -> list[str]:
    def padded(text: str, column: Column, width: int) -> str:
        room = " " * (width - _width(text))
        return text + room if column.is_text else room + text

    return [between.join(map(padded, row, columns, widths)) for row in rows]


def _width(text: str) -> int:
    """Returns the columns of a terminal that a line takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
