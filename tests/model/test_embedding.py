import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.model.embedding import FusedEmbedding, TableInitializer
from esmm_tf.model.feature_columns import Tokens
from esmm_tf.schema.schema import COMBINERS, Table

DIM = 3
ITEM, SHOP = (Table(name="item"), 20), (Table(name="shop"), 7)


def make_layer():
    layer = FusedEmbedding([ITEM, SHOP], DIM, seed=1)
    layer.table.assign(tf.random.stateless_normal(layer.table.shape, seed=[1, 2]))
    return layer


def pair(ids, weights):
    return [Tokens(*both) for both in zip(ids, weights, strict=True)]


def random_rows(rng, num_ids, *, shortest=0):
    lengths = rng.integers(shortest, 5, size=6)
    values = rng.integers(0, num_ids, size=lengths.sum())
    return tf.RaggedTensor.from_row_lengths(values.astype(np.int64), lengths.astype(np.int64))


def random_weights(rng, ids, low):
    return ids.with_flat_values(
        tf.constant(rng.uniform(low, 2.0, size=ids.flat_values.shape[0]), tf.float32)
    )


def random_features(seed, *, weighted, low=0.1, shortest=0):
    """Returns ids, weights and tables of three features: item, shop, and item again."""
    rng = np.random.default_rng(seed)
    tables = ["item", "shop", "item"]
    ids = [random_rows(rng, {"item": 20, "shop": 7}[t], shortest=shortest) for t in tables]
    weights = [random_weights(rng, one, low) if weighted else None for one in ids]
    return ids, weights, tables


def reference(lookup, table, ids, weights, tables, combiners):
    """Returns what one lookup a feature on its own slice of the variable gives."""
    slices = {"item": table[:20], "shop": table[20:]}
    return tf.concat(
        [
            lookup(
                slices[name],
                one.to_sparse(),
                weight if weight is None else weight.to_sparse(),
                combiner=combiner,
            )
            for one, weight, name, combiner in zip(ids, weights, tables, combiners, strict=True)
        ],
        axis=1,
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", COMBINERS)
def test_pooling_equals_safe_embedding_lookup_sparse_with_empty_rows(combiner, weighted, seed):
    layer = make_layer()
    ids, weights, tables = random_features(seed, weighted=weighted)

    pooled = layer(pair(ids, weights), tables=tables, combiners=[combiner] * 3)

    expected = reference(
        tf.nn.safe_embedding_lookup_sparse, layer.table, ids, weights, tables, [combiner] * 3
    )
    assert pooled.shape == (6, 3 * DIM)
    np.testing.assert_allclose(pooled, expected, atol=1e-6)


@pytest.mark.parametrize("combiner", COMBINERS)
def test_pooling_equals_embedding_lookup_sparse_with_weights_of_both_signs(combiner):
    layer = make_layer()
    ids, weights, tables = random_features(3, weighted=True, low=-1.0, shortest=1)

    pooled = layer(pair(ids, weights), tables=tables, combiners=[combiner] * 3)

    expected = reference(
        tf.nn.embedding_lookup_sparse, layer.table, ids, weights, tables, [combiner] * 3
    )
    np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)


def test_each_feature_keeps_its_own_combiner_and_weights():
    layer = make_layer()
    ids, weights, tables = random_features(4, weighted=True)
    weights[1] = None
    combiners = ["mean", "sqrtn", "sum"]

    pooled = layer(pair(ids, weights), tables=tables, combiners=combiners)

    expected = reference(
        tf.nn.safe_embedding_lookup_sparse, layer.table, ids, weights, tables, combiners
    )
    np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_pooling_by_hand_reads_each_table_at_its_own_offset():
    layer = FusedEmbedding([(Table(name="a"), 2), (Table(name="b"), 2)], 1)
    layer.table.assign([[1.0], [10.0], [100.0], [1000.0]])
    ids = [tf.ragged.constant(rows, dtype=tf.int64) for rows in ([[0, 1], []], [[0], [1, 1]])]
    weights = [tf.ragged.constant([[2.0, 3.0], []], row_splits_dtype=tf.int64), None]

    pooled = layer(pair(ids, weights), tables=["a", "b"], combiners=["sum", "sum"])

    assert pooled.numpy().tolist() == [[32.0, 100.0], [0.0, 2000.0]]


def test_features_that_share_a_table_read_the_same_rows():
    layer = make_layer()
    ids = tf.ragged.constant([[3], [1, 2]], dtype=tf.int64)

    pooled = layer(
        pair([ids, ids], [None, None]), tables=["shop", "shop"], combiners=["sum", "sum"]
    )

    np.testing.assert_array_equal(pooled[:, :DIM], pooled[:, DIM:])
    np.testing.assert_array_equal(pooled[0, :DIM], layer.table[20 + 3])


@pytest.mark.parametrize("combiner", COMBINERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_without_any_value_pools_to_zeros(combiner, weighted):
    layer = make_layer()
    ids = tf.ragged.constant([[], []], dtype=tf.int64)
    weights = tf.ragged.constant([[], []], dtype=tf.float32, row_splits_dtype=tf.int64)

    pooled = layer(
        pair([ids], [weights if weighted else None]), tables=["item"], combiners=[combiner]
    )

    assert pooled.numpy().tolist() == [[0.0] * DIM] * 2


@pytest.mark.parametrize("combiner", COMBINERS)
def test_weights_of_zero_pool_to_zeros(combiner):
    layer = make_layer()
    ids = tf.ragged.constant([[1, 2], [3]], dtype=tf.int64)
    weights = tf.ragged.constant([[0.0, 0.0], [1.0]], row_splits_dtype=tf.int64)

    pooled = layer(pair([ids], [weights]), tables=["item"], combiners=[combiner])

    np.testing.assert_array_equal(pooled, [[0.0] * DIM, layer.table[3].numpy().tolist()])


def test_weights_that_cancel_out_pool_to_zeros_under_mean():
    layer = make_layer()
    ids = tf.ragged.constant([[1, 2]], dtype=tf.int64)
    weights = tf.ragged.constant([[1.0, -1.0]], row_splits_dtype=tf.int64)

    pooled = layer(pair([ids], [weights]), tables=["item"], combiners=["mean"])

    assert pooled.numpy().tolist() == [[0.0] * DIM]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", COMBINERS)
def test_the_gradient_is_sparse_and_equals_that_of_the_reference(combiner, weighted):
    layer = make_layer()
    ids, weights, tables = random_features(5, weighted=weighted)
    upstream = tf.random.stateless_normal([6, 3 * DIM], seed=[3, 4])

    with tf.GradientTape() as tape:
        pooled = layer(pair(ids, weights), tables=tables, combiners=[combiner] * 3)
    gradient = tape.gradient(pooled, layer.table, output_gradients=upstream)

    dense = tf.Variable(layer.table)
    with tf.GradientTape() as tape:
        expected = reference(
            tf.nn.safe_embedding_lookup_sparse, dense, ids, weights, tables, [combiner] * 3
        )
    expected_gradient = tape.gradient(expected, dense, output_gradients=upstream)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.indices.shape[0] == sum(one.flat_values.shape[0] for one in ids)
    np.testing.assert_allclose(
        tf.convert_to_tensor(gradient), tf.convert_to_tensor(expected_gradient), atol=1e-6
    )


def test_the_gradient_of_zero_weights_is_finite():
    layer = make_layer()
    ids = tf.ragged.constant([[1, 2]], dtype=tf.int64)
    weights = tf.ragged.constant([[0.0, 0.0]], row_splits_dtype=tf.int64)

    with tf.GradientTape() as tape:
        pooled = layer(pair([ids], [weights]), tables=["item"], combiners=["mean"])
    gradient = tape.gradient(pooled, layer.table)

    assert np.isfinite(gradient.values).all()


def test_pooling_is_the_same_in_a_function_that_knows_no_shapes():
    layer = make_layer()
    ids, weights, tables = random_features(6, weighted=True)
    spec = tf.RaggedTensorSpec([None, None], tf.int64, ragged_rank=1)
    weight_spec = tf.RaggedTensorSpec([None, None], tf.float32, ragged_rank=1)
    options = {"tables": tables, "combiners": COMBINERS}

    compiled = tf.function(
        lambda ids, weights: layer(pair(ids, weights), **options),
        input_signature=[[spec] * 3, [weight_spec] * 3],
    )(ids, weights)

    np.testing.assert_array_equal(compiled, layer(pair(ids, weights), **options))


def test_all_tables_stand_in_one_trainable_float32_variable():
    layer = FusedEmbedding([ITEM, SHOP], DIM)

    (table,) = layer.trainable_variables

    assert table.shape == (27, DIM)
    assert table.dtype == tf.float32


def test_each_table_is_initialized_as_its_schema_says():
    tables = [
        (Table(name="a", initializer="uniform", initializer_scale=0.5), 4000),
        (Table(name="b", initializer="zeros"), 10),
        (Table(name="c", initializer="truncated_normal", initializer_scale=0.1), 4000),
    ]

    value = FusedEmbedding(tables, 2, seed=1).table.numpy()

    uniform, zeros, normal = value[:4000], value[4000:4010], value[4010:]
    assert 0.49 < np.abs(uniform).max() <= 0.5
    np.testing.assert_allclose(uniform.std(), 0.5 / np.sqrt(3), rtol=0.05)
    assert not zeros.any()
    assert 0.15 < np.abs(normal).max() <= 0.2
    np.testing.assert_allclose(normal.std(), 0.088, rtol=0.05)
    assert abs(normal.mean()) < 0.005


def test_initial_values_depend_on_the_seed_and_the_table_only():
    tables = [(Table(name="a"), 5), (Table(name="b"), 5)]

    first, again, other = (TableInitializer(tables, seed)([10, 2]).numpy() for seed in (1, 1, 7))

    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()
    assert not np.isclose(first[:5], first[5:]).any()
