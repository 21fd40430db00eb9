import pytest
import tensorflow as tf

from esmm_tf.data.ragged import row_ids


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64])
@pytest.mark.parametrize("lengths", [[2, 0, 3], [0, 0, 1, 0], [0], [], [4]])
def test_row_ids_are_those_of_a_ragged_tensor(lengths, dtype):
    values = tf.zeros([sum(lengths)])

    found = row_ids(tf.constant(lengths, dtype))

    expected = tf.RaggedTensor.from_row_lengths(values, tf.constant(lengths, dtype)).value_rowids()
    assert found.dtype == dtype
    assert found.numpy().tolist() == expected.numpy().tolist()
