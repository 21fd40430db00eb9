"""What a comparison of served scores found, as text and as JSON."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from esmm_tf import keys
from esmm_tf.config.serving import SkewConfig
from esmm_tf.reports.tables import Cell, Column, Table, format_text, one_line
from esmm_tf.reports.words import DASH
from esmm_tf.serving.skew_comparison import Comparison, Difference


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkewReport:
    """What was compared, and what was found.

    Args:
      config: what was asked for.
      version: of the export.
      comparisons: one for each server and signature.
      notes: what is known to differ between model, export and server, in words.
    """

    config: SkewConfig
    version: int
    comparisons: Sequence[Comparison]
    notes: Sequence[str]

    @property
    def passed(self) -> bool:
        """Returns whether every signature gives the scores of the training path."""
        return not any(comparison.is_failed for comparison in self.comparisons)

    def text(self) -> str:
        """Returns the table, what is known to differ, and the first differences."""
        parts = [
            format_text(_build_table(self.comparisons)),
            "\n".join(self.notes),
            "\n".join(_reasons(self.comparisons)),
        ]
        return "\n\n".join(filter(None, parts))

    def verdict(self) -> str:
        """Returns in a sentence whether there is skew, and how much."""
        tolerance = self.config.tolerance
        if self.passed:
            compared = max((c.impressions for c in self.comparisons), default=0)
            largest = max(c.relative for c in self.comparisons)
            return (
                f"PASS: {compared:,} impressions are served as the training path scores them; the "
                f"largest relative difference is {largest:.1e}, of {tolerance:g} allowed."
            )
        failed = sum(c.is_failed for c in self.comparisons)
        return (
            f"FAIL: of {len(self.comparisons)} comparisons, {failed} find other scores than those "
            f"of the training path, by more than {tolerance:g} of a probability, or none. Mend the "
            "cause above: export again with python -m esmm_tf.export, or serve the version of this "
            "model."
        )

    def to_json(self) -> dict[str, Any]:
        """Returns what JSON can hold."""
        return {
            "model_dir": self.config.model_dir,
            "export_dir": self.config.export_dir,
            "version": self.version,
            "tolerance": self.config.tolerance,
            "passed": self.passed,
            "notes": list(self.notes),
            "comparisons": [_finite(dataclasses.asdict(c)) for c in self.comparisons],
        }


def _build_table(comparisons: Sequence[Comparison]) -> Table:
    columns = [Column(title="scored by", is_text=True), Column(title="signature", is_text=True)]
    columns += [Column(title=name, note="difference") for name in keys.PROBABILITIES]
    columns += [Column(title="largest", note="relative"), Column(title="differ")]
    columns.append(Column(title="impressions"))
    rows = []
    for comparison in comparisons:
        shares = [comparison.largest.get(name) for name in keys.PROBABILITIES]
        shares.append(comparison.relative if comparison.impressions else None)
        cells = [DASH if share is None else f"{share:.1e}" for share in shares]
        texts = [comparison.scored_by, _title(comparison), *cells]
        texts += [f"{comparison.differing:,}", f"{comparison.impressions:,}"]
        rows.append([Cell(text) for text in texts])
    return Table(caption="", columns=columns, rows=rows)


def _title(comparison: Comparison) -> str:
    return f"{comparison.signature}, cut off" if comparison.is_cut else comparison.signature


def _reasons(comparisons: Sequence[Comparison]) -> list[str]:
    """Returns the reasons of failures, each once, and below it the signatures that have it."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        if comparison.is_failed:
            groups.setdefault(_reason(comparison), []).append(comparison)
    lines = []
    for reason, group in groups.items():
        lines.append(one_line(f"{reason}{_scores(group[0].first)}"))
        for server in dict.fromkeys(comparison.scored_by for comparison in group):
            titles = ", ".join(_title(c) for c in group if c.scored_by == server)
            lines.append(f"  {server}: {titles}")
    return lines


def _reason(comparison: Comparison) -> str:
    first = comparison.first
    if first is None:
        return f"no scores: {comparison.refusal}"
    carried = ", ".join(f"{name} {value}" for name, value in first.carried.items())
    where = f"from impression {first.impression:,}{f' ({carried})' if carried else ''} on"
    return f"{where}: {f'feature {first.feature!r}: ' * bool(first.feature)}{first.cause}"


def _scores(difference: Difference | None) -> str:
    """Returns the scores that differ most, if there are any."""
    if difference is None:
        return ""
    pairs = difference.scores.items()
    name, (trained, served) = max(pairs, key=lambda item: abs(item[1][0] - item[1][1]))
    return f" ({name} is {trained:.6g} in training, {served:.6g} served)"


def _finite(tree: Any) -> Any:
    """Returns the tree with null for each number that is not finite, which JSON does not have."""
    if isinstance(tree, Mapping):
        return {name: _finite(value) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
