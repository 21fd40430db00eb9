"""Impression groups of the simulated shop: who sees what, and what they do (see `world`)."""

import dataclasses
import math

import numpy as np

from esmm_tf import keys
from esmm_tf.errors import UserError
from pipelines import ali_ccp_fields, world
from pipelines.ragged import Values

_PILOT_GROUPS = 400


@dataclasses.dataclass(frozen=True, kw_only=True)
class TruthConfig:
    """What is true in the simulated shop; the meaning of each is in `world`."""

    click_rate: float
    conversion_rate: float
    correlation: float
    click_strength: float
    conversion_strength: float
    policy_strength: float
    retargeting: float
    mean_group_size: float

    def __post_init__(self) -> None:
        for name in ("click_rate", "conversion_rate"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"--{name} is {getattr(self, name)}. Give a number in (0, 1).")
        for name in ("correlation", "retargeting"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} is {getattr(self, name)}. Give a number in [0, 1].")
        if self.mean_group_size < 1:
            raise UserError(f"--mean_group_size is {self.mean_group_size}. Give at least 1.")


@dataclasses.dataclass(frozen=True)
class Groups:
    """Impression groups: context fields a group, all else an impression."""

    sizes: np.ndarray
    context: dict[str, Values]
    impressions: dict[str, Values]
    labels: dict[str, np.ndarray]


class Shop:
    """Draws impression groups of a catalogue and its users.

    Args:
      truth: rates and strengths.
      sizes: number of ids of fields 101, 205, 206, 207, 210 and 216.
      seed: of everything in the shop.
    """

    def __init__(self, truth: TruthConfig, sizes: dict[str, int], *, seed: int) -> None:
        rng = np.random.default_rng([seed, 0])
        self._truth = truth
        self._sizes = sizes
        self._catalogue = world.Catalogue(rng, sizes)
        self._users = world.Users(rng, sizes["101"])
        self._click_intercept = self._conversion_intercept = 0.0
        self._visits = dict.fromkeys(world.BEHAVIOURS, 0)
        self._calibrate_visits(np.random.default_rng([seed, 1]))
        self._calibrate_rates(np.random.default_rng([seed, 2]))

    def draw(self, rng: np.random.Generator, num_groups: int) -> Groups:
        """Returns that many groups with labels and truth."""
        users = rng.integers(0, self._users.num_users, num_groups)
        visited = self._visited(rng, users)
        behaviours = {
            name: self._behaviour(name, visited, rng.random(num_groups))
            for name in world.BEHAVIOURS
        }
        sizes = rng.geometric(1 / self._truth.mean_group_size, num_groups)
        group = np.repeat(np.arange(num_groups), sizes)
        items = self._shown(rng, users, visited, group)
        scenes = rng.integers(0, len(world.SCENE_EFFECTS), len(items))
        return Groups(
            sizes=sizes,
            context=self._profile(rng, users) | behaviours,
            impressions=self._item_fields(items, group, behaviours) | {"301": _single(scenes)},
            labels=self._labels(rng, users[group], items, scenes),
        )

    def _visited(self, rng: np.random.Generator, users: np.ndarray) -> np.ndarray:
        """Returns the items visited by each user, `[groups, visits]`, in random order."""
        num_visits = max(*self._visits.values(), 1)
        items = world.zipf_ranks(rng, (len(users), 2 * num_visits), self._catalogue.num_items)
        scores = world.visit_scores(self._users.latent[users], self._catalogue.latent[items])
        scores += rng.gumbel(size=scores.shape)
        best = np.argpartition(-scores, num_visits - 1, axis=1)[:, :num_visits]
        return rng.permuted(np.take_along_axis(items, best, axis=1), axis=1)

    def _behaviour(self, name: str, visited: np.ndarray, activity: np.ndarray) -> Values:
        """Returns the distinct ids of one field among the visits, weighted `ln(1 + count)`.

        `activity`, in `[0, 1)`, is the share of the visits that each user really made.
        """
        field, _ = world.BEHAVIOURS[name]
        num_visits = self._visits[name]
        made = np.rint(activity * num_visits).astype(np.int64)
        chosen = np.arange(visited.shape[1]) < made[:, np.newaxis]
        groups = np.nonzero(chosen)[0]
        values = self._catalogue.field(field, visited[chosen])
        num_ids = self._sizes[field]
        places = np.repeat(groups, values.lengths) * num_ids + values.values
        unique, counts = np.unique(places, return_counts=True)
        return Values(
            unique % num_ids,
            np.bincount(unique // num_ids, minlength=len(visited)),
            np.log1p(counts).astype(np.float32),
        )

    def _shown(
        self, rng: np.random.Generator, users: np.ndarray, visited: np.ndarray, group: np.ndarray
    ) -> np.ndarray:
        """Returns the item that the logging policy shows at each impression."""
        shape = (len(group), world.NUM_CANDIDATES)
        candidates = world.zipf_ranks(rng, shape, self._catalogue.num_items)
        again = rng.random(shape) < self._truth.retargeting
        which = rng.integers(0, visited.shape[1], shape)
        candidates = np.where(again, visited[group[:, np.newaxis], which], candidates)
        latent = self._users.latent[users][group][:, np.newaxis]
        click, _ = world.propensities(
            latent, self._catalogue.latent[candidates], self._truth.correlation
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
            fields[cross] = _overlap(behaviours[name], fields[field], group, self._sizes[field])
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
        """Sets the number of visits behind each behaviour field by its mean number of values."""
        users = rng.integers(0, self._users.num_users, _PILOT_GROUPS)
        activity = rng.random(_PILOT_GROUPS)
        targets = {name: ali_ccp_fields.BY_NAME[name].mean_values for name in world.BEHAVIOURS}
        self._visits = {name: math.ceil(2 * target) for name, target in targets.items()}
        for _ in range(6):
            visited = self._visited(rng, users)
            for name, target in targets.items():
                mean = self._behaviour(name, visited, activity).lengths.mean()
                grown = math.ceil(self._visits[name] * min(target / mean, 2.0))
                self._visits[name] = min(grown, 20 * math.ceil(target))

    def _calibrate_rates(self, rng: np.random.Generator) -> None:
        """Solves both intercepts on a pilot of impressions."""
        users = rng.integers(0, self._users.num_users, 10 * _PILOT_GROUPS)
        group = np.repeat(np.arange(len(users)), 20)
        visited = np.concatenate([self._visited(rng, part) for part in np.array_split(users, 10)])
        items = self._shown(rng, users, visited, group)
        scenes = rng.integers(0, len(world.SCENE_EFFECTS), len(items))
        click, conversion = self._logits(users[group], items, scenes)
        self._click_intercept = _solve(click, np.ones(len(click)), self._truth.click_rate)
        weights = _sigmoid(click + self._click_intercept)
        self._conversion_intercept = _solve(conversion, weights, self._truth.conversion_rate)


def _single(values: np.ndarray) -> Values:
    return Values(values, np.ones(len(values), dtype=np.int64))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def _solve(logits: np.ndarray, weights: np.ndarray, rate: float) -> float:
    """Returns the intercept with which the weighted mean probability is `rate`, by bisection."""
    low, high = -50.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        if np.average(_sigmoid(logits + middle), weights=weights) < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _overlap(behaviour: Values, shown: Values, group: np.ndarray, num_ids: int) -> Values:
    """Returns the ids of each impression that its group's behaviour holds, with its weights."""
    known = np.repeat(np.arange(len(behaviour.lengths)), behaviour.lengths) * num_ids
    known += behaviour.values
    row = np.repeat(np.arange(len(group)), shown.lengths)
    wanted = group[row] * num_ids + shown.values
    places = np.searchsorted(known, wanted).clip(0, max(len(known) - 1, 0))
    hit = known[places] == wanted if len(known) else np.zeros(len(wanted), dtype=bool)
    weights = behaviour.weights[places[hit]] if behaviour.weights is not None else None
    return Values(shown.values[hit], np.bincount(row[hit], minlength=len(group)), weights)
