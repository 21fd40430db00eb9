import math

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from shop_batch import FEATURES, ITEM, LABELS, SCHEMA, WEIGHT, build_model, one_batch

from esmm_tf.config.training import ModelConfig
from esmm_tf.methods import load_method
from esmm_tf.model.optimizers import RowwiseAdam
from esmm_tf.schema.columns import FLOAT32, INT64, NumericColumn
from esmm_tf.schema.record_field import IMPRESSION
from esmm_tf.schema.schema import Feature, Schema


def loss_and_gradients(model, sample_weight=None):
    variables = {
        "table": model.get_layer("encoder").trainable_variables,
        "ctr_tower": model.get_layer("ctr_tower").trainable_variables,
        "cvr_tower": model.get_layer("cvr_tower").trainable_variables,
    }
    with tf.GradientTape() as tape:
        outputs = model(FEATURES)
        loss = model.compute_loss(FEATURES, LABELS, outputs, sample_weight)
    gradients = tape.gradient(loss, variables)
    sizes = {
        name: [0.0 if g is None else float(tf.norm(tf.convert_to_tensor(g))) for g in group]
        for name, group in gradients.items()
    }
    return float(loss), sizes


def reference_losses(model):
    """Returns the losses of each impression in float64, from the probabilities."""
    outputs = {name: value.numpy().astype(np.float64) for name, value in model(FEATURES).items()}
    click, conversion = LABELS["click"].numpy(), LABELS["conversion"].numpy()
    pctr, pctcvr = outputs["pctr"], outputs["pctr"] * outputs["pcvr"]
    ctr = -click * np.log(pctr) - (1 - click) * np.log(1 - pctr)
    ctcvr = -conversion * np.log(pctcvr) - (1 - conversion) * np.log(1 - pctcvr)
    return ctr, ctcvr


def test_outputs_have_one_value_an_impression_and_pctcvr_is_the_product():
    model = build_model(trained=True)

    outputs = model(FEATURES)

    assert sorted(outputs) == sorted(
        ["pctr", "pcvr", "pctcvr", "ctr_logits", "cvr_logits", "ctcvr_logits"]
    )
    assert {tuple(value.shape) for value in outputs.values()} == {(8,)}
    assert not np.isclose(outputs["pctr"], outputs["pcvr"]).any()
    np.testing.assert_allclose(
        outputs["pctcvr"],
        outputs["pctr"].numpy().astype(np.float64) * outputs["pcvr"].numpy(),
        rtol=1e-7,
    )
    np.testing.assert_allclose(tf.sigmoid(outputs["ctcvr_logits"]), outputs["pctcvr"], rtol=1e-5)


def test_the_default_towers_are_those_of_the_paper():
    model = load_method("esmm").build(SCHEMA, ModelConfig())

    for name in ("ctr_tower", "cvr_tower"):
        units = [layer.units for layer in model.get_layer(name).layers]
        assert units == [360, 200, 80, 2]
        assert model.get_layer(name).layers[0].kernel.shape == (18 + 18 + 2, 360)


def test_the_loss_at_step_0_is_that_of_the_docstring():
    model = build_model()

    loss, _ = loss_and_gradients(model)

    share_of_conversions = 3 / 8
    expected = math.log(2) + math.log(4 / 3) + share_of_conversions * math.log(3)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(("ctr_weight", "ctcvr_weight"), [(1, 1), (0.5, 3), (2, 0), (0, 2)])
def test_the_loss_is_the_weighted_sum_of_two_mean_cross_entropies(ctr_weight, ctcvr_weight):
    model = build_model(trained=True, ctr_loss_weight=ctr_weight, ctcvr_loss_weight=ctcvr_weight)
    ctr, ctcvr = reference_losses(model)

    plain, _ = loss_and_gradients(model)
    weighted, _ = loss_and_gradients(model, WEIGHT)

    of_each = ctr_weight * ctr + ctcvr_weight * ctcvr
    np.testing.assert_allclose(plain, of_each.sum() / 8, rtol=1e-5)
    np.testing.assert_allclose(weighted, (WEIGHT.numpy() * of_each).sum() / 8, rtol=1e-5)


def test_both_towers_read_the_same_tensor():
    model = build_model()

    towers = [model.get_layer(name) for name in ("ctr_tower", "cvr_tower")]

    inputs = [tower.inbound_nodes[-1].input_tensors for tower in towers]
    assert inputs[0] is inputs[1]
    assert inputs[0] is model.get_layer("encoder").output


def test_each_loss_trains_the_shared_table_and_pcvr_has_none_of_its_own():
    _, both = loss_and_gradients(build_model(trained=True))
    _, of_ctr = loss_and_gradients(build_model(trained=True, ctcvr_loss_weight=0.0))
    _, of_ctcvr = loss_and_gradients(build_model(trained=True, ctr_loss_weight=0.0))

    assert len(of_ctr["table"]) == 1
    assert of_ctr["table"][0] > 0
    assert of_ctcvr["table"][0] > 0
    assert all(size > 0 for size in both["cvr_tower"])
    assert of_ctr["cvr_tower"] == [0.0] * 4
    assert all(size > 0 for size in of_ctr["ctr_tower"])
    assert all(size > 0 for size in of_ctcvr["ctr_tower"])


def test_a_group_gives_the_outputs_of_its_impressions_as_groups_of_one():
    model = build_model(trained=True)
    ones = FEATURES | {
        "group_index": tf.range(8, dtype=tf.int64),
        "user": tf.gather(FEATURES["user"], FEATURES["group_index"]),
    }

    grouped, single = model(FEATURES), model(ones)

    for name, value in grouped.items():
        np.testing.assert_allclose(value, single[name], rtol=1e-6, err_msg=name)


def test_the_same_seed_gives_the_same_model_and_another_seed_another():
    first, again, other = (build_model(seed=seed).get_weights() for seed in (1, 1, 2))

    random = [place for place, weight in enumerate(first) if weight.any()]
    assert len(random) == 3
    for place, weight in enumerate(first):
        np.testing.assert_array_equal(weight, again[place])
    assert all((first[place] != other[place]).all() for place in random)


def test_the_towers_start_with_different_weights():
    model = build_model()

    kernels = [model.get_layer(t).layers[0].kernel for t in ("ctr_tower", "cvr_tower")]

    assert (kernels[0].numpy() != kernels[1].numpy()).all()


def test_metrics_are_no_weights_of_the_model():
    model = build_model()

    names = [weight.name for weight in model.weights]

    assert len(names) == 1 + 2 * 4
    assert names == [weight.name for weight in model.trainable_weights]


def test_fit_lowers_the_loss_and_ranks_right():
    model = build_model()
    model.compile(RowwiseAdam(0.05))
    batch = one_batch(FEATURES, LABELS)

    first, _, last = (model.fit(batch.repeat(n), verbose=0).history for n in (1, 58, 1))

    np.testing.assert_allclose(first["loss"], [math.log(8 / 3) + 3 / 8 * math.log(3)], rtol=1e-6)
    assert last["loss"][0] < 0.1
    outputs = {name: value.numpy() for name, value in model(FEATURES).items()}
    click, conversion = LABELS["click"].numpy(), LABELS["conversion"].numpy()
    assert outputs["pctr"][click == 1].min() > 0.9
    assert outputs["pctr"][click == 0].max() < 0.1
    assert outputs["pcvr"][conversion == 1].min() > 0.9
    assert outputs["pcvr"][(click == 1) & (conversion == 0)].max() < 0.1
    for name in ("ctr_auc", "cvr_auc_clicked", "ctcvr_auc"):
        assert last[name] == [1.0]


def test_predict_gives_the_outputs_of_the_model_in_the_order_of_the_impressions():
    model = build_model(trained=True)
    model.compile(run_eagerly=True)

    predicted = model.predict(one_batch(FEATURES).repeat(2), verbose=0)

    for name, value in model(FEATURES).items():
        np.testing.assert_allclose(predicted[name], np.tile(value, 2), rtol=1e-6, err_msg=name)


def test_fit_leaves_the_rows_that_no_impression_reads():
    model = build_model()
    model.compile(RowwiseAdam(0.05), run_eagerly=True)
    (table,) = model.get_layer("encoder").trainable_variables
    before = table.numpy()

    model.fit(one_batch(FEATURES, LABELS).repeat(3), verbose=0)

    changed = (before != table.numpy()).any(axis=1)
    # User rows 0 to 2, item rows 0 to 3, each followed by the row for ids out of range.
    assert changed.tolist() == [True, True, True, False, True, True, True, True, False]


def test_fit_with_weights_of_zero_leaves_the_model():
    model = build_model(trained=True)
    model.compile(RowwiseAdam(0.05), run_eagerly=True)
    before = model.get_weights()

    history = model.fit(one_batch(FEATURES, LABELS, tf.zeros([8])), verbose=0).history

    assert history["loss"] == [0.0]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_fit_without_any_positive_drives_all_probabilities_down():
    model = build_model()
    model.compile(RowwiseAdam(0.05), run_eagerly=True)
    labels = {name: tf.zeros([8]) for name in LABELS}

    batch = one_batch(FEATURES, labels)

    first, _, last = (model.fit(batch.repeat(n), verbose=0).history for n in (1, 8, 1))

    assert last["loss"][0] < first["loss"][0] / 2
    assert np.isnan([*first["ctr_auc"], *last["ctr_auc"]]).all()
    assert model(FEATURES)["pctr"].numpy().max() < 0.5


def test_evaluate_measures_each_space_with_the_example_weights():
    model = build_model(trained=True)
    model.compile(run_eagerly=True)
    ctr, ctcvr = reference_losses(model)
    outputs = {name: value.numpy() for name, value in model(FEATURES).items()}
    click, conversion = LABELS["click"].numpy(), LABELS["conversion"].numpy()
    weight = WEIGHT.numpy()

    measured = model.evaluate(one_batch(FEATURES, LABELS, WEIGHT), verbose=0, return_dict=True)

    clicked = click == 1
    auc = sklearn.metrics.roc_auc_score
    expected = {
        "loss": (weight * (ctr + ctcvr)).mean(),
        "ctr_loss": (weight * ctr).mean(),
        "ctcvr_loss": (weight * ctcvr).mean(),
        "impressions": 8,
        "clicks": 5,
        "conversions": 3,
        "ctr_log_loss": np.average(ctr, weights=weight),
        "ctcvr_log_loss": np.average(ctcvr, weights=weight),
        "ctr_auc": auc(click, outputs["pctr"], sample_weight=weight),
        "ctcvr_auc": auc(conversion, outputs["pctcvr"], sample_weight=weight),
        "cvr_auc_clicked": auc(
            conversion[clicked], outputs["pcvr"][clicked], sample_weight=weight[clicked]
        ),
        "cvr_calibration_clicked": np.average(outputs["pcvr"][clicked], weights=weight[clicked])
        / np.average(conversion[clicked], weights=weight[clicked]),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(measured[name], value, rtol=1e-5, err_msg=name)


def test_evaluate_gives_batches_of_any_size_their_share():
    model = build_model(trained=True)
    model.compile(run_eagerly=True)
    part = {
        "group_index": tf.constant([0, 0], tf.int64),
        "user": tf.ragged.constant([[1]], dtype=tf.int64, row_splits_dtype=tf.int64),
        "item": FEATURES["item"][2:4],
        "price": FEATURES["price"][2:4],
    }
    part_labels = {name: label[2:4] for name, label in LABELS.items()}
    batches = one_batch(FEATURES, LABELS), one_batch(part, part_labels)

    losses = [model.evaluate(b, verbose=0, return_dict=True)["loss"] for b in batches]
    both = batches[0].concatenate(batches[1])
    measured = model.evaluate(both, verbose=0, return_dict=True)

    assert measured["impressions"] == 10
    np.testing.assert_allclose(measured["loss"], (8 * losses[0] + 2 * losses[1]) / 10, rtol=1e-6)


def test_features_may_have_odd_names():
    names = ["109_14", "prix €", "_id", "a/b", "outputs", "encoder", "日本", "."]
    odd = [
        Feature(name=name, side=IMPRESSION, dtype=INT64, column=ITEM.column, weighted=True)
        for name in names
    ]
    model = build_model(schema=Schema(name="shop", features=tuple(odd)))
    features = {"group_index": FEATURES["group_index"]}
    for name in names:
        features[name] = FEATURES["item"]
        features[f"{name}:weight"] = tf.ones_like(FEATURES["item"], tf.float32)

    outputs = model(features)

    assert outputs["pctr"].numpy().tolist() == [0.5] * 8


def test_features_are_told_apart_by_name_and_not_by_their_order():
    price, age = (
        Feature(name=name, side=IMPRESSION, dtype=FLOAT32, column=NumericColumn())
        for name in ("prix €", "age")
    )
    model = build_model(schema=Schema(name="shop", features=(price, age)), hidden_units=())
    kernel, _ = model.get_layer("ctr_tower").weights
    kernel.assign([[0.0, 1.0], [0.0, 10.0]])
    features = {
        "age": tf.constant([1.0, 0.0]),
        "prix €": tf.constant([2.0, 3.0]),
        "group_index": tf.zeros([2], tf.int64),
    }

    outputs = model(features)

    assert outputs["ctr_logits"].numpy().tolist() == [12.0, 3.0]
