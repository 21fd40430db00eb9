"""Raw files of Ali-CCP to records: nothing lost, nothing mixed up, everything bad accounted for."""

import collections
import dataclasses
import itertools
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet
import pytest
import tensorflow as tf
from ali_ccp_files import (
    compress,
    context,
    impression,
    join_tokens,
    pack,
    raw_tokens,
    read_groups,
    read_rejected,
    read_shards,
    record_tokens,
    to_bytes,
)

from esmm_pipelines.ali_ccp import command as ali_ccp
from esmm_pipelines.ali_ccp import raw_files, rows
from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.grouping.config import DataSetConfig
from esmm_pipelines.synthetic import command as synthetic
from esmm_pipelines.synthetic import log, shop
from esmm_tf.config import flags
from esmm_tf.config.serving import ExportConfig
from esmm_tf.config.training import InputConfig, ModelConfig, OptimizerConfig, TrainConfig
from esmm_tf.data import manifest
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.methods import load_method
from esmm_tf.schema import toml_file
from esmm_tf.serving import exporter
from esmm_tf.training import model_directory, trained_model

pytestmark = pytest.mark.slow

SPARK = pytest.param("spark", marks=pytest.mark.spark)
SIMULATED = {
    "num_impressions": 3_000,
    "cardinality_scale": 0.01,
    "click_rate": 0.2,
    "conversion_rate": 0.3,
    "mean_group_size": 10.0,
    "label_anomaly_rate": 0.0,
    "validation_share": 0.0,
    "num_shards": 1,
}
PARTS = ("train", "test")


def paths(directory, *, oracle=False, endings=("csv", "csv")):
    """Returns the settings that name the six files of a directory."""
    settings = {}
    for part, ending, prefix in zip(PARTS, endings, ("", "test_"), strict=True):
        settings[f"{prefix}skeleton"] = (f"{directory}/sample_skeleton_{part}.{ending}",)
        settings[f"{prefix}common_features"] = (f"{directory}/common_features_{part}.{ending}",)
        if oracle:
            settings[f"{prefix}oracle"] = (f"{directory}/oracle_{part}.csv",)
    return settings


def convert(config, output_dir, *, engine=None, **changes):
    """Writes a data set from raw files and returns its directory."""
    ali_ccp.convert(
        ali_ccp.AliCcpConfig(**config),
        DataSetConfig(output_dir=str(output_dir), **({"num_shards": 2} | changes)),
        engine or EngineConfig(),
    )
    return output_dir


def run(capsys, config, output_dir, **changes):
    """Returns the exit code of the command and what it says of the error."""
    settings = config | {"output_dir": str(output_dir)} | changes
    values = {
        name: ",".join(value) if isinstance(value, tuple) else value
        for name, value in settings.items()
    }
    argv = ["ali_ccp", *(f"--{name}={value}" for name, value in values.items())]
    with pytest.raises(SystemExit) as stopped:
        flags.run(ali_ccp.convert, ali_ccp.AliCcpConfig, DataSetConfig, EngineConfig, argv=argv)
    return stopped.value.code, capsys.readouterr().err


def engine_config(name):
    if name == "duckdb":
        return EngineConfig()
    few = ("spark.sql.shuffle.partitions=2",)
    return EngineConfig(engine=name, master="local[2]", spark_conf=few)


def to_multiset(groups):
    return collections.Counter((g.split, json.dumps(g.entries, default=repr)) for g in groups)


def generate(output_dir, **changes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop, "_PILOT_GROUPS", 10)
        config = log.SyntheticConfig(output_dir=str(output_dir), **(SIMULATED | changes))
        synthetic.generate(config)
    return output_dir


# ---------------------------------------------------------------------------- a simulated log


@pytest.fixture(scope="module")
def raw_dir(tmp_path_factory):
    """Returns raw files of 3,000 impressions, with their truth."""
    return generate(tmp_path_factory.mktemp("raw"), format="ali_ccp_raw")


@pytest.fixture(scope="module")
def simulated(raw_dir):
    """Returns the settings that read them."""
    return {
        **paths(raw_dir, oracle=True),
        "vocabulary_min_count": 3,
        "validation_share": 0.2,
    }


@pytest.fixture(scope="module")
def data_sets(simulated, tmp_path_factory):
    """Returns a function of an engine's name: the data set that it makes of the raw files."""
    made = {}

    def make(name):
        if name not in made:
            directory = tmp_path_factory.mktemp(name) / "data"
            made[name] = convert(simulated, directory, engine=engine_config(name), max_group_size=8)
        return made[name]

    return make


@pytest.fixture(scope="module")
def data_dir(data_sets):
    return data_sets("duckdb")


@pytest.fixture(scope="module")
def groups(data_dir):
    return read_groups(data_dir)


@pytest.mark.parametrize("engine", ["duckdb", SPARK])
def test_every_token_of_the_raw_files_is_in_the_records(raw_dir, data_sets, engine):
    directory = data_sets(engine)
    schema = toml_file.load_schema(str(directory / "schema.toml"))
    groups = read_groups(directory)
    for part, splits in (("train", ("train", "validation")), ("test", ("test",))):
        raw = raw_tokens(raw_dir, part)

        found = record_tokens([g for g in groups if g.split in splits], schema)

        assert raw.total() > 10_000
        assert found == raw
    assert not (directory / "rejected").exists()
    assert manifest.load_manifest(str(directory)).rejected == {}


@pytest.mark.parametrize("engine", [SPARK])
def test_both_engines_write_the_same_groups_and_vocabularies(data_sets, groups, data_dir, engine):
    other = data_sets(engine)

    assert to_multiset(read_groups(other)) == to_multiset(groups)
    for path in data_dir.glob("vocabularies/*.txt"):
        assert (other / "vocabularies" / path.name).read_bytes() == path.read_bytes()
    assert (other / "schema.toml").read_bytes() == (data_dir / "schema.toml").read_bytes()


def test_labels_are_those_of_the_raw_files(raw_dir, groups):
    raw = {}
    for part in PARTS:
        for line in (raw_dir / f"sample_skeleton_{part}.csv").read_text().splitlines():
            sample, click, conversion, index, *_ = line.split(",")
            raw[int(sample)] = (index, int(click), int(conversion))

    found = {
        sample: (group.index, click, conversion)
        for group in groups
        for sample, click, conversion in zip(
            *(group.entries[key] for key in ("sample_id", "click", "conversion")), strict=True
        )
    }

    assert found == raw
    assert len(found) == 3_000


def test_labels_and_truth_are_those_of_records_simulated_directly(groups, tmp_path):
    keys = ("click", "conversion", "oracle_pctr", "oracle_pcvr")
    direct = read_groups(generate(tmp_path / "direct"))
    for splits in (("train", "validation"), ("test",)):
        expected = [
            row
            for group in direct
            if group.split in splits
            for row in zip(*(group.entries[key] for key in keys), strict=True)
        ]

        # Samples are numbered as they are drawn, and one shard keeps that order.
        found = sorted(
            row
            for group in groups
            if group.split in splits
            for row in zip(*(group.entries[key] for key in ("sample_id", *keys)), strict=True)
        )

        assert [row[1:] for row in found] == expected
        assert len(expected) > 300


def test_groups_have_one_context_and_at_most_the_size_asked_for(raw_dir, groups):
    samples = collections.defaultdict(list)
    for group in groups:
        assert 1 <= len(group) <= 8
        assert len(group.entries["common_feature_index"]) == 1
        samples[group.index].append(len(group))

    lines = [
        line.split(",")[3]
        for part in PARTS
        for line in (raw_dir / f"sample_skeleton_{part}.csv").read_text().splitlines()
    ]
    sizes = collections.Counter(lines)
    assert {index: sum(parts) for index, parts in samples.items()} == sizes
    assert all(sorted(parts)[1:] == [8] * (len(parts) - 1) for parts in samples.values())
    # Some rows stand apart from the others of their context.
    assert 1 + sum(a != b for a, b in itertools.pairwise(lines)) > len(sizes)


def test_contexts_are_divided_between_training_and_validation_and_the_test_stays(raw_dir, groups):
    contexts = collections.defaultdict(set)
    for group in groups:
        contexts[group.split].add(group.index)

    tested = {
        line.split(",")[0]
        for line in (raw_dir / "common_features_test.csv").read_text().splitlines()
    }
    assert contexts["test"] == tested
    assert not contexts["train"] & contexts["validation"]
    share = len(contexts["validation"]) / (len(contexts["train"]) + len(contexts["validation"]))
    assert share == pytest.approx(0.2, abs=0.1)  # of about 240 contexts: 4 standard errors


def test_the_order_is_shuffled_across_shards(raw_dir, groups):
    position = {
        line.split(",")[0]: place
        for place, line in enumerate(
            (raw_dir / "sample_skeleton_train.csv").read_text().split("\n")
        )
    }
    places = [
        position[str(group.entries["sample_id"][0])] for group in groups if group.split == "train"
    ]

    correlation = np.corrcoef(places, np.arange(len(places)))[0, 1]

    assert abs(correlation) < 0.3


def test_vocabularies_hold_what_is_frequent_in_the_training_split(data_dir, groups):
    schema = toml_file.load_schema(str(data_dir / "schema.toml"))
    counts = collections.defaultdict(collections.Counter)
    for group in (group for group in groups if group.split == "train"):
        for feature in schema.features:
            times = len(group) if feature.side == "context" else 1
            for number in group.entries.get(feature.name, []):
                counts[feature.table_name][number] += times
    for feature in schema.features:
        ordered = sorted(counts[feature.table_name].items(), key=lambda item: (-item[1], item[0]))
        expected = [number for number, count in ordered if count >= 3]

        text = pathlib.Path(feature.column.file).read_text(encoding="utf-8")

        assert [int(line) for line in text.splitlines()] == expected, feature.name
        assert feature.num_rows == len(expected) + (2 if feature.missing == "embed" else 1)
    tested = {n for group in groups if group.split != "train" for n in group.entries["205"]}
    assert tested - set(counts["205"])  # so that counting them, too, would have been noticed
    visited, shown = (pathlib.Path(schema.field(name).column.file) for name in ("109_14", "206"))
    assert visited.read_bytes() == shown.read_bytes()


def test_the_manifest_tells_settings_counts_and_unused_contexts(data_dir, groups):
    found = manifest.load_manifest(str(data_dir))

    assert sum(found.impressions(split) for split in found.splits) == 3_000
    assert sum(len(split) for split in found.splits.values()) == 6
    assert found.source["command"] == "esmm_pipelines.ali_ccp"
    assert found.source["vocabulary_min_count"] == 3
    assert found.source["max_group_size"] == 8
    assert found.source["unused_contexts"] == 0
    records = {split: sum(shard.records for shard in of) for split, of in found.splits.items()}
    assert records == collections.Counter(group.split for group in groups)


def test_a_model_of_the_records_is_exported_with_their_vocabularies(data_dir, groups, tmp_path):
    """Some features suffice; on all of them a model is trained where methods are compared."""
    whole = toml_file.load_schema(str(data_dir / "schema.toml"))
    features = [whole.field(name) for name in ("101", "121", "205", "206", "109_14")]
    used = {feature.table_name for feature in features}
    tables = tuple(table for table in whole.tables if table.name in used)
    schema = dataclasses.replace(whole, features=tuple(features), tables=tables)
    left_out = {feature.name for feature in whole.features} - {f.name for f in features}
    with DataSetWriter(str(tmp_path / "data"), schema) as writer:
        entries = groups[0].entries.items()
        writer.write(
            "test", {key: v for key, v in entries if key.partition(":")[0] not in left_out}
        )
    model_dir = str(tmp_path / "model")
    settings = model_directory.Settings(
        train=TrainConfig(train_files=str(tmp_path / "data"), model_dir=model_dir),
        model=ModelConfig(embedding_dim=2, hidden_units=(4,)),
        optimizer=OptimizerConfig(),
        input=InputConfig(),
    )
    model = load_method(settings.method.method).build(schema, settings.model)
    model_directory.save_settings(settings, schema, model_dir)
    weights = os.path.join(model_dir, model_directory.WEIGHTS)
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), weights, max_to_keep=1).save()
    trained = trained_model.load_model(model_dir)

    config = ExportConfig(
        model_dir=model_dir, export_dir=str(tmp_path / "export"), batch_sizes=(1,)
    )
    exported = pathlib.Path(exporter.export(trained, config))

    assets = {path.read_bytes() for path in (exported / "assets").iterdir()}
    assert assets == {pathlib.Path(f.column.file).read_bytes() for f in features}
    assert len(assets) == len(used) == 4  # 109_14 shares that of 206
    assert {pathlib.Path(f.column.file) for f in whole.features} == {
        *(data_dir / "vocabularies").iterdir()
    }
    assert len(whole.features) == 23


# ---------------------------------------------------------------------------- packing and seeds


def test_packed_files_and_patterns_give_the_same_bytes(raw_dir, simulated, data_dir, tmp_path):
    """Training files in one archive, as Tianchi ships them; those of the test are compressed."""
    train = {
        path.name: path.read_bytes()
        for path in raw_dir.glob("*_train.csv")
        if not path.name.startswith("oracle")
    }
    (tmp_path / "train.tar.gz").write_bytes(pack(train))
    lines = (raw_dir / "sample_skeleton_test.csv").read_bytes().splitlines(keepends=True)
    for place in range(2):
        half = lines[: len(lines) // 2] if place == 0 else lines[len(lines) // 2 :]
        (tmp_path / f"sample_{place}.csv.gz").write_bytes(compress(b"".join(half)))
    common = (raw_dir / "common_features_test.csv").read_bytes()
    (tmp_path / "common.gz").write_bytes(compress(common))
    packed = {
        "skeleton": (str(tmp_path / "train.tar.gz"),),
        "common_features": (str(tmp_path / "train.tar.gz"),),
        "test_skeleton": (str(tmp_path / "sample_*.csv.gz"),),
        "test_common_features": (str(tmp_path / "common.gz"),),
    }

    convert(simulated | packed, tmp_path / "data", max_group_size=8)

    assert read_shards(tmp_path / "data") == read_shards(data_dir)


def test_another_seed_gives_another_order_and_another_split(simulated, groups, tmp_path):
    others = read_groups(convert(simulated, tmp_path / "data", max_group_size=8, seed=2))

    for split in ("validation", "test"):
        order, other_order = (
            [group.index for group in found if group.split == split] for found in (groups, others)
        )
        assert order != other_order
        assert (set(order) == set(other_order)) == (split == "test")
    assert sum(len(group) for group in others) == 3_000


# ---------------------------------------------------------------------------- negative sampling

KEEP_RATE = 0.3


@pytest.fixture(scope="module")
def sampled(simulated, tmp_path_factory):
    """Returns a function of an engine's name: a data set with less unclicked impressions."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = convert(
                simulated,
                tmp_path_factory.mktemp(name) / "data",
                engine=engine_config(name),
                max_group_size=8,
                negative_keep_rate=KEEP_RATE,
            )
        return made[name]

    return make


def labels_by_sample(groups, *splits):
    """Returns {(split, sample): (click, conversion)}."""
    return {
        (group.split, sample): labels
        for group in groups
        if group.split in splits
        for sample, *labels in zip(
            *(group.entries[key] for key in ("sample_id", "click", "conversion")), strict=True
        )
    }


def test_clicked_impressions_are_kept_and_a_share_of_the_others(groups, sampled):
    directory = sampled("duckdb")
    found = manifest.load_manifest(str(directory))
    assert found.negative_keep_rate == {"train": KEEP_RATE, "validation": KEEP_RATE}
    for split in ("train", "validation"):
        before = labels_by_sample(groups, split)
        negatives = {sample for sample, labels in before.items() if labels == [0, 0]}

        after = labels_by_sample(read_groups(directory), split)

        assert before.items() >= after.items()
        left_out = before.keys() - after.keys()
        assert left_out <= negatives
        mean, error = KEEP_RATE * len(negatives), np.sqrt(len(negatives) * KEEP_RATE * 0.7)
        assert abs(len(negatives - left_out) - mean) < 4 * error
        assert found.sampled_out[split] == len(left_out)


def test_the_test_is_not_sampled(groups, sampled):
    after = [group for group in read_groups(sampled("duckdb")) if group.split == "test"]

    assert after
    assert to_multiset(after) == to_multiset(g for g in groups if g.split == "test")


def test_groups_are_cut_after_impressions_are_left_out(sampled):
    by_index = collections.defaultdict(list)
    for group in read_groups(sampled("duckdb")):
        by_index[group.split, group.index].append(len(group))

    assert any(len(sizes) > 1 for sizes in by_index.values())
    assert all(sum(size < 8 for size in sizes) <= 1 for sizes in by_index.values())


def test_vocabularies_hold_what_is_frequent_among_what_is_kept(sampled):
    schema = toml_file.load_schema(str(sampled("duckdb") / "schema.toml"))
    groups = [group for group in read_groups(sampled("duckdb")) if group.split == "train"]
    for name in ("205", "101"):  # of an impression, and of a context
        counts = collections.Counter()
        for group in groups:
            times = len(group) if schema.field(name).side == "context" else 1
            counts.update(dict.fromkeys(group.entries[name], 0))
            for number in group.entries[name]:
                counts[number] += times

        text = pathlib.Path(schema.field(name).column.file).read_text(encoding="utf-8")

        expected = {number for number, count in counts.items() if count >= 3}
        assert {int(line) for line in text.splitlines()} == expected


@pytest.mark.parametrize("engine", [SPARK])
def test_both_engines_keep_the_same_impressions(sampled, engine):
    first, second = sampled("duckdb"), sampled(engine)

    assert to_multiset(read_groups(second)) == to_multiset(read_groups(first))
    counts = [manifest.load_manifest(str(directory)).sampled_out for directory in (first, second)]
    assert counts[0] == counts[1]


def test_the_seed_decides_which_impressions_are_kept(simulated, tmp_path):
    config = simulated | {"validation_share": 0.0}
    first, again, other = (
        convert(
            config,
            tmp_path / name,
            seed=seed,
            max_group_size=8,
            negative_keep_rate=KEEP_RATE,
        )
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )

    kept = {of: labels_by_sample(read_groups(of), "train").keys() for of in (first, other)}
    assert read_shards(first) == read_shards(again)
    assert kept[first] != kept[other]
    assert read_shards(first) != read_shards(other)


# ---------------------------------------------------------------------------- bad rows

TRUTH = "sample_id,oracle_pctr,oracle_pcvr\n"
FILES = {
    "common_features_train.csv": [
        context("aa", user=1, more=[("109_14", 50, "0.5"), ("109_14", 51, "1.5")]),
        context("bb", user=2),
        context("aa", user=3),  # repeated
        context("cc", user=4),  # unused
        f"dd,{join_tokens([('121', 5, '1.0')])}\n",  # no user
        context("ee", user=6),
        "ff,1\n",
        context("ff", user=7),  # its first row is broken: this one counts
    ],
    "sample_skeleton_train.csv": [
        impression(1, "aa", item=11),
        impression(2, "bb", item=12, click=1),
        impression(3, "aa", item=13, click=1, conversion=1),
        "4,0,0,aa\n",
        impression(5, "zz"),  # no context
        impression(6, "aa", item=16, conversion=1),  # an anomaly
        impression(7, "bb", more=[("508", 1, "nan")]),
        impression(8, "dd", item=18),  # its context was rejected
        "\n",
        impression(10, "ee", item=20, more=[("508", 1, "0.25")]).replace("\n", "\r\n"),
        impression(11, "aa").encode().replace(b"aa", b"\xff\xfe"),
        impression(12, "aa", more=[("999", 1, "1.0")]),
        impression(13, "bb", item=23),
        impression(14, "ff", item=24),
        impression(15, "aa", item=25),  # no truth
        impression(16, "aa", item=26),  # no probability
        impression(17, "aa").removesuffix("\n"),
    ],
    "common_features_test.csv": [context("aa", user=99)],
    "sample_skeleton_test.csv": [impression(1, "aa", item=31), impression(2, "bb")],
    "oracle_train.csv": [
        TRUTH,
        *(f"{n},0.5,{n / 100}\n" for n in range(1, 15)),
        "16,1.5,0.5\n",
        "17,0.5,0.5\n",
    ],
    "oracle_test.csv": [TRUTH, "1,0.25,0.75\n", "2,0.25,0.75\n"],
}
COMMON_REJECTED = [
    ("common_features_train.csv", 3, "common index is repeated"),
    ("common_features_train.csv", 5, "field 101 is missing"),
    ("common_features_train.csv", 7, "wrong number of columns"),
]
BROKEN = {
    4: "wrong number of columns",
    7: "a value is not finite",
    9: "wrong number of columns",
    11: "not UTF-8",
    12: "a field is not in the schema",
    17: raw_files.NO_LINE_END,
}


@pytest.fixture(scope="module")
def messy_dir(tmp_path_factory):
    """Returns raw files in which everything is wrong that can be."""
    directory = tmp_path_factory.mktemp("messy")
    for name, lines in FILES.items():
        (directory / name).write_bytes(to_bytes(lines))
    return directory


@pytest.fixture(scope="module")
def strict_dir(messy_dir, tmp_path_factory):
    """Returns what becomes of them by default, read in many small pieces."""
    config = paths(messy_dir, oracle=True) | {"vocabulary_min_count": 2, "validation_share": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_files, "_PIECE_BYTES", 50)
        return convert(config, tmp_path_factory.mktemp("strict") / "data", max_rejected=1.0)


@pytest.fixture(scope="module")
def lenient_dir(messy_dir, tmp_path_factory):
    """Returns what becomes of them if as much is kept as can be, under their hash columns."""
    config = paths(messy_dir) | {
        "hash": True,
        "label_anomalies": "keep",
        "missing_contexts": "keep",
        "ignore_fields": ("999",),
        "validation_share": 0.0,
    }
    return convert(config, tmp_path_factory.mktemp("lenient") / "data", max_rejected=1.0)


def summarize(directory):
    """Returns {(split, common index): (user, [(sample, item, click, conversion), ...])}."""
    return {
        (group.split, group.index): (
            group.entries.get("101", [None])[0],
            list(
                zip(
                    *(group.entries[key] for key in ("sample_id", "205", "click", "conversion")),
                    strict=True,
                )
            ),
        )
        for group in read_groups(directory)
    }


def test_every_rejected_row_is_listed_with_file_line_and_reason(strict_dir):
    reasons = BROKEN | {
        5: "common index has no row",
        6: "conversion without click",
        8: "common index has no row",
        15: "its truth is not known",
        16: "its truth is not known",
    }

    assert read_rejected(strict_dir) == [
        *COMMON_REJECTED,
        *(("sample_skeleton_train.csv", line, reasons[line]) for line in sorted(reasons)),
        ("sample_skeleton_test.csv", 2, "common index has no row"),
    ]


def test_rejected_rows_are_counted_by_reason_and_unused_contexts_too(strict_dir):
    found = manifest.load_manifest(str(strict_dir))

    assert found.rejected == collections.Counter(
        reason for _, _, reason in read_rejected(strict_dir)
    )
    assert found.source["unused_contexts"] == 1


def test_sound_rows_among_bad_ones_make_whole_groups(strict_dir):
    assert summarize(strict_dir) == {
        ("train", "aa"): (1, [(1, 11, 0, 0), (3, 13, 1, 1)]),
        ("train", "bb"): (2, [(2, 12, 1, 0), (13, 23, 0, 0)]),
        ("train", "ee"): (6, [(10, 20, 0, 0)]),
        ("train", "ff"): (7, [(14, 24, 0, 0)]),
        ("test", "aa"): (99, [(1, 31, 0, 0)]),
    }
    group = next(g for g in read_groups(strict_dir) if (g.split, g.index) == ("train", "aa"))
    assert group.entries["109_14"] == [50, 51]
    assert group.entries["109_14:weight"] == [0.5, 1.5]


def test_parts_with_the_same_index_and_sample_have_their_own_truth(strict_dir):
    truth = {
        (group.split, sample): (pctr, pcvr)
        for group in read_groups(strict_dir)
        for sample, pctr, pcvr in zip(
            *(group.entries[key] for key in ("sample_id", "oracle_pctr", "oracle_pcvr")),
            strict=True,
        )
    }

    assert truth["train", 1] == (0.5, float(np.float32(0.01)))
    assert truth["train", 13] == (0.5, float(np.float32(0.13)))
    assert truth["test", 1] == (0.25, 0.75)


def test_ids_only_of_the_test_or_of_rejected_rows_are_in_no_vocabulary(strict_dir):
    schema = toml_file.load_schema(str(strict_dir / "schema.toml"))

    users = pathlib.Path(schema.field("101").column.file).read_text().split()
    scenes = pathlib.Path(schema.field("301").column.file).read_text().split()

    assert users == ["1", "2"]  # 2 impressions each; those of users 6 and 7 are one, below 2
    assert scenes == ["9"]
    # No item was shown twice: the table keeps its column.
    assert schema.field("205").column.hash_buckets == 5_000_000


def test_rows_without_a_context_or_a_user_and_anomalies_can_be_kept(lenient_dir):
    assert read_rejected(lenient_dir) == [
        *(row for row in COMMON_REJECTED if row[2] != "field 101 is missing"),
        *(
            ("sample_skeleton_train.csv", line, reason)
            for line, reason in BROKEN.items()
            if line != 12
        ),
    ]
    assert summarize(lenient_dir) == {
        ("train", "aa"): (
            1,
            [
                (1, 11, 0, 0),
                (3, 13, 1, 1),
                (6, 16, 0, 1),
                (12, 5, 0, 0),
                (15, 25, 0, 0),
                (16, 26, 0, 0),
            ],
        ),
        ("train", "bb"): (2, [(2, 12, 1, 0), (13, 23, 0, 0)]),
        ("train", "dd"): (None, [(8, 18, 0, 0)]),
        ("train", "ee"): (6, [(10, 20, 0, 0)]),
        ("train", "ff"): (7, [(14, 24, 0, 0)]),
        ("train", "zz"): (None, [(5, 5, 0, 0)]),
        ("test", "aa"): (99, [(1, 31, 0, 0)]),
        ("test", "bb"): (None, [(2, 5, 0, 0)]),
    }


def test_sampling_leaves_rejections_and_anomalies_as_they_are(messy_dir, lenient_dir, tmp_path):
    config = paths(messy_dir) | {
        "hash": True,
        "label_anomalies": "keep",
        "missing_contexts": "keep",
        "ignore_fields": ("999",),
        "validation_share": 0.0,
    }

    directory = convert(config, tmp_path / "data", max_rejected=1.0, negative_keep_rate=1e-6)

    assert summarize(directory) == {
        ("train", "aa"): (1, [(3, 13, 1, 1), (6, 16, 0, 1)]),
        ("train", "bb"): (2, [(2, 12, 1, 0)]),
        ("test", "aa"): (99, [(1, 31, 0, 0)]),
        ("test", "bb"): (None, [(2, 5, 0, 0)]),
    }
    before, after = (manifest.load_manifest(str(of)) for of in (lenient_dir, directory))
    assert after.sampled_out == {"train": 9}
    assert after.rejected == before.rejected
    assert after.source["unused_contexts"] == before.source["unused_contexts"]
    assert read_rejected(directory) == read_rejected(lenient_dir)


def test_groups_without_a_user_are_told_apart_by_their_common_index(lenient_dir):
    schema = toml_file.load_schema(str(lenient_dir / "schema.toml"))

    assert schema.group_key == "common_feature_index"
    assert schema.field("101").values == "optional"
    assert schema.carry == ("sample_id", "205")


def test_hash_keeps_the_columns_of_the_schema(lenient_dir):
    shipped = toml_file.load_schema(ali_ccp.AliCcpConfig(skeleton="s", common_features="c").schema)
    schema = toml_file.load_schema(str(lenient_dir / "schema.toml"))

    assert [f.column for f in schema.features] == [f.column for f in shipped.features]
    assert not (lenient_dir / "vocabularies").exists()
    assert not schema.oracle


def test_anomalies_can_end_the_job(messy_dir, tmp_path):
    config = paths(messy_dir) | {"label_anomalies": "fail"}
    message = r"1 rows have a conversion and no click. Mend them, or give --label_anomalies=drop"

    with pytest.raises(UserError, match=message):
        convert(config, tmp_path / "data", max_rejected=1.0)

    assert not (tmp_path / "data" / "manifest.json").exists()


def test_too_many_rejected_rows_end_the_command_with_code_2(messy_dir, tmp_path, capsys):
    code, message = run(capsys, paths(messy_dir), tmp_path / "data", max_rejected=0.2)

    assert code == 2
    assert message.startswith("error: 13 of 28 rows were rejected, a share of 0.46, and")
    assert "wrong number of columns (3)" in message
    assert "rejected/rows.csv" in message
    assert "Traceback" not in message
    assert os.listdir(tmp_path / "data") == ["rejected"]
    assert len(read_rejected(tmp_path / "data")) == 13


def test_a_compressed_file_cut_short_is_read_up_to_there(tmp_path):
    for name, lines in (
        ("sample_skeleton", [impression(n, "aa") for n in range(5)]),
        ("common_features", [context("aa")]),
    ):
        (tmp_path / f"{name}.csv.gz").write_bytes(compress(to_bytes(lines))[:-3])
    config = {
        "skeleton": (str(tmp_path / "sample_skeleton.csv.gz"),),
        "common_features": (str(tmp_path / "common_features.csv.gz"),),
        "hash": True,
        "validation_share": 0.0,
    }

    convert(config, tmp_path / "data", max_rejected=0.5)

    assert read_rejected(tmp_path / "data") == [
        ("common_features.csv.gz", 2, raw_files.CUT_SHORT),
        ("sample_skeleton.csv.gz", 6, raw_files.CUT_SHORT),
    ]
    assert len(read_groups(tmp_path / "data")[0]) == 5


# ---------------------------------------------------------------------------- interruptions


@pytest.fixture
def small(tmp_path):
    """Returns the settings of a log of 40 contexts with 2 impressions each, and one bad row."""
    common = [context(f"c{n}", user=n) for n in range(40)]
    skeleton = [impression(n, f"c{n % 40}", item=n % 7) for n in range(80)]
    (tmp_path / "common.csv").write_bytes(to_bytes(common))
    (tmp_path / "skeleton.csv").write_bytes(to_bytes([*skeleton, "bad\n"]))
    return {
        "skeleton": (str(tmp_path / "skeleton.csv"),),
        "common_features": (str(tmp_path / "common.csv"),),
        "hash": True,
    }


@pytest.fixture
def spill(tmp_path):
    """Returns an empty directory for what the engine spills."""
    directory = tmp_path / "spill"
    directory.mkdir()
    return directory


def test_an_interrupted_writing_leaves_no_data_set_and_the_same_command_completes_it(
    small, spill, tmp_path, monkeypatch
):
    write = DataSetWriter.write
    written = []

    def fail(writer, split, group):
        written.append(split)
        if len(written) > 20:
            raise RuntimeError("the plug is pulled")
        write(writer, split, group)

    engine = EngineConfig(temp_dir=str(spill))
    with monkeypatch.context() as patch:
        patch.setattr(DataSetWriter, "write", fail)
        with pytest.raises(RuntimeError, match="the plug is pulled"):
            convert(small, tmp_path / "data", engine=engine, max_rejected=0.1)
    left = os.listdir(tmp_path / "data")

    convert(small, tmp_path / "data", engine=engine, max_rejected=0.1)

    assert "manifest.json" not in left
    assert not [name for name in left if name.endswith(".tfrecord")]
    assert sum(len(group) for group in read_groups(tmp_path / "data")) == 80
    assert not list((tmp_path / "data").glob("*.tmp"))
    assert os.listdir(spill) == []


KILLED_WHILE_WRITING = """
import os, signal, sys
import esmm_tf.startup
from esmm_pipelines.ali_ccp import command
from esmm_tf.data.writer import DataSetWriter

write = DataSetWriter.write

def kill_midway(writer, split, group):
    write(writer, split, group)
    if writer.num_impressions > 40:
        os.kill(os.getpid(), signal.SIGKILL)

DataSetWriter.write = kill_midway
command.run()
"""


def test_a_killed_run_leaves_no_data_set_and_the_same_command_completes_it(
    small, tmp_path, monkeypatch
):
    command = [
        "ali_ccp",
        f"--skeleton={small['skeleton'][0]}",
        f"--common_features={small['common_features'][0]}",
        "--hash",
        "--max_rejected=0.1",
        "--num_shards=2",
        f"--output_dir={tmp_path / 'data'}",
        f"--temp_dir={tmp_path}",
    ]
    monkeypatch.setattr("sys.argv", command)

    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, *command[1:]], check=False)
    left = os.listdir(tmp_path / "data")
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("esmm_pipelines.ali_ccp", run_name="__main__")

    assert killed.returncode == -signal.SIGKILL
    assert [name for name in left if name.endswith(".tmp")]
    assert not [name for name in left if name.endswith((".tfrecord", ".json"))]
    assert sum(len(group) for group in read_groups(tmp_path / "data")) == 80
    assert not list((tmp_path / "data").glob("*.tmp"))


def test_a_finished_data_set_is_replaced_only_if_asked(small, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")

    with pytest.raises(UserError, match=r"already holds a data set.* --overwrite"):
        convert(small, tmp_path / "data", max_rejected=0.1)
    assert os.listdir(tmp_path / "data") == ["manifest.json"]

    convert(small, tmp_path / "data", max_rejected=0.1, overwrite=True)
    assert sum(len(group) for group in read_groups(tmp_path / "data")) == 80


def test_an_interruption_while_parsing_leaves_nothing_behind(small, spill, tmp_path, monkeypatch):
    parse = rows.parse_piece

    def interrupt(piece, *args, **settings):
        yield from parse(piece, *args, **settings)
        if piece.side == "impression":
            raise KeyboardInterrupt

    monkeypatch.setattr(ali_ccp, "parse_piece", interrupt)

    with pytest.raises(KeyboardInterrupt):
        convert(small, tmp_path / "data", engine=EngineConfig(temp_dir=str(spill)))

    assert os.listdir(spill) == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("full", ["records", "rejected rows", "spilled rows"])
def test_a_full_disk_ends_the_command_with_code_2(
    small, spill, tmp_path, monkeypatch, capsys, full
):
    """Linux's /dev/full fails as a full disk does."""
    if full == "records":
        writer = tf.io.TFRecordWriter
        monkeypatch.setattr(tf.io, "TFRecordWriter", lambda _path, kind: writer("/dev/full", kind))
    elif full == "rejected rows":
        (tmp_path / "data" / "rejected").mkdir(parents=True)
        (tmp_path / "data" / "rejected" / "rows.csv.tmp").symlink_to("/dev/full")
    else:
        parquet = pyarrow.parquet.ParquetWriter
        monkeypatch.setattr(
            pyarrow.parquet, "ParquetWriter", lambda _path, *a, **k: parquet("/dev/full", *a, **k)
        )

    code, message = run(
        capsys, small, tmp_path / "data", max_rejected=0.1, temp_dir=spill, num_shards=1
    )

    assert code == 2
    assert message.startswith("error: ")
    assert "No space left on device" in message
    assert not (tmp_path / "data" / "manifest.json").exists()
    assert os.listdir(spill) == []


# ---------------------------------------------------------------------------- settings and files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_anomalies": "mend"}, "--label_anomalies is 'mend'. Use one of drop, keep, fail."),
        ({"missing_contexts": "drop"}, "--missing_contexts is 'drop'. Use one of reject, keep."),
        ({"skeleton": ()}, "--skeleton and --common_features each need a file."),
        ({"test_skeleton": ("a",)}, "--test_skeleton and --test_common_features belong together."),
        (
            {"test_skeleton": ("a",), "test_common_features": ("b",), "oracle": ("c",)},
            "--oracle and --test_oracle belong together.",
        ),
        ({"validation_share": 1.0}, "--validation_share is 1.0. Give 0 to below 1."),
        ({"validation_share": -0.1}, "--validation_share is -0.1. Give 0 to below 1."),
        ({"vocabulary_min_count": 0}, "--vocabulary_min_count is 0. Give at least 1."),
    ],
)
def test_wrong_settings_are_told(changes, message):
    settings = {"skeleton": ("s",), "common_features": ("c",)} | changes

    with pytest.raises(UserError) as error:
        ali_ccp.AliCcpConfig(**settings)

    assert str(error.value) == message


def test_a_missing_file_is_told_before_anything_is_read(small, tmp_path, capsys):
    missing = str(tmp_path / "missing.csv")

    code, message = run(capsys, small | {"skeleton": (missing,)}, tmp_path / "data")

    assert (code, message) == (2, f"error: {missing!r} is not a file. Check the path.\n")
    assert not (tmp_path / "data").exists()


def test_an_archive_without_the_member_is_told(small, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(pack({"other.csv": b""}))
    config = small | {"common_features": (str(tmp_path / "a.tar.gz"),)}

    with pytest.raises(
        UserError, match=r"has no file named '\*common_features\*'. It has \['other"
    ):
        convert(config, tmp_path / "data")


def test_empty_files_are_told(tmp_path):
    for name in ("skeleton", "common"):
        (tmp_path / name).write_bytes(b"")
    config = {
        "skeleton": (str(tmp_path / "skeleton"),),
        "common_features": (str(tmp_path / "common"),),
    }

    with pytest.raises(UserError, match=r"The raw files are empty. Check --skeleton"):
        convert(config, tmp_path / "data")


def test_a_schema_with_a_float_feature_is_refused(small, schema, tmp_path):
    features = tuple(f for f in schema.features if f.name in ("user", "price"))
    changed = dataclasses.replace(schema, features=features, tables=(), carry=())
    toml_file.save_schema(changed, str(tmp_path), "schema.toml")

    with pytest.raises(UserError, match=r"Feature 'price' has dtype 'float32'. Ali-CCP's ids are"):
        convert(small | {"schema": str(tmp_path / "schema.toml")}, tmp_path / "data")
