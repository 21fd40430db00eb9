"""Vocabularies: which ids they hold, in which order, and the schema that refers to them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from esmm_pipelines.ali_ccp import rows, vocabulary_writer
from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.engines.engine import open_engine
from esmm_tf.schema import toml_file
from esmm_tf.schema.columns import HashBucketColumn, VocabularyColumn
from esmm_tf.schema.schema import Feature, Schema, Table

HASHED = HashBucketColumn(hash_buckets=100)
SCHEMA = Schema(
    name="shop",
    features=(
        Feature(
            name="visited",
            side="context",
            dtype="int64",
            column=HASHED,
            values="many",
            weighted=True,
            table="item",
        ),
        Feature(name="shown", side="impression", dtype="int64", column=HASHED, table="item"),
        Feature(name="scene", side="impression", dtype="int64", column=HASHED),
    ),
    tables=(Table(name="item"),),
)
VISITED, SHOWN, SCENE = range(3)
# (impressions that a row counts for, its tokens)
ROWS = [
    (3, [(VISITED, 10, 0.5), (VISITED, 11, 2.0)]),
    (1, [(SHOWN, 11, 1.0), (SCENE, 10, 1.0)]),
    (1, [(SHOWN, 12, 1.0), (SCENE, 10, 1.0)]),
    (1, [(SHOWN, 12, 1.0), (SCENE, 9, 1.0)]),
    (0, [(VISITED, 13, 9.0)]),
    (1, [(SCENE, 9, 1.0)]),
    (1, []),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    config = EngineConfig(temp_dir=str(tmp_path_factory.mktemp("spill")))
    with open_engine(config) as engine:
        yield engine


@pytest.fixture
def build(engine, tmp_path):
    """Returns a function that builds the vocabularies of `ROWS`."""
    tokens = [np.array(row, rows.TOKEN).tobytes() for _, row in ROWS]
    table = pa.table({"tokens": tokens, "impressions": [number for number, _ in ROWS]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    frame = engine.read_parquet([str(tmp_path / "rows.parquet")])

    def build(min_count):
        directory = tmp_path / f"vocabularies_{min_count}"
        directory.mkdir()
        return vocabulary_writer.build_schema(
            engine, frame, SCHEMA, min_count=min_count, directory=str(directory)
        )

    return build


def read(schema, name):
    with open(schema.field(name).column.file, encoding="utf-8") as file:
        return file.read()


def test_ids_are_counted_in_impressions_and_the_most_frequent_stands_first(build):
    schema = build(1)

    # 11: the 3 impressions of a context, and 1; 10: 3; 12: 2; 13 belongs to no impression.
    assert read(schema, "shown") == "11\n10\n12\n"


def test_features_of_a_table_share_a_vocabulary(build):
    schema = build(1)

    assert schema.field("visited").column == schema.field("shown").column
    assert schema.field("shown").column.file_size == 3
    assert schema.field("shown").num_rows == 3 + 1  # and one out of vocabulary
    assert schema.field("scene").column.file_size == 2


@pytest.mark.parametrize(("min_count", "text"), [(2, "11\n10\n12\n"), (3, "11\n10\n"), (4, "11\n")])
def test_ids_below_the_count_are_out_of_vocabulary(build, min_count, text):
    assert read(build(min_count), "shown") == text


def test_ids_of_equal_counts_are_ordered_by_number(build):
    assert read(build(1), "scene") == "9\n10\n"


def test_a_table_without_frequent_ids_keeps_its_column(build):
    schema = build(4)

    assert isinstance(schema.field("shown").column, VocabularyColumn)
    assert schema.field("scene").column == HASHED


def test_parts_counted_one_by_one_give_the_same_vocabulary(build, monkeypatch):
    monkeypatch.setattr(vocabulary_writer, "_TOKENS_AT_ONCE", 1)

    assert read(build(3), "shown") == "11\n10\n"


def test_the_schema_is_saved_and_loaded_with_its_vocabularies(build, tmp_path):
    schema = build(1)

    toml_file.save_schema(schema, str(tmp_path / "data"), "schema.toml")
    loaded = toml_file.load_schema(str(tmp_path / "data" / "schema.toml"))

    assert loaded.record_hash() == schema.record_hash()
    assert read(loaded, "visited") == read(loaded, "shown") == "11\n10\n12\n"
    assert loaded.field("shown").num_rows == 4
