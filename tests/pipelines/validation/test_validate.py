"""The command: a healthy data set passes, and each kind of damage is found and told."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from esmm_pipelines import validate
from esmm_pipelines.validation import statistics
from esmm_pipelines.validation.findings import ThresholdConfig
from esmm_tf.config import flags
from esmm_tf.data import records
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.schema import columns, toml_file
from esmm_tf.schema import schema as schema_lib

NUM_GROUPS = 400
SIZE = 5
HASHED = columns.HashBucketColumn(hash_buckets=100)
SCHEMA = schema_lib.Schema(
    name="shop",
    features=(
        schema_lib.Feature(name="user", side="context", dtype="int64", column=HASHED),
        schema_lib.Feature(
            name="brand", side="impression", dtype="string", values="optional", column=HASHED
        ),
        schema_lib.Feature(
            name="price", side="impression", dtype="float32", column=columns.NumericColumn()
        ),
        schema_lib.Feature(
            name="tags", side="impression", dtype="int64", values="many", column=HASHED
        ),
    ),
)


def draw_group(rng):
    """Returns a group whose labels depend on nothing."""
    click = (rng.random(SIZE) < 0.3).astype(np.int64)
    lengths = rng.integers(0, 4, SIZE)
    present = (rng.random(SIZE) < 0.8).astype(np.int64)
    return {
        "user": rng.integers(0, 50, 1),
        "brand": np.array([f"brand {v}" for v in rng.integers(0, 6, present.sum())], object),
        "brand:lengths": present,
        "price": rng.lognormal(size=SIZE),
        "tags": rng.integers(0, 20, lengths.sum()),
        "tags:lengths": lengths,
        "click": click,
        "conversion": click * (rng.random(SIZE) < 0.4),
    }


def write(directory, *, change=lambda group: group, splits=("train",), schema=SCHEMA, **settings):
    """Writes 2,000 impressions a split and returns the directory."""
    rng = np.random.default_rng(17)
    with DataSetWriter(str(directory), schema, num_shards=2, **settings) as writer:
        for split in splits:
            for _ in range(NUM_GROUPS):
                writer.write(split, change(draw_group(rng)))
    return directory


def run(*args):
    """Returns the exit code of the command."""
    with pytest.raises(SystemExit) as stop:
        flags.run(
            validate.main,
            validate.ValidateConfig,
            ThresholdConfig,
            argv=["command", *(f"--{arg}" for arg in args)],
        )
    return stop.value.code


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return write(tmp_path_factory.mktemp("healthy") / "data", splits=("train", "test"))


@pytest.fixture(scope="module")
def healthy_json(healthy, tmp_path_factory):
    """Returns the statistics of `healthy`, which are read faster than its records."""
    path = tmp_path_factory.mktemp("healthy") / "statistics.json"
    run(f"data_dir={healthy}", "leaks=false", f"output={path}")
    return path


@pytest.fixture
def found(tmp_path):
    """Returns a function that runs the command and returns its exit code and findings."""

    def validate_data(directory, *args):
        path = tmp_path / "found.json"
        code = run(f"data_dir={directory}", f"output={path}", *args)
        tree = json.loads(path.read_text(encoding="utf-8"))
        return code, [(f["kind"], f["subject"], f["message"]) for f in tree["findings"]]

    return validate_data


def kinds(findings):
    return [(kind, subject) for kind, subject, _ in findings]


def test_a_healthy_data_set_ends_with_code_0(healthy, capsys):
    code = run(f"data_dir={healthy}")

    output = capsys.readouterr().out
    assert code == 0
    assert output.endswith("\n\nno findings\n")
    assert f"{healthy} (train)" in output


def test_the_table_has_a_row_for_each_feature(healthy, capsys):
    run(f"data_dir={healthy}", "leaks=false")

    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert rows["impressions"] == ["impressions", "2,000"]
    assert rows["user"][1:5] == ["context", "int64", "400", "100.00%"]
    assert rows["brand"][1:4] == ["impression", "string", "2,000"]
    assert "+-" in rows["price"]


@pytest.mark.parametrize(
    ("args", "impressions", "name"),
    [
        ([], 2_000, "train"),
        (["split=test"], 2_000, "test"),
        (["split=all"], 4_000, "test, train"),
    ],
)
def test_a_split_or_all_of_them_are_read(healthy, tmp_path, args, impressions, name):
    path = tmp_path / "statistics.json"

    run(f"data_dir={healthy}", "leaks=false", f"output={path}", *args)

    described = statistics.load_json(str(path))
    assert described.labels.impressions == impressions
    assert described.files == f"{healthy} ({name})"


def test_without_a_split_train_all_are_read(tmp_path):
    write(tmp_path / "data", splits=("monday", "tuesday"))
    path = tmp_path / "statistics.json"

    run(f"data_dir={tmp_path / 'data'}", "leaks=false", f"output={path}")

    assert statistics.load_json(str(path)).labels.impressions == 4_000


def test_another_split_of_the_same_data_set_can_be_the_baseline(healthy, found, capsys):
    code, findings = found(healthy, "split=test", "baseline_split=train", "leaks=false")

    assert (code, findings) == (0, [])
    assert f"differences from {healthy} (train)" in capsys.readouterr().out


def test_the_json_of_an_earlier_run_can_be_the_baseline(healthy, healthy_json, tmp_path, found):
    dear = write(tmp_path / "dear", change=lambda g: g | {"price": g["price"] * 3})

    code, findings = found(healthy, "split=test", f"baseline={healthy_json}", "leaks=false")
    dear_code, dear_findings = found(dear, f"baseline={healthy_json}", "leaks=false")

    assert (code, findings) == (0, [])
    assert (dear_code, kinds(dear_findings)) == (1, [("drift", "price")])


def test_the_json_holds_differences_and_aucs(healthy, tmp_path):
    path = tmp_path / "statistics.json"

    run(f"data_dir={healthy}", "baseline_split=test", f"output={path}")

    tree = json.loads(path.read_text(encoding="utf-8"))
    assert tree["format_version"] == 1
    assert tree["differences"]["baseline"] == f"{healthy} (test)"
    assert [f["name"] for f in tree["differences"]["features"]] == [f.name for f in SCHEMA.features]
    assert 0.3 < tree["features"][0]["aucs"]["ctr_auc"] < 0.7


def test_a_conversion_without_a_click_is_found(tmp_path, found):
    def unnest(group):
        return group | {"conversion": np.maximum(group["conversion"], [1, 0, 0, 0, 0])}

    code, findings = found(write(tmp_path / "data", change=unnest), "leaks=false")

    assert code == 1
    assert kinds(findings) == [("unnested_labels", "labels")]
    assert "conversions have none. Set click where conversion is" in findings[0][2]


def test_counts_that_differ_from_the_manifest_are_found(tmp_path, found):
    directory = write(tmp_path / "data")
    path = directory / "manifest.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["splits"]["train"][0]["impressions"] += 7
    path.write_text(json.dumps(tree), encoding="utf-8")

    code, findings = found(directory, "leaks=false")

    assert (code, kinds(findings)) == (1, [("miscounted", "labels")])
    assert findings[0][2].startswith(
        "The manifest counts 2,007 impressions, and the records hold 2,000."
    )


def test_labels_other_than_0_and_1_are_found(tmp_path, found, monkeypatch):
    monkeypatch.setattr(records, "check_group", lambda group, schema: None)
    directory = write(tmp_path / "data", change=lambda g: g | {"click": 2 * g["click"]})

    code, findings = found(directory, "leaks=false")

    assert (code, kinds(findings)) == (1, [("labels_not_binary", "labels")])
    assert "are another number. Convert them" in findings[0][2]


def without_brand(group):
    return group | {"brand": [], "brand:lengths": np.zeros(SIZE, np.int64)}


def test_a_feature_without_any_value_is_found(tmp_path, found):
    code, findings = found(write(tmp_path / "data", change=without_brand))

    assert (code, kinds(findings)) == (1, [("vanished", "brand")])
    assert "has no value in 2,000 rows. Mend the pipeline" in findings[0][2]


def test_a_feature_that_the_baseline_covers_and_this_does_not_is_found_once(
    healthy_json, tmp_path, found
):
    directory = write(tmp_path / "data", change=without_brand)

    code, findings = found(directory, f"baseline={healthy_json}", "leaks=false")

    assert (code, kinds(findings)) == (1, [("vanished", "brand")])
    assert "Its coverage is 0.00% and was 8" in findings[0][2]


def test_a_feature_that_left_the_schema_is_found(healthy_json, tmp_path, found):
    schema = dataclasses.replace(SCHEMA, features=SCHEMA.features[:2] + SCHEMA.features[3:])
    directory = write(
        tmp_path / "data",
        change=lambda group: {k: v for k, v in group.items() if k != "price"},
        schema=schema,
    )

    code, findings = found(directory, f"baseline={healthy_json}", "leaks=false")

    assert (code, kinds(findings)) == (1, [("vanished", "price")])
    assert "The baseline has this feature" in findings[0][2]


def test_a_fall_of_coverage_is_found_from_its_threshold_on(healthy_json, tmp_path, found):
    def halve(group):
        lengths = group["brand:lengths"] * [1, 1, 0, 0, 1]
        return group | {"brand": group["brand"][: lengths.sum()], "brand:lengths": lengths}

    directory = write(tmp_path / "data", change=halve)

    for limit, expected in ((0.1, 1), (0.5, 0)):
        code, findings = found(
            directory, f"baseline={healthy_json}", "leaks=false", f"max_coverage_drop={limit}"
        )

        assert (code, kinds(findings)) == (expected, [("coverage_drop", "brand")] * expected)


@pytest.mark.parametrize(("limit", "expected"), [(0.95, 1), (1.0, 0)])
def test_a_leak_is_found_from_its_threshold_on(tmp_path, found, limit, expected):
    directory = write(
        tmp_path / "data", change=lambda group: group | {"price": group["click"] + 0.5}
    )

    code, findings = found(directory, f"leak_auc={limit}")

    assert (code, kinds(findings)) == (expected, [("leak", "price")] * expected)
    assert all("predicts a label with ctr_auc 1.0000" in message for *_, message in findings)


def test_ids_that_shift_are_found(healthy, tmp_path, found):
    def rebrand(group):
        return group | {"brand": np.full(len(group["brand"]), "brand 1", object)}

    directory = write(tmp_path / "data", change=rebrand)

    code, findings = found(directory, f"baseline={healthy}", "leaks=false")

    assert (code, kinds(findings)) == (1, [("drift", "brand")])
    assert "share of its value 'brand 1' is 100.00% and was 1" in findings[0][2]


def test_unseen_ids_are_found_on_demand(healthy_json, tmp_path, found):
    directory = write(tmp_path / "data", change=lambda group: group | {"user": group["user"] + 99})
    args = (f"baseline={healthy_json}", "leaks=false", "max_drift=0.5")

    for limit, expected in ((1.0, []), (0.5, [("unseen", "user")])):
        _, findings = found(directory, *args, f"max_unseen={limit}")

        assert kinds(findings) == expected


def test_a_changed_rate_of_a_label_is_found(healthy_json, tmp_path, found):
    directory = write(
        tmp_path / "data", change=lambda g: g | {"click": np.maximum(g["click"], [1, 1, 0, 0, 0])}
    )

    code, findings = found(directory, f"baseline={healthy_json}", "leaks=false")

    assert code == 1
    assert kinds(findings) == [("label_drift", "labels")] * 2
    assert findings[0][2].startswith("click_rate is 0.5")
    assert findings[1][2].startswith("conversion_rate_clicked is 0.2")


def click_more():
    """Returns a change of groups: clicks are twice as frequent, conversions of them are not."""
    rng = np.random.default_rng(3)

    def change(group):
        click = (rng.random(SIZE) < 0.6).astype(np.int64)
        return group | {"click": click, "conversion": click * (rng.random(SIZE) < 0.4)}

    return change


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Returns a data set that says that its split `train` keeps a part of what is not clicked."""
    return write(
        tmp_path_factory.mktemp("sampled") / "data",
        change=click_more(),
        splits=("train", "test"),
        negative_keep_rate={"train": 0.25, "test": 1.0},
    )


def test_rates_over_all_impressions_are_compared_only_if_both_are_sampled_alike(
    healthy_json, sampled, tmp_path, found, capsys
):
    unsampled = write(tmp_path / "unsampled", change=click_more())
    told = "click_rate and conversion_rate are not compared: --negative_keep_rate differs\n"

    _, findings = found(unsampled, f"baseline={healthy_json}", "leaks=false")
    assert kinds(findings) == [("label_drift", "labels")] * 2
    assert told not in capsys.readouterr().out

    code, findings = found(sampled, f"baseline={healthy_json}", "leaks=false")
    assert (code, findings) == (0, [])
    assert told in capsys.readouterr().out


def test_the_rate_of_conversions_among_clicks_is_compared_in_any_case(
    healthy_json, tmp_path, found
):
    directory = write(
        tmp_path / "data",
        change=lambda g: g | {"conversion": g["click"]},
        negative_keep_rate={"train": 0.25},
    )

    code, findings = found(directory, f"baseline={healthy_json}", "leaks=false")

    assert code == 1
    assert kinds(findings) == [("label_drift", "labels")]
    assert findings[0][2].startswith("conversion_rate_clicked is 1 and was 0.")


def test_the_report_tells_that_impressions_are_sampled(sampled, healthy, capsys):
    note = f"{sampled} (train)\n\nunclicked impressions are sampled: --negative_keep_rate=0.25\n"

    run(f"data_dir={sampled}", "leaks=false")
    assert note in capsys.readouterr().out

    run(f"data_dir={healthy}", "leaks=false")
    assert "sampled" not in capsys.readouterr().out


def test_the_json_keeps_the_rate_of_what_is_sampled(sampled, tmp_path, found, capsys):
    path = tmp_path / "sampled.json"
    run(f"data_dir={sampled}", "leaks=false", f"output={path}")
    assert statistics.load_json(str(path)).negative_keep_rate == 0.25

    found(sampled, f"baseline={path}", "leaks=false")
    assert "not compared" not in capsys.readouterr().out

    found(sampled, "split=test", f"baseline={path}", "leaks=false")
    assert "not compared" in capsys.readouterr().out


def test_statistics_of_before_there_were_rates_are_of_all_impressions(healthy_json, tmp_path):
    path = tmp_path / "statistics.json"
    tree = json.loads(healthy_json.read_text(encoding="utf-8"))
    del tree["negative_keep_rate"]
    path.write_text(json.dumps(tree), encoding="utf-8")

    assert statistics.load_json(str(path)).negative_keep_rate == 1.0


def test_splits_of_different_rates_are_not_read_as_one(sampled, capsys):
    code = run(f"data_dir={sampled}", "split=all")

    assert code == 2
    assert (
        f"The splits of '{sampled}' have different --negative_keep_rate "
        "({'test': 1.0, 'train': 0.25}), so that no rate of all would mean anything. Read one of "
        "them with --split or --baseline_split."
    ) in capsys.readouterr().err


def test_an_id_that_became_a_number_is_found(healthy_json, tmp_path, found):
    price = dataclasses.replace(SCHEMA.features[2], dtype="int64", column=HASHED)
    schema = dataclasses.replace(SCHEMA, features=(*SCHEMA.features[:2], price))
    directory = write(
        tmp_path / "data",
        change=lambda group: {
            key: value.astype(np.int64) if key == "price" else value
            for key, value in group.items()
            if "tags" not in key
        },
        schema=schema,
    )

    _, findings = found(directory, f"baseline={healthy_json}", "leaks=false")

    assert ("retyped", "price") in kinds(findings)


def test_a_schema_with_other_columns_reads_both_data_sets(healthy, tmp_path, found):
    brand = dataclasses.replace(
        SCHEMA.features[1], column=columns.VocabularyColumn(values=("brand 1",))
    )
    schema = dataclasses.replace(SCHEMA, features=(SCHEMA.features[0], brand, *SCHEMA.features[2:]))
    toml_file.save_schema(schema, str(tmp_path), "schema.toml")

    code, findings = found(
        healthy, f"schema={tmp_path / 'schema.toml'}", "baseline_split=test", "leaks=false"
    )

    tree = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert (code, findings) == (0, [])
    assert tree["features"][1]["out_of_vocabulary"] == pytest.approx(5 / 6, abs=0.05)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["split=monday"], "has no split 'monday'"),
        (["baseline=nothing"], "'nothing' has no manifest.json"),
        (["baseline=nothing.json"], "nothing.json is missing. Write statistics with --output"),
        (["baseline=a.json", "baseline_split=test"], "--baseline is a file, which holds one split"),
        (["schema=nothing.toml"], "Cannot read schema 'nothing.toml'"),
        (["leak_auc=1.5"], "--leak_auc is 1.5. Give a number from 0.5 to 1."),
        (["max_drift=-1"], "--max_drift is -1.0. Give a number from 0 to 1."),
        (["max_rate_change=-1"], "--max_rate_change is -1.0. Give 0 or more."),
    ],
)
def test_a_users_mistake_ends_with_code_2(healthy, capsys, args, message):
    code = run(f"data_dir={healthy}", *args)

    assert code == 2
    assert message in capsys.readouterr().err


def test_the_report_names_findings_after_the_tables(tmp_path, capsys):
    write(tmp_path / "data", change=without_brand)

    run(f"data_dir={tmp_path / 'data'}", "leaks=false")

    last = capsys.readouterr().out.split("\n\n")[-1].splitlines()
    assert last[0] == "1 finding"
    assert last[1].startswith("vanished: brand: The feature has no value")


def test_nothing_is_left_of_the_temporary_file(healthy, tmp_path):
    run(f"data_dir={healthy}", "leaks=false", f"output={tmp_path / 'statistics.json'}")

    assert list(pathlib.Path(tmp_path).iterdir()) == [tmp_path / "statistics.json"]


def test_a_top_value_neither_breaks_its_line_nor_steers_the_terminal(tmp_path, capsys):
    def change(group):
        return group | {"brand": np.full(len(group["brand"]), "a\n\x1b[2J", object)}

    directory = write(tmp_path / "data", change=change, splits=("train",))

    run(f"data_dir={directory}", "leaks=false")

    output = capsys.readouterr().out
    (row,) = (line for line in output.splitlines() if line.startswith("brand"))
    assert "\x1b" not in output
    assert row.endswith("a \N{REPLACEMENT CHARACTER}[2J 100.0%")
