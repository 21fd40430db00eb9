"""A training run composed: data, method, model, optimizer and trainer."""

import dataclasses
import os
from typing import Any

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
from esmm_tf.data.sampling import Sampler, Sampling
from esmm_tf.data.source import Source, check_schema, find_source
from esmm_tf.errors import UserError
from esmm_tf.methods import Method, load_method
from esmm_tf.model.model import EntireSpaceModel
from esmm_tf.model.optimizers import RowwiseAdam
from esmm_tf.schema import toml_file
from esmm_tf.schema.schema import Schema
from esmm_tf.training import ctr_network, data_guards, model_directory
from esmm_tf.training.model_directory import Settings
from esmm_tf.training.trained_model import TrainedModel
from esmm_tf.training.trainer import Trainer

ESMM = MethodConfig()


def train(
    train_config: TrainConfig,
    model_config: ModelConfig,
    optimizer_config: OptimizerConfig,
    input_config: InputConfig,
    guard_config: GuardConfig,
    method_config: MethodConfig = ESMM,
    *,
    schema: Schema | None = None,
    model_class: type[EntireSpaceModel] = EntireSpaceModel,
) -> list[dict[str, Any]]:
    """Trains ESMM, or another --method, on TFRecords and leaves the model in --model_dir.

    An interrupted run that is started again with the same settings goes on after its last finished
    epoch, with the same result: the order of the records depends on seed and epoch alone.

    Returns the metrics of each epoch, as `history.json` holds them. `schema` is by default that of
    --schema, or that beside the records.
    """
    source, validation, schema = _find_data(train_config, schema)
    settings = Settings(
        train=train_config,
        model=model_config,
        optimizer=optimizer_config,
        input=input_config,
        method=method_config,
        negative_keep_rate=source.negative_keep_rate,
    )
    method = load_method(method_config.method)
    sampling = _choose_sampling(method, method_config.rate, source, validation)
    ctr = ctr_network.load_ctr_network(method, settings, schema)
    model_directory.save_settings(settings, schema, train_config.model_dir)
    model = _build_model(
        method, settings, schema, source, sampling=sampling, ctr=ctr, model_class=model_class
    )
    Trainer(
        model,
        schema,
        settings,
        guards=guard_config,
        source=source,
        validation=validation,
        sampler=_build_sampler(settings, schema, source, sampling=sampling, ctr=ctr),
    ).run()
    return model_directory.load_history(train_config.model_dir)


def _find_data(config: TrainConfig, schema: Schema | None) -> tuple[Source, Source | None, Schema]:
    """Returns the records to train on, those to validate on, and the schema of both."""
    source = find_source(config.train_files, split=keys.TRAIN)
    if schema is None:
        path = config.schema or os.path.join(source.directory, keys.SCHEMA_FILE)
        schema = toml_file.load_schema(path)
    check_schema(source, schema)
    if not config.validation_files:
        return source, None, schema
    validation = find_source(config.validation_files, split=keys.VALIDATION)
    check_schema(validation, schema)
    data_guards.check_sampling(source, validation)
    return source, validation, schema


def _choose_sampling(
    method: Method, rate: float | None, source: Source, validation: Source | None
) -> Sampling | None:
    """Returns how the method samples, which must leave impressions of both sources."""
    sampling = method.choose_sampling(rate)
    if sampling is not None:
        _check_drawn(source, sampling, f"{method.title} on the {keys.TRAIN} data")
        _check_drawn(validation, sampling, f"{method.title} on the {keys.VALIDATION} data")
    return sampling


def _check_drawn(source: Source | None, sampling: Sampling, where: str) -> None:
    if source is None:
        return
    labels = source.labels
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
    model_class: type[EntireSpaceModel],
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
        model_class=model_class,
    )
    if ctr is not None:
        ctr_network.copy_weights(ctr, model)
    compile_model(model, settings.optimizer)
    return model


def compile_model(model: EntireSpaceModel, config: OptimizerConfig) -> None:
    """Gives a model its optimizer, whose slots are built at once."""
    optimizer = RowwiseAdam(**dataclasses.asdict(config))
    model.compile(optimizer=optimizer, weighted_metrics=[])  # else Keras warns of sample weights
    model.optimizer.build(model.trainable_variables)


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
