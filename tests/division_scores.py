"""Impressions as DIVISION scores them, and what they are measured by."""

import numpy as np
import tensorflow as tf

from esmm_tf.evaluation import evaluation
from esmm_tf.evaluation.scores import Divided, Scores
from esmm_tf.model.layers import DividedOutputs

NUM_ROWS = 600


def sigmoid(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def log_sigmoid(logits):
    return -np.logaddexp(0, -np.asarray(logits, np.float64))


def divide(ctr_logits, ctcvr_logits):
    outputs = DividedOutputs()(tf.constant(ctr_logits), tf.constant(ctcvr_logits))
    return {name: value.numpy() for name, value in outputs.items()}


def build_scores(seed=0, *, offset=-1.0, **changes):
    """Returns impressions as DIVISION scores them, some of whose ratios exceed 1."""
    rng = np.random.default_rng(seed)
    ctr = rng.normal(-0.5, 1, NUM_ROWS).astype(np.float32)
    ctcvr = (ctr + rng.normal(offset, 1, NUM_ROWS)).astype(np.float32)
    outputs = divide(ctr, ctcvr)
    click = (rng.random(NUM_ROWS) < sigmoid(ctr)).astype(np.uint8)
    fields = {
        "ctr_logits": ctr,
        "cvr_logits": outputs["cvr_logits"],
        "click": click,
        "conversion": click & (rng.random(NUM_ROWS) < sigmoid(ctcvr)),
        "groups": np.repeat(np.arange(NUM_ROWS // 6), 6),
        "divided": Divided(
            ctcvr_logits=outputs["ctcvr_logits"], cvr_log_ratio=outputs["cvr_log_ratio"]
        ),
    }
    return Scores(**fields | changes)


def oracle(seed=2):
    pctr, pcvr = np.random.default_rng(seed).uniform(0.05, 0.95, (2, NUM_ROWS))
    return {"oracle_pctr": pctr.astype(np.float32), "oracle_pcvr": pcvr.astype(np.float32)}


def tasks_of(scores):
    return evaluation.evaluate_scores(scores).evaluation.tasks
