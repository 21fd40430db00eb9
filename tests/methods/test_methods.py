"""What each method declares: its loss, what its gradients reach, its outputs and its rates."""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf
from shop_batch import FEATURES, LABELS, SCHEMA, WEIGHT, build_model, one_batch, towers_of

from esmm_tf import methods
from esmm_tf.data.batch import Batch
from esmm_tf.data.sampling import Sampler, Sampling
from esmm_tf.errors import UserError
from esmm_tf.methods import load_method
from esmm_tf.model.optimizers import RowwiseAdam

CVR_TOWER = ("aman", "base", "oversampling", "unbias")
# By method and term of its loss: the parts of the network that the term's gradients reach.
REACHED = {
    **{(name, "cvr_loss"): {"encoder", "cvr_tower"} for name in CVR_TOWER},
    ("ctr", "ctr_loss"): {"ctr_network"},
    ("division", "ctcvr_loss"): {"encoder", "ctcvr_tower"},
    ("esmm", "ctr_loss"): {"encoder", "ctr_tower"},
    ("esmm", "ctcvr_loss"): {"encoder", "ctr_tower", "cvr_tower"},
    ("esmm_ns", "ctr_loss"): {"ctr_encoder", "ctr_tower"},
    ("esmm_ns", "ctcvr_loss"): {"ctr_encoder", "ctr_tower", "cvr_encoder", "cvr_tower"},
}
NAMES = tuple(sorted({name for name, _ in REACHED}))
EVERY = pytest.mark.parametrize("name", NAMES)
HALVES = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])


@functools.cache
def shared_model(name):
    """Returns a model with heads that are not zero, for all tests that leave its weights alone."""
    return build_model(name, trained=True, share=0.2)


def parts_of(model):
    """Returns the variables of each part of the network that has some, by its name."""
    return {layer.name: layer.variables for layer in model.layers if layer.variables}


def cross_entropy(labels, probability):
    return -labels * np.log(probability) - (1 - labels) * np.log1p(-probability)


def float64(outputs, name):
    return outputs[name].numpy().astype(np.float64)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def reference_loss(name, labels, outputs, weight):
    """Returns the loss in float64: a sum of cross entropies, each a mean over impressions."""
    click, conversion = (labels[label].numpy().astype(np.float64) for label in labels)
    ctr, cvr = (sigmoid(float64(outputs, f"{task}_logits")) for task in ("ctr", "cvr"))
    losses = {
        "ctr": lambda: cross_entropy(click, ctr),
        "division": lambda: cross_entropy(conversion, sigmoid(float64(outputs, "ctcvr_logits"))),
        "esmm": lambda: cross_entropy(click, ctr) + cross_entropy(conversion, ctr * cvr),
        "esmm_ns": lambda: cross_entropy(click, ctr) + cross_entropy(conversion, ctr * cvr),
    }
    of_each = losses.get(name, lambda: cross_entropy(conversion, cvr))()
    return np.mean(of_each if weight is None else weight.numpy() * of_each)


def test_the_methods_are_those_of_the_paper_and_the_ctr_network():
    assert methods.names() == NAMES
    assert {(name, term) for name in NAMES for term in load_method(name).losses} == set(REACHED)


@EVERY
@HALVES
def test_the_loss_of_a_method_is_that_of_float64(name, weight):
    model = shared_model(name)
    outputs = model(FEATURES)

    loss = model.compute_loss(FEATURES, LABELS, outputs, weight)

    np.testing.assert_allclose(loss, reference_loss(name, LABELS, outputs, weight), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "rate", "rows"),
    [
        ("base", None, [2, 3, 4, 5, 7]),
        ("aman", 1.0, range(8)),
        ("oversampling", 3.0, [2, *[3] * 3, *[4] * 3, 5, *[7] * 3]),
    ],
)
@HALVES
def test_the_loss_of_a_sampled_method_is_a_mean_over_the_copies(name, rate, rows, weight):
    model = shared_model(name)
    sampler = Sampler(sampling=load_method(name).choose_sampling(rate), schema=SCHEMA, seed=1)
    batch = Batch(
        features=FEATURES,
        labels=LABELS,
        example_weight=tf.ones([8]) if weight is None else weight,
        oracle={},
        carry={},
    )

    drawn = sampler.draw(tf.constant(0, tf.int64), batch)
    outputs = model(drawn.features)
    loss = model.compute_loss(drawn.features, drawn.labels, outputs, drawn.example_weight)

    rows = list(rows)
    pcvr = sigmoid(float64(model(FEATURES), "cvr_logits"))
    of_each = cross_entropy(LABELS["conversion"].numpy().astype(np.float64), pcvr)
    of_each = of_each if weight is None else of_each * weight.numpy()
    np.testing.assert_allclose(loss, of_each[rows].mean(), rtol=1e-5)


@pytest.mark.parametrize(("name", "term"), REACHED)
def test_the_gradients_of_a_loss_reach_these_parts_and_no_others(name, term):
    model = shared_model(name)
    parts = parts_of(model)

    with tf.GradientTape() as tape:
        tape.watch([variable for group in parts.values() for variable in group])
        loss = load_method(name).losses[term](LABELS, model(FEATURES), None)
    gradients = tape.gradient(loss, parts)

    sizes = {
        part: [0 if g is None else float(tf.norm(tf.convert_to_tensor(g))) for g in group]
        for part, group in gradients.items()
    }
    assert {part for part, found in sizes.items() if any(found)} == REACHED[name, term]
    for part in REACHED[name, term]:
        assert all(size > 0 for size in sizes[part]), part


@EVERY
def test_what_is_trained_is_what_the_losses_reach(name):
    model = shared_model(name)

    reached = set().union(*(parts for (of, _), parts in REACHED.items() if of == name))

    trained = {id(variable) for variable in model.trainable_variables}
    assert trained == {id(v) for part in reached for v in parts_of(model)[part]}


@EVERY
def test_a_step_of_training_changes_what_is_trained_and_nothing_else(name):
    model = build_model(name, trained=True)
    model.compile(RowwiseAdam(0.05), run_eagerly=True, weighted_metrics=[])
    before = {id(weight): weight.numpy() for weight in model.weights}

    model.fit(one_batch(FEATURES, LABELS, WEIGHT), verbose=0)

    changed = {id(w) for w in model.weights if (w.numpy() != before[id(w)]).any()}
    assert changed == {id(variable) for variable in model.trainable_variables}


def test_esmm_ns_shares_nothing_and_esmm_its_tables():
    shared, apart = parts_of(build_model("esmm")), parts_of(build_model("esmm_ns"))

    assert set(shared) == {"encoder", "ctr_tower", "cvr_tower"}
    assert set(apart) == {"ctr_encoder", "cvr_encoder", "ctr_tower", "cvr_tower"}
    ((of_ctr,), (of_cvr,)) = apart["ctr_encoder"], apart["cvr_encoder"]
    assert of_ctr is not of_cvr
    assert of_ctr.shape == of_cvr.shape == shared["encoder"][0].shape
    assert (of_ctr.numpy() != of_cvr.numpy()).all()


def test_each_tower_of_esmm_ns_reads_its_own_encoder():
    model = build_model("esmm_ns")

    for task in ("ctr", "cvr"):
        inputs = model.get_layer(f"{task}_tower").inbound_nodes[-1].input_tensors
        assert inputs is model.get_layer(f"{task}_encoder").output


@EVERY
def test_every_method_gives_three_probabilities_and_their_logits(name):
    model = shared_model(name)

    outputs = model(FEATURES)

    names = {"pctr", "pcvr", "pctcvr", "ctr_logits", "cvr_logits", "ctcvr_logits"}
    assert set(outputs) == names | ({"cvr_log_ratio"} if name == "division" else set())
    for output in ("pctr", "pcvr", "pctcvr"):
        logits = float64(outputs, output.removeprefix("p") + "_logits")
        np.testing.assert_allclose(outputs[output], sigmoid(logits), rtol=1e-5)
        assert ((outputs[output] > 0) & (outputs[output] < 1)).numpy().all()
        assert outputs[output].shape == [8]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "division"])
def test_pctcvr_is_the_product_but_for_division(name):
    outputs = shared_model(name)(FEATURES)

    product = float64(outputs, "pctr") * float64(outputs, "pcvr")
    np.testing.assert_allclose(outputs["pctcvr"], product, rtol=1e-6)


@pytest.mark.parametrize("share", [0.005, 0.2])
def test_ctr_alone_takes_the_share_of_clicks_that_convert_for_every_pcvr(share):
    outputs = build_model("ctr", trained=True, share=share)(FEATURES)

    np.testing.assert_allclose(outputs["pcvr"], np.full(8, share), rtol=1e-6)
    assert len(np.unique(outputs["pctr"])) > 4


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_that_is_certain_has_a_finite_logit(share):
    outputs = build_model("ctr", share=share)(FEATURES)

    assert np.isfinite(outputs["cvr_logits"]).all()
    np.testing.assert_allclose(outputs["pcvr"], np.full(8, share), atol=2e-6)


@EVERY
def test_one_seed_gives_one_model_of_the_methods_name_and_the_parts_of_a_model_differ(name):
    first, again, other = (build_model(name, seed=seed) for seed in (1, 1, 2))

    assert [model.name for model in (first, again, other)] == [name] * 3
    for one, same in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)
    random = [t.layers[0].kernel.numpy() for t in (*towers_of(first), *towers_of(other))]
    assert all((a != b).all() for place, a in enumerate(random) for b in random[:place])


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        *((name, ()) for name in ("base", "ctr", "division", "esmm", "esmm_ns")),
        ("aman", (0.1, 0.2, 0.5, 1.0)),
        ("oversampling", (2.0, 3.0, 5.0, 10.0)),
        ("unbias", (0.0, 0.25, 0.5, 1.0)),
    ],
)
def test_the_first_rate_is_the_default_and_all_are_allowed(name, rates):
    method = load_method(name)

    assert method.rates == rates
    for rate in rates:
        assert isinstance(method.choose_sampling(rate), Sampling)
    if name in ("aman", "oversampling"):
        assert method.choose_sampling() == method.choose_sampling(rates[0])


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [
        ("base", 0.5, "--sampling_rate is 0.5, and BASE has no rate. Leave it out."),
        ("ctr", 0.0, "--sampling_rate is 0, and CTR has no rate. Leave it out."),
        ("division", 1.0, "--sampling_rate is 1, and DIVISION has no rate. Leave it out."),
        ("esmm", 2.0, "--sampling_rate is 2, and ESMM has no rate. Leave it out."),
        ("esmm_ns", 2.0, "--sampling_rate is 2, and ESMM-NS has no rate. Leave it out."),
        *(
            (
                "aman",
                rate,
                f"--sampling_rate is {rate:g}, and AMAN's is the share of unclicked impressions "
                "that are negatives. Give a number above 0 and at most 1.",
            )
            for rate in (0.0, 1.01, float("nan"))
        ),
        *(
            (
                "oversampling",
                rate,
                f"--sampling_rate is {rate:g}, and OVERSAMPLING's is how often a conversion is "
                "trained on. Give 1 or more.",
            )
            for rate in (0.5, float("nan"))
        ),
        (
            "unbias",
            float("nan"),
            "--sampling_rate is nan, and UNBIAS keeps a click with probability min(1, rate * "
            "click_share / pCTR), or 1 - pCTR if the rate is 0. Give 0 or more.",
        ),
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(name, rate, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load_method(name).choose_sampling(rate)
