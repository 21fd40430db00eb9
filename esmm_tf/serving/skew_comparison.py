"""The scores of a signature beside those of the training path, impression by impression."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.serving.skew_causes import Probabilities


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """The first impression whose scores differ.

    Args:
      impression: its index in the files, from 0 on.
      carried: the values that the schema carries.
      scores: by probability, that of the training path and the served one.
      feature: the first one that the paths read differently; nothing where they read the same.
      cause: in words.
    """

    impression: int
    carried: Mapping[str, Any]
    scores: Mapping[str, tuple[float, float]]
    feature: str
    cause: str


@dataclasses.dataclass(kw_only=True)
class Comparison:
    """The scores of a signature beside those of the training path; each batch adds to them.

    Args:
      scored_by: the export or a server.
      signature: its name.
      is_cut: of `predict_tensors`, whether it compares the impressions of which a client leaves
        out values, or the others.
      impressions: how many were compared.
      differing: how many of them differ.
      largest: the largest absolute difference, by probability.
      relative: the largest relative one of all.
      first: the first difference, if there is one.
      refusal: what was said instead of scores.
    """

    scored_by: str
    signature: str
    is_cut: bool = False
    impressions: int = 0
    differing: int = 0
    largest: dict[str, float] = dataclasses.field(default_factory=dict)
    relative: float = 0.0
    first: Difference | None = None
    refusal: str = ""

    @property
    def is_failed(self) -> bool:
        """Returns whether the training path's scores are not what is served."""
        return bool(self.differing or self.refusal)

    def add(self, expected: Probabilities, served: Probabilities, tolerance: float) -> np.ndarray:
        """Adds impressions; returns the indices of those that differ."""
        differs = np.zeros(len(expected[keys.PCTR]), bool)
        for name, scores in served.items():
            pair = np.stack([expected[name], scores]).astype(np.float64)
            with np.errstate(invalid="ignore"):
                gaps = np.abs(pair[0] - pair[1])
                relative = gaps / np.maximum(np.abs(pair).max(axis=0), np.finfo(np.float32).tiny)
            gaps[np.isnan(gaps)] = relative[np.isnan(relative)] = np.inf
            self.largest[name] = max(self.largest.get(name, 0.0), float(gaps.max(initial=0)))
            self.relative = max(self.relative, float(relative.max(initial=0)))
            differs |= relative > tolerance
        self.impressions += len(differs)
        self.differing += int(differs.sum())
        return np.flatnonzero(differs)


def read_outputs(outputs: Probabilities, size: int) -> dict[str, np.ndarray]:
    """Returns the probabilities among outputs, by name.

    Raises:
      tf.errors.InvalidArgumentError: if there are none, or not one per impression.
    """
    named = {keys.PCTCVR if name == "outputs" else name: array for name, array in outputs.items()}
    probabilities = {name: named[name] for name in keys.PROBABILITIES if name in named}
    if not probabilities or any(p.shape != (size,) for p in probabilities.values()):
        shapes = {name: list(array.shape) for name, array in outputs.items()}
        raise tf.errors.InvalidArgumentError(
            None, None, f"Its outputs are {shapes} and not probabilities of {size} impressions."
        )
    return probabilities
