"""A Spark session from the settings, with Spark's chatter kept off the user's screen."""

import contextlib
import logging
import os
import pathlib
import re
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator

from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

import esmm_tf
from esmm_pipelines.engines.config import EngineConfig
from esmm_tf.errors import UserError

_ON_THIS_MACHINE = re.compile(r"local\b|spark://(127\.0\.0\.1|localhost):")
_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_CONNECT_SECONDS = 10
# Rows may be 10 KB each, and Spark builds whole batches of them in memory.
_ROWS_AT_ONCE = {
    "spark.sql.execution.arrow.maxRecordsPerBatch": "4096",
    "spark.sql.inMemoryColumnarStorage.batchSize": "1024",
}


def open_session(config: EngineConfig) -> SparkSession:
    """Returns a new session.

    Its Python workers use this interpreter and this package, unless PYSPARK_PYTHON or
    `spark.pyspark.python` names another interpreter.

    Raises:
      UserError: if Java is missing, the master does not answer, or Spark refuses a setting.
    """
    settings = session_settings(config)
    _check_java()
    _check_temp_dir(config.temp_dir)
    _check_reachable(settings.get("spark.master", ""))
    python = settings.get("spark.pyspark.python", sys.executable)
    os.environ.setdefault("PYSPARK_PYTHON", python)
    # PySpark's own log of a failed query repeats what its exception says.
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with _start_up_held_back() as held:
            return SparkSession.builder.config(map={**settings}).getOrCreate()
    except (PySparkException, Py4JError) as error:
        java = re.search(r'^(?:Exception in thread "\w+"|Error:) (.*)', held.text(), re.MULTILINE)
        reason = java[1] if java else first_line(error)
        raise UserError(
            f"Spark does not start: {reason}. Check --master and --spark_conf; Spark 4 needs Java "
            "17 or newer."
        ) from None


def session_settings(config: EngineConfig) -> dict[str, str]:
    """Returns Spark's settings: defaults of this package, then what the user gave.

    Without a master, Spark runs on all cores of this machine, unless spark-submit or the user's
    Spark installation says otherwise.

    Raises:
      UserError: if `memory_limit` is no size.
    """
    given = dict(pair.split("=", 1) for pair in config.spark_conf)
    if config.master:
        given["spark.master"] = config.master
    elif not any(name in os.environ for name in ("PYSPARK_GATEWAY_PORT", "SPARK_HOME")):
        given.setdefault("spark.master", "local[*]")
    master = given.get("spark.master", "")
    settings = {
        "spark.app.name": "esmm_tf",
        "spark.executorEnv.PYTHONPATH": os.pathsep.join(_python_path()),
        "spark.log.level": "OFF",  # what fails is told by the exception
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        **_ROWS_AT_ONCE,
    }
    if config.temp_dir:
        settings["spark.local.dir"] = config.temp_dir
    if _ON_THIS_MACHINE.match(master):
        settings |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    if re.match(r"local(\[|$)", master):  # there, the driver does all the work
        settings["spark.driver.memory"] = f"{_megabytes(config.memory_limit)}m"
        # Spark's default of 200 suits a cluster; here it only makes more Python tasks, in turn.
        settings["spark.sql.shuffle.partitions"] = str(4 * (os.cpu_count() or 1))
    return settings | given


def _python_path() -> list[str]:
    """Returns the directories in which workers on this machine find our packages."""
    roots = (pathlib.Path(esmm_tf.__file__).parents[1], pathlib.Path(__file__).parents[2])
    return list(dict.fromkeys(map(str, roots)))


def first_line(error: Exception) -> str:
    """Returns what an exception of Spark says, without Java's names and stack traces."""
    causes = re.findall(r"^Caused by: (.*)", str(error), re.MULTILINE)
    # A Py4JError begins with "An error occurred while calling ...", then has Java's own text.
    text = causes[-1] if causes else str(error).rpartition("\n: ")[2]
    line = next(iter(text.strip().splitlines()), type(error).__name__)
    return re.sub(r"^(?:[\w$]+\.)+[\w$]+: | SQLSTATE: \w+$", "", line.rstrip())


def _megabytes(limit: str) -> int:
    """Returns the MiB of a size that is written as DuckDB reads it."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])i?B", limit.strip(), re.IGNORECASE)
    if size is None:
        raise UserError(f"--memory_limit is {limit!r}, which is no size. Write it as 4GB.")
    return int(float(size[1]) * _BYTES[size[2].upper()]) >> 20


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if shutil.which(os.path.join(home, "bin", "java") if home else "java") is None:
        where = f"JAVA_HOME, {home!r}, has no bin/java" if home else "the command `java` is missing"
        raise UserError(
            f"--engine=spark needs Java 17 or newer: {where}. "
            "apt-get install openjdk-17-jre-headless, or use --engine=duckdb."
        )


def _check_temp_dir(directory: str) -> None:
    try:
        tempfile.TemporaryFile(dir=directory or None).close()
    except OSError as error:
        raise UserError(f"--temp_dir is {directory!r}: {error}. Name a directory.") from None


def _check_reachable(master: str) -> None:
    """Raises a `UserError` if no standalone master answers; Spark alone would try for a minute."""
    if not master.startswith("spark://"):
        return
    problems = []
    for address in master.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            problems.append(f"{address}: {error}")
        else:
            return
    raise UserError(
        f"Spark's master {master!r} does not answer ({'; '.join(problems)}). Check --master, and "
        "that the master is started."
    )


@contextlib.contextmanager
def _start_up_held_back() -> Iterator["_Pump"]:
    """Keeps what Java writes to standard error at its start off the screen.

    Java inherits standard error for as long as it lives, so it is given a pipe. What comes through
    it later, such as Spark's progress bar, is shown.
    """
    sys.stderr.flush()
    screen = os.dup(2)
    read_end, write_end = os.pipe()
    pump = _Pump(read_end)
    pump.start()
    os.dup2(write_end, 2)
    os.close(write_end)
    try:
        yield pump
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        pump.is_open = True


class _Pump(threading.Thread):
    """Reads a pipe to its end; keeps what comes until `is_open`, then writes it to the screen."""

    def __init__(self, source: int) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._held: list[bytes] = []
        self.is_open = False

    def run(self) -> None:
        """Reads until the last process that writes has ended."""
        with os.fdopen(self._source, "rb", buffering=0) as file:
            while chunk := file.read(1 << 16):
                if self.is_open:
                    os.write(2, chunk)
                else:
                    self._held.append(chunk)

    def text(self) -> str:
        """Returns what was held, all of it if the process that wrote it has ended."""
        self.join(timeout=1)
        return b"".join(self._held).decode(errors="replace")
