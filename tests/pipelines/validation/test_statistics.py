"""Statistics of a data set against counts by hand, and their JSON form."""

import json

import numpy as np
import pytest

from esmm_pipelines.validation import statistics
from esmm_pipelines.validation.collector import Collector
from esmm_tf.data import numpy_batches
from esmm_tf.data.source import find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.schema import columns
from esmm_tf.schema import schema as schema_lib


def collect(directory, schema, split="train"):
    source = find_source(str(directory), split=split)
    collector = Collector(schema)
    for batch in numpy_batches.read_batches(source, schema):
        collector.add(batch)
    return collector.result(f"{directory} ({split})")


def by_name(described):
    return {feature.name: feature for feature in described.features}


@pytest.fixture(scope="module")
def described(finished_data_set, schema):
    """Returns the statistics of samples 0 to 38 in 12 groups; see the root's conftest."""
    return collect(finished_data_set, schema)


@pytest.fixture(scope="module")
def features(described):
    return by_name(described)


def test_labels_are_counted(described):
    labels = described.labels

    assert (labels.groups, labels.impressions) == (12, 39)
    assert (labels.clicks, labels.conversions) == (20, 10)
    assert labels.click_rate.value == 20 / 39
    assert labels.conversion_rate.value == 10 / 39
    assert labels.conversion_rate_clicked.value == 0.5
    assert (labels.unnested, labels.not_binary) == (0, 0)
    assert labels.weight_sum == 39 * 1.25


def test_the_error_of_a_rate_is_that_of_a_sample_of_groups(described):
    samples = np.split(np.arange(39), np.cumsum((1, 2, 3, 7) * 3)[:-1])
    residuals = [np.sum(group % 2 == 0) - 20 / 39 * len(group) for group in samples]

    expected = np.sqrt(12 / 11 * np.sum(np.square(residuals))) / 39
    assert described.labels.click_rate.standard_error == pytest.approx(expected)


def test_rows_are_groups_on_the_context_side_and_impressions_on_the_other(features):
    assert features["user"].rows == 12
    assert features["item"].rows == 39


def test_coverage_and_values_of_a_row_are_those_of_the_groups(features):
    assert features["user"].coverage.value == 1.0
    assert features["brand"].coverage.value == 12 / 39
    assert features["tags"].values_per_row == statistics.Range(min=0, mean=24 / 39, max=2)
    assert features["interests"].values_per_row == statistics.Range(min=2, mean=2, max=2)
    assert features["visits"].coverage.value == 0.0


def test_distinct_ids_are_exact(features):
    assert features["user"].distinct_ids == 12
    assert features["item"].distinct_ids == 39
    assert features["tags"].distinct_ids == 2
    assert features["visits"].distinct_ids == 0
    assert features["price"].distinct_ids is None


def test_top_values_are_the_most_frequent_with_their_shares(features):
    assert features["tags"].top_values() == [
        {"value": "new", "count": 12, "share": 0.5},
        {"value": "sale", "count": 12, "share": 0.5},
    ]
    assert len(features["item"].top_values()) == 10
    assert features["price"].top_values() == []


def test_weights_have_a_range(features):
    assert features["interests"].weights == statistics.Range(min=0.5, mean=1.0, max=1.5)
    assert features["item"].weights is None


def test_numbers_have_a_distribution(features):
    numbers = features["price"].numbers

    assert (numbers.min, numbers.mean, numbers.max) == (0.0, 19.0, 38.0)
    assert numbers.stddev == pytest.approx(np.std(np.arange(39)))
    assert numbers.quantiles["0.5"] == 19.0
    assert numbers.quantiles["0.05"] == 1.0
    assert features["item"].numbers is None
    assert features["discount"].numbers is None  # a number without values


def test_groups_of_different_lengths_count_as_fewer_equal_ones(features):
    assert features["item"].effective_groups == pytest.approx(39**2 / (3 * (1 + 4 + 9 + 49)))
    assert features["user"].effective_groups == 12


def test_only_columns_that_know_their_ids_have_a_share_out_of_vocabulary(scored_data, schema):
    features = by_name(collect(scored_data, schema, "test"))

    items, queries = features["item"].frequencies, features["query"].frequencies
    outside = items.counts[(items.values < 0) | (items.values >= 50)].sum()
    boots = queries.counts[queries.values == b"boots"].sum()
    assert 0 < features["item"].out_of_vocabulary == outside / 20
    assert 0 < features["query"].out_of_vocabulary == boots / queries.total
    assert features["brand"].out_of_vocabulary is None
    assert features["price"].out_of_vocabulary is None


def test_a_vocabulary_in_a_file_is_read(scored_data, schema, served_schema):
    listed = by_name(collect(scored_data, schema, "test"))["query"]

    in_file = by_name(collect(scored_data, served_schema, "test"))["query"]

    assert in_file.out_of_vocabulary == listed.out_of_vocabulary


def test_a_histogram_has_equally_full_cells_and_empty_ends():
    frequencies = statistics.Frequencies(
        np.arange(100, dtype=np.float32), np.full(100, 3, np.int64), total=300
    )

    histogram = statistics.build_histogram(frequencies)

    assert histogram.counts.tolist() == [0, *[15] * 20, 0]
    assert histogram.edges[:2].tolist() == [0.0, 5.0]


def test_a_number_that_is_most_of_a_feature_has_a_cell_of_its_own():
    frequencies = statistics.Frequencies(np.float32([0, 1, 2]), np.array([2, 96, 2]), total=100)

    histogram = statistics.build_histogram(frequencies)

    assert histogram.counts.tolist() == [0, 2, 96, 2, 0]


def test_statistics_survive_their_json_form(described, tmp_path):
    path = str(tmp_path / "out" / "statistics.json")

    statistics.write_json(statistics.to_tree(described), path)

    loaded = statistics.load_json(path)
    assert loaded.labels == described.labels
    assert statistics.to_tree(loaded) == statistics.to_tree(described)
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["format_version"] == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["statistics.json"]


def test_the_json_form_keeps_the_most_frequent_ids_and_says_so(tmp_path):
    schema = schema_lib.Schema(
        name="ids",
        features=(
            schema_lib.Feature(
                name="id",
                side="context",
                dtype="string",
                values="many",
                column=columns.HashBucketColumn(hash_buckets=10),
            ),
        ),
    )
    ids = [f"id {place}" for place in range(1_500)]
    with DataSetWriter(str(tmp_path / "data"), schema, num_shards=1) as writer:
        writer.write("train", {"id": [*ids, *ids[500:]], "click": [1], "conversion": [0]})
    described = collect(tmp_path / "data", schema)

    statistics.write_json(statistics.to_tree(described), str(tmp_path / "statistics.json"))

    loaded = statistics.load_json(str(tmp_path / "statistics.json")).features[0]
    assert loaded.distinct_ids == 1_500
    assert sorted(loaded.frequencies.values) == sorted(i.encode() for i in ids[500:])
    assert (loaded.frequencies.total, loaded.frequencies.is_complete) == (2_500, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"is damaged \(JSONDecodeError"),
        ("{}", r"is damaged \(KeyError\('format_version'\)"),
        ("[]", r"is damaged \(TypeError"),
        ('{"format_version": 1}', r"KeyError\('files'\)\). Write statistics with --output"),
        ('{"format_version": 2}', "has format_version 2; this release reads 1. Write"),
    ],
)
def test_a_file_that_is_no_statistics_is_refused(tmp_path, text, message):
    path = tmp_path / "statistics.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UserError, match=message):
        statistics.load_json(str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"statistics\.json is missing\. Write statistics"):
        statistics.load_json(str(tmp_path / "statistics.json"))


def test_records_that_cannot_be_parsed_are_told(data_set, schema):
    path = next(data_set.glob("train-00000*"))
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(UserError, match=r"cannot be parsed: .* Write the data set again."):
        collect(data_set, schema)


def test_records_of_another_layout_are_refused(data_set, schema):
    other = schema_lib.Schema(name="other", features=schema.features[:4])

    with pytest.raises(UserError, match="were written with schema hash"):
        collect(data_set, other)
