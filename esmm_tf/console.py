"""What long work shows of itself: lines, warnings and a bar, for whoever wants to see them."""

import contextlib
import contextvars
import sys
import warnings
from collections.abc import Iterator

from tqdm import tqdm

_IS_SHOWN = contextvars.ContextVar("is_shown", default=True)


@contextlib.contextmanager
def showing(is_shown: bool) -> Iterator[None]:
    """Shows what is said within, or keeps it off the screen; a command shows all."""
    token = _IS_SHOWN.set(is_shown)
    try:
        yield
    finally:
        _IS_SHOWN.reset(token)


def say(line: str) -> None:
    """Prints a line at once, where it is to be seen."""
    if _IS_SHOWN.get():
        print(line, flush=True)


def warn(message: str) -> None:
    """Prints a warning above a bar and not within it; where nothing is shown, Python's own."""
    if _IS_SHOWN.get():
        tqdm.write(f"warning: {message}", file=sys.stderr)
    else:
        warnings.warn(message, stacklevel=2)


def build_bar(
    total: int | None, title: str = "", *, unit: str = " impressions", is_shown: bool = True
) -> tqdm:
    """Returns a bar that expects `total` units, if that is known; use it in a `with`.

    It is drawn on a terminal only.
    """
    return tqdm(
        total=total,
        desc=title or None,
        unit=unit,
        unit_scale=True,
        disable=None if is_shown and _IS_SHOWN.get() else True,
    )
