"""Scores and labels of impressions: what every exact metric is computed from."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from esmm_tf import keys
from esmm_tf.config.training import InputConfig
from esmm_tf.data import input_fn
from esmm_tf.data.batch import Batch
from esmm_tf.data.source import Source
from esmm_tf.errors import UserError
from esmm_tf.evaluation.slicing import SliceReader, Slices
from esmm_tf.metrics import intervals
from esmm_tf.model.model import build_scorer
from esmm_tf.schema.schema import Schema

_LOGITS = (keys.CTR_LOGITS, keys.CVR_LOGITS)
DIVIDED = (keys.CTCVR_LOGITS, keys.CVR_LOG_RATIO)
_LABELS = (keys.CLICK, keys.CONVERSION)
_ORACLE = (keys.ORACLE_PCTR, keys.ORACLE_PCVR)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divided:
    """What a method predicts beside its logits if its pCVR is pCTCVR / pCTR, `[impressions]`.

    Args:
      ctcvr_logits: of its own pCTCVR, float32.
      cvr_log_ratio: logarithm of the ratio, above 0 where it exceeds 1, float32.
    """

    ctcvr_logits: np.ndarray
    cvr_log_ratio: np.ndarray

    def take(self, rows: np.ndarray) -> "Divided":
        """Returns some of the impressions."""
        return Divided(ctcvr_logits=self.ctcvr_logits[rows], cvr_log_ratio=self.cvr_log_ratio[rows])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores and labels of impressions, `[impressions]`: 10 bytes each, and the optional arrays.

    Args:
      ctr_logits: float32.
      cvr_logits: float32.
      click: uint8, 0 or 1.
      conversion: uint8, 1 where clicked and converted.
      weight: float32; None stands for 1 each.
      oracle: the true `oracle_pctr` and `oracle_pcvr`, float32, or nothing.
      groups: int64, equal within a group; None where the schema has no group key.
      slices: by the name of a field, the value of each impression.
      divided: where pCVR is a ratio, that ratio before it is cut off at 1.
    """

    ctr_logits: np.ndarray
    cvr_logits: np.ndarray
    click: np.ndarray
    conversion: np.ndarray
    weight: np.ndarray | None = None
    oracle: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    groups: np.ndarray | None = None
    slices: Mapping[str, Slices] = dataclasses.field(default_factory=dict)
    divided: Divided | None = None

    def __len__(self) -> int:
        """Returns the number of impressions."""
        return len(self.click)

    @functools.cached_property
    def ctcvr_logits(self) -> np.ndarray:
        """Returns the logits of pCTCVR, float32.

        They are those of pCTR * pCVR (Eq. 2), computed in float64, unless the method has its own.
        """
        if self.divided is not None:
            return self.divided.ctcvr_logits
        return ctcvr_logits(self.ctr_logits, self.cvr_logits)

    @functools.cached_property
    def group_numbers(self) -> np.ndarray | None:
        """Returns the groups as numbers from 0 on, int32, or None for no groups."""
        return None if self.groups is None else intervals.number_groups(self.groups)

    @property
    def num_groups(self) -> int | None:
        """Returns how many groups there are, or None for no groups."""
        numbers = self.group_numbers
        return None if numbers is None else int(numbers.max(initial=-1)) + 1

    def take(self, rows: np.ndarray) -> "Scores":
        """Returns some of the impressions, without their slices."""
        return Scores(
            ctr_logits=self.ctr_logits[rows],
            cvr_logits=self.cvr_logits[rows],
            click=self.click[rows],
            conversion=self.conversion[rows],
            weight=None if self.weight is None else self.weight[rows],
            oracle={name: truth[rows] for name, truth in self.oracle.items()},
            groups=None if self.groups is None else self.groups[rows],
            divided=self.divided and self.divided.take(rows),
        )

    def with_logits(
        self, ctr_logits: np.ndarray, cvr_logits: np.ndarray, divided: Divided | None = None
    ) -> "Scores":
        """Returns the same impressions as another model scores them."""
        return dataclasses.replace(
            self, ctr_logits=ctr_logits, cvr_logits=cvr_logits, divided=divided
        )

    def data_hash(self) -> str:
        """Returns a hash of labels and weights in their order: equal on the same impressions."""
        digest = hashlib.sha256()
        for array in (self.click, self.conversion, self.weight):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def ctcvr_logits(ctr_logits: np.ndarray, cvr_logits: np.ndarray) -> np.ndarray:
    """Returns the logits of `sigmoid(ctr_logits) * sigmoid(cvr_logits)`, float32 `[n]`.

    Half of a half has odds of 1 to 3.

    >>> f"{ctcvr_logits(np.zeros(1), np.zeros(1))[0]:.4f} is {np.log(1 / 3):.4f}"
    '-1.0986 is -1.0986'
    """
    result = np.empty(len(ctr_logits), np.float32)
    for part in _chunks(len(result)):
        log_p = -np.logaddexp(0, -ctr_logits[part], dtype=np.float64)
        log_p -= np.logaddexp(0, -cvr_logits[part], dtype=np.float64)
        # Where both round to 1, 1 - p is the sum of the two small probabilities of a no.
        log_not_p = np.where(
            log_p < -1e-9,
            np.log(-np.expm1(np.minimum(log_p, -1e-300))),
            np.logaddexp(-ctr_logits[part], -cvr_logits[part], dtype=np.float64),
        )
        result[part] = log_p - log_not_p
    return result


def collect_scores(
    model: Any,
    schema: Schema,
    source: Source,
    config: InputConfig,
    *,
    slices: Sequence[str] = (),
) -> Scores:
    """Returns scores and labels of every impression, in the order of the files.

    Groups are told apart by their key, a string key by its 64-bit FarmHash: the chance that any
    two of 10 million groups are taken for one is 3e-6. Where the records hold only a share of the
    unclicked impressions, each of these has the weight of all that it stands for.

    Args:
      model: whose outputs are those of `model.layers.EntireSpaceOutputs`.
      schema: of the records.
      source: of the records.
      config: how they are read.
      slices: features or carried keys whose values are kept.

    Raises:
      UserError: if a slice is not known, a logit is not finite, or the records are not as many as
        the manifest says.
    """
    readers = [SliceReader(schema, name) for name in dict.fromkeys(slices)]
    columns = _read_columns(model, schema, source, config, readers=readers)
    return Scores(
        **{name: columns[name] for name in (*_LOGITS, *_LABELS)},
        weight=columns.get(keys.EXAMPLE_WEIGHT),
        oracle={name: columns[name] for name in _ORACLE if name in columns},
        groups=columns.get("group"),
        slices={
            reader.name: Slices(codes=columns[f"slice {reader.name}"], values=reader.values)
            for reader in readers
        },
        divided=find_divided(columns),
    )


def _read_columns(
    model: Any,
    schema: Schema,
    source: Source,
    config: InputConfig,
    *,
    readers: Sequence[SliceReader],
) -> dict[str, np.ndarray]:
    """Returns the arrays that are kept of all batches, by name, `[impressions]`."""
    dataset = input_fn.build_dataset(source, schema, config, carry=True)
    scorer = build_scorer(model, dataset.element_spec.features)
    columns: dict[str, np.ndarray] = {}
    end = 0
    for batch in input_fn.show_progress(dataset, source):
        arrays = _batch_arrays(scorer(batch.features), batch, schema)
        if source.negative_keep_rate < 1:
            _weigh_sampled(arrays, source.negative_keep_rate)
        arrays |= {f"slice {reader.name}": reader.read(batch) for reader in readers}
        start, end = end, end + len(arrays[keys.CLICK])
        for name, values in arrays.items():
            if name not in columns:
                columns[name] = np.empty(source.impressions, values.dtype)
            if end <= source.impressions:
                columns[name][start:end] = values
    if end != source.impressions:
        raise UserError(
            f"The records hold {end:,} impressions and their manifest says {source.impressions:,}. "
            "Write the data set again."
        )
    return columns


def find_divided(arrays: Mapping[str, np.ndarray]) -> Divided | None:
    """Returns the arrays that `DIVIDED` names, or None where they are not there."""
    if keys.CVR_LOG_RATIO not in arrays:
        return None
    return Divided(**{name: arrays[name] for name in DIVIDED})


def _batch_arrays(
    outputs: Mapping[str, tf.Tensor], batch: Batch, schema: Schema
) -> dict[str, np.ndarray]:
    """Returns the arrays that are kept of a batch, by name."""
    logits = (*_LOGITS, *DIVIDED) if keys.CVR_LOG_RATIO in outputs else _LOGITS
    arrays = {name: _finite(name, outputs[name].numpy()) for name in logits}
    arrays |= {name: batch.labels[name].numpy().astype(np.uint8) for name in _LABELS}
    arrays |= {name: values.numpy() for name, values in batch.oracle.items()}
    if batch.example_weight is not None:
        arrays[keys.EXAMPLE_WEIGHT] = batch.example_weight.numpy()
    if schema.group_key:
        arrays["group"] = _group_ids(batch.carry[schema.group_key]).numpy()
    return arrays


def _finite(name: str, logits: np.ndarray) -> np.ndarray:
    """Returns the logits of a batch.

    Raises:
      UserError: if one is not finite.
    """
    wrong = logits[~np.isfinite(logits)]
    if len(wrong):
        raise UserError(
            f"{name!r} of the model must be finite to be measured, and {len(wrong):,} of "
            f"{len(logits):,} in a batch are not (such as {wrong[0]}). Its training has diverged: "
            "train it again with a lower --learning_rate, or with a scaling of numeric features."
        )
    return logits


def _weigh_sampled(arrays: dict[str, np.ndarray], negative_keep_rate: float) -> None:
    """Lets each unclicked impression that was kept stand for those that were not."""
    factor = np.where(arrays[keys.CLICK] | arrays[keys.CONVERSION], 1, 1 / negative_keep_rate)
    weight = arrays.get(keys.EXAMPLE_WEIGHT, np.float32(1))
    arrays[keys.EXAMPLE_WEIGHT] = (weight * factor).astype(np.float32)


def _group_ids(group_keys: tf.Tensor) -> tf.Tensor:
    """Returns int64 ids of groups, `[impressions]`."""
    if group_keys.dtype == tf.string:
        return tf.bitcast(tf.fingerprint(group_keys), tf.int64)
    return tf.cast(group_keys, tf.int64)


def _chunks(size: int, step: int = 1 << 20) -> list[slice]:
    """Returns slices that cover `size` rows, so that temporary arrays stay small."""
    return [slice(start, start + step) for start in range(0, size, step)]
