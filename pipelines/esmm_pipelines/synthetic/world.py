"""The people, the catalogue and the tastes of a simulated shop; `shop` makes probabilities of them.

**Catalogue.** Popularity is Zipf with exponent 1: the item, shop, category, brand or node of rank
`r` is drawn with probability proportional to `1/r`. A shop belongs to a category, an item to a
shop; its brand and its intention nodes come from its category's. With `E` standing for independent
`N(0, 1)` draws, a latent vector passes down the tree, `x_shop = sqrt(.7) x_category + sqrt(.3) E`
and `x_item = sqrt(.7) x_shop + sqrt(.3) E`: two halves `v, v'` of `K` numbers (click and conversion
taste) and two quality scalars `Q, Q'`.

**Users.** Each profile field has a vector for each of its values. A user's latent vector is
`x_user = sqrt(.5) * (sum of the profile's vectors, normalised) + sqrt(.5) E`: taste `t, t'` and the
scalars `A, A'`.

**Propensities**, each of mean 0 and variance 1, three equal parts (nothing in Ali-CCP speaks for
another split):

    click       z = (A + Q + <t, v>/sqrt(K)) / sqrt(3)
    conversion  y = (C(A, A') + C(Q, Q') + C(<t, v>, <t', v'>)/sqrt(K)) / sqrt(3)
                C(x, x') = rho x + sqrt(1 - rho^2) x'

so that `rho` is the correlation of the two. The truth is

    pCTR = sigmoid(a + click_strength * z + scene)
    pCVR = sigmoid(b + conversion_strength * y)

with the scene's effect among `-0.2, 0, 0.2`, and `a`, `b` solved so that the mean pCTR over shown
impressions, and the mean pCVR over clicked ones, are the rates asked for. Conversions are drawn
only where there is a click.

**Behaviour.** The visits that a user may make in 14 days are drawn from a popularity sample, twice
as large, by Gumbel top-k with the score `2 (<t, v> + <t', v'>) / sqrt(2 K)`. The user makes the
first `U(0, 1)` of them. Fields `*_14` hold the distinct categories, shops, brands and nodes of the
visits, weighted `ln(1 + count)`; the number of visits behind each field is set so that the field's
mean number of values is Ali-CCP's.

In Ali-CCP more ids are visited than shown. Of a field's `A` ids, the first `S` belong to items and
the others to none; `A / S` is Ali-CCP's, 1.4 for categories, 4.1 for shops, 1.9 for brands, 1.005
for nodes. Each of the `S` stands for `A / S` equally frequent sisters of the same taste, itself
among them, and a user always visits the same sister: with `k = A / S - 1` and one draw `u` of
`U(0, 1)` per user and id, a user who visits `s` has

    s                        with probability S / A
    S + floor(k (s + u))     else

**Exposure.** For each impression the logging policy draws five candidates, each with probability
`q` among the user's visits (those behind `109_14`) and else by popularity, and shows the one with
the highest `policy_strength * z + Gumbel`. Cross fields are the true overlaps of an item with the
behaviours. `q` in `[0, 1]` is solved on a pilot so that their mean numbers of values `m` have the
geometric mean of Ali-CCP's, times `overlap`. One number cannot fit all four; by default each comes
within a third of Ali-CCP's, in worlds of a hundredth of its size or more:

    product over 508, 509, 702, 853 of m / m(Ali-CCP) = overlap^4
"""

from collections.abc import Mapping

import numpy as np

from esmm_pipelines.ali_ccp import fields
from esmm_pipelines.grouping.values import Values

TASTE_DIM = 8
NUM_CANDIDATES = 5
SCENE_EFFECTS = np.array([-0.2, 0.0, 0.2])
PROFILE_FIELDS = ("121", "122", "124", "125", "126", "127", "128", "129")
# Behaviour field -> (field of the item, cross field).
BEHAVIOURS = {
    "109_14": ("206", "508"),
    "110_14": ("207", "509"),
    "127_14": ("216", "702"),
    "150_14": ("210", "853"),
}
_INHERITED = 0.7
_PROFILE_SHARE = 0.5
_VISIT_STRENGTH = 2.0
_LATENT_DIM = 2 * TASTE_DIM + 2
_CLICK, _CONVERSION = slice(0, TASTE_DIM), slice(TASTE_DIM, 2 * TASTE_DIM)
_CLICK_SCALAR, _CONVERSION_SCALAR = 2 * TASTE_DIM, 2 * TASTE_DIM + 1


def zipf_ranks(rng: np.random.Generator, size: int | tuple[int, ...], num: int) -> np.ndarray:
    """Returns ranks in `[0, num)` with probability proportional to `ln((r + 2) / (r + 1))`.

    That is Zipf's law with exponent 1, drawn by its inverse distribution function.
    """
    return (np.exp(rng.random(size) * np.log(num + 1)) - 1).astype(np.int64).clip(0, num - 1)


def num_visited_ids(sizes: Mapping[str, int]) -> dict[str, int]:
    """Returns the number of ids of each behaviour field, given the sizes of the items' fields."""
    known = fields.BY_NAME
    return {
        name: round(sizes[field] * known[name].distinct_ids / known[field].distinct_ids)
        for name, (field, _) in BEHAVIOURS.items()
    }


def sisters(
    rng: np.random.Generator, ids: np.ndarray, *, num_shown: int, num_ids: int
) -> np.ndarray:
    """Returns each id in `[0, num_shown)`, or instead a sister in `[num_shown, num_ids)`."""
    ratio = num_ids / num_shown
    draws = ratio * rng.random(len(ids))
    others = num_shown + ((ratio - 1) * ids + draws - 1).astype(np.int64)
    return np.where(draws < 1, ids, np.minimum(others, num_ids - 1))


def _child(rng: np.random.Generator, parents: np.ndarray, share: float) -> np.ndarray:
    noise = rng.standard_normal(parents.shape, dtype=np.float32)
    return np.float32(np.sqrt(share)) * parents + np.float32(np.sqrt(1 - share)) * noise


class Catalogue:
    """Items with their shop, category, brand, intention nodes and latent vector."""

    def __init__(self, rng: np.random.Generator, sizes: dict[str, int]) -> None:
        num_items, num_categories = sizes["205"], sizes["206"]
        categories = rng.standard_normal((num_categories, _LATENT_DIM), dtype=np.float32)
        shop_category = zipf_ranks(rng, sizes["207"], num_categories)
        shops = _child(rng, categories[shop_category], _INHERITED)
        self.shop = zipf_ranks(rng, num_items, sizes["207"])
        self.category = shop_category[self.shop]
        self.latent = _child(rng, shops[self.shop], _INHERITED)
        self.num_items = num_items

        brand_pools = _Pools(rng, sizes["216"], num_categories)
        branded = brand_pools.sizes[self.category] > 0
        share = fields.BY_NAME["216"].mean_values / branded.mean()
        branded &= rng.random(num_items) < share
        self.brand = Values(brand_pools.draw(rng, self.category[branded]), branded.astype(np.int64))
        self.nodes = self._draw_nodes(rng, sizes["210"], num_categories)

    def _draw_nodes(self, rng: np.random.Generator, num_nodes: int, num_categories: int) -> Values:
        """Returns the distinct nodes of each item, drawn twice to make up for repetitions."""
        pools = _Pools(rng, num_nodes, num_categories)
        mean = target = fields.BY_NAME["210"].mean_values
        for _ in range(2):
            counts = rng.poisson(mean, self.num_items) * (pools.sizes[self.category] > 0)
            items = np.repeat(np.arange(self.num_items), counts)
            unique = np.unique(items * num_nodes + pools.draw(rng, self.category[items]))
            mean *= target * self.num_items / len(unique)
        return Values(
            unique % num_nodes, np.bincount(unique // num_nodes, minlength=self.num_items)
        )

    def field(self, name: str, items: np.ndarray) -> Values:
        """Returns the values that items have in one of the fields 205, 206, 207, 210, 216."""
        single = {"205": None, "206": self.category, "207": self.shop}
        if name in single:
            column = single[name]
            return Values(
                items if column is None else column[items], np.ones(len(items), dtype=np.int64)
            )
        return (self.brand if name == "216" else self.nodes).take(items)


class _Pools:
    """Ids divided among categories, popular categories holding more of them."""

    def __init__(self, rng: np.random.Generator, num_ids: int, num_categories: int) -> None:
        owner = zipf_ranks(rng, num_ids, num_categories)
        self._ids = np.argsort(owner, kind="stable")
        self.sizes = np.bincount(owner, minlength=num_categories)
        self._starts = np.cumsum(self.sizes) - self.sizes

    def draw(self, rng: np.random.Generator, categories: np.ndarray) -> np.ndarray:
        """Returns one id of each category's pool, low ranks more often."""
        sizes = self.sizes[categories]
        ranks = (np.exp(rng.random(len(categories)) * np.log(sizes + 1)) - 1).astype(np.int64)
        return self._ids[self._starts[categories] + np.minimum(ranks, sizes - 1)]


class Users:
    """Users with their profile and latent vector."""

    def __init__(self, rng: np.random.Generator, num_users: int) -> None:
        self.num_users = num_users
        self.profile = {}
        total = np.zeros((num_users, _LATENT_DIM), dtype=np.float32)
        for name in PROFILE_FIELDS:
            num_values = fields.BY_NAME[name].distinct_ids
            effects = rng.standard_normal((num_values, _LATENT_DIM), dtype=np.float32)
            self.profile[name] = zipf_ranks(rng, num_users, num_values)
            total += effects[self.profile[name]]
        total = (total - total.mean(axis=0)) / total.std(axis=0)
        self.latent = _child(rng, total, _PROFILE_SHARE)


def propensities(
    users: np.ndarray, items: np.ndarray, correlation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the click and conversion propensities `z` and `y` of latent vectors, `[...]`."""
    click = np.einsum("...k,...k->...", users[..., _CLICK], items[..., _CLICK])
    conversion = np.einsum("...k,...k->...", users[..., _CONVERSION], items[..., _CONVERSION])
    parts = (
        (users[..., _CLICK_SCALAR], users[..., _CONVERSION_SCALAR]),
        (items[..., _CLICK_SCALAR], items[..., _CONVERSION_SCALAR]),
        (click / np.sqrt(TASTE_DIM), conversion / np.sqrt(TASTE_DIM)),
    )
    z = sum(x for x, _ in parts) / np.sqrt(3)
    y = sum(correlation * x + np.sqrt(1 - correlation**2) * own for x, own in parts) / np.sqrt(3)
    return z, y


def visit_scores(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Returns how much users `[groups, D]` want to visit items `[groups, visits, D]`."""
    tastes = slice(0, 2 * TASTE_DIM)
    scores = np.einsum("gk,gvk->gv", users[:, tastes], items[..., tastes])
    return _VISIT_STRENGTH * scores / np.sqrt(2 * TASTE_DIM)
