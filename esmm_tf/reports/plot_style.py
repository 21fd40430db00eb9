"""What all figures share: their style, their colours, and a PNG that repeats byte for byte."""

import io
from typing import Any

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 150
BLUE, ORANGE, GREY = "#1f5fa8", "#c4561a", "#767676"
# Matplotlib's own defaults, then ours, whatever the reader's matplotlibrc says.
STYLE: list[Any] = [
    "default",
    {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e4e4e4",
        "legend.frameon": False,
        "text.parse_math": False,
    },
]


def plain(text: str, length: int) -> str:
    r"""Returns one line of at most `length` characters, all of which the font of the plots has.

    >>> plain("a\nb", 10), plain("0123456789", 6)
    ('a�b', '01234…')
    """
    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    shown = "".join(
        c if c.isprintable() and ord(c) in known else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def legend_above(axes: Axes, *, columns: int = 2) -> None:
    """Puts the legend, if there is anything in it, above the right end of the axes."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, ncols=columns)


def to_png(figure: Figure) -> bytes:
    """Returns a PNG without the version of Matplotlib, so that equal figures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def nothing(figure: Figure) -> bytes:
    """Returns the PNG of a figure that has its title and says that there is nothing to show."""
    figure.set_size_inches(4.6, 1.4)
    for axes in figure.axes:
        axes.set_axis_off()
    figure.text(0.5, 0.5, "nothing to show", ha="center", color=GREY)
    return to_png(figure)
