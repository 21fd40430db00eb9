import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from esmm_tf.model.optimizers import RowwiseAdam

SETTINGS = {"learning_rate": 0.05, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-6}
NUM_ROWS, DIM = SHAPE = 6, 3
# The rows that each step reads: different ones, none of them twice.
STEPS = ([0, 1, 2], [1], [5, 1, 0], [2], [0, 5])


def make_table():
    return tf.Variable(np.random.default_rng(0).normal(size=(NUM_ROWS, DIM)), dtype=tf.float32)


def slices(rows, seed):
    values = np.random.default_rng(seed).normal(size=(len(rows), DIM)).astype(np.float32)
    return tf.IndexedSlices(tf.constant(values), tf.constant(rows, tf.int64), SHAPE)


def dense(seed):
    return tf.convert_to_tensor(slices(range(NUM_ROWS), seed))


def train(optimizer, table, gradients):
    for gradient in gradients:
        optimizer.apply_gradients([(gradient, table)])
    return table.numpy()


def state(optimizer):
    """Returns step count, learning rate, moments: every variable of the optimizer."""
    return [variable.numpy() for variable in optimizer.variables]


def lazy_adam(table, gradients, *, learning_rate, beta_1, beta_2, epsilon):
    """Returns the table after the steps, in float64: a row's moments decay when it is read."""
    table = table.numpy().astype(np.float64)
    momentum, velocity = np.zeros_like(table), np.zeros_like(table)
    for step, gradient in enumerate(gradients, start=1):
        rate = learning_rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        for row, value in zip(gradient.indices.numpy(), gradient.values.numpy(), strict=True):
            momentum[row] = beta_1 * momentum[row] + (1 - beta_1) * value
            velocity[row] = beta_2 * velocity[row] + (1 - beta_2) * value.astype(float) ** 2
            table[row] -= rate * momentum[row] / (np.sqrt(velocity[row]) + epsilon)
    return table


def sparse_gradients():
    return [slices(rows, seed) for seed, rows in enumerate(STEPS)]


def test_sparse_steps_with_varying_rows_equal_float64_lazy_adam():
    table = make_table()
    expected = lazy_adam(table, sparse_gradients(), **SETTINGS)

    trained = train(RowwiseAdam(**SETTINGS), table, sparse_gradients())

    np.testing.assert_allclose(trained, expected, rtol=1e-5, atol=1e-6)


def test_a_lazy_step_differs_from_the_stock_optimizer():
    trained = train(RowwiseAdam(**SETTINGS), make_table(), sparse_gradients())

    stock = train(tf_keras.optimizers.Adam(**SETTINGS), make_table(), sparse_gradients())

    assert np.abs(trained - stock).max() > 1e-2


def test_dense_steps_equal_the_stock_optimizer():
    gradients = [dense(seed) for seed in range(5)]

    trained = train(RowwiseAdam(**SETTINGS), make_table(), gradients)

    stock = tf_keras.optimizers.Adam(**SETTINGS, jit_compile=False)
    np.testing.assert_array_equal(trained, train(stock, make_table(), gradients))


def test_defaults_are_those_of_the_paper():
    gradients = [dense(seed) for seed in range(3)]

    trained = train(RowwiseAdam(), make_table(), gradients)

    stock = tf_keras.optimizers.Adam(0.001, 0.9, 0.999, 1e-8)
    np.testing.assert_allclose(trained, train(stock, make_table(), gradients), rtol=1e-6)


def test_sparse_steps_on_every_row_equal_the_stock_optimizer():
    order = [3, 0, 5, 1, 2, 4]
    gradients = [slices(order, seed) for seed in range(5)]

    trained = train(RowwiseAdam(**SETTINGS), make_table(), gradients)

    stock = tf_keras.optimizers.Adam(**SETTINGS)
    np.testing.assert_allclose(trained, train(stock, make_table(), gradients), rtol=1e-5, atol=1e-6)


def test_rows_and_slots_that_a_batch_did_not_read_stay_bit_identical():
    table, optimizer = make_table(), RowwiseAdam(**SETTINGS)
    train(optimizer, table, [dense(1)])
    before = [table.numpy(), *state(optimizer)]

    train(optimizer, table, [slices([4, 1], 2)])

    after = [table.numpy(), *state(optimizer)]
    tables = [(old, new) for old, new in zip(before, after, strict=True) if old.ndim == 2]
    assert len(tables) == 3
    for old, new in tables:
        assert old[[0, 2, 3, 5]].tobytes() == new[[0, 2, 3, 5]].tobytes()
        assert (old[[1, 4]] != new[[1, 4]]).all()


def test_slices_of_the_same_row_are_summed_before_the_step():
    repeated = tf.IndexedSlices(
        tf.constant([[1.0] * DIM, [5.0] * DIM, [3.0] * DIM]), tf.constant([2, 0, 2]), SHAPE
    )
    summed = tf.IndexedSlices(tf.constant([[4.0] * DIM, [5.0] * DIM]), tf.constant([2, 0]), SHAPE)
    first, second = RowwiseAdam(**SETTINGS), RowwiseAdam(**SETTINGS)

    trained = train(first, make_table(), [repeated, repeated])

    np.testing.assert_array_equal(trained, train(second, make_table(), [summed, summed]))
    for one, other in zip(state(first), state(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_empty_gradient_counts_a_step_and_changes_no_row():
    table, optimizer = make_table(), RowwiseAdam(**SETTINGS)
    before = table.numpy()

    trained = train(optimizer, table, [slices([], 0)])

    np.testing.assert_array_equal(trained, before)
    assert optimizer.iterations == 1


def test_a_sparse_and_a_dense_variable_are_trained_in_one_step():
    table, kernel, optimizer = make_table(), make_table(), RowwiseAdam(**SETTINGS)
    expected = lazy_adam(table, [slices([1], 3)], **SETTINGS)
    stock_kernel = train(tf_keras.optimizers.Adam(**SETTINGS), make_table(), [dense(4)])

    optimizer.apply_gradients([(slices([1], 3), table), (dense(4), kernel)])

    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(kernel, stock_kernel, rtol=1e-6)


def test_the_learning_rate_of_a_schedule_is_used():
    schedule = tf_keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.05, 0.0])
    table, optimizer = make_table(), RowwiseAdam(schedule)

    once = train(optimizer, table, [slices([1], 0)])
    twice = train(optimizer, table, [slices([1], 1)])

    assert (once[1] != make_table().numpy()[1]).all()
    np.testing.assert_array_equal(once, twice)


def test_steps_in_a_function_equal_eager_steps():
    table, optimizer = make_table(), RowwiseAdam(**SETTINGS)
    optimizer.build([table])

    @tf.function
    def step(values, rows):
        optimizer.apply_gradients([(tf.IndexedSlices(values, rows, SHAPE), table)])

    for gradient in sparse_gradients():
        step(gradient.values, gradient.indices)

    eager = train(RowwiseAdam(**SETTINGS), make_table(), sparse_gradients())
    np.testing.assert_allclose(table, eager, rtol=1e-6, atol=1e-7)


def test_the_optimizer_is_built_anew_from_its_config():
    optimizer = RowwiseAdam(**SETTINGS)

    again = RowwiseAdam.from_config(optimizer.get_config())

    assert again.get_config() == optimizer.get_config()
    trained = train(again, make_table(), sparse_gradients())
    np.testing.assert_array_equal(trained, train(optimizer, make_table(), sparse_gradients()))


@pytest.mark.parametrize("is_built", [True, False])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(is_built, tmp_path):
    gradients = sparse_gradients()
    expected = train(RowwiseAdam(**SETTINGS), make_table(), gradients)
    table, optimizer = make_table(), RowwiseAdam(**SETTINGS)
    train(optimizer, table, gradients[:3])
    path = tf.train.Checkpoint(table=table, optimizer=optimizer).save(str(tmp_path / "ckpt"))

    restored, again = tf.Variable(tf.zeros(SHAPE)), RowwiseAdam(**SETTINGS)
    if is_built:
        again.build([restored])
    status = tf.train.Checkpoint(table=restored, optimizer=again).restore(path)
    trained = train(again, restored, gradients[3:])

    status.assert_existing_objects_matched()
    np.testing.assert_array_equal(trained, expected)
