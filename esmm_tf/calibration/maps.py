"""Calibration maps: rising, piecewise linear functions of a logit, and what is kept of a fit.

`esmm_tf.calibration.fit` fits them, `esmm_tf.calibration.layers` applies them inside the graph.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from esmm_tf import keys
from esmm_tf.errors import UserError

FORMAT_VERSION = 1


class Segments(NamedTuple):
    """A piecewise linear function: `k` knots part `k + 1` pieces, float64 arrays.

    A logit `x` with `i` knots at or below it becomes `values[i] + slopes[i] * (x - origins[i])`.
    """

    knots: np.ndarray
    origins: np.ndarray
    values: np.ndarray
    slopes: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Platt:
    """`slope * logit + offset` (Platt 1999)."""

    method: ClassVar[str] = keys.PLATT
    slope: float
    offset: float

    def __post_init__(self) -> None:
        _check_rises("slope", self.slope)
        _check_finite("numbers", (self.offset,))

    def segments(self) -> Segments:
        """Returns the map as one piece."""
        return _line(self.slope, self.offset)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperature:
    """`logit / temperature` (Guo et al., ICML 2017)."""

    method: ClassVar[str] = keys.TEMPERATURE
    temperature: float

    def __post_init__(self) -> None:
        _check_rises("temperature", self.temperature)

    def segments(self) -> Segments:
        """Returns the map as one piece."""
        return _line(1 / self.temperature, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Isotonic:
    """A line through the points `(knots[i], values[i])`, of slope 1 before and after them.

    The points are those of an isotonic regression (Zadrozny and Elkan, KDD 2002), joined so that
    unequal logits stay unequal, and no probability becomes 0 or 1.
    """

    method: ClassVar[str] = keys.ISOTONIC
    knots: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.knots or len(self.knots) != len(self.values):
            raise UserError(
                f"There are {len(self.knots)} knots and {len(self.values)} values. Give as many of "
                "one as of the other, and at least one."
            )
        for name, numbers in (("knots", self.knots), ("values", self.values)):
            _check_finite(name, numbers)
            if any(a >= b for a, b in itertools.pairwise(numbers)):
                raise UserError(f"The {name} are {list(numbers)}. Give rising numbers.")

    def segments(self) -> Segments:
        """Returns the map as one piece more than it has knots."""
        knots, values = np.array(self.knots), np.array(self.values)
        inner = np.diff(values) / np.diff(knots)
        return Segments(
            knots=knots,
            origins=np.concatenate([knots[:1], knots]),
            values=np.concatenate([values[:1], values]),
            slopes=np.concatenate([[1.0], inner, [1.0]]),
        )


CalibrationMap = Platt | Temperature | Isotonic
MAPS: Mapping[str, type[CalibrationMap]] = {
    kind.method: kind for kind in (Platt, Temperature, Isotonic)
}


def apply(calibration_map: CalibrationMap, logits: np.ndarray) -> np.ndarray:
    """Returns the calibrated logits, float64 `[n]`.

    >>> apply(Platt(slope=2.0, offset=-1.0), np.array([0.0, 3.0])).tolist()
    [-1.0, 5.0]
    """
    segments = calibration_map.segments()
    logits = logits.astype(np.float64)
    index = np.searchsorted(segments.knots, logits, side="right")
    return segments.values[index] + segments.slopes[index] * (logits - segments.origins[index])


def describe(calibration_map: CalibrationMap) -> str:
    """Returns the map in words.

    >>> describe(Temperature(temperature=1.25))
    'temperature, logit / 1.25'
    """
    if isinstance(calibration_map, Platt):
        how = f"{calibration_map.slope:.4g} * logit {calibration_map.offset:+.4g}"
    elif isinstance(calibration_map, Temperature):
        how = f"logit / {calibration_map.temperature:.4g}"
    else:
        how = f"{len(calibration_map.knots)} knots"
    return f"{calibration_map.method}, {how}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """The content of `calibration.json`.

    Args:
      maps: by the probability that each corrects, `pctr` and `pcvr`.
      weights: which weights they were fitted for.
      files: that they were fitted on.
      fingerprints: of these files, by which their copies are recognized.
      counts: impressions, clicks and conversions of these files.
      report: metrics before and after.
    """

    maps: Mapping[str, CalibrationMap]
    weights: str
    files: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns what JSON can hold."""
        return {
            "format_version": FORMAT_VERSION,
            "maps": {name: map_to_json(fitted) for name, fitted in self.maps.items()},
            "weights": self.weights,
            "files": list(self.files),
            "fingerprints": list(self.fingerprints),
            "counts": dict(self.counts),
            "report": dict(self.report),
        }

    @staticmethod
    def from_json(tree: Mapping[str, Any]) -> "Calibration":
        """Returns what `to_json` was called on."""
        return Calibration(
            maps={name: map_from_json(numbers) for name, numbers in tree["maps"].items()},
            weights=tree["weights"],
            files=tuple(tree["files"]),
            fingerprints=tuple(tree["fingerprints"]),
            counts=tree["counts"],
            report=tree["report"],
        )


def map_to_json(calibration_map: CalibrationMap) -> dict[str, Any]:
    """Returns the map's method and numbers.

    >>> map_to_json(Temperature(temperature=2.0))
    {'method': 'temperature', 'temperature': 2.0}
    """
    return {"method": calibration_map.method, **dataclasses.asdict(calibration_map)}


def map_from_json(tree: Mapping[str, Any]) -> CalibrationMap:
    """Returns the map that `map_to_json` was called on.

    Raises:
      UserError: if the numbers make no rising function.
    """
    numbers: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in tree.items()
        if name != "method"
    }
    return MAPS[tree["method"]](**numbers)


def _line(slope: float, offset: float) -> Segments:
    return Segments(
        knots=np.zeros(0),
        origins=np.zeros(1),
        values=np.array([offset]),
        slopes=np.array([slope]),
    )


def _check_rises(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"The {what} is {value}. Give a finite number above 0, so that ranks stay.")


def _check_finite(what: str, values: tuple[float, ...]) -> None:
    if not all(map(math.isfinite, values)):
        raise UserError(f"The {what} are {list(values)}. Give finite numbers.")
