"""Rows of any length: taken, placed and written as plain lists are."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from esmm_pipelines.grouping.values import Values
from esmm_tf.schema.columns import INT64, HashBucketColumn
from esmm_tf.schema.record_field import IMPRESSION, MANY, ONE
from esmm_tf.schema.schema import Feature

FIELD = Feature(
    name="f", side=IMPRESSION, dtype=INT64, values=MANY, column=HashBucketColumn(hash_buckets=2)
)
ROWS = st.lists(st.lists(st.integers(-(2**62), 2**62), max_size=4), min_size=1, max_size=6)


def build_values(rows, *, weighted=False):
    flat = np.array([value for row in rows for value in row], dtype=np.int64)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Values(flat, lengths, np.arange(len(flat)) * 0.5 if weighted else None)


def weight_rows(rows):
    """Returns the weights that `build_values` gives, row by row."""
    weights = iter(np.arange(sum(map(len, rows))) * 0.5)
    return [[next(weights) for _ in row] for row in rows]


def flatten(rows):
    return [value for row in rows for value in row]


@hypothesis.given(ROWS)
def test_starts_are_where_each_row_begins_and_the_end(rows):
    values = build_values(rows)

    starts = values.starts.tolist()

    assert starts == [len(flatten(rows[:place])) for place in range(len(rows) + 1)]


@hypothesis.given(ROWS, st.data())
def test_taken_rows_come_in_the_order_asked_for_and_as_often(rows, data):
    places = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8))

    taken = build_values(rows, weighted=True).take(np.array(places, dtype=np.int64))

    assert taken.lengths.tolist() == [len(rows[place]) for place in places]
    assert taken.values.tolist() == flatten([rows[place] for place in places])
    assert taken.weights.tolist() == flatten([weight_rows(rows)[place] for place in places])


def test_taking_from_rows_without_weights_gives_none():
    taken = build_values([[1, 2], [3]]).take(np.array([1, 1]))

    assert taken.values.tolist() == [3, 3]
    assert taken.weights is None


@hypothesis.given(ROWS, st.data())
def test_entries_hold_the_rows_from_first_to_end(rows, data):
    first = data.draw(st.integers(0, len(rows)))
    end = data.draw(st.integers(first, len(rows)))

    entries = build_values(rows, weighted=True).entries(FIELD, first, end)

    assert list(entries) == ["f", "f:lengths", "f:weight"]
    assert entries["f"].tolist() == flatten(rows[first:end])
    assert entries["f:lengths"].tolist() == [len(row) for row in rows[first:end]]
    assert entries["f:weight"].tolist() == flatten(weight_rows(rows)[first:end])


@pytest.mark.parametrize(("values", "keys"), [(MANY, ["f", "f:lengths"]), (ONE, ["f"])])
def test_entries_hold_lengths_only_where_a_field_has_them_and_weights_only_if_any(values, keys):
    entries = build_values([[1], [2]]).entries(dataclasses.replace(FIELD, values=values), 0, 2)

    assert list(entries) == keys
