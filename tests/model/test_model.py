import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from esmm_tf.config.training import ModelConfig
from esmm_tf.model.layers import EntireSpaceOutputs, ImpressionEncoder, TowerLogits, build_tower
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.schema.columns import FLOAT32, INT64, IdentityColumn, NumericColumn
from esmm_tf.schema.record_field import CONTEXT, IMPRESSION, MANY, OPTIONAL, SIDES
from esmm_tf.schema.schema import Feature, Schema, Table

IDS = IdentityColumn(vocabulary_size=4)


def embedded(name, side=IMPRESSION, **kwargs):
    return Feature(name=name, side=side, dtype=INT64, column=IDS, values=MANY, **kwargs)


def numeric(name, side=IMPRESSION, **kwargs):
    kwargs = {"values": OPTIONAL, "column": NumericColumn()} | kwargs
    return Feature(name=name, side=side, dtype=FLOAT32, **kwargs)


def ragged(rows, dtype=tf.int64):
    return tf.ragged.constant(rows, dtype=dtype, row_splits_dtype=tf.int64)


def make_encoder(*features, tables=(), embedding_dim=2):
    schema = Schema(name="s", features=features, tables=tables)
    return ImpressionEncoder(schema, ModelConfig(embedding_dim=embedding_dim), seed=1)


def fill(encoder):
    """Gives every row of every variable other values: row `r` of the first becomes `r+1, ...`."""
    for place, variable in enumerate(encoder.trainable_variables):
        rows = tf.range(1.0, variable.shape[0] + 1.0)[:, None]
        variable.assign(rows * 10.0 ** tf.range(variable.shape[1], dtype=tf.float32) * (place + 1))


def test_a_tower_has_the_layers_of_the_paper():
    tower = build_tower("ctr_tower", ModelConfig().hidden_units)

    tower.build([None, 90])

    assert [weight.shape.as_list() for weight in tower.trainable_variables] == [
        *([90, 360], [360]),
        *([360, 200], [200]),
        *([200, 80], [80]),
        *([80, 2], [2]),
    ]
    assert [layer.activation.__name__ for layer in tower.layers] == ["relu"] * 3 + ["linear"]


def test_a_tower_starts_with_random_layers_and_a_head_of_zeros():
    tower = build_tower("ctr_tower", (5, 4), seed=1)

    output = tower(tf.ones([3, 6]))

    assert output.numpy().tolist() == [[0.0, 0.0]] * 3
    assert all((layer.kernel.numpy() != 0).all() for layer in tower.layers[:-1])


def test_a_tower_without_hidden_layers_is_a_linear_model():
    tower = build_tower("ctr_tower", ())
    tower.build([None, 2])
    tower.set_weights([np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([10.0, 20.0])])

    output = tower(tf.constant([[1.0, -1.0]]))

    assert output.numpy().tolist() == [[8.0, 17.0]]


def test_the_logit_gives_the_probability_of_softmax():
    head = tf.constant([[0.5, 2.0], [3.0, -1.0], [60.0, -60.0]])

    logits = TowerLogits()(head)

    np.testing.assert_allclose(logits, [1.5, -4.0, -120.0])
    np.testing.assert_allclose(tf.sigmoid(logits), tf.nn.softmax(head)[:, 1], rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize(("ctr", "cvr"), [(0.5, -1.0), (-9.0, -8.0), (-30.0, 30.0), (4.0, 3.0)])
def test_outputs_are_probabilities_and_logits_of_three_events(ctr, cvr):
    outputs = EntireSpaceOutputs()(tf.constant([ctr]), tf.constant([cvr]))

    pctr, pcvr = 1 / (1 + np.exp(-ctr)), 1 / (1 + np.exp(-cvr))
    pctcvr = pctr * pcvr
    expected = {
        "pctr": pctr,
        "pcvr": pcvr,
        "pctcvr": pctcvr,
        "ctr_logits": ctr,
        "cvr_logits": cvr,
        "ctcvr_logits": np.log(pctcvr) - np.log1p(-pctcvr),
    }
    assert sorted(outputs) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], [value], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("ctr", [-1000.0, -100.0, 100.0, 1000.0])
@pytest.mark.parametrize("cvr", [-1000.0, -100.0, 100.0, 1000.0])
def test_outputs_stay_finite_at_extreme_logits(ctr, cvr):
    outputs = EntireSpaceOutputs()(tf.constant([ctr]), tf.constant([cvr]))

    for value in outputs.values():
        assert np.isfinite(value).all()
    assert (outputs["ctcvr_logits"] > 0) == (ctr > 0 and cvr > 0)


def test_context_comes_first_and_is_gathered_to_the_impressions_of_its_group():
    encoder = make_encoder(embedded("item"), embedded("user", CONTEXT))
    fill(encoder)
    # One variable holds both tables, the item's 5 rows first: item r is r+1, user r is r+6.
    inputs = {
        "group_index": tf.constant([0, 0, 1], tf.int64),
        "user": ragged([[0], [1, 2]]),
        "item": ragged([[0], [], [3, 3]]),
    }

    encoded = encoder(inputs)

    assert encoded.numpy().tolist() == [
        [6.0, 60.0, 1.0, 10.0],
        [6.0, 60.0, 0.0, 0.0],
        [15.0, 150.0, 8.0, 80.0],
    ]


def test_group_indices_need_no_order():
    encoder = make_encoder(embedded("user", CONTEXT))
    fill(encoder)
    inputs = {"group_index": tf.constant([1, 0, 1], tf.int64), "user": ragged([[0], [2]])}

    encoded = encoder(inputs)

    assert encoded.numpy().tolist() == [[3.0, 30.0], [1.0, 10.0], [3.0, 30.0]]


def test_a_group_gives_the_same_as_its_impressions_written_as_groups_of_one():
    encoder = make_encoder(
        embedded("item", weighted=True),
        embedded("tastes", CONTEXT, weighted=True, combiner="mean"),
        numeric("age", CONTEXT, missing="indicator"),
        numeric("price"),
    )
    fill(encoder)
    impressions = {
        "item": ragged([[0], [1, 2], [3]]),
        "item:weight": ragged([[1.0], [0.5, 0.25], [2.0]], tf.float32),
        "price": tf.constant([1.0, 2.0, 3.0]),
    }
    groups = {
        "group_index": tf.constant([0, 0, 1], tf.int64),
        "tastes": ragged([[0, 3], [1]]),
        "tastes:weight": ragged([[1.0, 3.0], [0.5]], tf.float32),
        "age": tf.constant([30.0, np.nan]),
    }
    ones = {
        "group_index": tf.range(3, dtype=tf.int64),
        "tastes": ragged([[0, 3], [0, 3], [1]]),
        "tastes:weight": ragged([[1.0, 3.0], [1.0, 3.0], [0.5]], tf.float32),
        "age": tf.constant([30.0, 30.0, np.nan]),
    }

    grouped = encoder(impressions | groups)

    assert grouped.shape == (3, 7)
    np.testing.assert_array_equal(grouped, encoder(impressions | ones))


@pytest.mark.parametrize("side", SIDES)
def test_weights_that_are_lost_are_an_error_and_not_ones(side):
    encoder = make_encoder(embedded("tastes", side, weighted=True))
    inputs = {"group_index": tf.zeros([1], tf.int64), "tastes": ragged([[0, 3]])}
    message = r"Feature 'tastes' is weighted and needs 'tastes:weight' among the inputs, which are"

    with pytest.raises(ValueError, match=message):
        encoder(inputs)


def test_context_tokens_are_read_once_a_group_and_not_once_an_impression():
    encoder = make_encoder(embedded("user", CONTEXT))
    inputs = {
        "group_index": tf.zeros([50], tf.int64),
        "user": ragged([[0, 1, 3]]),
    }

    with tf.GradientTape() as tape:
        total = tf.reduce_sum(encoder(inputs))
    gradient = tape.gradient(total, encoder.trainable_variables[0])

    assert gradient.indices.numpy().tolist() == [0, 1, 3]
    assert gradient.values.numpy().tolist() == [[50.0, 50.0]] * 3


def test_numbers_enter_as_they_are_after_the_embeddings_of_their_side():
    encoder = make_encoder(
        numeric("price", column=NumericColumn(scaling="log")),
        embedded("item"),
        numeric("age", CONTEXT, missing="indicator"),
    )
    fill(encoder)
    inputs = {
        "group_index": tf.constant([0, 1], tf.int64),
        "price": tf.constant([np.e - 1, np.nan]),
        "item": ragged([[1], [0]]),
        "age": tf.constant([np.nan, 40.0]),
    }

    encoded = encoder(inputs)

    expected = [[0.0, 1.0, 2.0, 20.0, 1.0], [40.0, 0.0, 1.0, 10.0, 0.0]]
    np.testing.assert_allclose(encoded, expected, rtol=1e-6)


def test_a_model_of_numbers_only_has_no_variable():
    encoder = make_encoder(numeric("price"))
    inputs = {"group_index": tf.zeros([2], tf.int64), "price": tf.constant([2.0, 3.0])}

    encoded = encoder(inputs)

    assert encoded.numpy().tolist() == [[2.0], [3.0]]
    assert encoder.trainable_variables == []


def test_tables_of_one_dimension_share_a_variable_and_other_dimensions_have_their_own():
    encoder = make_encoder(
        embedded("item"),
        embedded("user", CONTEXT),
        embedded("shop", table="shops"),
        tables=(Table(name="shops", embedding_dim=3),),
    )

    shapes = sorted(variable.shape.as_list() for variable in encoder.trainable_variables)

    assert shapes == [[5, 3], [10, 2]]


def test_a_context_and_an_impression_feature_may_share_a_table():
    encoder = make_encoder(
        embedded("viewed", CONTEXT, table="items"),
        embedded("item", table="items"),
        tables=(Table(name="items"),),
    )
    inputs = {
        "group_index": tf.zeros([1], tf.int64),
        "viewed": ragged([[3]]),
        "item": ragged([[3]]),
    }

    encoded = encoder(inputs).numpy()

    (table,) = encoder.trainable_variables
    assert table.shape == (5, 2)
    np.testing.assert_array_equal(encoded, [np.tile(table[3], 2)])


def test_the_loss_without_labels_or_outputs_raises():
    inputs = tf_keras.Input((1,))
    model = EntireSpaceModel(inputs=inputs, outputs=inputs, losses={}, loss_weights={}, tasks=())

    with pytest.raises(ValueError, match="The loss needs labels and outputs"):
        model.compute_loss(x=tf.zeros([1, 1]))
