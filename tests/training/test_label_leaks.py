"""What a single feature predicts: the answer itself is caught, an id of its own row is not."""

import numpy as np
import pytest

from esmm_pipelines.validation.findings import ThresholdConfig
from esmm_tf.config.training import GuardConfig
from esmm_tf.data import numpy_batches
from esmm_tf.data.source import find_source
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.schema import columns
from esmm_tf.schema import schema as schema_lib
from esmm_tf.training import label_leaks

NUM_GROUPS = 600
SIZE = 5
HASHED = columns.HashBucketColumn(hash_buckets=100)
NUMERIC = columns.NumericColumn()


def feature(name, dtype="int64", column=HASHED, **more):
    return schema_lib.Feature(
        name=name, side=more.pop("side", "impression"), dtype=dtype, column=column, **more
    )


def of_one(values):
    return {"f": values, "f:lengths": np.ones(SIZE, np.int64)}


def where(present, values):
    """Returns an optional feature that only the impressions of `present` have."""
    return {"f": np.asarray(values)[present == 1], "f:lengths": present.astype(np.int64)}


def draw_value_a_click(_rng, n, click, _buy):
    lengths = 1 + click
    return {"f": np.arange(lengths.sum()) + n * 2 * SIZE, "f:lengths": lengths}


def mix_by_weight(_rng, n, click, _buy):
    """Gives every second group the click alone, and others its opposite too, at a low weight."""
    if n % 2:
        return of_one(click) | {"f:weight": np.ones(SIZE)}
    values = np.stack([click, 1 - click], axis=1).reshape(-1)
    weights = np.tile([0.9, 0.1], SIZE)
    return {"f": values, "f:weight": weights, "f:lengths": np.full(SIZE, 2)}


BUCKETS = columns.BucketizedColumn(boundaries=(0.0,))
# Features, and what makes their record keys, here with the name `f`, in a group: a function of a
# generator, the number of the group, its clicks and its conversions.
FEATURES = (
    (feature("id"), lambda rng, n, click, buy: {"f": np.arange(SIZE) + n * SIZE}),
    (
        feature("many_valued_id", values="many"),
        lambda rng, n, click, buy: of_one(np.arange(SIZE) + n * SIZE),
    ),
    (feature("click_one"), lambda rng, n, click, buy: {"f": 7 + 2 * click}),
    (
        feature("click_optional", values="optional"),
        lambda rng, n, click, buy: of_one(7 + 2 * click),
    ),
    (feature("click_many", values="many"), lambda rng, n, click, buy: of_one(7 + 2 * click)),
    (
        feature("bought", "string"),
        lambda rng, n, click, buy: {"f": np.where(buy, "paid", "open").astype(object)},
    ),
    (
        feature("id_of_clicks", values="optional"),
        lambda rng, n, click, buy: where(click, np.arange(SIZE) + n * SIZE),
    ),
    (
        feature("number_of_clicks", "float32", NUMERIC, values="optional"),
        lambda rng, n, click, buy: where(click, rng.normal(size=SIZE)),
    ),
    (
        feature("number_of_others", "float32", NUMERIC, values="optional"),
        lambda rng, n, click, buy: where(1 - click, rng.normal(size=SIZE)),
    ),
    (
        feature("rising", "float32", NUMERIC),
        lambda rng, n, click, buy: {"f": click + 0.9 * rng.random(SIZE)},
    ),
    (
        feature("falling", "float32", NUMERIC),
        lambda rng, n, click, buy: {"f": -(click + 0.9 * rng.random(SIZE))},
    ),
    (
        feature("repeated", "float32", NUMERIC),
        lambda rng, n, click, buy: {"f": np.where(click, 0.0, rng.choice([-1.0, 1.0], SIZE))},
    ),
    (feature("number_of_values", values="many"), draw_value_a_click),
    (
        feature("weight", weighted=True),
        lambda rng, n, click, buy: {"f": np.zeros(SIZE, np.int64), "f:weight": 1.0 + click},
    ),
    (
        feature("buckets", "float32", BUCKETS, values="many"),
        lambda rng, n, click, buy: of_one((2 * click - 1) * (0.1 + rng.random(SIZE))),
    ),
    (feature("any_click", side="context"), lambda rng, n, click, buy: {"f": [int(click.any())]}),
    (feature("mixed_by_weight", values="many", weighted=True), mix_by_weight),
)


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    """Returns a meter of `FEATURES` in a log of 3,000 impressions with random labels."""
    directory = str(tmp_path_factory.mktemp("leaks") / "data")
    schema = schema_lib.Schema(name="leak", features=tuple(declared for declared, _ in FEATURES))
    rng = np.random.default_rng(5)
    with DataSetWriter(directory, schema, num_shards=1) as writer:
        for number in range(NUM_GROUPS):
            click = (rng.random(SIZE) < 0.3).astype(np.int64)
            conversion = click * (rng.random(SIZE) < 0.4)
            group = {"click": click, "conversion": conversion}
            for declared, build in FEATURES:
                for key, values in build(rng, number, click, conversion).items():
                    group[declared.name + key.removeprefix("f")] = values
            writer.write("train", group)
    source = find_source(directory, split="train")
    meter = label_leaks.LeakMeter(schema)
    for batch in numpy_batches.read_batches(source, schema):
        meter.add(batch)
    meter.score(numpy_batches.read_batches(source, schema))
    return meter


@pytest.fixture(scope="module")
def aucs(meter):
    """Returns the AUCs of each feature."""
    return meter.result()


@pytest.mark.parametrize("name", ["id", "many_valued_id"])
def test_an_id_of_each_impression_predicts_nothing(aucs, name):
    assert aucs[name] == {"ctr_auc": 0.5, "ctcvr_auc": 0.5, "cvr_auc_clicked": 0.5}


@pytest.mark.parametrize("values", ["one", "optional", "many"])
def test_a_copy_of_the_click_is_a_leak(aucs, values):
    assert aucs[f"click_{values}"]["ctr_auc"] == 1.0
    assert aucs[f"click_{values}"]["cvr_auc_clicked"] < 0.55


def test_a_copy_of_the_conversion_is_a_leak_of_it_in_both_spaces(aucs):
    assert aucs["bought"]["ctcvr_auc"] == 1.0
    assert aucs["bought"]["cvr_auc_clicked"] == 1.0
    assert 0.6 < aucs["bought"]["ctr_auc"] < 0.8


def test_a_value_that_only_clicks_have_is_a_leak_whatever_it_is(aucs):
    assert aucs["id_of_clicks"]["ctr_auc"] > 0.95


def test_a_number_that_only_clicks_have_is_a_leak_whatever_it_is(aucs):
    assert aucs["number_of_clicks"]["ctr_auc"] == 1.0


def test_a_number_that_clicks_lack_is_a_leak(aucs):
    assert aucs["number_of_others"]["ctr_auc"] == 1.0


@pytest.mark.parametrize("name", ["rising", "falling"])
def test_a_number_that_rises_or_falls_with_the_click_is_a_leak(aucs, name):
    assert aucs[name]["ctr_auc"] == 1.0


def test_a_number_neither_rising_nor_falling_is_a_leak_if_its_values_repeat(aucs):
    assert aucs["repeated"]["ctr_auc"] == 1.0


def test_the_number_of_values_can_leak(aucs):
    assert aucs["number_of_values"]["ctr_auc"] == 1.0


def test_weights_can_leak(aucs):
    assert aucs["weight"]["ctr_auc"] == 1.0


def test_buckets_of_many_numbers_can_leak(aucs):
    assert aucs["buckets"]["ctr_auc"] == 1.0


def test_a_context_feature_predicts_the_rate_of_its_groups(aucs):
    # All clicks are in groups with one; of the rest, the share 0.7**4 is in groups without.
    assert aucs["any_click"]["ctr_auc"] == pytest.approx(0.5 + 0.7**4 / 2, abs=0.02)


def test_a_row_of_many_values_has_the_mean_of_their_rates_by_weight(aucs):
    assert aucs["mixed_by_weight"]["ctr_auc"] == 1.0


def test_too_few_positives_have_no_auc(meter, monkeypatch):
    monkeypatch.setattr(label_leaks, "MIN_POSITIVES", 250)

    aucs = meter.result()

    assert aucs["click_one"] == {"ctr_auc": 1.0, "ctcvr_auc": None, "cvr_auc_clicked": None}


@pytest.mark.parametrize("values", ["one", "many"])
def test_a_second_pass_is_needed_for_rows_of_many_values_alone(values):
    schema = schema_lib.Schema(name="leak", features=(feature("f", values=values),))

    assert label_leaks.LeakMeter(schema).needs_scores == (values == "many")


def write_copies(tmp_path, *, num_groups):
    """Writes groups of 100 impressions; `copy` tells the click in those after the first 82."""
    schema = schema_lib.Schema(name="leak", features=(feature("copy"), feature("noise")))
    rng = np.random.default_rng(5)
    with DataSetWriter(str(tmp_path / "data"), schema, num_shards=1) as writer:
        for number in range(num_groups):
            click, noise = rng.integers(0, 2, 100), rng.integers(0, 9, 100)
            group = {"copy": click if number >= 82 else noise, "noise": noise}
            writer.write("train", group | {"click": click, "conversion": click * 0})
    return find_source(str(tmp_path / "data"), split="train"), schema


def test_only_the_first_impressions_are_looked_at(tmp_path):
    source, schema = write_copies(tmp_path, num_groups=160)

    # A batch holds at most 8,192 impressions, so 81 groups.
    sizes = [
        sum(len(batch.click) for batch in numpy_batches.read_batches(source, schema, impressions=n))
        for n in (8_100, 8_101, 99_999)
    ]
    few = label_leaks.measure_leaks(source, schema, impressions=8_100)
    many = label_leaks.measure_leaks(source, schema, impressions=16_000)

    assert sizes == [8_100, 16_000, 16_000]
    assert few["copy"]["ctr_auc"] < 0.55
    assert many["copy"]["ctr_auc"] > 0.7


AUCS = {
    "price": {"ctr_auc": 0.96, "ctcvr_auc": 0.7, "cvr_auc_clicked": None},
    "item": {"ctr_auc": 0.6, "ctcvr_auc": 0.95, "cvr_auc_clicked": None},
    "user": {"ctr_auc": None, "ctcvr_auc": None, "cvr_auc_clicked": None},
}


def test_the_best_feature_of_each_metric_is_told_in_one_line():
    line = label_leaks.describe_leaks(AUCS)

    assert line == (
        "a feature alone reaches: ctr_auc 0.9600 (price) | ctcvr_auc 0.9500 (item) | "
        "cvr_auc_clicked too few positives"
    )


def test_the_largest_auc_of_a_feature_leaves_out_what_could_not_be_measured():
    assert label_leaks.largest_aucs(AUCS) == {"price": 0.96, "item": 0.95}


def test_a_feature_above_the_threshold_is_like_a_label():
    finding = label_leaks.judge_leaks(AUCS, 0.95)

    assert finding.guard == "label_like_feature"
    assert finding.message.startswith(
        "A feature alone predicts a label with an AUC up to --leak_auc=0.95, and 'price' has "
        "ctr_auc 0.9600. It knows the answer: remove it from the schema"
    )


def test_no_feature_above_the_threshold_is_no_finding():
    assert label_leaks.judge_leaks(AUCS, 0.97) is None


def test_training_and_validate_have_one_threshold():
    assert GuardConfig().leak_auc == ThresholdConfig().leak_auc
