"""Impression groups of the simulated shop: who sees what, and what they do (see `world`)."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from esmm_pipelines.ali_ccp import fields as ali_ccp_fields
from esmm_pipelines.grouping.values import Values
from esmm_pipelines.synthetic import world
from esmm_tf import keys
from esmm_tf.errors import UserError

_PILOT_GROUPS = 400
# Candidates from the visits behind another field bring the four overlaps further apart.
_BEHIND_CANDIDATES = "109_14"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruthConfig:
    """What is true in the simulated shop; the meaning of each is in `world`."""

    click_rate: float
    conversion_rate: float
    correlation: float
    click_strength: float
    conversion_strength: float
    policy_strength: float
    overlap: float
    mean_group_size: float

    def __post_init__(self) -> None:
        for name in ("click_rate", "conversion_rate"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}. Give a number in (0, 1).")
        if not 0 <= self.correlation <= 1:
            raise UserError(f"--correlation is {self.correlation}. Give a number in [0, 1].")
        if not 0 <= self.overlap < math.inf:
            raise UserError(f"--overlap is {self.overlap}. Give a number of 0 or more.")
        if self.mean_group_size < 1:
            raise UserError(f"--mean_group_size is {self.mean_group_size}. Give at least 1.")


@dataclasses.dataclass(frozen=True)
class Groups:
    """Impression groups: context fields per group, all else per impression."""

    sizes: np.ndarray
    context: dict[str, Values]
    impressions: dict[str, Values]
    labels: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Visitors:
    """Users, the items they may visit, `[groups, visits]`, and the share of these that they do."""

    users: np.ndarray
    visited: np.ndarray
    activity: np.ndarray


class Shop:
    """Draws impression groups of a catalogue and its users.

    Args:
      truth: rates and strengths.
      sizes: number of shown ids of fields 101, 205, 206, 207, 210 and 216.
      seed: of everything in the shop.
    """

    def __init__(self, truth: TruthConfig, sizes: dict[str, int], *, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self._truth = truth
        self._sizes = sizes
        self._visited_sizes = world.num_visited_ids(sizes)
        self._catalogue = world.Catalogue(rng, sizes)
        self._users = world.Users(rng, sizes["101"])
        self._click_intercept = self._conversion_intercept = self._retargeting = 0.0
        self._visits = dict.fromkeys(world.BEHAVIOURS, 0)
        self._calibrate_visits(np.random.default_rng([seed, 1]))
        rng = np.random.default_rng([seed, 2])
        self._calibrate_overlap(rng)
        self._calibrate_rates(rng)

    def draw(self, rng: np.random.Generator, num_groups: int) -> Groups:
        """Returns `num_groups` groups with labels and truth."""
        visitors = self._visitors(rng, num_groups)
        users = visitors.users
        behaviours = self._behaviours(rng, visitors)
        sizes = rng.geometric(1 / self._truth.mean_group_size, num_groups)
        group = np.repeat(np.arange(num_groups), sizes)
        items = self._choose_items(rng, visitors, group)
        scenes = rng.integers(0, len(world.SCENE_EFFECTS), len(items))
        return Groups(
            sizes=sizes,
            context=self._profile(rng, users) | behaviours,
            impressions=self._item_fields(items, group, behaviours) | {"301": _single(scenes)},
            labels=self._labels(rng, users[group], items, scenes),
        )

    def _visitors(self, rng: np.random.Generator, num_groups: int) -> _Visitors:
        users = rng.integers(0, self._users.num_users, num_groups)
        return _Visitors(users, self._visited(rng, users), rng.random(num_groups))

    def _visited(self, rng: np.random.Generator, users: np.ndarray) -> np.ndarray:
        """Returns the items visited by each user, `[groups, visits]`, in random order."""
        num_visits = max(*self._visits.values(), 1)
        items = world.zipf_ranks(rng, (len(users), 2 * num_visits), self._catalogue.num_items)
        latent = self._catalogue.latent.take(items, axis=0)
        scores = world.visit_scores(self._users.latent[users], latent)
        scores += rng.gumbel(size=scores.shape)
        best = np.argpartition(-scores, num_visits - 1, axis=1)[:, :num_visits]
        return rng.permuted(np.take_along_axis(items, best, axis=1), axis=1)

    def _behaviours(self, rng: np.random.Generator, visitors: _Visitors) -> dict[str, Values]:
        return {name: self._behaviour(rng, name, visitors) for name in world.BEHAVIOURS}

    def _behaviour(self, rng: np.random.Generator, name: str, visitors: _Visitors) -> Values:
        """Returns the distinct ids of one field among the visits, weighted `ln(1 + count)`."""
        field, _ = world.BEHAVIOURS[name]
        num_shown, num_ids = self._sizes[field], self._visited_sizes[name]
        made = self._made(name, visitors.activity)
        chosen = np.arange(visitors.visited.shape[1]) < made[:, np.newaxis]
        values = self._catalogue.field(field, visitors.visited[chosen])
        pairs = np.repeat(np.nonzero(chosen)[0], values.lengths) * num_shown + values.values
        unique, counts = np.unique(pairs, return_counts=True)
        groups, ids = np.divmod(unique, num_shown)
        ids = world.sisters(rng, ids, num_shown=num_shown, num_ids=num_ids)
        # Two neighbouring ids may have the same sister.
        unique, index = np.unique(groups * num_ids + ids, return_inverse=True)
        return Values(
            unique % num_ids,
            np.bincount(unique // num_ids, minlength=len(made)),
            np.log1p(np.bincount(index, counts)).astype(np.float32),
        )

    def _made(self, name: str, activity: np.ndarray) -> np.ndarray:
        """Returns how many visits behind a behaviour field each user made; they are the first."""
        return np.rint(activity * self._visits[name]).astype(np.int64)

    def _choose_items(
        self, rng: np.random.Generator, visitors: _Visitors, group: np.ndarray
    ) -> np.ndarray:
        """Returns the item that the logging policy shows at each impression."""
        shape = (len(group), world.NUM_CANDIDATES)
        candidates = world.zipf_ranks(rng, shape, self._catalogue.num_items)
        again = rng.random(shape) < self._retargeting
        made = self._made(_BEHIND_CANDIDATES, visitors.activity)[group][:, np.newaxis]
        visit = (rng.random(shape) * made).astype(np.int64)
        candidates = np.where(again, visitors.visited[group[:, np.newaxis], visit], candidates)
        latent = self._users.latent[visitors.users[group]][:, np.newaxis]
        click, _ = world.propensities(
            latent, self._catalogue.latent.take(candidates, axis=0), self._truth.correlation
        )
        best = np.argmax(self._truth.policy_strength * click + rng.gumbel(size=shape), axis=1)
        return candidates[np.arange(len(group)), best]

    def _profile(self, rng: np.random.Generator, users: np.ndarray) -> dict[str, Values]:
        fields = {"101": _single(users)}
        for name, values in self._users.profile.items():
            present = rng.random(len(users)) < ali_ccp_fields.BY_NAME[name].mean_values
            fields[name] = Values(values[users[present]], present.astype(np.int64))
        return fields

    def _item_fields(
        self, items: np.ndarray, group: np.ndarray, behaviours: dict[str, Values]
    ) -> dict[str, Values]:
        names = ("205", "206", "207", "216", "210")
        fields = {name: self._catalogue.field(name, items) for name in names}
        for name, (field, cross) in world.BEHAVIOURS.items():
            fields[cross] = _overlap(
                behaviours[name], fields[field], group, self._visited_sizes[name]
            )
        return fields

    def _labels(
        self, rng: np.random.Generator, users: np.ndarray, items: np.ndarray, scenes: np.ndarray
    ) -> dict[str, np.ndarray]:
        click_logit, conversion_logit = self._logits(users, items, scenes)
        pctr = _sigmoid(click_logit + self._click_intercept)
        pcvr = _sigmoid(conversion_logit + self._conversion_intercept)
        click = rng.random(len(items)) < pctr
        conversion = click & (rng.random(len(items)) < pcvr)
        return {
            keys.CLICK: click.astype(np.int64),
            keys.CONVERSION: conversion.astype(np.int64),
            keys.ORACLE_PCTR: pctr.astype(np.float32),
            keys.ORACLE_PCVR: pcvr.astype(np.float32),
        }

    def _logits(
        self, users: np.ndarray, items: np.ndarray, scenes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns both logits without their intercepts."""
        z, y = world.propensities(
            self._users.latent[users], self._catalogue.latent[items], self._truth.correlation
        )
        click = self._truth.click_strength * z + world.SCENE_EFFECTS[scenes]
        return click, self._truth.conversion_strength * y

    def _calibrate_visits(self, rng: np.random.Generator) -> None:
        """Sets how many visits each behaviour field needs to have its mean number of values."""
        targets = {name: ali_ccp_fields.BY_NAME[name].mean_values for name in world.BEHAVIOURS}
        self._visits = {name: math.ceil(2 * target) for name, target in targets.items()}
        for _ in range(6):
            visitors = self._visitors(rng, _PILOT_GROUPS)
            for name, target in targets.items():
                mean = self._behaviour(rng, name, visitors).lengths.mean()
                grown = math.ceil(self._visits[name] * min(target / mean, 2.0))
                self._visits[name] = min(grown, 20 * math.ceil(target))

    def _calibrate_overlap(self, rng: np.random.Generator) -> None:
        """Solves the share of candidates that come from the visits, bounded by 0 and 1."""
        visitors = self._visitors(rng, 2 * _PILOT_GROUPS)
        behaviours = self._behaviours(rng, visitors)
        group = np.repeat(np.arange(len(visitors.users)), 10)
        seed = rng.integers(2**32)  # equal draws at each step, so that the overlap only rises

        def overlap(retargeting: float) -> float:
            self._retargeting = retargeting
            items = self._choose_items(np.random.default_rng(seed), visitors, group)
            fields = self._item_fields(items, group, behaviours)
            means = {cross: fields[cross].lengths.mean() for _, cross in world.BEHAVIOURS.values()}
            return math.prod(
                mean / ali_ccp_fields.BY_NAME[cross].mean_values for cross, mean in means.items()
            )

        target = self._truth.overlap ** len(world.BEHAVIOURS)
        self._retargeting = _bisect(overlap, target, between=(0.0, 1.0), steps=10)

    def _calibrate_rates(self, rng: np.random.Generator) -> None:
        """Solves both intercepts on a pilot of impressions."""
        group = np.repeat(np.arange(_PILOT_GROUPS), 20)
        parts = [self._visitors(rng, _PILOT_GROUPS) for _ in range(10)]
        items = np.concatenate([self._choose_items(rng, part, group) for part in parts])
        users = np.concatenate([part.users[group] for part in parts])
        scenes = rng.integers(0, len(world.SCENE_EFFECTS), len(items))
        click, conversion = self._logits(users, items, scenes)
        self._click_intercept = _solve(click, np.ones(len(click)), self._truth.click_rate)
        weights = _sigmoid(click + self._click_intercept)
        self._conversion_intercept = _solve(conversion, weights, self._truth.conversion_rate)


def _single(values: np.ndarray) -> Values:
    return Values(values, np.ones(len(values), dtype=np.int64))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _solve(logits: np.ndarray, weights: np.ndarray, rate: float) -> float:
    """Returns the intercept with which the weighted mean probability is `rate`."""

    def mean(intercept: float) -> float:
        return float(np.average(_sigmoid(logits + intercept), weights=weights))

    return _bisect(mean, rate, between=(-50.0, 50.0), steps=60)


def _bisect(
    function: Callable[[float], float], target: float, *, between: tuple[float, float], steps: int
) -> float:
    """Returns where a rising function reaches the target."""
    low, high = between
    for _ in range(steps):
        middle = (low + high) / 2
        if function(middle) < target:
            low = middle
        else:
            high = middle
    return low


def _overlap(behaviour: Values, shown: Values, group: np.ndarray, num_ids: int) -> Values:
    """Returns the ids that an impression shares with its group's behaviour, and its weights."""
    known = np.repeat(np.arange(len(behaviour.lengths)), behaviour.lengths) * num_ids
    known += behaviour.values
    row = np.repeat(np.arange(len(group)), shown.lengths)
    wanted = group[row] * num_ids + shown.values
    index = np.searchsorted(known, wanted).clip(0, max(len(known) - 1, 0))
    hit = known[index] == wanted if len(known) else np.zeros(len(wanted), dtype=bool)
    weights = behaviour.weights[index[hit]] if behaviour.weights is not None else None
    return Values(shown.values[hit], np.bincount(row[hit], minlength=len(group)), weights)
