"""A model that trains on a sample and is validated on everything: its losses and its metrics."""

import functools
import math

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf
from shop_batch import FEATURES, LABELS, SCHEMA, WEIGHT, build_model, one_batch

from esmm_tf.data.batch import Batch
from esmm_tf.data.sampling import Sampler
from esmm_tf.methods import load_method
from esmm_tf.model.optimizers import RowwiseAdam

pytestmark = pytest.mark.slow

CURVES = ("auc", "log_loss", "calibration")
HALVES = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])


def build_sampled(method, rate=None):
    """Returns a model with heads that are not zero, of a method and its sampling."""
    sampling = load_method(method).choose_sampling(rate)
    model = build_model(method, trained=True, sampling=sampling)
    model.compile(RowwiseAdam(0.05), run_eagerly=True, weighted_metrics=[])
    return model, sampling


@pytest.fixture(scope="module")
def evaluated():
    """Returns `build_sampled` with a memory, for models that are evaluated and not trained."""
    return functools.cache(build_sampled)


def cvr_losses(model):
    """Returns each impression's cross entropy of conversion and pCVR, float64."""
    logits = model(FEATURES)["cvr_logits"].numpy().astype(np.float64)
    return np.logaddexp(0, logits) - LABELS["conversion"].numpy() * logits


def evaluate(model, *batches):
    data = batches[0]
    for batch in batches[1:]:
        data = data.concatenate(batch)
    return model.evaluate(data, verbose=0, return_dict=True)


def part(rows, weight=None):
    """Returns a batch of some of the impressions."""
    rows = tf.constant(rows, tf.int64)
    context = {name: FEATURES[name] for name in ("user",)}
    taken = {k: tf.gather(v, rows) for k, v in FEATURES.items() if k not in context}
    labels = {name: tf.gather(values, rows) for name, values in LABELS.items()}
    more = () if weight is None else (tf.gather(weight, rows),)
    return one_batch(taken | context, labels, *more)


@pytest.mark.parametrize(
    ("method", "rate", "copies"),
    [
        ("base", None, [0, 0, 1, 1, 1, 1, 0, 1]),
        ("aman", 0.25, [0.25, 0.25, 1, 1, 1, 1, 0.25, 1]),
        ("oversampling", 2.5, [0, 0, 1, 2.5, 2.5, 1, 0, 2.5]),
        ("unbias", 0.5, [0, 0, 1, 1, 1, 1, 0, 1]),
    ],
)
@HALVES
def test_the_validation_loss_is_a_mean_over_the_copies_that_are_trained_on_on_average(
    evaluated, method, rate, copies, weight
):
    model, _ = evaluated(method, rate)

    measured = evaluate(model, part(range(5), weight), part(range(5, 8), weight))

    scale = 1 if weight is None else weight.numpy()
    expected = np.sum(copies * scale * cvr_losses(model)) / np.sum(copies)
    np.testing.assert_allclose(measured["loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(measured["cvr_loss"], expected, rtol=1e-6)


@pytest.mark.parametrize(("method", "rate"), [("base", None), ("aman", 1.0), ("oversampling", 3.0)])
@HALVES
def test_the_validation_loss_is_the_training_loss_of_the_same_impressions(
    evaluated, method, rate, weight
):
    model, sampling = evaluated(method, rate)
    batch = Batch(
        features=FEATURES,
        labels=LABELS,
        example_weight=tf.ones([8]) if weight is None else weight,
        oracle={},
        carry={},
    )
    drawn = Sampler(sampling=sampling, schema=SCHEMA, seed=1).draw(tf.constant(0, tf.int64), batch)

    trained = model.compute_loss(
        drawn.features, drawn.labels, model(drawn.features), drawn.example_weight
    )
    model.reset_metrics()
    measured = evaluate(model, part(range(8), weight))

    np.testing.assert_allclose(measured["loss"], trained, rtol=1e-6)


def test_a_batch_of_validation_that_is_not_sampled_has_no_part_in_the_loss(evaluated):
    model, _ = evaluated("base", None)
    clicked, unclicked = part([2, 3, 4, 5, 7]), part([0, 1, 6])

    alone, both = evaluate(model, clicked), evaluate(model, unclicked, clicked, unclicked)

    assert alone["loss"] == pytest.approx(both["loss"], rel=1e-6)
    assert both["impressions"] == 11
    assert evaluate(model, unclicked)["loss"] == 0


@pytest.mark.parametrize("method", ["ctr", "division", "esmm"])
def test_the_validation_loss_of_a_method_without_sampling_is_the_mean_over_impressions(
    evaluated, method
):
    model, sampling = evaluated(method, None)

    measured = evaluate(model, part([0, 1, 2]), part([3, 4, 5, 6, 7]))

    loss = model.compute_loss(FEATURES, LABELS, model(FEATURES))
    assert sampling is None
    np.testing.assert_allclose(measured["loss"], loss, rtol=1e-6)


@pytest.mark.parametrize(
    ("method", "rate"),
    [("base", None), ("aman", 0.25), ("division", None), ("ctr", None), ("esmm", None)],
)
def test_the_metrics_of_validation_are_of_every_space_over_all_impressions(evaluated, method, rate):
    model, _ = evaluated(method, rate)
    outputs = model(FEATURES)

    measured = evaluate(model, part([0, 1, 2]), part([3, 4, 5, 6, 7]))

    click, conversion = (label.numpy() for label in LABELS.values())
    auc = sklearn.metrics.roc_auc_score
    clicked = click == 1
    assert [measured[n] for n in ("impressions", "clicks", "conversions")] == [8, 5, 3]
    assert measured["ctr_auc"] == pytest.approx(auc(click, outputs["ctr_logits"]))
    assert measured["ctcvr_auc"] == pytest.approx(auc(conversion, outputs["ctcvr_logits"]))
    expected = auc(conversion[clicked], outputs["cvr_logits"].numpy()[clicked])
    assert measured["cvr_auc_clicked"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("method", "trained", "terms"),
    [
        ("base", ["cvr"], ["cvr_loss"]),
        ("aman", ["cvr"], ["cvr_loss"]),
        ("ctr", ["ctr"], ["ctr_loss"]),
        ("division", ["ctcvr"], ["ctcvr_loss"]),
        ("esmm", ["ctr", "cvr", "ctcvr"], ["ctr_loss", "ctcvr_loss"]),
        ("esmm_ns", ["ctr", "cvr", "ctcvr"], ["ctr_loss", "ctcvr_loss"]),
    ],
)
def test_training_updates_the_curves_of_what_is_trained_and_leaves_others_undefined(
    method, trained, terms
):
    model, _ = build_sampled(method)

    history = model.fit(part(range(8)), verbose=0).history

    suffix = {"ctr": "", "cvr": "_clicked", "ctcvr": ""}
    curves = {
        *(f"{task}_{name}{suffix[task]}" for task in trained for name in CURVES),
        *(f"{task}_logits_std" for task in trained),
    }
    defined = {name for name, (value,) in history.items() if not math.isnan(value)}
    counts = {"impressions", "clicks", "conversions", "unnested_labels", "non_finite_logits"}
    assert defined == {"loss", *terms, *counts, *curves}
    assert len(history) == 1 + len(terms) + 5 + 3 * len(CURVES) + 3


def test_a_logit_that_is_not_trained_may_be_infinite():
    model, _ = build_sampled("base")
    for weight in model.get_layer("ctr_network").get_layer("ctr_tower").layers[-1].weights:
        weight.assign(tf.fill(weight.shape, np.inf))

    history = model.fit(part(range(8)), verbose=0).history

    assert history["non_finite_logits"] == [0.0]
    assert math.isfinite(history["loss"][0])
