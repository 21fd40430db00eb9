"""What long work shows: lines, warnings and a progress bar, or nothing."""

import contextlib
import contextvars
import sys
import warnings
from collections.abc import Iterator

from tqdm import tqdm

_IS_SHOWN = contextvars.ContextVar("is_shown", default=True)


@contextlib.contextmanager
def showing(is_shown: bool) -> Iterator[None]:
    """Shows or hides the lines and bars of the code within; a command shows them."""
    token = _IS_SHOWN.set(is_shown)
    try:
        yield
    finally:
        _IS_SHOWN.reset(token)


def say(line: str) -> None:
    """Prints a line at once, unless lines are hidden."""
    if _IS_SHOWN.get():
        print(line, flush=True)


def warn(message: str) -> None:
    """Prints a warning above the bar; if lines are hidden, gives a Python warning instead."""
    if _IS_SHOWN.get():
        tqdm.write(f"warning: {message}", file=sys.stderr)
    else:
        warnings.warn(message, stacklevel=2)


def build_bar(
    total: int | None, title: str = "", *, unit: str = " impressions", is_shown: bool = True
) -> tqdm:
    """Returns a progress bar for `total` units, None if unknown; use it in a `with` statement.

    The bar is drawn on a terminal only.
    """
    return tqdm(
        total=total,
        desc=title or None,
        unit=unit,
        unit_scale=True,
        disable=None if is_shown and _IS_SHOWN.get() else True,
    )
