"""A training run composed: data, method, model, optimizer and trainer."""

import dataclasses
import os

import tensorflow as tf
import tf_keras

from esmm_tf import keys
from esmm_tf.config.training import (
    GuardConfig,
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.data.sampling import LabelCounts, Sampler, Sampling
from esmm_tf.data.source import Source, check_schema, find_source
from esmm_tf.errors import UserError
from esmm_tf.methods import Method, load_method
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.model.optimizers import RowwiseAdam
from esmm_tf.schema import toml_file
from esmm_tf.schema.schema import Schema
from esmm_tf.training import ctr_network, data_guards, model_directory
from esmm_tf.training.model_directory import Settings, TrainedModel
from esmm_tf.training.trainer import Trainer

ESMM = MethodConfig()


def train(
    train_config: TrainConfig,
    model_config: ModelConfig,
    optimizer_config: OptimizerConfig,
    input_config: InputConfig,
    guard_config: GuardConfig,
    method_config: MethodConfig = ESMM,
) -> None:
    """Trains ESMM, or another --method, on TFRecords and leaves the model in --model_dir.

    A run that was interrupted goes on after its last finished epoch when started again with the
    same settings; the order of the records depends on seed and epoch alone, so that the result is
    the same.
    """
    source = find_source(train_config.train_files, split=keys.TRAIN)
    schema = toml_file.load_schema(
        train_config.schema or os.path.join(source.directory, keys.SCHEMA_FILE)
    )
    check_schema(source, schema)
    validation = None
    if train_config.validation_files:
        validation = find_source(train_config.validation_files, split=keys.VALIDATION)
        check_schema(validation, schema)
        data_guards.check_sampling(source, validation)
    settings = Settings(
        train=train_config,
        model=model_config,
        optimizer=optimizer_config,
        input=input_config,
        method=method_config,
        negative_keep_rate=source.negative_keep_rate,
    )
    method = load_method(method_config.method)
    sampling = method.choose_sampling(method_config.rate)
    for split, found in ((keys.TRAIN, source), (keys.VALIDATION, validation)):
        if found is not None and sampling is not None:
            _check_drawn(found.labels, sampling, f"{method.title} on the {split} data")
    ctr = ctr_network.load_ctr_network(method, settings, schema)
    model_directory.save_settings(settings, schema, train_config.model_dir)
    trainer = Trainer(
        _build_model(method, settings, schema, source, sampling=sampling, ctr=ctr),
        schema,
        settings,
        guards=guard_config,
        source=source,
        validation=validation,
        sampler=_build_sampler(settings, schema, source, sampling=sampling, ctr=ctr),
    )
    trainer.run()


def _check_drawn(labels: LabelCounts, sampling: Sampling, where: str) -> None:
    if not sampling.count(labels) > 0:
        raise UserError(
            f"{where} finds nothing that it is trained on: of {labels.impressions:,} impressions "
            f"{labels.clicks:,} are clicked. Give more records, or train another --method."
        )


def _build_model(
    method: Method,
    settings: Settings,
    schema: Schema,
    source: Source,
    *,
    sampling: Sampling | None,
    ctr: TrainedModel | None,
) -> EntireSpaceModel:
    """Returns the method's model with its first weights, compiled."""
    tf_keras.utils.set_random_seed(settings.train.seed)
    if settings.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    model = method.build(
        schema,
        settings.model,
        seed=settings.train.seed,
        conversion_share=source.labels.conversions / max(source.labels.clicks, 1),
        sampling=sampling,
    )
    if ctr is not None:
        ctr_network.copy_weights(ctr, model)
    optimizer = RowwiseAdam(**dataclasses.asdict(settings.optimizer))
    model.compile(optimizer=optimizer, weighted_metrics=[])  # else Keras warns of sample weights
    model.optimizer.build(model.trainable_variables)
    return model


def _build_sampler(
    settings: Settings,
    schema: Schema,
    source: Source,
    *,
    sampling: Sampling | None,
    ctr: TrainedModel | None,
) -> Sampler | None:
    if sampling is None:
        return None
    return Sampler(
        sampling=sampling,
        schema=schema,
        seed=settings.train.seed,
        score_clicks=None if ctr is None else ctr_network.build_scorer(ctr),
        click_share=source.click_share,
    )
