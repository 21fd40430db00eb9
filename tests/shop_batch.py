"""A batch of two groups that can be checked by hand, and models of its schema."""

import numpy as np
import tensorflow as tf

from esmm_tf.config.training import ModelConfig
from esmm_tf.methods import load_method
from esmm_tf.schema.columns import FLOAT32, INT64, IdentityColumn, NumericColumn
from esmm_tf.schema.record_field import CONTEXT, IMPRESSION, MANY, OPTIONAL
from esmm_tf.schema.schema import Feature, Schema

ITEM = Feature(name="item", side=IMPRESSION, dtype=INT64, column=IdentityColumn(vocabulary_size=4))
USER = Feature(
    name="user", side=CONTEXT, dtype=INT64, column=IdentityColumn(vocabulary_size=3), values=MANY
)
PRICE = Feature(
    name="price",
    side=IMPRESSION,
    dtype=FLOAT32,
    column=NumericColumn(),
    values=OPTIONAL,
    missing="indicator",
)
SCHEMA = Schema(name="shop", features=(USER, ITEM, PRICE))
SMALL = {"embedding_dim": 4, "hidden_units": (8,)}

# Two users' groups. Item 3 is clicked and bought, item 2 clicked, items 1 and 0 neither.
FEATURES = {
    "group_index": tf.constant([0, 0, 0, 0, 0, 1, 1, 1], tf.int64),
    "user": tf.ragged.constant([[0, 1], [2]], dtype=tf.int64, row_splits_dtype=tf.int64),
    "item": tf.RaggedTensor.from_uniform_row_length(
        tf.constant([0, 1, 2, 3, 3, 2, 1, 3], tf.int64), 1
    ),
    "price": tf.constant([1.0, np.nan, 2.0, 0.5, 1.0, 0.25, 3.0, np.nan]),
}
LABELS = {
    "click": tf.constant([0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]),
    "conversion": tf.constant([0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]),
}
WEIGHT = tf.constant([0.5, 2.0, 0.0, 1.0, 3.0, 1.0, 0.25, 4.0])


def build_model(
    method="esmm", *, schema=SCHEMA, seed=1, trained=False, sampling=None, share=0.5, **config
):
    """Returns a small model; a `trained` one has heads that are not zero."""
    model = load_method(method).build(
        schema,
        ModelConfig(**(SMALL | config)),
        seed=seed,
        conversion_share=share,
        sampling=sampling,
    )
    if trained:
        for place, tower in enumerate(towers_of(model)):
            for weight in tower.layers[-1].weights:
                weight.assign(tf.random.stateless_normal(weight.shape, seed=[place, 5]))
    return model


def towers_of(model):
    """Returns the towers of a model, in the order of their names."""
    towers = {m.name: m for m in model.submodules if m.name.endswith("_tower")}
    return [towers[name] for name in sorted(towers)]


def one_batch(*parts):
    return tf.data.Dataset.from_tensors(parts)
