"""The TOML form of a schema: loading, defaults, saving, and every mistake with its place."""

import dataclasses
import pathlib
import re

import pytest

from esmm_tf.errors import UserError
from esmm_tf.schema import columns, record_field, toml_file
from esmm_tf.schema import schema as schema_lib

README = pathlib.Path(__file__).parents[2] / "tfrecords_schema" / "README.md"

MINIMAL = """
format_version = 1
name = "shop"

[[features]]
name = "item"
side = "impression"
dtype = "int64"
column = { kind = "identity", vocabulary_size = 10 }
"""


@pytest.fixture
def load(tmp_path):
    """Returns a function that loads a schema from the text of its file."""

    def load_text(text):
        path = tmp_path / "shop.toml"
        path.write_text(text, encoding="utf-8")
        return toml_file.load_schema(str(path))

    return load_text


def with_column(column, dtype="int64", more=""):
    return f"""
format_version = 1
name = "shop"

[[features]]
name = "item"
side = "impression"
dtype = "{dtype}"
column = {{ {column} }}
{more}
"""


def test_what_a_minimal_file_leaves_out_has_its_default(load):
    schema = load(MINIMAL)

    assert schema == schema_lib.Schema(
        name="shop",
        features=(
            schema_lib.Feature(
                name="item",
                side="impression",
                dtype="int64",
                values="one",
                weighted=False,
                missing="zero",
                table=None,
                combiner="sum",
                column=columns.IdentityColumn(vocabulary_size=10, out_of_vocabulary="embed"),
            ),
        ),
        tables=(),
        keys=(),
        labels=schema_lib.Labels(click="click", conversion="conversion", example_weight=None),
        group_key=None,
        carry=(),
        oracle=False,
    )


@pytest.mark.parametrize(
    ("column", "dtype", "expected"),
    [
        (
            'kind = "identity", vocabulary_size = 9, out_of_vocabulary = "drop"',
            "int64",
            columns.IdentityColumn(vocabulary_size=9, out_of_vocabulary="drop"),
        ),
        (
            'kind = "hash_bucket", hash_buckets = 100',
            "string",
            columns.HashBucketColumn(hash_buckets=100),
        ),
        (
            'kind = "vocabulary", values = ["a", "ä"], out_of_vocabulary = "hash", oov_buckets = 2',
            "string",
            columns.VocabularyColumn(values=("a", "ä"), out_of_vocabulary="hash", oov_buckets=2),
        ),
        (
            'kind = "vocabulary", values = [-1, 3]',
            "int64",
            columns.VocabularyColumn(values=(-1, 3), out_of_vocabulary="embed", oov_buckets=1),
        ),
        ('kind = "numeric"', "float32", columns.NumericColumn(scaling="none")),
        (
            'kind = "numeric", scaling = "standard", mean = 40, stddev = 12.5',
            "int64",
            columns.NumericColumn(scaling="standard", mean=40.0, stddev=12.5),
        ),
        (
            'kind = "bucketized", boundaries = [-1, 0.5]',
            "float32",
            columns.BucketizedColumn(boundaries=(-1.0, 0.5)),
        ),
    ],
)
def test_each_kind_of_column_is_read(load, column, dtype, expected):
    schema = load(with_column(column, dtype=dtype))

    assert schema.field("item").column == expected


def test_an_integer_stands_for_a_float(load):
    schema = load(with_column('kind = "bucketized", boundaries = [1, 2]'))

    assert [type(bound) for bound in schema.features[0].column.boundaries] == [float, float]


def test_a_vocabulary_file_is_found_beside_the_schema_and_its_lines_are_counted(load, tmp_path):
    (tmp_path / "items.txt").write_text("7\n-8\n9", encoding="utf-8")

    schema = load(with_column('kind = "vocabulary", file = "items.txt"'))

    column = schema.field("item").column
    assert column == columns.VocabularyColumn(file=str(tmp_path / "items.txt"), file_size=3)
    assert column.num_ids == 4


def test_saving_and_loading_gives_the_same_schema(schema, tmp_path):
    toml_file.save_schema(schema, str(tmp_path), "schema.toml")

    loaded = toml_file.load_schema(str(tmp_path / "schema.toml"))

    assert loaded == schema


def test_saving_copies_a_vocabulary_file_so_that_the_directory_can_move(load, tmp_path):
    (tmp_path / "items.txt").write_text("ä\nb\n", encoding="utf-8")
    schema = load(with_column('kind = "vocabulary", file = "items.txt"', dtype="string"))
    toml_file.save_schema(schema, str(tmp_path / "saved"), "schema.toml")
    (tmp_path / "items.txt").unlink()
    moved = (tmp_path / "saved").rename(tmp_path / "moved")

    loaded = toml_file.load_schema(str(moved / "schema.toml"))

    copied = moved / "vocabularies" / "item.txt"
    assert copied.read_bytes() == "ä\nb\n".encode()
    assert loaded.field("item").column.file == str(copied)
    assert loaded.record_hash() == schema.record_hash()
    assert loaded.field("item").num_rows == schema.field("item").num_rows == 3


def test_saving_leaves_no_temporary_file(schema, tmp_path):
    toml_file.save_schema(schema, str(tmp_path), "schema.toml")

    assert [path.name for path in tmp_path.iterdir()] == ["schema.toml"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "format_version = 1",
            "format_version = 2",
            "top level: format_version is 2. This release reads format_version = 1.",
        ),
        ("format_version = 1", "", "top level: format_version is None. This release reads"),
        ('name = "shop"', "", "top level: 'name' is missing. Add it."),
        (
            'name = "shop"',
            "name = 3",
            "top level: name is 3, of type int. Give a value of type str.",
        ),
        (
            'name = "shop"',
            'name = "shop"\ngroup_keys = "item"',
            "top level: unknown key 'group_keys'. Did you mean 'group_key'[?] Known keys: format_",
        ),
        (
            'name = "shop"',
            'name = "shop"\nqqq = 1',
            "top level: unknown key 'qqq'. Known keys: format_version, name, group_key, carry, ",
        ),
        ('name = "shop"', 'name = "shop"\noracle = 1', "top level: oracle is 1, of type int. Give"),
        (
            'name = "shop"',
            'name = "shop"\ncarry = "item"',
            "top level: carry is 'item', of type str. Give a value of type tuple.",
        ),
        ('name = "shop"', 'name = "shop"\ncarry = [1]', "top level: carry is 1, of type int."),
        (
            'name = "shop"',
            'name = "shop"\ncarry = ["request"]',
            r"top level: carry names 'request', which is no key and no feature with values = 'one'",
        ),
        (
            'name = "shop"',
            'name = "shop"\nkeys = 3',
            r"top level: 'keys' is 3. Write \[\[keys\]\] sections.",
        ),
        (
            'name = "shop"',
            'name = "shop"\ntables = []',
            r"top level: 'tables' is \[\]. Write \[tables.NAME\] sections.",
        ),
        (
            'name = "shop"',
            'name = "shop"\nlabels = "click"',
            r"\[labels\] is 'click'. Write a table: \{ key = value, ... \}.",
        ),
        (
            'name = "shop"',
            'name = "shop"\nlabels = { clik = "a" }',
            r"\[labels\]: unknown key 'clik'. Did you mean 'click'[?] Known keys: click, conver",
        ),
        (
            'name = "shop"',
            'name = "shop"\nlabels = { click = "item" }',
            "top level: 'item' is a label and also listed as a feature or key, which would leak ",
        ),
        (
            'name = "shop"',
            'name = "shop"\nlabels = { click = "buy", conversion = "buy" }',
            r"\[labels\]: click and conversion are both 'buy'. Name two columns.",
        ),
        (
            'name = "shop"',
            'name = "shop"\nkeys = ["request"]',
            r"\[\[keys\]\] number 1 is 'request'. Write a table",
        ),
        (
            'name = "shop"',
            'name = "shop"\nkeys = [{ name = "request", side = "context" }]',
            r"\[\[keys\]\] number 1 'request': 'dtype' is missing. Add it.",
        ),
        (
            'name = "shop"',
            'name = "shop"\ntables = { items = { embeding_dim = 3 } }',
            r"\[tables.items\]: unknown key 'embeding_dim'. Did you mean 'embedding_dim'[?]",
        ),
        (
            'name = "shop"',
            'name = "shop"\ntables = { items = { embedding_dim = 3.5 } }',
            r"\[tables.items\]: embedding_dim is 3.5, of type float. Give a value of type int.",
        ),
        (
            'name = "shop"',
            'name = "shop"\ntables = { items = 3 }',
            r"\[tables.items\] is 3. Write a table",
        ),
        (
            'name = "shop"',
            'name = "shop"\ntables = { items = {} }',
            "top level: table 'items' is used by no feature. Remove it",
        ),
        (
            'name = "item"',
            "",
            r"\[\[features\]\] number 1: 'name' is missing. Add it.",
        ),
        (
            'name = "item"',
            'name = "click"',
            r"\[\[features\]\] number 1 'click': a feature has the name 'click', which is reserved",
        ),
        ('side = "impression"', "", r"\[\[features\]\] number 1 'item': 'side' is missing."),
        (
            'side = "impression"',
            'side = "impression"\nvalue = "many"',
            r"\[\[features\]\] number 1 'item': unknown key 'value'. Did you mean 'values'[?]",
        ),
        (
            'side = "impression"',
            'side = "impression"\ntable = "items"',
            r"number 1 'item': 'table' stands at the feature. Write embedding = \{ table = ... \}.",
        ),
        (
            'side = "impression"',
            'side = "impression"\ncombiner = "mean"',
            r"number 1 'item': 'combiner' stands at the feature. Write embedding = \{ combiner = ",
        ),
        (
            'side = "impression"',
            'side = "impression"\nembedding = "items"',
            r"number 1 'item', embedding is 'items'. Write a table: \{ key = value, ... \}.",
        ),
        (
            'side = "impression"',
            'side = "impression"\nembedding = { dim = 3 }',
            "number 1 'item', embedding: unknown key 'dim'. Known keys: table, combiner.",
        ),
        (
            'side = "impression"',
            'side = "impression"\nembedding = { table = "items" }',
            r"Feature 'item' refers to embedding table 'items', which is not in `tables`. Known",
        ),
        (
            'side = "impression"',
            'side = "impression"\nweighted = "yes"',
            "number 1 'item': weighted is 'yes', of type str. Give a value of type bool.",
        ),
        (
            'dtype = "int64"',
            'dtype = "double"',
            r"\[\[features\]\] number 1 'item': dtype is 'double'. Use one of 'int64', 'float32'",
        ),
        (
            'dtype = "int64"',
            'dtype = "string"',
            "number 1 'item': dtype is 'string', which its column cannot read. Use 'int64'",
        ),
        (
            'column = { kind = "identity", vocabulary_size = 10 }',
            "",
            r"number 1 'item': 'column' is missing. Add column = \{ kind = ... \}.",
        ),
        (
            'column = { kind = "identity", vocabulary_size = 10 }',
            'column = "identity"',
            "number 1 'item', column is 'identity'. Write a table",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_file_and_place(load, tmp_path, old, new, message):
    place = re.escape(f"{tmp_path / 'shop.toml'}: ")

    with pytest.raises(UserError, match=f"^{place}.*{message}"):
        load(MINIMAL.replace(old, new))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            "vocabulary_size = 10",
            "kind is None. Use one of identity, hash_bucket, vocabulary, numeric, bucketized.",
        ),
        ('kind = "one_hot"', "kind is 'one_hot'. Use one of identity, hash_bucket, vocabulary"),
        ('kind = ["identity"]', r"kind is \['identity'\]. Use one of identity, hash_bucket"),
        ('kind = "identity"', "'vocabulary_size' is missing. Add it."),
        ('kind = "identity", vocabulary_size = 0', "vocabulary_size is 0. Give a finite number"),
        ('kind = "identity", vocabulary_size = true', "vocabulary_size is True, of type bool."),
        (
            'kind = "hash_bucket", hash_bucket = 10',
            "unknown key 'hash_bucket'. Did you mean 'hash_buckets'[?] Known keys: hash_buckets.",
        ),
        ('kind = "vocabulary"', r"a vocabulary needs either values = \[...\] with at least one"),
        ('kind = "vocabulary", values = [1], file_size = 1', "unknown key 'file_size'. Did you"),
        ('kind = "vocabulary", values = [1.5]', "values is 1.5, of type float. Give a value of"),
        (
            'kind = "vocabulary", values = [true]',
            "values is True, of type bool. Give a value of type int or str.",
        ),
        ('kind = "vocabulary", file = 3', "file is 3, of type int. Give a value of type str."),
        ('kind = "bucketized", boundaries = ["a"]', "boundaries is 'a', of type str. Give a value"),
        ('kind = "bucketized", boundaries = [inf]', r"boundaries are \[inf\]. Give at least one"),
    ],
)
def test_a_wrong_column_is_refused_with_its_feature(load, column, message):
    with pytest.raises(UserError, match=rf"\[\[features\]\] number 1 'item', column: {message}"):
        load(with_column(column))


def test_a_vocabulary_value_of_another_dtype_is_refused(load):
    with pytest.raises(UserError, match="number 1 'item': the vocabulary holds 'a', which is no"):
        load(with_column('kind = "vocabulary", values = ["a"]'))


def test_a_numeric_column_with_an_embedding_is_refused(load):
    text = with_column('kind = "numeric"', more='embedding = { combiner = "mean" }')

    with pytest.raises(UserError, match=r"number 1 'item': a numeric column has no embedding. Rem"):
        load(text)


def test_a_file_without_features_is_refused(load):
    with pytest.raises(UserError, match=r"top level: there are no features. Declare at least one"):
        load('format_version = 1\nname = "shop"')


def test_features_that_are_no_sections_are_refused(load):
    with pytest.raises(UserError, match=r"top level: 'features' is 'item'. Write \[\[features\]\]"):
        load('format_version = 1\nname = "shop"\nfeatures = "item"')
    with pytest.raises(UserError, match=r"\[\[features\]\] number 1 is 'item'. Write a table"):
        load('format_version = 1\nname = "shop"\nfeatures = ["item"]')


def test_a_repeated_feature_is_refused(load):
    feature = MINIMAL[MINIMAL.index("[[features]]") :]

    with pytest.raises(
        UserError, match=r"top level: the name 'item' is given 2 times. Features an"
    ):
        load(MINIMAL + feature)


@pytest.mark.parametrize("name", ["click_bool", "booking_bool"])
def test_a_label_of_the_log_listed_as_a_feature_is_refused(load, name):
    text = MINIMAL.replace('"item"', f'"{name}"') + (
        '[labels]\nclick = "click_bool"\nconversion = "booking_bool"\n'
    )

    with pytest.raises(UserError, match=f"top level: '{name}' is a label and also listed as a fea"):
        load(text)


def test_a_file_that_is_not_toml_is_refused_with_its_line(load, tmp_path):
    path = re.escape(str(tmp_path / "shop.toml"))

    with pytest.raises(UserError, match=f"{path} is not a TOML file: .*line 2.* Mend the syntax"):
        load("format_version = 1\nname =\n")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "shop.toml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UserError, match=r"is not a TOML file: .*utf-8.* Mend the syntax there."):
        toml_file.load_schema(str(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    path = str(tmp_path / "none.toml")
    message = f"Cannot read schema '{path}': No such file or directory. Check --schema."

    with pytest.raises(UserError, match=re.escape(message)):
        toml_file.load_schema(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"7\n8\n7\n", "line 3 repeats '7'. Give one new value per line."),
        (b"7\n\n8\n", "line 2 is empty. Give one new value per line."),
        (b"", "line 1 is empty. Give one new value per line."),
        (b"7\nx\n", "line 2 is 'x', and the feature's dtype is int64. Give one integer per line."),
    ],
)
def test_a_wrong_vocabulary_file_is_refused_with_its_line(load, tmp_path, content, message):
    path = tmp_path / "items.txt"
    path.write_bytes(content)
    place = "[[features]] number 1 'item', column: vocabulary "

    with pytest.raises(UserError, match=re.escape(f"{place}'{path}', {message}")):
        load(with_column('kind = "vocabulary", file = "items.txt"'))


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_vocabulary_file_that_cannot_be_read_is_refused(load, tmp_path, content):
    path = tmp_path / "items.txt"
    if content is not None:
        path.write_bytes(content)
    message = "column: cannot read vocabulary '.*items.txt': .* Give a UTF-8 file with one value"

    with pytest.raises(UserError, match=message):
        load(with_column('kind = "vocabulary", file = "items.txt"', dtype="string"))


def test_the_example_in_the_documentation_loads(load):
    (example,) = re.findall(r"```toml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)

    schema = load(example)

    assert {type(feature.column) for feature in schema.features} == set(toml_file.COLUMNS.values())
    assert schema.group_key is not None
    assert schema.keys
    assert schema.tables


@pytest.mark.parametrize(
    "cls",
    [
        schema_lib.Feature,
        schema_lib.Key,
        schema_lib.Labels,
        schema_lib.Schema,
        schema_lib.Table,
        *toml_file.COLUMNS.values(),
    ],
)
def test_the_documentation_names_every_key_of_the_file(cls):
    text = README.read_text(encoding="utf-8")
    names = {field.name for field in dataclasses.fields(cls)} - {"file_size"}

    undocumented = {name for name in names if f"`{name}`" not in text}

    assert undocumented == set()


@pytest.mark.parametrize(
    "choices",
    [
        record_field.SIDES,
        columns.DTYPES,
        record_field.VALUES,
        schema_lib.COMBINERS,
        schema_lib.INITIALIZERS,
        columns.SCALINGS,
        columns.OUT_OF_VOCABULARY,
        schema_lib.CATEGORICAL_MISSING,
        schema_lib.NUMERIC_MISSING,
        tuple(toml_file.COLUMNS),
    ],
)
def test_the_documentation_names_every_allowed_value(choices):
    text = README.read_text(encoding="utf-8")

    undocumented = {choice for choice in choices if f'`"{choice}"`' not in text}

    assert undocumented == set()
