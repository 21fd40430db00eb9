"""A batch of impressions as tensors."""

from typing import Any, NamedTuple

import tensorflow as tf

from esmm_tf import keys


class Batch(NamedTuple):
    """The impressions of some groups: an element of a data set.

    Args:
      features: the model's inputs. A categorical feature is a ragged `[rows, values]` with its
        weights beside it; a numeric feature is a float32 `[rows]` with NaN for a missing value.
        Rows are groups for a context feature and impressions for others. `group_index`, int64
        `[impressions]`, is the group of each impression.
      labels: `click` and `conversion`, float32 `[impressions]`.
      example_weight: float32 `[impressions]`, or None where the records hold none.
      oracle: `oracle_pctr` and `oracle_pcvr`, float32 `[impressions]`, where the records hold them.
      carry: the keys that `predict` copies and the group key, `[impressions]`, if asked for.
    """

    features: dict[str, Any]
    labels: dict[str, tf.Tensor]
    example_weight: tf.Tensor | None
    oracle: dict[str, tf.Tensor]
    carry: dict[str, tf.Tensor]

    @property
    def group_index(self) -> tf.Tensor:
        """Returns the group of each impression, int64 `[impressions]`."""
        return self.features[keys.GROUP_INDEX]
