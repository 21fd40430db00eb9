"""The simulated shop: rates, selection bias, policy and overlaps behave as its settings say."""

import numpy as np
import pytest

from esmm_pipelines.ali_ccp import fields
from esmm_pipelines.synthetic import shop as exposure
from esmm_pipelines.synthetic import world
from esmm_tf.errors import UserError

SIZES = {"101": 5_916, "205": 64_128, "206": 1_220, "207": 12_295, "216": 4_219, "210": 13_960}
NUM_GROUPS = 500


def build_truth(**changes):
    settings = {
        "click_rate": 0.2,
        "conversion_rate": 0.3,
        "correlation": 0.0,
        "click_strength": 1.0,
        "conversion_strength": 1.0,
        "policy_strength": 0.0,
        "overlap": 0.0,
        "mean_group_size": 20.0,
    }
    return exposure.TruthConfig(**(settings | changes))


def draw(shop, seed=5, num_groups=NUM_GROUPS):
    return shop.draw(np.random.default_rng(seed), num_groups)


def build_shop(**changes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exposure, "_PILOT_GROUPS", 100)  # a rougher calibration, four times as fast
        return exposure.Shop(build_truth(**changes), SIZES, seed=1)


@pytest.fixture(scope="module")
def shop():
    """Returns a shop that shows at random, where conversions owe nothing to click propensity."""
    return build_shop()


@pytest.fixture(scope="module")
def groups(shop):
    return draw(shop)


@pytest.fixture(scope="module")
def correlated():
    return draw(build_shop(correlation=0.9))


@pytest.fixture(scope="module")
def selective():
    return draw(build_shop(policy_strength=3.0))


@pytest.fixture(scope="module")
def overlapping():
    return draw(build_shop(overlap=1.2))


def selection_bias(groups):
    """Returns the true mean pCVR of clicked impressions over that of all."""
    pcvr = groups.labels["oracle_pcvr"]
    return pcvr[groups.labels["click"] == 1].mean() / pcvr.mean()


def click_logits(groups):
    """Returns the true click logit of each impression, and what it is a function of."""
    group = np.repeat(np.arange(len(groups.sizes)), groups.sizes)
    user = groups.context["101"].values[group]
    shown = (user, groups.impressions["205"].values, groups.impressions["301"].values)
    pctr = groups.labels["oracle_pctr"].astype(np.float64)
    return np.log(pctr / (1 - pctr)), list(zip(*(ids.tolist() for ids in shown), strict=True))


def relative_overlaps(groups):
    """Returns the mean number of values of each cross field as a multiple of Ali-CCP's."""
    return np.array(
        [
            groups.impressions[cross].lengths.mean() / fields.BY_NAME[cross].mean_values
            for _, cross in world.BEHAVIOURS.values()
        ]
    )


@pytest.mark.parametrize("name", ["click_rate", "conversion_rate"])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.5, float("nan")])
def test_rates_lie_strictly_between_0_and_1(name, value):
    with pytest.raises(UserError, match=rf"--{name} is {value}. Give a number in \(0, 1\)."):
        build_truth(**{name: value})


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_the_correlation_lies_between_0_and_1(value):
    with pytest.raises(UserError, match=rf"--correlation is {value}. Give a number in \[0, 1\]."):
        build_truth(correlation=value)


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_the_overlap_is_not_negative(value):
    with pytest.raises(UserError, match=rf"--overlap is {value}. Give a number of 0 or more."):
        build_truth(overlap=value)


def test_a_group_has_at_least_one_impression_on_average():
    with pytest.raises(UserError, match=r"--mean_group_size is 0.5. Give at least 1."):
        build_truth(mean_group_size=0.5)


def test_contexts_have_one_row_a_group_and_all_else_one_an_impression(groups):
    num_impressions = groups.sizes.sum()

    assert len(groups.sizes) == NUM_GROUPS
    assert set(groups.context) | set(groups.impressions) == set(fields.BY_NAME)
    assert {len(values.lengths) for values in groups.context.values()} == {NUM_GROUPS}
    assert {len(values.lengths) for values in groups.impressions.values()} == {num_impressions}
    assert {len(labels) for labels in groups.labels.values()} == {num_impressions}


def test_group_sizes_are_geometric_with_the_mean_asked_for(groups):
    # A geometric variable of mean 20 has standard deviation sqrt(20 * 19).
    assert groups.sizes.min() == 1
    assert groups.sizes.mean() == pytest.approx(20, abs=4 * np.sqrt(20 * 19 / NUM_GROUPS))
    assert groups.sizes.std() == pytest.approx(np.sqrt(20 * 19), rel=0.2)


def test_the_same_generator_draws_the_same_groups_and_another_others(shop, groups):
    again, other = draw(shop), draw(shop, seed=6)

    assert again.impressions["205"].values.tolist() == groups.impressions["205"].values.tolist()
    np.testing.assert_array_equal(again.labels["oracle_pcvr"], groups.labels["oracle_pcvr"])
    assert other.context["101"].values.tolist() != groups.context["101"].values.tolist()


def test_click_and_conversion_rates_are_those_asked_for(shop):
    # The impressions of a user are alike, so that of 3,000 groups the rate of conversions still
    # has a standard deviation of 0.008, and of 500, one of 0.018.
    labels = draw(shop, num_groups=3_000).labels

    click, conversion = labels["click"], labels["conversion"]
    assert click.mean() == pytest.approx(0.2, rel=0.1)
    assert conversion.sum() / click.sum() == pytest.approx(0.3, rel=0.1)


def test_without_correlation_clicked_impressions_convert_like_all(groups):
    assert selection_bias(groups) == pytest.approx(1, abs=0.08)


def test_correlation_makes_clicked_impressions_convert_more_than_all(correlated):
    assert selection_bias(correlated) > 1.3


def test_a_strong_policy_shows_what_will_be_clicked(groups, selective):
    # The same users and items exist in both shops; only the intercept of pCTR differs, by which
    # the mean is held at the click rate. It is read from what both happened to show.
    logits, shown = click_logits(groups)
    strong_logits, strongly_shown = click_logits(selective)
    known = dict(zip(shown, logits, strict=True))
    shifts = [
        strong - known[key]
        for key, strong in zip(strongly_shown, strong_logits, strict=True)
        if key in known
    ]

    preferred = strong_logits.mean() - np.median(shifts) - logits.mean()

    assert len(shifts) > 100
    assert np.ptp(shifts) < 1e-3
    assert preferred > 0.5


def test_users_meet_again_what_they_visited_as_often_as_asked_for(groups, overlapping):
    unasked, asked = relative_overlaps(groups), relative_overlaps(overlapping)

    assert np.prod(asked) ** 0.25 == pytest.approx(1.2, rel=0.1)
    assert (asked > 1.1 * unasked).all()


def test_an_overlap_of_0_shows_nothing_for_having_been_visited(shop):
    assert shop._retargeting == 0


def test_an_overlap_out_of_reach_shows_only_what_was_visited():
    shop = build_shop(overlap=100.0)

    assert shop._retargeting == pytest.approx(1, abs=0.001)


def test_the_ids_a_user_visits_are_as_often_never_shown_as_in_ali_ccp(groups):
    known = fields.BY_NAME
    for name, (field, _) in world.BEHAVIOURS.items():
        ids = groups.context[name].values
        shown = known[field].distinct_ids / known[name].distinct_ids

        assert (ids < SIZES[field]).mean() == pytest.approx(shown, abs=0.02), name


def test_behaviours_are_visits_counted_in_logarithms(groups):
    for name in world.BEHAVIOURS:
        behaviour = groups.context[name]
        counts = np.expm1(behaviour.weights.astype(np.float64))

        assert behaviour.values.max() < world.num_visited_ids(SIZES)[name]
        np.testing.assert_allclose(counts, np.rint(counts), rtol=1e-5)
        assert counts.min() == pytest.approx(1)
        assert counts.max() > 1.5


def test_users_visit_what_they_want_more_than_what_is_popular(shop):
    rng = np.random.default_rng(0)
    users = np.arange(100)
    latent, items = shop._users.latent[users], shop._catalogue.latent

    visited = shop._visited(rng, users)

    popular = world.zipf_ranks(rng, visited.shape, len(items))
    wanted = world.visit_scores(latent, items[visited]).mean()
    usual = world.visit_scores(latent, items[popular]).mean()
    assert wanted > usual + 0.3
