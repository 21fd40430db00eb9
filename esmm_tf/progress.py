"""The progress bar of every long command: counts impressions, on a terminal only."""

from tqdm import tqdm


def build_bar(total: int | None, title: str = "") -> tqdm:
    """Returns a bar that expects `total` impressions, if that is known; use it in a `with`."""
    return tqdm(total=total, desc=title or None, unit=" impressions", unit_scale=True, disable=None)
