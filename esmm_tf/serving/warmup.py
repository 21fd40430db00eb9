"""Warm-up requests, which TF Serving runs before a version takes traffic, with their responses.

A new version is slow at first: TensorFlow optimizes the graph of each signature at its first call.
"""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from esmm_tf.errors import UserError
from esmm_tf.schema.schema import Schema
from esmm_tf.serving import saved_model
from esmm_tf.serving.dense_inputs import Widths
from esmm_tf.serving.requests import Impression, Request, build_request, take

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
MOST_REQUESTS = 1000  # TF Serving loads no version with more

Score = Callable[[str, Request], Mapping[str, np.ndarray]]


def check_batch_sizes(batch_sizes: Sequence[int]) -> None:
    """Checks that there is one request for each signature and batch size, and not too many.

    Raises:
      UserError: if sizes are not positive and rising, or the requests are more than the 1,000 that
        TF Serving takes.
    """
    if not batch_sizes or batch_sizes[0] < 1 or sorted(set(batch_sizes)) != list(batch_sizes):
        raise UserError(
            f"--batch_sizes is {','.join(map(str, batch_sizes))!r}. Give rising numbers above 0."
        )
    requests = len(batch_sizes) * len(saved_model.SIGNATURES)
    if requests > MOST_REQUESTS:
        raise UserError(
            f"--batch_sizes has {len(batch_sizes)} sizes, which make {requests:,} warm-up "
            f"requests; TF Serving takes {MOST_REQUESTS:,}. Give fewer."
        )


def write_warmup(
    path: str,
    impressions: Sequence[Impression],
    schema: Schema,
    *,
    widths: Widths,
    batch_sizes: Sequence[int],
    model_name: str,
    score: Score,
) -> int:
    """Writes one PredictionLog per signature and batch size; returns how many there are.

    Args:
      path: of the TFRecord file.
      impressions: of which the requests are made, in turn.
      schema: of the model.
      widths: of `predict_tensors`.
      batch_sizes: impressions in a request.
      model_name: under which the server has the model.
      score: returns the outputs of a signature for a request, which the file keeps as the response.
    """
    num_requests = 0
    with tf.io.TFRecordWriter(path) as writer:
        for signature in saved_model.SIGNATURES:
            for size in batch_sizes:
                request = build_request(signature, take(impressions, size), schema, widths=widths)
                log = _build_log(signature, request, score(signature, request), model_name)
                writer.write(log.SerializeToString(deterministic=True))
                num_requests += 1
    return num_requests


def _build_log(
    signature: str, request: Request, response: Mapping[str, np.ndarray], model_name: str
) -> prediction_log_pb2.PredictionLog:
    spec = model_pb2.ModelSpec(name=model_name, signature_name=signature)
    return prediction_log_pb2.PredictionLog(
        predict_log=prediction_log_pb2.PredictLog(
            request=predict_pb2.PredictRequest(
                model_spec=spec,
                inputs={name: tf.make_tensor_proto(values) for name, values in request.items()},
            ),
            response=predict_pb2.PredictResponse(
                model_spec=spec,
                outputs={name: tf.make_tensor_proto(v) for name, v in response.items()},
            ),
        )
    )
