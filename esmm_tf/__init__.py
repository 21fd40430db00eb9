"""Conversion-rate estimation over the entire impression space (ESMM, SIGIR 2018).

The public names are listed below; `help` explains each. A name is imported when it is first used,
so that schemas and settings need no TensorFlow.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from esmm_tf.data.input_fn import open_records as open_records
    from esmm_tf.data.writer import DataSetWriter as DataSetWriter
    from esmm_tf.errors import UserError as UserError
    from esmm_tf.estimator.estimator import Estimator as Estimator
    from esmm_tf.experiments.comparison import compare_methods as compare_methods
    from esmm_tf.methods import Method as Method
    from esmm_tf.methods import NetworkBuilder as NetworkBuilder
    from esmm_tf.reports.evaluation_page import plot_evaluation as plot_evaluation
    from esmm_tf.schema.columns import BucketizedColumn as BucketizedColumn
    from esmm_tf.schema.columns import HashBucketColumn as HashBucketColumn
    from esmm_tf.schema.columns import IdentityColumn as IdentityColumn
    from esmm_tf.schema.columns import NumericColumn as NumericColumn
    from esmm_tf.schema.columns import VocabularyColumn as VocabularyColumn
    from esmm_tf.schema.schema import Feature as Feature
    from esmm_tf.schema.schema import Key as Key
    from esmm_tf.schema.schema import Labels as Labels
    from esmm_tf.schema.schema import Schema as Schema
    from esmm_tf.schema.schema import Table as Table
    from esmm_tf.schema.toml_file import load_schema as load_schema

__version__ = "0.1.0"

_WITHOUT_TENSORFLOW = {
    "BucketizedColumn": "schema.columns",
    "Feature": "schema.schema",
    "HashBucketColumn": "schema.columns",
    "IdentityColumn": "schema.columns",
    "Key": "schema.schema",
    "Labels": "schema.schema",
    "NumericColumn": "schema.columns",
    "Schema": "schema.schema",
    "Table": "schema.schema",
    "UserError": "errors",
    "VocabularyColumn": "schema.columns",
    "load_schema": "schema.toml_file",
    "plot_evaluation": "reports.evaluation_page",
}
_WITH_TENSORFLOW = {
    "DataSetWriter": "data.writer",
    "Estimator": "estimator.estimator",
    "Method": "methods",
    "NetworkBuilder": "methods",
    "compare_methods": "experiments.comparison",
    "open_records": "data.input_fn",
}

__all__ = ["__version__", *sorted(_WITHOUT_TENSORFLOW | _WITH_TENSORFLOW)]


def __getattr__(name: str) -> typing.Any:
    """Returns the object of a public name, after importing its module."""
    if name in _WITH_TENSORFLOW:
        importlib.import_module(f"{__name__}.startup")  # before any module that imports TensorFlow
    module = (_WITHOUT_TENSORFLOW | _WITH_TENSORFLOW).get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    """Returns the public names."""
    return list(__all__)
