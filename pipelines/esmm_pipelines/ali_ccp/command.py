"""`python -m esmm_pipelines.ali_ccp`: the raw files of Ali-CCP to grouped TFRecords.

Lines become rows with their tokens (`rows`); every row is judged in the DataFrame API (`checks`);
what remains is ordered so that the row of a context stands before its impressions, and written
(`groups`). Nothing is joined to the tokens of a context, and no context is held in memory.
"""

import dataclasses
import functools
import importlib.resources
import tempfile
from typing import Any, NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_pipelines.ali_ccp import checks, raw_files, vocabulary_writer
from esmm_pipelines.ali_ccp.groups import AliCcpGroupBuilder
from esmm_pipelines.ali_ccp.rows import ROW, check_schema, parse_piece
from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.engines.engine import Engine, open_engine
from esmm_pipelines.grouping.config import DataSetConfig
from esmm_pipelines.grouping.splits import SPLIT
from esmm_pipelines.grouping.whole_groups import ORDER
from esmm_tf import keys
from esmm_tf.config import flags
from esmm_tf.config.fields import setting
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.schema import toml_file
from esmm_tf.schema.record_field import CONTEXT, IMPRESSION, ONE, OPTIONAL
from esmm_tf.schema.schema import Schema

_SCHEMA = importlib.resources.files("esmm_pipelines.schemas") / "ali_ccp.toml"
_INDEX = "common_feature_index"
LABEL_ANOMALIES = ("drop", "keep", "fail")
MISSING_CONTEXTS = ("reject", "keep")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AliCcpConfig:
    """Which raw files to read, and what to make of them."""

    skeleton: tuple[str, ...] = setting(
        help="sample_skeleton_train.csv, plain, .gz, or an archive .tar or .tar.gz that holds it"
    )
    common_features: tuple[str, ...] = setting(
        help="common_features_train.csv, or an archive that holds it"
    )
    oracle: tuple[str, ...] = setting(
        (), help="CSV file of simulated logs with the truth of each sample_id"
    )
    test_skeleton: tuple[str, ...] = setting((), help="sample_skeleton_test.csv, likewise")
    test_common_features: tuple[str, ...] = setting((), help="common_features_test.csv, likewise")
    test_oracle: tuple[str, ...] = setting((), help="the truth of the test's samples")
    schema: str = setting(str(_SCHEMA), help="schema file")
    ignore_fields: tuple[str, ...] = setting(
        (), help="fields of the raw files that the schema leaves out on purpose"
    )
    validation_share: float = setting(
        0.1, help="share of the training contexts in split 'validation'"
    )
    vocabulary_min_count: int = setting(
        10,
        help="impressions of the training split below which an id is out of vocabulary",
    )
    hash: bool = setting(False, help="keep the schema's columns instead of building vocabularies")
    label_anomalies: str = setting(
        "drop", help="rows with a conversion and no click: 'drop', 'keep' or 'fail'"
    )
    missing_contexts: str = setting(
        "reject", help="rows whose common index has no row: 'reject', or 'keep' without context"
    )

    def __post_init__(self) -> None:
        for name, choices in (
            ("label_anomalies", LABEL_ANOMALIES),
            ("missing_contexts", MISSING_CONTEXTS),
        ):
            if getattr(self, name) not in choices:
                raise UserError(
                    f"--{name} is {getattr(self, name)!r}. Use one of {', '.join(choices)}."
                )
        if not self.skeleton or not self.common_features:
            raise UserError("--skeleton and --common_features each need a file.")
        if bool(self.test_skeleton) != bool(self.test_common_features):
            raise UserError("--test_skeleton and --test_common_features belong together.")
        if self.test_skeleton and bool(self.oracle) != bool(self.test_oracle):
            raise UserError("--oracle and --test_oracle belong together.")
        if not 0 <= self.validation_share < 1:
            raise UserError(f"--validation_share is {self.validation_share}. Give 0 to below 1.")
        if self.vocabulary_min_count < 1:
            raise UserError(
                f"--vocabulary_min_count is {self.vocabulary_min_count}. Give at least 1."
            )

    def pieces(self) -> list[raw_files.Piece]:
        """Returns the pieces to read, in order."""
        pieces: list[raw_files.Piece] = []
        for part, side, member, paths in (
            (keys.TRAIN, CONTEXT, "*common_features*", self.common_features),
            (keys.TRAIN, IMPRESSION, "*skeleton*", self.skeleton),
            (keys.TEST, CONTEXT, "*common_features*", self.test_common_features),
            (keys.TEST, IMPRESSION, "*skeleton*", self.test_skeleton),
        ):
            more = raw_files.cut(paths, part=part, side=side, member=member)
            pieces += [dataclasses.replace(p, number=len(pieces) + p.number) for p in more]
        return pieces


def convert(config: AliCcpConfig, data_set: DataSetConfig, engine_config: EngineConfig) -> None:
    """Writes the impressions of each common index as groups, after judging every row."""
    schema = _record_schema(config)
    pieces = config.pieces()
    data_set.check_output()
    with (
        open_engine(engine_config) as engine,
        tempfile.TemporaryDirectory(dir=engine_config.temp_dir or None) as directory,
    ):
        rows = engine.scan(pieces, _parser(config, schema), ROW)
        checked = _checked_rows(engine, rows, config=config, seed=data_set.seed)
        rejected = checks.reject(
            engine,
            rows,
            checked,
            pieces=pieces,
            directory=data_set.output_dir,
            max_rejected=data_set.max_rejected,
        )
        _check_anomalies(config, rejected[checks.ANOMALY])
        good = checked.where(engine.F.col("reason").isNull())
        unused = checks.count_unused(engine, checks.with_impressions(engine, good))
        kept, left_out = checks.sample_negatives(
            engine, good, rate=data_set.negative_keep_rate, seed=data_set.seed
        )
        if not config.hash:
            counted = checks.with_impressions(engine, kept)
            schema = vocabulary_writer.build_schema(
                engine,
                counted.where(engine.F.col(SPLIT) == keys.TRAIN),
                schema,
                min_count=config.vocabulary_min_count,
                directory=directory,
            )
        source = {"command": "esmm_pipelines.ali_ccp", **dataclasses.asdict(config)}
        with data_set.open_writer(schema, {**source, "unused_contexts": unused}) as writer:
            writer.rejected.update(rejected)
            writer.sampled_out.update(left_out)
            engine.write_groups(
                kept,
                order=(ORDER, "side", "piece", "line"),
                to_groups=AliCcpGroupBuilder(schema=schema, max_group_size=data_set.max_group_size),
                writer=writer,
            )
    _report(writer, data_set, schema, unused)


def _record_schema(config: AliCcpConfig) -> Schema:
    """Returns the schema of the records, before vocabularies.

    Without a context there is no user: its id is optional then, and groups are told apart by the
    common index.
    """
    schema = toml_file.load_schema(config.schema)
    check_schema(schema)
    schema = dataclasses.replace(schema, oracle=bool(config.oracle))
    if config.missing_contexts != "keep":
        return schema
    features = tuple(
        dataclasses.replace(feature, values=OPTIONAL)
        if feature.is_context and feature.values == ONE
        else feature
        for feature in schema.features
    )
    single = {f.name for f in features if f.values == ONE} | {key.name for key in schema.keys}
    return dataclasses.replace(
        schema,
        features=features,
        group_key=schema.group_key if schema.group_key in single else _INDEX,
        carry=tuple(name for name in schema.carry if name in single),
    )


def _parser(config: AliCcpConfig, schema: Schema) -> Any:
    return functools.partial(parse_piece, schema=schema, ignored=config.ignore_fields)


def _checked_rows(engine: Engine, rows: Any, *, config: AliCcpConfig, seed: int) -> Any:
    truth = None
    if config.oracle:
        paths = {keys.TRAIN: config.oracle, keys.TEST: config.test_oracle}
        truth = checks.read_truth(engine, paths)
    return checks.checked_rows(
        engine,
        rows,
        truth,
        label_anomalies=config.label_anomalies,
        missing_contexts=config.missing_contexts,
        validation_share=config.validation_share,
        seed=seed,
    )


def _check_anomalies(config: AliCcpConfig, number: int) -> None:
    """Raises a `UserError` if there are conversions without a click that are to end the job."""
    if config.label_anomalies == "fail" and number:
        raise UserError(
            f"{number:,} rows have a conversion and no click. Mend them, or give "
            "--label_anomalies=drop or keep."
        )


def _report(writer: DataSetWriter, data_set: DataSetConfig, schema: Schema, unused: int) -> None:
    data_set.report(writer)
    if unused:
        print(f"{unused:,} rows of common features are used by no impression")
    sizes = {f.table_name: f.num_rows for f in schema.features}
    print("rows of embedding tables: " + ", ".join(f"{t} {n:,}" for t, n in sizes.items()))


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(convert, AliCcpConfig, DataSetConfig, EngineConfig)
