"""The simulated world follows the formulas that `pipelines.world` states."""

import numpy as np
import pytest

from esmm_pipelines.ali_ccp import fields
from esmm_pipelines.synthetic import world

SIZES = {"205": 40_000, "206": 1_500, "207": 6_000, "216": 3_000, "210": 9_000}


@pytest.fixture(scope="module")
def catalogue():
    return world.Catalogue(np.random.default_rng(7), SIZES)


@pytest.fixture(scope="module")
def users():
    return world.Users(np.random.default_rng(8), 20_000)


def first_of_each(groups):
    """Returns the place of the first member of each group."""
    return np.unique(groups, return_index=True)[1]


def pairs_within(groups, *, apart):
    """Returns places of two members of each group that differ in `apart`, a pair a group."""
    order = np.lexsort((apart, groups))
    first, second = order[:-1], order[1:]
    pair = (groups[first] == groups[second]) & (apart[first] != apart[second])
    first, second = first[pair], second[pair]
    chosen = first_of_each(groups[first])
    return first[chosen], second[chosen]


def owners_of_ids(values, categories):
    """Returns the number of different categories in which each id occurs."""
    owner = np.repeat(categories, values.lengths)
    pairs = np.unique(np.stack([values.values, owner]), axis=1)
    return np.unique(pairs[0], return_counts=True)[1]


def random_propensities(correlation):
    rng = np.random.default_rng(3)
    users, items = rng.standard_normal((2, 40_000, 2 * world.TASTE_DIM + 2))
    return world.propensities(users, items, correlation)


def test_zipf_ranks_follow_their_distribution():
    size, num = 200_000, 20
    ranks = np.arange(num)
    expected = np.log((ranks + 2) / (ranks + 1)) / np.log(num + 1)

    shares = np.bincount(world.zipf_ranks(np.random.default_rng(1), size, num)) / size

    assert expected.sum() == pytest.approx(1)
    deviations = (shares - expected) / np.sqrt(expected * (1 - expected) / size)
    assert abs(deviations).max() < 4


def test_zipf_ranks_have_the_shape_asked_for_and_reach_a_single_rank():
    ranks = world.zipf_ranks(np.random.default_rng(1), (3, 5), 1)

    assert ranks.shape == (3, 5)
    assert (ranks == 0).all()


def test_latent_numbers_of_items_have_variance_one(catalogue):
    one_a_category = catalogue.latent[first_of_each(catalogue.category)]

    assert len(one_a_category) > 500
    assert one_a_category.mean() == pytest.approx(0, abs=0.04)
    assert one_a_category.var() == pytest.approx(1, abs=0.05)


def test_items_of_a_shop_correlate_by_the_inherited_share(catalogue):
    first, second = pairs_within(catalogue.shop, apart=np.arange(SIZES["205"]))

    correlation = (catalogue.latent[first] * catalogue.latent[second]).mean()

    assert correlation == pytest.approx(0.7, abs=0.04)


def test_items_of_a_category_correlate_through_it_alone_if_their_shops_differ(catalogue):
    # Each correlates .7 with their category, so .49 with the other.
    first, second = pairs_within(catalogue.category, apart=catalogue.shop)

    correlation = (catalogue.latent[first] * catalogue.latent[second]).mean()

    assert correlation == pytest.approx(0.49, abs=0.06)


def test_items_of_different_categories_do_not_correlate(catalogue):
    one_a_category = catalogue.latent[first_of_each(catalogue.category)]

    correlation = (one_a_category[1:] * one_a_category[:-1]).mean()

    assert correlation == pytest.approx(0, abs=0.04)


def test_a_shop_has_one_category(catalogue):
    pairs = np.unique(np.stack([catalogue.shop, catalogue.category]), axis=1)

    assert len(np.unique(pairs[0])) == pairs.shape[1]


def test_an_item_has_as_many_nodes_as_in_ali_ccp_and_none_twice(catalogue):
    item = np.repeat(np.arange(SIZES["205"]), catalogue.nodes.lengths)
    pairs = item * SIZES["210"] + catalogue.nodes.values

    assert catalogue.nodes.lengths.mean() == pytest.approx(6.1, rel=0.1)
    assert len(np.unique(pairs)) == len(pairs)


def test_as_many_items_have_a_brand_as_in_ali_ccp(catalogue):
    assert set(catalogue.brand.lengths) == {0, 1}
    assert catalogue.brand.lengths.mean() == pytest.approx(0.71, abs=0.02)


@pytest.mark.parametrize("name", ["brand", "nodes"])
def test_brands_and_nodes_follow_from_the_category(catalogue, name):
    counts = owners_of_ids(getattr(catalogue, name), catalogue.category)

    assert len(counts) > 1000
    assert (counts == 1).all()


@pytest.mark.parametrize("name", ["205", "206", "207", "216", "210"])
def test_ids_of_items_lie_inside_their_cardinality(catalogue, name):
    values = catalogue.field(name, np.arange(SIZES["205"]))

    assert len(values.lengths) == SIZES["205"]
    assert values.values.min() == 0
    assert SIZES[name] // 2 < values.values.max() < SIZES[name]


def test_fields_of_items_are_theirs_in_the_order_asked_for(catalogue):
    items = np.array([5, 2, 5])

    assert catalogue.field("205", items).values.tolist() == [5, 2, 5]
    assert catalogue.field("206", items).values.tolist() == catalogue.category[items].tolist()
    assert catalogue.field("207", items).values.tolist() == catalogue.shop[items].tolist()
    nodes = catalogue.field("210", items)
    starts = catalogue.nodes.starts
    of_item_2 = catalogue.nodes.values[starts[2] : starts[3]]
    assert nodes.values[nodes.starts[1] : nodes.starts[2]].tolist() == of_item_2.tolist()


def test_latent_numbers_of_users_have_mean_zero_and_variance_one(users):
    assert users.latent.mean(axis=0) == pytest.approx(0, abs=0.03)
    assert users.latent.var(axis=0) == pytest.approx(1, abs=0.05)


def test_half_of_a_users_latent_variance_follows_from_the_profile(users):
    _, profile = np.unique(np.stack(list(users.profile.values())), axis=1, return_inverse=True)
    first, second = pairs_within(profile, apart=np.arange(users.num_users))
    same, other = users.latent[first], users.latent[second]

    noise = (same - other).var() / 2

    assert len(first) > 1000
    assert noise == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", world.PROFILE_FIELDS)
def test_profile_values_take_every_id_of_their_cardinality(users, name):
    values = np.unique(users.profile[name])

    assert values.tolist() == list(range(fields.BY_NAME[name].distinct_ids))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_propensities_have_variance_one_and_the_correlation_asked_for(correlation):
    click, conversion = random_propensities(correlation)

    assert click.mean() == pytest.approx(0, abs=0.02)
    assert conversion.mean() == pytest.approx(0, abs=0.02)
    assert click.var() == pytest.approx(1, abs=0.04)
    assert conversion.var() == pytest.approx(1, abs=0.04)
    assert np.corrcoef(click, conversion)[0, 1] == pytest.approx(correlation, abs=0.02)


def test_propensities_are_three_equal_parts():
    # Tastes of four in one place and click scalars of 3 and 5; all conversion numbers are 0.
    user = np.zeros(2 * world.TASTE_DIM + 2)
    item = np.zeros(2 * world.TASTE_DIM + 2)
    user[0] = item[0] = 4.0
    user[2 * world.TASTE_DIM], item[2 * world.TASTE_DIM] = 3.0, 5.0

    click, conversion = world.propensities(user, item, 0.25)

    assert click == pytest.approx((3 + 5 + 16 / np.sqrt(8)) / np.sqrt(3))
    assert conversion == pytest.approx(0.25 * click)


def test_visit_scores_are_the_products_of_both_tastes():
    rng = np.random.default_rng(2)
    users, items = rng.standard_normal((2, 18)), rng.standard_normal((2, 3, 18))

    scores = world.visit_scores(users, items)

    expected = [
        [2 * user[:16] @ item[:16] / 4 for item in items[g]] for g, user in enumerate(users)
    ]
    np.testing.assert_allclose(scores, expected)


def test_the_world_has_as_many_ids_visited_for_one_shown_as_ali_ccp():
    whole = {"206": 8_627, "207": 614_739, "216": 210_973, "210": 98_714}
    small = {"206": 1_000, "207": 1_000, "216": 1_000, "210": 1_000}

    visited = world.num_visited_ids(whole)

    names = ("109_14", "110_14", "127_14", "150_14")
    assert visited == dict(zip(names, (12_223, 2_545_609, 396_460, 99_226), strict=True))
    assert world.num_visited_ids(small) == dict(
        zip(names, (1_417, 4_141, 1_879, 1_005), strict=True)
    )


def test_an_id_and_its_sisters_are_visited_equally_often():
    # The shown ids 0 and 1 have three sisters each: 2, 3, 4 and 5, 6, 7.
    draws = 80_000
    ids = np.repeat([0, 1], draws // 2)

    visited = world.sisters(np.random.default_rng(4), ids, num_shown=2, num_ids=8)

    assert set(visited[ids == 0]) == {0, 2, 3, 4}
    assert set(visited[ids == 1]) == {1, 5, 6, 7}
    shares = np.bincount(visited, minlength=8) / draws
    np.testing.assert_allclose(shares, 1 / 8, atol=4 * np.sqrt(1 / 8 * 7 / 8 / draws))


def test_neighbours_share_a_sister_where_there_are_fewer_sisters_than_ids():
    # Of ten ids five are sisters of two each: 10 of 0 and 1, 11 of 2 and 3.
    ids = np.repeat(np.arange(10), 200)

    visited = world.sisters(np.random.default_rng(4), ids, num_shown=10, num_ids=15)

    assert [set(visited[ids == i]) for i in (0, 1, 2, 9)] == [{0, 10}, {1, 10}, {2, 11}, {9, 14}]


def test_without_sisters_every_id_is_visited_itself():
    ids = np.arange(5)

    visited = world.sisters(np.random.default_rng(4), ids, num_shown=5, num_ids=5)

    assert visited.tolist() == ids.tolist()


def test_ali_ccp_fields_state_the_published_statistics():
    mean_group_size = fields.NUM_IMPRESSIONS / fields.NUM_CONTEXTS
    behaviours = [fields.BY_NAME[name].mean_values for name in world.BEHAVIOURS]

    assert len(fields.FIELDS) == len(fields.BY_NAME) == 23
    assert mean_group_size == pytest.approx(57.9, abs=0.01)
    assert behaviours == [69, 250, 154, 136]
