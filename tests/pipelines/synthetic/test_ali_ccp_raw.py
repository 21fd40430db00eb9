"""Simulated raw files: Tianchi's format, Ali-CCP's statistics, the same log as the records."""

import collections
import dataclasses
import functools
import gzip
import itertools
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from esmm_pipelines.ali_ccp import fields
from esmm_pipelines.synthetic import ali_ccp_raw, command, world
from esmm_pipelines.synthetic import log as simulated_log
from esmm_pipelines.synthetic import shop as exposure
from esmm_tf.data import manifest
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file

pytestmark = pytest.mark.slow

SCHEMA = str(pathlib.Path(__file__).parents[3] / "tfrecords_schema" / "ali_ccp.toml")
SPLITS = ("train", "test")
KINDS = ("sample_skeleton", "common_features", "oracle")
FEATURE = rb"\d+(_14)?\x02[1-9]\d*\x03(\d+\.\d+)"
FEATURES = rb"(?P<number>\d+),(?P<features>FEATURE(\x01FEATURE)*)".replace(b"FEATURE", FEATURE)
INDEX = rb"[0-9a-f]{16}"
LINES = {
    "sample_skeleton": rb"[1-9]\d*,[01],[01]," + INDEX + b"," + FEATURES,
    "common_features": INDEX + b"," + FEATURES,
    "oracle": rb"[1-9]\d*,0\.\d+,0\.\d+",
}
GROUPS_AT_ONCE = 64  # in small logs, so that these have several chunks
WEIGHTED = ("109_14", "110_14", "127_14", "150_14", "508", "509", "702", "853")


# One number fits the four overlaps, each of which it can only come near.
CROSS_TOLERANCE = dict.fromkeys(("508", "509", "702", "853"), 0.35)


@dataclasses.dataclass(frozen=True)
class Row:
    """One sample: labels, truth, and the (field, id, weight) triples of itself and its context."""

    index: str
    click: int
    conversion: int
    pctr: float
    pcvr: float
    features: tuple
    context: tuple


def build_config(output_dir, **changes):
    settings = {
        "output_dir": str(output_dir),
        "format": "ali_ccp_raw",
        "num_impressions": 800,
        "cardinality_scale": 0.002,
        "click_rate": 0.2,
        "conversion_rate": 0.3,
        "mean_group_size": 4.0,
        "max_group_size": 8,
        "label_anomaly_rate": 0.0,
        "num_shards": 1,
    }
    return command.SyntheticConfig(**(settings | changes))


to_float32 = functools.cache(np.float32)  # of a text; few weights are different


def parse_features(text, offsets):
    """Returns the sorted (field, id, weight) triples of a feature list, ids as in records."""
    triples = []
    for token in text.split("\x01"):
        name, rest = token.split("\x02")
        number, value = rest.split("\x03")
        triples.append((name, int(number) - offsets[name], to_float32(value)))
    return tuple(sorted(triples))


def read_lines(directory, name):
    return (directory / f"{name}.csv").read_text().removesuffix("\n").split("\n")


def read_raw(directory, split, offsets):
    """Returns the rows of a split by their sample id, in the order of the skeleton."""
    truth = {}
    for line in read_lines(directory, f"oracle_{split}")[1:]:
        sample, *probabilities = line.split(",")
        truth[int(sample)] = [np.float32(p) for p in probabilities]
    contexts = {}
    for line in read_lines(directory, f"common_features_{split}"):
        index, _, text = line.split(",")
        contexts[index] = parse_features(text, offsets)
    rows = {}
    for line in read_lines(directory, f"sample_skeleton_{split}"):
        sample, click, conversion, index, _, text = line.split(",")
        rows[int(sample)] = Row(
            index,
            int(click),
            int(conversion),
            *truth[int(sample)],
            parse_features(text, offsets),
            contexts[index],
        )
    assert len(truth) == len(rows)
    return rows


def read_records(directory, splits):
    """Returns the rows of a data set's splits; records have no index."""
    found = manifest.load_manifest(str(directory))
    files = [str(directory / shard.file) for split in splits for shard in found.splits[split]]
    return [
        row
        for example in tf.data.TFRecordDataset(files).as_numpy_iterator()
        for row in decode_group(tf.train.Example.FromString(example).features.feature)
    ]


def decode_group(record):
    """Yields the rows of one record."""
    entries = {
        key: getattr(value, value.WhichOneof("kind")).value if value.WhichOneof("kind") else []
        for key, value in record.items()
    }
    size = len(entries["click"])
    context, features = [], [[] for _ in range(size)]
    for field in fields.FIELDS:
        ids = entries.get(field.name, [])
        weights = entries.get(f"{field.name}:weight", np.ones(len(ids)))
        triples = [
            (field.name, i, np.float32(weight)) for i, weight in zip(ids, weights, strict=True)
        ]
        if field.side == "context":
            context += triples
            continue
        lengths = entries.get(f"{field.name}:lengths", [1] * size)
        for part, end, length in zip(features, np.cumsum(lengths), lengths, strict=True):
            part += triples[end - length : end]
    context = tuple(sorted(context))
    for place in range(size):
        labels = (entries["click"][place], entries["conversion"][place])
        truth = [np.float32(entries[f"oracle_{name}"][place]) for name in ("pctr", "pcvr")]
        yield Row("", *labels, *truth, tuple(sorted(features[place])), context)


def read_bytes(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def runs(values):
    """Returns how many runs of equal neighbours there are."""
    return 1 + sum(a != b for a, b in itertools.pairwise(values))


@pytest.fixture(scope="module")
def generate():
    """Returns a function that writes a small log; its shop is calibrated roughly, but fast."""

    def write(output_dir, **changes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exposure, "_PILOT_GROUPS", 10)
            patch.setattr(simulated_log, "_GROUPS_AT_ONCE", GROUPS_AT_ONCE)
            command.generate(build_config(output_dir, **changes))
        return output_dir

    return write


@pytest.fixture(scope="module")
def offsets():
    return ali_ccp_raw.id_offsets(build_config("unused").sizes())


@pytest.fixture(scope="module")
def small_dir(generate, tmp_path_factory):
    """Returns raw files of several chunks, 800 impressions in groups of 4 on average."""
    return generate(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def log_config(tmp_path_factory):
    """Returns Ali-CCP's settings, but for its conversions and anomalies, which would be few."""
    return command.SyntheticConfig(
        output_dir=str(tmp_path_factory.mktemp("log")),
        format="ali_ccp_raw",
        num_impressions=40_000,
        cardinality_scale=0.02,
        conversion_rate=0.2,
        label_anomaly_rate=0.01,
    )


@pytest.fixture(scope="module")
def log(log_config):
    """Returns the rows of 40,000 impressions, by split and by sample id."""
    command.generate(log_config)
    directory = pathlib.Path(log_config.output_dir)
    offsets = ali_ccp_raw.id_offsets(log_config.sizes())
    return {split: read_raw(directory, split, offsets) for split in SPLITS}


@pytest.fixture(scope="module")
def rows(log):
    return [row for split in SPLITS for row in log[split].values()]


@pytest.fixture(scope="module")
def values(rows):
    """Returns the values of each field, as ids and weights, and the number of its rows."""
    contexts = {row.index: row.context for row in rows}
    triples = collections.defaultdict(list)
    for features in (*contexts.values(), *(row.features for row in rows)):
        for name, number, weight in features:
            triples[name].append((number, weight))
    sizes = {"context": len(contexts), "impression": len(rows)}
    return {
        field.name: (
            np.fromiter((number for number, _ in triples[field.name]), np.int64),
            np.fromiter((weight for _, weight in triples[field.name]), np.float32),
            sizes[field.side],
        )
        for field in fields.FIELDS
    }


@pytest.fixture(scope="module")
def larger_world():
    """Returns impression groups of a world larger than that of the log."""
    config = command.SyntheticConfig(output_dir="unused", cardinality_scale=0.05)
    shop = exposure.Shop(config.truth(), config.sizes(), seed=1)
    return [shop.draw(np.random.default_rng(chunk), 256) for chunk in range(2)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_line_has_the_format_of_tianchi(small_dir, split, kind):
    content = (small_dir / f"{kind}_{split}.csv").read_bytes()

    header, lines = b"", content.split(b"\n")
    if kind == "oracle":
        header, *lines = lines
    assert header == (b"sample_id,oracle_pctr,oracle_pcvr" if kind == "oracle" else b"")
    assert lines.pop() == b""
    assert len(lines) > 20
    for line in lines:
        match = re.fullmatch(LINES[kind], line)
        assert match, line
        if kind != "oracle":
            assert match["features"].count(b"\x01") + 1 == int(match["number"])


def test_nothing_but_the_six_files_is_written(small_dir):
    expected = {f"{kind}_{split}.csv" for kind in KINDS for split in SPLITS}

    assert {path.name for path in small_dir.iterdir()} == expected


def test_plain_ids_have_the_value_1_and_counts_their_logarithm_in_at_most_9_digits(small_dir):
    found = set()
    for kind in ("sample_skeleton", "common_features"):
        content = (small_dir / f"{kind}_train.csv").read_text()
        found |= set(re.findall(r"(\d+(?:_14)?)\x02\d+\x03([\d.]+)", content))

    plain = {value for name, value in found if name not in WEIGHTED}
    weights = {value for name, value in found if name in WEIGHTED}
    assert plain == {"1.0"}
    assert {"0.6931472", "1.0986123"} <= weights
    assert max(len(weight.lstrip("0.").replace(".", "")) for weight in weights) <= 9


def test_samples_are_numbered_from_1_over_both_files(log):
    samples = sorted(sample for split in SPLITS for sample in log[split])

    assert samples == list(range(1, 40_001))


def test_every_context_has_one_common_row_with_an_index_of_its_own(log_config, log):
    directory = pathlib.Path(log_config.output_dir)
    found = collections.Counter(
        line[:16] for split in SPLITS for line in read_lines(directory, f"common_features_{split}")
    )

    assert set(found.values()) == {1}
    assert set(found) == {row.index for split in SPLITS for row in log[split].values()}


def test_a_context_keeps_its_index_beyond_the_size_of_a_record(rows, log_config):
    sizes = collections.Counter(row.index for row in rows)

    # A geometric variable of mean 57.9 has about the same standard deviation.
    mean = np.mean(list(sizes.values()))
    assert mean == pytest.approx(57.9, abs=4 * 57.9 / np.sqrt(len(sizes)))
    assert max(sizes.values()) > 3 * log_config.max_group_size


def test_rows_of_a_context_usually_stand_together_but_not_always(log):
    samples = np.array(list(log["train"]))
    indices = [row.index for row in log["train"].values()]

    displaced = np.mean(samples < np.maximum.accumulate(samples))

    assert displaced == pytest.approx(0.01, abs=0.003)
    assert len(set(indices)) < runs(indices) < 2 * len(set(indices))


def test_common_rows_have_an_order_of_their_own(small_dir):
    common = [line[:16] for line in read_lines(small_dir, "common_features_train")]
    skeleton = [line.split(",")[3] for line in read_lines(small_dir, "sample_skeleton_train")]
    in_order = list(dict.fromkeys(skeleton))

    assert set(common) == set(in_order)
    assert common != in_order
    # Each of the chunks is shuffled by itself.
    assert set(common[:40]) <= set(in_order[:GROUPS_AT_ONCE])


@pytest.mark.parametrize("field", fields.FIELDS, ids=lambda field: field.name)
def test_rows_have_as_many_values_of_a_field_as_in_ali_ccp(values, field):
    ids, _, num_rows = values[field.name]

    mean = len(ids) / num_rows

    assert mean == pytest.approx(field.mean_values, rel=CROSS_TOLERANCE.get(field.name, 0.15))


@pytest.mark.parametrize("field", fields.FIELDS, ids=lambda field: field.name)
def test_a_larger_world_has_as_many_values_too(larger_world, field):
    rows = [{**groups.context, **groups.impressions}[field.name] for groups in larger_world]

    mean = np.concatenate([row.lengths for row in rows]).mean()

    assert mean == pytest.approx(field.mean_values, rel=CROSS_TOLERANCE.get(field.name, 0.15))


@pytest.mark.parametrize("name", [*world.PROFILE_FIELDS, "216"])
def test_fields_are_missing_as_often_as_in_ali_ccp(values, name):
    ids, _, num_rows = values[name]

    assert len(ids) / num_rows == pytest.approx(fields.BY_NAME[name].mean_values, abs=0.025)


@pytest.mark.parametrize("name", ["101", "205", "206", "207", "301"])
def test_single_fields_have_exactly_one_value_a_row(rows, name):
    side = "context" if name == "101" else "features"

    assert {sum(f == name for f, *_ in getattr(row, side)[:30]) for row in rows[:5000]} == {1}


def test_no_field_has_two_equal_values_in_a_row(rows):
    for row in rows[:5000]:
        assert len({triple[:2] for triple in row.features}) == len(row.features)
    for context in {row.index: row.context for row in rows}.values():
        assert len({triple[:2] for triple in context}) == len(context)


def test_distinct_ids_are_those_of_the_world(log_config, values):
    schema = command.build_schema(log_config.sizes())

    for feature in schema.features:
        ids, _, _ = values[feature.name]
        assert ids.min() >= 0, feature.name
        assert ids.max() < feature.column.vocabulary_size, feature.name
    assert len(np.unique(values["206"][0])) > log_config.sizes()["206"] / 3


@pytest.mark.parametrize(("behaviour", "shown"), [(b, s) for b, (s, _) in world.BEHAVIOURS.items()])
def test_more_ids_are_visited_than_shown_as_in_ali_ccp(log_config, values, behaviour, shown):
    known, sizes = fields.BY_NAME, log_config.sizes()
    ratio = known[behaviour].distinct_ids / known[shown].distinct_ids

    # A log so small shows fewer of the shops that it could than it has visits to.
    found = [len(np.unique(values[name][0])) for name in (behaviour, shown)]

    assert ratio / 1.8 < found[0] / found[1] < ratio * 1.8
    assert values[behaviour][0].max() >= 0.99 * ratio * sizes[shown]


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_are_logarithms_of_counts(values, name):
    weights = np.unique(values[name][1])

    counts = np.rint(np.expm1(weights.astype(np.float64))).astype(np.int64)

    assert counts.min() == 1
    assert counts.max() > 3
    np.testing.assert_array_equal(np.log1p(counts).astype(np.float32), weights)


def test_clicks_and_conversions_are_as_frequent_as_asked_for(rows):
    click = np.array([row.click for row in rows])
    conversion = np.array([row.conversion for row in rows])

    assert click.mean() == pytest.approx(fields.CLICK_RATE, rel=0.1)
    assert conversion[click == 1].mean() == pytest.approx(0.2, rel=0.1)


def test_as_many_conversions_as_asked_for_have_no_click(rows):
    assert sum(row.conversion > row.click for row in rows) == 400


def test_popularity_of_items_follows_zipf(values):
    counts = np.sort(np.bincount(values["205"][0]))[::-1]
    ranks = np.arange(10, 300)

    slope, _ = np.polyfit(np.log(ranks), np.log(counts[ranks - 1]), 1)

    assert slope == pytest.approx(-1, abs=0.1)


def test_splits_have_the_shares_asked_for(log):
    # 690 groups of geometric size: a share of .2 has a standard error of about .02.
    assert len(log["test"]) / 40_000 == pytest.approx(0.2, abs=0.05)
    assert len(log["train"]) + len(log["test"]) == 40_000


def test_raw_files_hold_the_log_that_records_of_the_same_seed_hold(
    generate, small_dir, tmp_path, offsets
):
    records_dir = generate(tmp_path, format="tfrecord")
    for split, splits in (("train", ("train", "validation")), ("test", ("test",))):
        raw = read_raw(small_dir, split, offsets)

        direct = read_records(records_dir, splits)

        assert len(raw) == len(direct) > 100
        assert collections.Counter(
            dataclasses.replace(row, index="") for row in raw.values()
        ) == collections.Counter(direct)


def test_samples_are_in_the_order_of_the_records(generate, tmp_path, offsets):
    whole = {"validation_share": 0.0, "test_share": 0.0}
    raw_dir = generate(tmp_path / "raw", **whole)
    records_dir = generate(tmp_path / "records", format="tfrecord", **whole)

    raw = read_raw(raw_dir, "train", offsets)

    in_order = [dataclasses.replace(raw[sample], index="") for sample in range(1, 801)]
    assert in_order == read_records(records_dir, ["train"])
    assert not list(raw_dir.glob("*_test*"))


def test_anomalies_change_conversions_of_unclicked_rows_and_nothing_else(
    generate, small_dir, tmp_path
):
    changed_dir = generate(tmp_path, label_anomaly_rate=0.05)
    changed = 0
    for split in SPLITS:
        for kind in ("oracle", "common_features"):
            name = f"{kind}_{split}.csv"
            assert (changed_dir / name).read_bytes() == (small_dir / name).read_bytes()
        before = read_lines(small_dir, f"sample_skeleton_{split}")
        after = read_lines(changed_dir, f"sample_skeleton_{split}")
        for old, new in zip(before, after, strict=True):
            if old != new:
                assert old.replace(",0,0,", ",0,1,", 1) == new
                changed += 1

    assert changed == 40


def test_no_more_rows_are_anomalies_than_have_no_click(generate, tmp_path):
    generate(tmp_path, num_impressions=300, label_anomaly_rate=0.99)

    labels = [
        line.split(",")[1:3]
        for split in SPLITS
        for line in read_lines(tmp_path, f"sample_skeleton_{split}")
    ]
    assert {conversion for click, conversion in labels if click == "0"} == {"1"}


def test_without_a_rate_no_conversion_lacks_its_click(small_dir):
    for split in SPLITS:
        lines = read_lines(small_dir, f"sample_skeleton_{split}")
        assert not [line for line in lines if line.split(",")[1:3] == ["0", "1"]]


def test_the_default_rate_is_that_of_ali_ccp():
    config = command.SyntheticConfig(output_dir="unused")

    assert config.label_anomaly_rate * 42_300_135 == pytest.approx(230)
    assert config.format == "tfrecord"


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(generate, small_dir, tmp_path):
    again = read_bytes(generate(tmp_path / "again"))
    other = read_bytes(generate(tmp_path / "other", seed=2))

    before = read_bytes(small_dir)
    assert again == before
    assert all(other[name] != before[name] for name in before)


def test_compressed_files_hold_the_same_bytes(generate, small_dir, tmp_path):
    generate(tmp_path, compressed=True)

    found = {path.name: gzip.decompress(path.read_bytes()) for path in tmp_path.iterdir()}
    assert found == {f"{name}.gz": content for name, content in read_bytes(small_dir).items()}


def test_finished_files_are_not_replaced_unasked(generate, small_dir):
    before = read_bytes(small_dir)

    with pytest.raises(UserError, match=r"_train.csv.* exists already. .* --overwrite."):
        generate(small_dir)

    assert read_bytes(small_dir) == before


def test_wrong_settings_leave_finished_files_as_they_are(generate, small_dir):
    before = read_bytes(small_dir)

    with pytest.raises(UserError, match=r"--click_rate is 2.0. Give a number in \(0, 1\)."):
        generate(small_dir, click_rate=2.0, overwrite=True)

    assert read_bytes(small_dir) == before


def test_replaced_files_leave_none_of_the_old_ones(generate, tmp_path):
    generate(tmp_path, num_impressions=50)

    generate(tmp_path, num_impressions=50, test_share=0.0, overwrite=True)

    assert {path.name for path in tmp_path.iterdir()} == {f"{kind}_train.csv" for kind in KINDS}


def test_an_interrupted_run_leaves_no_file_with_a_final_name(generate, tmp_path, monkeypatch):
    draw = exposure.Shop.draw
    calls = []

    def draw_once(shop, *args):
        calls.append(args)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return draw(shop, *args)

    monkeypatch.setattr(exposure.Shop, "draw", draw_once)

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path)

    assert len(list(tmp_path.glob("*.csv.tmp"))) == 6
    assert not list(tmp_path.glob("*.csv"))


def test_the_command_says_what_it_wrote(generate, tmp_path, capsys):
    generate(tmp_path, num_impressions=1_000, mean_group_size=50.0)

    assert capsys.readouterr().out == f"wrote 1,000 impressions to {tmp_path}\n"


def test_another_format_is_refused():
    message = r"--format is 'csv'. Use one of 'tfrecord', 'ali_ccp_raw'."

    with pytest.raises(UserError, match=message):
        build_config("unused", format="csv")


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_the_rate_of_anomalies_lies_between_0_and_1(rate):
    message = rf"--label_anomaly_rate is {rate}. Give a number in \[0, 1\)."

    with pytest.raises(UserError, match=message):
        build_config("unused", label_anomaly_rate=rate)


def test_fields_have_blocks_of_raw_ids_and_fields_of_the_same_ids_the_same_block():
    sizes = {"101": 500, "205": 400, "206": 30, "207": 200, "216": 100, "210": 60}

    offsets = ali_ccp_raw.id_offsets(sizes)

    # User, eight profile fields (97 + 13 + 2 + 7 + 3 + 3 + 2 + 4 ids), item, and all that are
    # visited: 43 categories, 828 shops, 188 brands, 60 nodes.
    first = {"101": 1, "121": 501, "122": 598, "205": 632, "206": 1_032, "207": 1_075}
    first |= {"216": 1_903, "210": 2_091, "301": 2_151}
    assert {name: offsets[name] for name in first} == first
    for behaviour, (item, cross) in world.BEHAVIOURS.items():
        assert offsets[behaviour] == offsets[item] == offsets[cross]
    assert set(offsets) == set(fields.BY_NAME)


def test_context_indices_are_16_digits_different_for_each_context_and_seed():
    indices = ali_ccp_raw.context_indices(0, 10_000, seed=1)
    others = ali_ccp_raw.context_indices(0, 10_000, seed=2)

    later = ali_ccp_raw.context_indices(4_000, 10, seed=1)

    assert len({*indices, *others}) == 20_000
    assert all(re.fullmatch("[0-9a-f]{16}", index) for index in indices)
    assert later.tolist() == indices[4_000:4_010].tolist()


def test_the_schema_of_ali_ccp_is_that_of_simulated_records_but_for_columns_keys_and_truth():
    schema = toml_file.load_schema(SCHEMA)
    simulated = command.build_schema(build_config("unused").sizes())

    columns = [feature.column for feature in simulated.features]
    as_simulated = tuple(
        dataclasses.replace(feature, column=column)
        for feature, column in zip(schema.features, columns, strict=True)
    )
    assert as_simulated == simulated.features
    assert schema.tables == simulated.tables
    assert (schema.labels, schema.group_key) == (simulated.labels, simulated.group_key)
    assert schema.carry == ("sample_id", *simulated.carry)
    assert [(key.name, key.side, key.dtype) for key in schema.keys] == [
        ("sample_id", "impression", "int64"),
        ("common_feature_index", "context", "string"),
    ]
    assert not schema.oracle


@pytest.mark.parametrize("field", fields.FIELDS, ids=lambda field: field.name)
def test_the_schema_of_ali_ccp_has_more_buckets_than_a_field_has_ids(field):
    schema = toml_file.load_schema(SCHEMA)

    feature = schema.field(field.name)

    assert (feature.side, feature.values, feature.weighted) == (
        field.side,
        field.values,
        field.weighted,
    )
    assert feature.column.hash_buckets > 1.5 * field.distinct_ids
