"""Differences between two data sets: of known distributions, by hand, and of noise alone."""

import dataclasses
import math

import numpy as np
import pytest

from esmm_pipelines.validation import drift
from esmm_pipelines.validation.statistics import (
    DataStatistics,
    FeatureStatistics,
    Frequencies,
    LabelStatistics,
    Range,
    Rate,
    build_histogram,
)

MANY = 1e9


def frequencies(counts, **more):
    values = np.array(sorted(counts))
    numbers = np.array([counts[value] for value in sorted(counts)], np.int64)
    return Frequencies(values, numbers, **({"total": int(numbers.sum())} | more))


def numbers(values):
    distinct, counts = np.unique(np.float32(values), return_counts=True)
    return Frequencies(distinct, counts, total=len(values))


def feature(found, *, is_number=False, coverage=1.0, error=0.0, dtype="int64", groups=MANY):
    return FeatureStatistics(
        name="f",
        side="impression",
        dtype=dtype,
        is_number=is_number,
        rows=100,
        coverage=Rate(value=coverage, standard_error=error),
        values_per_row=Range(min=0, mean=1, max=1),
        effective_groups=groups,
        distinct_ids=None,
        out_of_vocabulary=None,
        weights=None,
        numbers=None,
        frequencies=found,
        histogram=build_histogram(found) if is_number else None,
    )


def data(*features, click_rate=0.1, error=0.0):
    rate = Rate(value=click_rate, standard_error=error)
    nothing = Rate(value=None, standard_error=None)
    labels = LabelStatistics(
        groups=10,
        impressions=100,
        clicks=10,
        conversions=0,
        click_rate=rate,
        conversion_rate=nothing,
        conversion_rate_clicked=nothing,
        unnested=0,
        not_binary=0,
        weight_sum=None,
    )
    return DataStatistics(files="data", labels=labels, features=features)


def compare(now, before):
    return drift.compare_statistics(data(now), data(before)).features[0]


def test_the_distance_of_ids_is_the_largest_change_of_a_share():
    now, before = frequencies({1: 6, 2: 3, 3: 1}), frequencies({1: 3, 2: 5, 4: 2})

    found = drift.largest_change(now, before, 0.0)

    assert found.value == pytest.approx(0.3)
    assert found.beyond_noise == pytest.approx(0.3)
    assert (found.where, found.share, found.baseline_share) == ("1", 0.6, 0.3)


def test_noise_is_four_standard_errors_of_the_share():
    now, before = frequencies({1: 6, 2: 4}), frequencies({1: 4, 2: 6})

    found = drift.largest_change(now, before, 1 / 1000 + 1 / 250)

    assert found.value == pytest.approx(0.2)
    assert found.beyond_noise == pytest.approx(0.2 - 4 * math.sqrt(0.25 * 0.005))


def test_values_that_the_baseline_has_not_are_counted():
    now, before = frequencies({1: 6, 2: 3, 3: 1}), frequencies({1: 1, 4: 1})

    assert drift.unseen_share(now, before) == pytest.approx(0.4)


def test_a_value_cut_from_the_baseline_changed_by_the_least_that_is_possible():
    now = frequencies({1: 50, 2: 30, 3: 20})
    before = frequencies({1: 60, 2: 25}, total=100, is_complete=False)

    found = drift.largest_change(now, before, 0.0)

    assert found.value == pytest.approx(0.1)  # 3 had at most the share of 2, so none at all
    assert found.where == "1"
    assert drift.unseen_share(now, before) is None


def test_a_string_is_named_as_text():
    values = np.array([b"a", b"\xff"], dtype=object)
    now = Frequencies(values, np.array([1, 9]), total=10)
    before = Frequencies(values[:1], np.array([1]), total=1)

    assert drift.largest_change(now, before, 0.0).where == "a"


def test_numbers_without_overlap_diverge_by_one_bit():
    found = drift.divergence(numbers([5.0, 6.0]), build_histogram(numbers([1.0, 2.0])), 0.0)

    assert found.value == pytest.approx(1.0)


def test_the_divergence_of_numbers_is_that_of_jensen_and_shannon():
    now, before = numbers([0, 1, 1, 1]), build_histogram(numbers([0, 0, 1, 1]))

    found = drift.divergence(now, before, 0.0)

    p, q = np.array([0.25, 0.75]), np.array([0.5, 0.5])
    mean = (p + q) / 2
    expected = np.sum(p * np.log2(p / mean) + q * np.log2(q / mean)) / 2
    assert found.value == pytest.approx(expected)


def test_a_constant_that_moved_diverges():
    found = drift.divergence(numbers([1.01] * 9), build_histogram(numbers([1.0] * 9)), 0.0)

    assert found.value == pytest.approx(1.0)


def test_a_shift_by_half_a_standard_deviation_is_about_the_default_threshold():
    rng = np.random.default_rng(1)
    now, before = rng.normal(0.5, 1.0, 100_000), rng.normal(0.0, 1.0, 100_000)

    found = drift.divergence(numbers(now), build_histogram(numbers(before)), 2e-5)

    assert found.beyond_noise == pytest.approx(0.25 / (8 * math.log(2)), rel=0.1)


@pytest.mark.parametrize("sizes", [(30, 300), (2_000, 2_000)])
def test_samples_of_one_distribution_differ_by_no_more_than_noise(sizes):
    rng = np.random.default_rng(2)
    inverse = sum(1 / size for size in sizes)
    beyond = []

    for _ in range(100):
        a, b = (rng.normal(size=size) for size in sizes)
        beyond.append(drift.divergence(numbers(a), build_histogram(numbers(b)), inverse))
        a, b = (numbers(rng.zipf(1.5, size) % 100) for size in sizes)
        beyond.append(drift.largest_change(a, b, inverse))

    assert max(found.beyond_noise for found in beyond) < 0.01


def test_coverage_changes_by_what_is_beyond_its_errors():
    counts = frequencies({1: 1})

    found = compare(feature(counts, coverage=0.5, error=0.03), feature(counts, error=0.04))

    assert found.coverage.beyond_noise == pytest.approx(-0.5 + 4 * 0.05)


def test_a_rate_of_one_group_has_no_known_error_and_no_change():
    now, before = data(click_rate=0.9, error=None), data(click_rate=0.1)

    found = drift.compare_statistics(now, before).labels[0]

    assert (found.value, found.baseline, found.beyond_noise) == (0.9, 0.1, 0.0)


def test_label_rates_are_compared():
    found = drift.compare_statistics(data(click_rate=0.3, error=0.01), data(click_rate=0.1)).labels

    assert [change.name for change in found][:2] == ["click_rate", "conversion_rate"]
    assert found[0].beyond_noise == pytest.approx(0.16)
    assert (found[1].value, found[1].beyond_noise) == (None, 0.0)


def test_features_of_one_side_only_are_new_or_gone():
    ours = feature(frequencies({1: 1}))
    theirs = dataclasses.replace(ours, name="g")

    found = drift.compare_statistics(data(ours), data(theirs)).features

    assert [(f.name, f.is_new, f.is_gone) for f in found] == [
        ("f", True, False),
        ("g", False, True),
    ]


def test_an_id_that_became_a_number_is_retyped():
    found = compare(feature(numbers([1.0]), is_number=True), feature(frequencies({1: 1})))

    assert found.is_retyped
    assert found.distance is None


def test_a_feature_without_values_has_no_distance():
    found = compare(feature(frequencies({}), coverage=0.0), feature(frequencies({1: 1})))

    assert found.distance is None
    assert found.coverage.beyond_noise == -1.0
