"""Optimizers that update an embedding table row by row."""

from typing import Any

import tensorflow as tf
import tf_keras


class RowwiseAdam(tf_keras.optimizers.Adam):
    """Adam whose sparse update touches only the rows that a batch read.

    Keras' own Adam decays the moments of the whole table at each step, in time proportional to the
    vocabulary. Here a row's moments decay only when the row is read ("lazy Adam"), and the bias
    correction counts steps of the model. Dense variables are updated as by Keras' Adam (Kingma and
    Ba, arXiv 1412.6980, with epsilon outside the bias correction).
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        name: str = "RowwiseAdam",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("jit_compile", False)
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            name=name,
            **kwargs,
        )

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Updates `variable`; the indices of a sparse `gradient` must be unique.

        They are, because `apply_gradients` sums the slices of equal indices first.
        """
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        slot = self._index_dict[self._var_key(variable)]
        momentum, velocity = self._momentums[slot], self._velocities[slot]
        step = tf.cast(self.iterations + 1, variable.dtype)
        correction = tf.sqrt(1 - tf.pow(self.beta_2, step)) / (1 - tf.pow(self.beta_1, step))
        rate = tf.cast(self.learning_rate, variable.dtype) * correction

        rows, values = gradient.indices, gradient.values
        m = self.beta_1 * tf.gather(momentum, rows) + (1 - self.beta_1) * values
        v = self.beta_2 * tf.gather(velocity, rows) + (1 - self.beta_2) * tf.square(values)
        momentum.scatter_update(tf.IndexedSlices(m, rows))
        velocity.scatter_update(tf.IndexedSlices(v, rows))
        variable.scatter_sub(tf.IndexedSlices(rate * m / (tf.sqrt(v) + self.epsilon), rows))
