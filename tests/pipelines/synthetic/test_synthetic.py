"""Simulated logs: a data set with the rates, sizes and truth that were asked for."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from esmm_pipelines.ali_ccp import fields
from esmm_pipelines.synthetic import command, shop, world
from esmm_pipelines.synthetic import log as simulated_log
from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn, manifest, parsing
from esmm_tf.data.source import check_schema, find_source
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file

pytestmark = pytest.mark.slow

SPLITS = ("train", "validation", "test")


def build_config(output_dir, **changes):
    settings = {
        "output_dir": str(output_dir),
        "num_impressions": 2_000,
        "cardinality_scale": 0.002,
        "click_rate": 0.2,
        "conversion_rate": 0.3,
        "mean_group_size": 20.0,
        "num_shards": 1,
    }
    return command.SyntheticConfig(**(settings | changes))


def read_groups(directory, split):
    """Returns the groups of a split, each a mapping from record key to array."""
    found = manifest.load_manifest(str(directory))
    files = [str(directory / shard.file) for shard in found.splits[split]]
    serialized = tf.data.TFRecordDataset(files).as_numpy_iterator()
    return [decode(example) for example in serialized]


def decode(serialized):
    features = tf.train.Example.FromString(serialized).features.feature
    return {
        key: np.array(getattr(value, value.WhichOneof("kind")).value)
        for key, value in features.items()
    }


def column(groups, key):
    return np.concatenate([group[key] for group in groups])


def rows(group, name, lengths):
    """Returns the (id, weight) pairs of each impression."""
    ids = group.get(name, np.array([])).tolist()
    weights = group.get(f"{name}:weight", np.ones(len(ids))).tolist()
    pairs = iter(zip(ids, weights, strict=True))
    return [list(itertools.islice(pairs, length)) for length in lengths]


def read_files(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.tfrecord")}


def deviations_by_decile(truth, labels):
    """Returns how many standard errors each decile's rate lies from its mean probability."""
    order = np.argsort(truth)
    parts = zip(np.array_split(truth[order], 10), np.array_split(labels[order], 10), strict=True)
    return [
        (label.mean() - p.mean()) / np.sqrt((p * (1 - p)).mean() / len(p)) for p, label in parts
    ]


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    """Returns a log of 30,000 impressions with a calibration as in production."""
    directory = tmp_path_factory.mktemp("log")
    changes = {"num_impressions": 30_000, "cardinality_scale": 0.02, "num_shards": 2}
    command.generate(build_config(directory, **changes))
    return directory


@pytest.fixture(scope="module")
def log(log_dir):
    return [group for split in SPLITS for group in read_groups(log_dir, split)]


@pytest.fixture(scope="module")
def generate():
    """Returns a function that writes a small log; its shop is calibrated roughly, but fast."""

    def write(output_dir, **changes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shop, "_PILOT_GROUPS", 10)
            patch.setattr(simulated_log, "_GROUPS_AT_ONCE", 64)
            command.generate(build_config(output_dir, **changes))
        return output_dir

    return write


@pytest.fixture(scope="module")
def small_dir(generate, tmp_path_factory):
    return generate(tmp_path_factory.mktemp("small"))


def test_the_log_has_exactly_the_impressions_asked_for(log_dir, log):
    found = manifest.load_manifest(str(log_dir))

    assert sum(found.impressions(split) for split in SPLITS) == 30_000
    assert len(column(log, "click")) == 30_000
    assert found.rejected == {}
    assert found.source["command"] == "esmm_pipelines.synthetic"
    assert found.source["num_impressions"] == 30_000


def test_the_command_says_what_it_wrote(generate, tmp_path, capsys):
    generate(tmp_path, num_impressions=1_000)

    assert capsys.readouterr().out == f"wrote 1,000 impressions to {tmp_path}\n"


def test_rates_of_the_log_are_those_asked_for(log):
    click, conversion = column(log, "click"), column(log, "conversion")

    assert click.mean() == pytest.approx(0.2, rel=0.1)
    assert conversion.sum() / click.sum() == pytest.approx(0.3, rel=0.1)


def test_a_conversion_implies_a_click(log):
    assert (column(log, "conversion") <= column(log, "click")).all()


def test_the_true_click_probability_is_calibrated_in_every_decile(log):
    deviations = deviations_by_decile(column(log, "oracle_pctr"), column(log, "click"))

    assert np.abs(deviations).max() < 4


def test_the_true_conversion_probability_is_calibrated_in_every_decile_of_clicks(log):
    clicked = column(log, "click") == 1
    truth, conversion = column(log, "oracle_pcvr")[clicked], column(log, "conversion")[clicked]

    deviations = deviations_by_decile(truth, conversion)

    assert np.abs(deviations).max() < 4


def test_the_truth_varies_as_its_strength_says(log):
    logits = [np.log(p / (1 - p)) for p in (column(log, "oracle_pctr"), column(log, "oracle_pcvr"))]

    assert logits[0].std() == pytest.approx(1, abs=0.15)
    assert logits[1].std() == pytest.approx(1, abs=0.15)


def test_ids_stay_below_the_sizes_that_the_schema_states(log, log_dir):
    schema = toml_file.load_schema(str(log_dir / "schema.toml"))

    for feature in schema.features:
        values = np.concatenate([group.get(feature.name, []) for group in log])
        assert values.min() >= 0, feature.name
        assert values.max() < feature.column.vocabulary_size, feature.name


@pytest.mark.parametrize("name", world.BEHAVIOURS)
def test_behaviours_hold_as_many_values_as_in_ali_ccp(log, name):
    counts = [len(group.get(name, [])) for group in log]

    assert np.mean(counts) == pytest.approx(fields.BY_NAME[name].mean_values, rel=0.1)


@pytest.mark.parametrize("name", world.PROFILE_FIELDS)
def test_profile_fields_are_missing_as_often_as_in_ali_ccp(log, name):
    present = [len(group.get(name, [])) for group in log]

    assert set(present) == {0, 1}
    assert np.mean(present) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("behaviour", "shown", "cross"), [(b, s, c) for b, (s, c) in world.BEHAVIOURS.items()]
)
def test_cross_fields_are_the_overlaps_of_an_item_with_the_behaviours(log, behaviour, shown, cross):
    found, expected = [], []
    for group in log[:500]:
        size = len(group["click"])
        visited = dict(rows(group, behaviour, [len(group.get(behaviour, []))])[0])
        items = rows(group, shown, group.get(f"{shown}:lengths", [1] * size))
        expected += [[(i, visited[i]) for i, _ in item if i in visited] for item in items]
        found += rows(group, cross, group[f"{cross}:lengths"])

    assert any(found)
    assert found == expected


def test_groups_are_cut_at_the_size_asked_for_inside_one_split(generate, tmp_path):
    directory = generate(tmp_path, max_group_size=3)

    sizes, contexts = {}, {}
    for split in SPLITS:
        groups = read_groups(directory, split)
        sizes[split] = [len(group["click"]) for group in groups]
        contexts[split] = {(g["101"][0], *g["109_14:weight"], *g["110_14"]) for g in groups}
    assert max(itertools.chain(*sizes.values())) == 3
    assert len(contexts["train"]) < len(sizes["train"]) / 3
    assert not contexts["train"] & contexts["test"]
    assert not contexts["train"] & contexts["validation"]


def test_no_group_exceeds_the_default_size(log):
    assert max(len(group["click"]) for group in log) == 64


def test_splits_have_the_shares_asked_for(log_dir):
    found = manifest.load_manifest(str(log_dir))

    # 1,500 groups of geometric size: a share of .2 has a standard error of about .015.
    assert found.impressions("validation") / 30_000 == pytest.approx(0.1, abs=0.03)
    assert found.impressions("test") / 30_000 == pytest.approx(0.2, abs=0.04)


def test_a_split_without_a_share_is_not_written(generate, tmp_path):
    generate(tmp_path, validation_share=0.0, test_share=0.0)

    found = manifest.load_manifest(str(tmp_path))

    assert list(found.splits) == ["train"]
    assert found.impressions("train") == 2_000


def test_the_same_seed_writes_the_same_bytes(generate, small_dir, tmp_path):
    again = generate(tmp_path)

    assert len(read_files(again)) == 3
    assert read_files(again) == read_files(small_dir)


def impressions(directory, split):
    """Returns what stands in the log of each impression but its context, a line of text each."""
    schema = toml_file.load_schema(str(directory / "schema.toml"))
    found = []
    for group in read_groups(directory, split):
        columns = [group[key].tolist() for key in ("click", "conversion", "oracle_pctr")]
        size = len(columns[0])
        for feature in schema.side_features("impression"):
            lengths = group.get(f"{feature.name}:lengths", np.ones(size, np.int64))
            columns.append(rows(group, feature.name, lengths))
        columns.append([group["101"].tolist()] * size)
        found += [repr(values) for values in zip(*columns, strict=True)]
    return found


KEEP_RATE = 0.25


@pytest.fixture(scope="module")
def sampled_dir(generate, tmp_path_factory):
    """Returns the log of `small_dir` with less unclicked impressions."""
    return generate(tmp_path_factory.mktemp("sampled"), negative_keep_rate=KEEP_RATE)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_clicked_impressions_are_kept_and_a_share_of_the_others(small_dir, sampled_dir, split):
    before = collections.Counter(impressions(small_dir, split))

    after = collections.Counter(impressions(sampled_dir, split))

    assert after <= before
    left_out = before - after
    assert all(line.startswith("(0, 0, ") for line in left_out)
    negatives = sum(count for line, count in before.items() if line.startswith("(0, 0, "))
    kept = negatives - left_out.total()
    error = np.sqrt(negatives * KEEP_RATE * (1 - KEEP_RATE))
    assert abs(kept - KEEP_RATE * negatives) < 4 * error
    assert manifest.load_manifest(str(sampled_dir)).sampled_out[split] == left_out.total()


def test_the_test_is_not_sampled(small_dir, sampled_dir):
    name = "test-00000-of-00001.tfrecord"

    assert read_files(sampled_dir)[name] == read_files(small_dir)[name]
    assert manifest.load_manifest(str(sampled_dir)).sampled_out.keys() == {"train", "validation"}


def test_a_sampled_log_says_how_much_it_leaves_out(generate, small_dir, tmp_path, capsys):
    generate(tmp_path, negative_keep_rate=KEEP_RATE)

    found = manifest.load_manifest(str(tmp_path))
    written = sum(found.impressions(split) for split in SPLITS)
    assert found.negative_keep_rate == {"train": KEEP_RATE, "validation": KEEP_RATE}
    assert written + sum(found.sampled_out.values()) == 2_000
    expected = [f"wrote {written:,} impressions to {tmp_path}"]
    for split in ("train", "validation"):
        shards = manifest.load_manifest(str(small_dir)).splits[split]
        unclicked = sum(shard.impressions - shard.clicks for shard in shards)
        expected.append(
            f"left out {found.sampled_out[split]:,} of {unclicked:,} unclicked impressions of "
            f"{split} (--negative_keep_rate=0.25)"
        )
    assert capsys.readouterr().out.splitlines() == expected


def test_a_sampled_log_depends_on_its_seed_alone(generate, sampled_dir, tmp_path):
    again = generate(tmp_path / "again", negative_keep_rate=KEEP_RATE)
    other = generate(tmp_path / "other", negative_keep_rate=KEEP_RATE, seed=2)

    assert read_files(again) == read_files(sampled_dir)
    assert read_files(other).items().isdisjoint(read_files(sampled_dir).items())


def test_groups_are_cut_after_impressions_are_left_out(generate, tmp_path):
    generate(tmp_path, negative_keep_rate=KEEP_RATE, mean_group_size=200.0, max_group_size=10)

    sizes = [len(group["click"]) for group in read_groups(tmp_path, "train")]

    assert max(sizes) == 10
    assert np.mean(np.array(sizes) == 10) > 0.7


@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_a_keep_rate_is_a_probability_above_0(rate):
    message = f"--negative_keep_rate is {rate}. Give a probability above 0, at most 1"

    with pytest.raises(UserError, match=message):
        build_config("unused", negative_keep_rate=rate)


def test_raw_files_are_not_sampled():
    message = (
        "--negative_keep_rate is 0.5, and raw files hold the whole log. Give it to "
        "esmm_pipelines.ali_ccp, which reads them, or give --format=tfrecord."
    )

    with pytest.raises(UserError, match=message):
        build_config("unused", format="ali_ccp_raw", negative_keep_rate=0.5)


def test_another_seed_writes_another_log(generate, small_dir, tmp_path):
    other = generate(tmp_path, seed=2)

    before, after = read_files(small_dir), read_files(other)
    assert all(before[name] != after[name] for name in before)


def test_a_longer_log_of_the_same_world_begins_with_the_shorter_one(generate, tmp_path):
    # So chunks are drawn independently, and what is held at once does not grow with the log.
    # A chunk is 64 groups, here of 2 impressions on average.
    settings = {"mean_group_size": 2.0, "max_group_size": 1}
    short = read_files(generate(tmp_path / "short", num_impressions=200, **settings))
    long = read_files(generate(tmp_path / "long", num_impressions=400, **settings))

    assert len(short) == 3
    for name, content in short.items():
        assert long[name].startswith(content), name
        assert len(long[name]) > len(content), name


def test_input_fn_parses_the_log_with_its_own_schema(small_dir):
    groups = read_groups(small_dir, "train")
    schema = toml_file.load_schema(str(small_dir / "schema.toml"))
    source = find_source(str(small_dir), split="train")
    check_schema(source, schema)

    batches = list(input_fn.build_dataset(source, schema, InputConfig(batch_size=512)))

    items = np.concatenate([batch.features["205"].values for batch in batches])
    labels = np.concatenate([batch.labels["click"] for batch in batches])
    truth = np.concatenate([batch.oracle["oracle_pcvr"] for batch in batches])
    assert manifest.load_manifest(str(small_dir)).schema_hash == schema.record_hash()
    assert len(batches) > 1
    np.testing.assert_array_equal(items, column(groups, "205"))
    np.testing.assert_array_equal(labels, column(groups, "click"))
    np.testing.assert_array_equal(truth, column(groups, "oracle_pcvr").astype(np.float32))


def test_neither_truth_nor_labels_are_inputs_of_the_model(small_dir):
    schema = toml_file.load_schema(str(small_dir / "schema.toml"))
    serialized = list(tf.data.TFRecordDataset(str(next(small_dir.glob("train-*")))))

    inputs = parsing.parse_groups(tf.stack(serialized), schema).features

    weighted = ["109_14", "110_14", "127_14", "150_14", "508", "509", "702", "853"]
    expected = {*fields.BY_NAME, *(f"{name}:weight" for name in weighted), "group_index"}
    assert set(inputs) == expected


@pytest.mark.parametrize(("behaviour", "shown"), [(b, s) for b, (s, _) in world.BEHAVIOURS.items()])
def test_a_behaviour_shares_the_embedding_of_what_was_visited(behaviour, shown):
    schema = command.build_schema(build_config("unused").sizes())

    assert schema.field(behaviour).table_name == schema.field(shown).table_name == shown
    assert schema.field(behaviour).num_rows == schema.field(shown).num_rows


@pytest.mark.parametrize("shown", ["206", "207", "216", "210"])
def test_embedding_tables_have_room_for_what_is_visited_and_never_shown(shown):
    config = build_config("unused", cardinality_scale=1.0)
    behaviour = next(b for b, (field, _) in world.BEHAVIOURS.items() if field == shown)

    column = command.build_schema(config.sizes()).field(shown).column

    assert column.vocabulary_size == fields.BY_NAME[behaviour].distinct_ids


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Users, items, shops and brands follow the scale; categories and nodes its square root.
        ({"cardinality_scale": 0.01}, (2_958, 32_064, 863, 6_147, 2_110, 9_871)),
        ({"cardinality_scale": 1.0}, (295_787, 3_206_396, 8_627, 614_739, 210_973, 98_714)),
        # A tenth of Ali-CCP's impressions is the scale .1.
        (
            {"cardinality_scale": 0.0, "num_impressions": 4_230_014},
            (29_579, 320_640, 2_728, 61_474, 21_097, 31_216),
        ),
        # Never fewer than 100.
        ({"cardinality_scale": 1e-9}, (100, 100, 100, 100, 100, 100)),
    ],
)
def test_the_size_of_the_world_follows_its_scale(changes, expected):
    sizes = build_config("unused", **changes).sizes()

    assert sizes == dict(zip(("101", "205", "206", "207", "216", "210"), expected, strict=True))


def test_a_finished_log_is_not_replaced_unasked(generate, small_dir):
    with pytest.raises(UserError, match=r"already holds a data set. .* --overwrite."):
        generate(small_dir)


def test_wrong_settings_leave_a_finished_log_as_it_is(generate, small_dir):
    before = read_files(small_dir)

    with pytest.raises(UserError, match=r"--click_rate is 2.0. Give a number in \(0, 1\)."):
        generate(small_dir, click_rate=2.0, overwrite=True)

    assert read_files(small_dir) == before
    assert manifest.load_manifest(str(small_dir)).impressions("train") > 0


@pytest.mark.parametrize("name", ["num_impressions", "max_group_size", "num_shards"])
def test_sizes_are_at_least_1(name):
    with pytest.raises(UserError, match=f"--{name} is 0. Give at least 1."):
        build_config("unused", **{name: 0})


@pytest.mark.parametrize("name", ["validation_share", "test_share", "seed", "cardinality_scale"])
def test_shares_scale_and_seed_are_not_negative(name):
    message = "Shares, --cardinality_scale and --seed must be 0 or more."

    with pytest.raises(UserError, match=message):
        build_config("unused", **{name: -1})


def test_something_is_left_to_train_on():
    message = "--validation_share and --test_share leave nothing to train on."

    with pytest.raises(UserError, match=message):
        build_config("unused", validation_share=0.5, test_share=0.5)


def test_defaults_have_the_rates_of_ali_ccp():
    config = command.SyntheticConfig(output_dir="unused")

    truth = dataclasses.asdict(config.truth())

    assert (truth["click_rate"], truth["conversion_rate"]) == (0.0389, 0.00535)
    assert truth["mean_group_size"] == 57.9
