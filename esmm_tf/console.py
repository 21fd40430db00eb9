"""The progress bar of every long command: on a terminal only."""

from tqdm import tqdm


def build_bar(total: int | None, title: str = "", *, unit: str = " impressions") -> tqdm:
    """Returns a bar that expects `total` units, if that is known; use it in a `with`."""
    return tqdm(total=total, desc=title or None, unit=unit, unit_scale=True, disable=None)
