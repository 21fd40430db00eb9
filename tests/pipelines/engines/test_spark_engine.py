"""Spark as a cluster of several processes: the same results as DuckDB, retries, lost workers."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from esmm_pipelines.engines.config import EngineConfig
from esmm_pipelines.engines.engine import open_engine
from esmm_tf.data import manifest, records
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.schema import columns
from esmm_tf.schema import schema as schema_lib

pyspark = pytest.importorskip("pyspark", reason="needs pip install 'esmm_tf[spark]'")
pytest.importorskip("pandas", reason="needs pip install 'esmm_tf[spark]'")

from esmm_pipelines.engines import spark_engine, spark_session  # noqa: E402 - after the skips

# Workers cannot import this file: what it defines travels to them as it is.
pyspark.cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = [
    pytest.mark.skipif(not shutil.which("java"), reason="needs Java 17"),
]

SECONDS = 240
NUM_USERS = 60
SCHEMA = schema_lib.Schema(
    name="shop",
    features=(
        schema_lib.Feature(
            name="user",
            side="context",
            dtype="int64",
            column=columns.HashBucketColumn(hash_buckets=100),
        ),
        schema_lib.Feature(
            name="item",
            side="impression",
            dtype="int64",
            column=columns.HashBucketColumn(hash_buckets=100),
        ),
    ),
)
ROW = pa.schema([("user", pa.int64()), ("order", pa.string()), ("split", pa.string())])
SETTINGS = ("spark.sql.shuffle.partitions=3", "spark.executor.memory=512m")
SPECULATION = (
    "spark.speculation=true",
    "spark.speculation.interval=100ms",
    "spark.speculation.quantile=0.5",
)


@dataclasses.dataclass(frozen=True)
class Piece:
    """The users from `start` to `end`."""

    start: int
    end: int


PIECES = [Piece(0, 10), Piece(10, 11), Piece(11, NUM_USERS)]


class Cluster:
    """A master and two workers on this machine, their logs in a directory.

    Spark makes a speculative attempt on another host only, so the workers' hosts have two names.
    """

    def __init__(self, directory):
        self._directory = directory
        self._processes = []
        self.master = self._start("Master", r"Starting Spark master at (spark://\S+)")
        self._workers = {}

    def start_workers(self):
        """Starts the workers that do not run, because they are new or were killed."""
        for host in ("127.0.0.1", "localhost"):
            if host not in self._workers or self._workers[host].poll() is not None:
                settings = ("--cores", "1", "--memory", "1g", "--work-dir", self._directory / host)
                ready = "Successfully registered with master"
                self._start("Worker", ready, *settings, self.master, host=host)
                self._workers[host] = self._processes[-1]

    def _start(self, kind, ready, *arguments, host="127.0.0.1"):
        """Starts a process and returns what its log tells when it is ready."""
        program = pathlib.Path(pyspark.__file__).parent / "bin" / "spark-class"
        name = f"org.apache.spark.deploy.{kind.lower()}.{kind}"
        where = ("--host", host, "--port", "0", "--webui-port", "0")
        log = self._directory / f"{len(self._processes)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [program, name, *where, *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return wait_for(lambda: re.search(ready, log.read_text(encoding="utf-8"))).group(
            1 if "(" in ready else 0
        )

    def worker_of(self, pid):
        """Returns the worker that started a process, or its parents."""
        workers = {worker.pid: worker for worker in self._workers.values()}
        while pid not in workers:
            status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            pid = int(re.search(r"PPid:\s+(\d+)", status)[1])
        return workers[pid]

    def stop(self):
        for process in self._processes:
            kill_with_executors(process)


def kill_with_executors(process):
    """Kills a process and what it started, without notice."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def spark(cluster, request):
    """Returns the engine on the cluster, with the settings of a test that has its own."""
    cluster.start_workers()
    settings = (*SETTINGS, *getattr(request, "param", ()))
    config = EngineConfig(engine="spark", master=cluster.master, spark_conf=settings)
    with open_engine(config) as engine:
        yield engine


@pytest.fixture(params=["duckdb", pytest.param("spark", marks=pytest.mark.spark)])
def engine(request):
    """Returns each engine in turn."""
    if request.param == "spark":
        yield request.getfixturevalue("spark")
    else:
        with open_engine(EngineConfig()) as engine:
            yield engine


def parse(piece, report):
    """Yields the users of a piece, whose order is not that of their numbers."""
    users = range(piece.start, piece.end)
    report(piece.end - piece.start)
    orders = [hashlib.md5(b"%d" % user, usedforsecurity=False).hexdigest() for user in users]
    yield pa.record_batch([list(users), orders, [split_of(user) for user in users]], schema=ROW)


def split_of(user):
    return "test" if user % 5 == 0 else "train"


def build_group(user):
    """Returns a group of 1 to 4 impressions that tells its user."""
    items = np.arange(user, user + 1 + user % 4)
    return {"user": [user], "item": items, "click": items % 2, "conversion": items * 0}


def to_groups(batches):
    for batch in batches:
        for row in batch.to_pylist():
            yield row["split"], build_group(row["user"])


def expected_records():
    return collections.Counter(
        (split_of(user), records.encode_group(build_group(user))) for user in range(NUM_USERS)
    )


def read_records(directory):
    """Returns how often each split has each record, checked against the manifest."""
    found = collections.Counter()
    for split, files in manifest.load_manifest(str(directory)).splits.items():
        for shard in files:
            content = read_shard(directory / shard.file)
            assert len(content) == shard.records
            found.update((split, record) for record in content)
    return found


def read_shard(path):
    """Returns the records of a file; a record is its length, a check sum, itself, a check sum."""
    data, place, found = path.read_bytes(), 0, []
    while place < len(data):
        size = int.from_bytes(data[place : place + 8], "little")
        found.append(data[place + 12 : place + 12 + size])
        place += size + 16
    return found


def write(engine, directory, to_groups=to_groups):
    """Writes the groups of all users and returns the names of the files."""
    rows = engine.scan(PIECES, parse, ROW)
    with DataSetWriter(str(directory), SCHEMA, num_shards=3) as writer:
        engine.write_groups(rows, order=("order", "user"), to_groups=to_groups, writer=writer)
    return sorted(path.name for path in directory.iterdir())


def rows_of(batches):
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def wait_for(found):
    """Returns the first true value of a function."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.05)
    raise TimeoutError(found)


def begin_attempt(marker):
    """Returns whether this attempt at a task is the first to come here."""
    try:
        with open(marker, "x", encoding="utf-8") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


# What both engines do.


def test_a_scan_has_the_rows_of_all_pieces(engine):
    rows = engine.scan(PIECES, parse, ROW)

    users = [user for user, *_ in rows_of(engine.stream(rows.orderBy("user")))]

    assert users == list(range(NUM_USERS))


def test_a_scan_has_the_types_of_its_schema(engine):
    schema = pa.schema(
        [
            ("label", pa.int64()),
            ("price", pa.float64()),
            ("name", pa.string()),
            ("tokens", pa.binary()),
            ("tags", pa.list_(pa.int64())),
        ]
    )
    row = (1, 0.5, "é", b"\x00\xff", [1, 2])

    def parse_row(piece, report):
        report(piece.end)
        yield pa.record_batch([[value] for value in row], schema=schema)
        yield pa.record_batch([[None]] * 5, schema=schema)

    rows = engine.scan(PIECES[:1], parse_row, schema)

    batches = list(engine.stream(rows.orderBy("label")))
    assert sorted(rows_of(batches), key=str) == [row, (None,) * 5]
    assert [batches[0].schema.field(name).type for name in schema.names[:4]] == schema.types[:4]


def test_a_frame_is_streamed_in_its_order(engine):
    rows = engine.scan(PIECES, parse, ROW)

    users = [user for user, *_ in rows_of(engine.stream(rows.orderBy(engine.F.col("user").desc())))]

    assert users == list(range(NUM_USERS - 1, -1, -1))


def test_a_function_maps_the_batches_of_a_frame(engine):
    def double(batches):
        for batch in batches:
            for user in batch["user"].to_pylist():
                yield pa.record_batch([[2 * user]], names=["user"])

    rows = engine.map_batches(
        engine.scan(PIECES, parse, ROW), double, pa.schema([("user", pa.int64())])
    )

    assert sorted(rows_of(engine.stream(rows))) == [(2 * user,) for user in range(NUM_USERS)]


def test_parquet_files_are_read_by_the_names_of_their_columns(engine, tmp_path):
    pa.parquet.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "first.parquet")
    pa.parquet.write_table(pa.table({"b": ["y"], "a": [2]}), tmp_path / "second.parquet")

    rows = engine.read_parquet([str(tmp_path / "first.parquet"), str(tmp_path / "second.parquet")])

    assert rows_of(engine.stream(rows.select("a", "b").orderBy("a"))) == [(1, "x"), (2, "y")]


def test_parquet_files_that_are_not_there_are_named(engine, tmp_path):
    path = str(tmp_path / "absent.parquet")

    with pytest.raises(UserError, match=f"Cannot read {re.escape(path)}: "):
        engine.read_parquet([path])


@pytest.mark.parametrize(
    ("content", "names", "rows"),
    [
        (b"a,b\r\n1,x\r\n\r\n2,y", ["a", "b"], [("1", "x"), ("2", "y")]),
        (b'a,b\n"1, 5","say ""yes"""\n"",z\n', ["a", "b"], [("1, 5", 'say "yes"'), (None, "z")]),
        (b'a,b\n1,"two\nlines"\n', ["a", "b"], [("1", "two\nlines")]),
        (b"a,b\n,NULL\nnull, 0\n", ["a", "b"], [(None, None), ("null", " 0")]),
        (b'\xef\xbb\xbfa,"click, bool"\n1,2\n', ["a", "click, bool"], [("1", "2")]),
        (b"a,b", ["a", "b"], []),
    ],
)
def test_a_csv_is_read_as_text(engine, tmp_path, content, names, rows):
    path = tmp_path / "log.csv"
    path.write_bytes(content)

    frame = engine.read_csv(str(path))

    assert frame.columns == names
    assert rows_of(engine.stream(frame)) == rows
    assert engine.rejected_rows() == {}


def test_a_query_in_the_dataframe_api_has_the_same_result(engine, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"search,price\n1,2.5\n1,dear\n2,4\n2,6\n3,\n")
    F = engine.F  # noqa: N806 - its customary name
    log = engine.read_csv(str(path)).withColumn("number", F.expr("try_cast(`price` as double)"))
    log = log.withColumn(
        "rank", F.row_number().over(engine.Window.partitionBy("search").orderBy("price"))
    )
    means = log.groupBy("search").agg(F.avg("number").alias("mean")).where("mean is not null")
    hashed = F.md5(F.concat(F.lit("7:"), F.col("search")))

    frame = log.join(means, on="search", how="inner").withColumn("hash", F.substring(hashed, 1, 4))
    frame = frame.select("search", "number", "rank", "mean", "hash").orderBy("search", "rank")

    def digest(search):
        return hashlib.md5(f"7:{search}".encode(), usedforsecurity=False).hexdigest()[:4]

    assert rows_of(engine.stream(frame)) == [
        ("1", 2.5, 1, 2.5, digest(1)),
        ("1", None, 2, 2.5, digest(1)),
        ("2", 4.0, 1, 5.0, digest(2)),
        ("2", 6.0, 2, 5.0, digest(2)),
    ]


def test_every_group_is_written_once(engine, tmp_path):
    write(engine, tmp_path)

    assert read_records(tmp_path) == expected_records()


def test_a_group_that_does_not_fit_the_schema_is_told_to_the_user(engine, tmp_path):
    def to_wrong_groups(batches):
        for split, group in to_groups(batches):
            yield split, {**group, "colour": ["red"]}

    with pytest.raises(UserError, match=r"^The schema knows no 'colour'. Declare it, or leave it"):
        write(engine, tmp_path, to_wrong_groups)

    assert not (tmp_path / "manifest.json").exists()


def test_a_mistake_that_a_parser_finds_is_told_to_the_user(engine):
    def parse_wrong(piece, report):
        report(piece.end)
        raise UserError(f"The rule.\nReceived {piece.start}. The remedy.")

    with pytest.raises(UserError, match=r"^The rule.\nReceived 10. The remedy.$"):
        list(engine.stream(engine.scan(PIECES[1:2], parse_wrong, ROW)))


# What Spark alone does.


@pytest.mark.spark
def test_each_task_writes_a_shard_of_each_split_and_nothing_else(spark, tmp_path):
    names = write(spark, tmp_path)

    assert names == [
        "manifest.json",
        "schema.toml",
        *(f"test-0000{place}-of-00003.tfrecord" for place in range(3)),
        *(f"train-0000{place}-of-00003.tfrecord" for place in range(3)),
    ]


@pytest.mark.spark
def test_the_same_rows_make_the_same_files(spark, tmp_path):
    for name in ("first", "second"):
        write(spark, tmp_path / name)

    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


@pytest.mark.spark
def test_groups_are_ordered_within_a_shard(spark, tmp_path):
    write(spark, tmp_path)

    order = {
        records.encode_group(build_group(user)): next(parse(Piece(user, user + 1), abs))["order"][
            0
        ].as_py()
        for user in range(NUM_USERS)
    }
    for path in tmp_path.glob("*.tfrecord"):
        found = [order[record] for record in read_shard(path)]
        assert found == sorted(found)


@pytest.mark.spark
def test_a_task_that_fails_and_is_tried_again_writes_its_groups_once(spark, tmp_path):
    marker = tmp_path / "begun"

    def to_groups_at_second_attempt(batches):
        first = begin_attempt(marker)
        for place, group in enumerate(to_groups(batches)):
            if first and place == 5:
                raise OSError("the first attempt ends here")
            yield group

    names = write(spark, tmp_path / "data", to_groups_at_second_attempt)

    assert marker.exists()
    assert read_records(tmp_path / "data") == expected_records()
    assert not [name for name in names if name.endswith(".tmp")]


@pytest.mark.spark
def test_a_failed_run_leaves_no_data_set_and_the_same_run_again_completes(spark, tmp_path):
    def to_half_the_groups(batches):
        yield next(to_groups(batches))
        raise OSError("No space left on device")

    with pytest.raises(pyspark.errors.PythonException, match="No space left on device"):
        write(spark, tmp_path, to_half_the_groups)

    assert not (tmp_path / "manifest.json").exists()
    assert [path.suffix for path in tmp_path.glob("*.tfrecord*")].count(".tmp") > 0
    write(spark, tmp_path)
    assert read_records(tmp_path) == expected_records()
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.spark
def test_a_dot_in_a_column_name_is_part_of_the_name(spark, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"a.b,c\n1,2\n")

    batches = list(spark.stream(spark.read_csv(str(path))))

    assert [batch.to_pylist() for batch in batches] == [[{"a.b": "1", "c": "2"}]]


@pytest.mark.spark
def test_damaged_rows_of_a_csv_are_left_out_and_counted(spark, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"a,b\n1,x\n3\n2,y\n3,x,9\n")

    rows = rows_of(spark.stream(spark.read_csv(str(path))))

    assert rows == [("1", "x"), ("2", "y")]
    assert spark.rejected_rows() == {"no CSV row": 2}
    spark._csv.clear()  # the next test begins with no file


@pytest.mark.spark
@pytest.mark.parametrize("below", [b"3,x\n4,y\n", b'3,"x"\n4,y\n', b""])
def test_an_open_quote_ends_the_run_since_it_may_hide_rows_below_it(spark, tmp_path, below):
    path = tmp_path / "log.csv"
    path.write_bytes(b'a,b\n1,x\n2,"y\n' + below)
    message = f"A row of .*{path}' has a quote that is not closed before the next comma"

    frame = spark.read_csv(str(path))

    with pytest.raises(UserError, match=message):  # noqa: PT012 - either may find it
        list(spark.stream(frame))
        spark.rejected_rows()

    spark._csv.clear()  # the next test begins with no file


@pytest.mark.spark
@pytest.mark.parametrize("header", [b"", b"\n1,2\n", b"a,a\n1,2\n", b"a,\n1,2\n"])
def test_a_header_names_every_column_once(spark, tmp_path, header):
    path = tmp_path / "log.csv"
    path.write_bytes(header)

    with pytest.raises(UserError, match="does not begin with a header of column names"):
        spark.read_csv(str(path))


@pytest.mark.spark
def test_a_missing_csv_is_named(spark, tmp_path):
    with pytest.raises(UserError, match=rf"Cannot read '{tmp_path}/absent.csv': .* Check --input."):
        spark.read_csv(f"{tmp_path}/absent.csv")


@pytest.mark.spark
def test_a_failure_of_spark_is_told_to_the_user(spark):
    broken = spark.session.range(3).select(spark.F.expr("1 / (id - id)").alias("a"))

    with pytest.raises(UserError, match=r"^Spark stopped: \[DIVIDE_BY_ZERO\] Division by zero"):
        list(spark.stream(broken))


def write_and_wait_once(spark, directory):
    """Writes the groups; the first attempt at one task waits amid them for another attempt."""

    def to_groups_that_wait_once(batches):
        for place, group in enumerate(to_groups(batches)):
            if place == 3 and pyspark.TaskContext.get().partitionId() == 0:
                if begin_attempt(directory / "first"):
                    wait_for((directory / "second").exists)
                else:
                    (directory / "second").touch()
            yield group

    write(spark, directory / "data", to_groups_that_wait_once)


@pytest.mark.spark
def test_a_job_completes_although_a_worker_is_killed_in_the_midst_of_it(spark, cluster, tmp_path):
    first = tmp_path / "first"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        job = pool.submit(write_and_wait_once, spark, tmp_path)
        wait_for(lambda: job.done() or (first.exists() and first.read_text()))
        assert not job.done()
        assert list((tmp_path / "data").glob("*.tmp"))

        kill_with_executors(cluster.worker_of(int(first.read_text())))

        job.result(SECONDS)
    assert (tmp_path / "second").exists()
    assert read_records(tmp_path / "data") == expected_records()
    assert not list((tmp_path / "data").glob("*.tmp"))


@pytest.mark.spark
@pytest.mark.parametrize("spark", [SPECULATION], indirect=True, ids=["speculation"])
def test_a_speculative_attempt_writes_no_group_a_second_time(spark, tmp_path):
    write_and_wait_once(spark, tmp_path)

    assert (tmp_path / "second").exists()
    assert read_records(tmp_path / "data") == expected_records()


# Settings, without a session.


def test_the_users_settings_come_before_the_defaults():
    config = EngineConfig(
        engine="spark",
        master="local[3]",
        memory_limit="1.5GB",
        temp_dir="spill",
        spark_conf=("spark.ui.enabled=true", "spark.executor.extraJavaOptions=-Da=b"),
    )

    settings = spark_session.session_settings(config)

    assert settings["spark.master"] == "local[3]"
    assert settings["spark.ui.enabled"] == "true"
    assert settings["spark.executor.extraJavaOptions"] == "-Da=b"
    assert settings["spark.driver.memory"] == "1536m"
    assert settings["spark.local.dir"] == "spill"
    assert settings["spark.driver.host"] == "127.0.0.1"


def test_memory_and_address_of_a_cluster_are_left_to_spark():
    config = EngineConfig(engine="spark", master="spark://cluster:7077")

    settings = spark_session.session_settings(config)

    assert not {"spark.driver.memory", "spark.driver.host", "spark.local.dir"} & set(settings)


@pytest.mark.parametrize(
    ("variable", "master"), [("", "local[*]"), ("SPARK_HOME", None), ("PYSPARK_GATEWAY_PORT", None)]
)
def test_all_cores_of_this_machine_are_the_master_unless_spark_is_configured(
    monkeypatch, variable, master
):
    for name in ("SPARK_HOME", "PYSPARK_GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")

    settings = spark_session.session_settings(EngineConfig(engine="spark"))

    assert settings.get("spark.master") == master


@pytest.mark.parametrize("limit", ["much", "", "4"])
def test_a_memory_limit_is_a_size(limit):
    config = EngineConfig(engine="spark", master="local", memory_limit=limit)

    with pytest.raises(UserError, match=f"--memory_limit is '{limit}'.* Write it as 4GB."):
        spark_session.session_settings(config)


@pytest.mark.parametrize("home", ["", "/absent"])
def test_missing_java_is_told_with_its_remedy(monkeypatch, tmp_path, home):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", home)
    message = r"--engine=spark needs Java 17 or newer: .*apt-get install openjdk-17-jre-headless"

    with pytest.raises(UserError, match=message):
        open_engine(EngineConfig(engine="spark"))


@pytest.mark.parametrize("master", ["spark://127.0.0.1:1", "spark://nowhere"])
def test_a_master_that_does_not_answer_is_named(master):
    with pytest.raises(UserError, match=rf"Spark's master '{master}' does not answer \(.*--master"):
        open_engine(EngineConfig(engine="spark", master=master))


def test_a_missing_directory_for_temporary_files_is_named(tmp_path):
    config = EngineConfig(engine="spark", temp_dir=str(tmp_path / "absent"))

    with pytest.raises(UserError, match=r"--temp_dir is '.*absent': .* Name a directory."):
        open_engine(config)


@pytest.mark.spark
def test_spark_says_itself_what_is_wrong_with_a_setting(tmp_path):
    code = (
        "from esmm_pipelines.engines.config import EngineConfig\n"
        "from esmm_pipelines.engines.spark_session import open_session\n"
        "config = EngineConfig(engine='spark', master='nonsense')\n"
        "try:\n    open_session(config)\n"
        "except ValueError as error:\n    print(error)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert re.match("Spark does not start: .*Master must .* Check --master", done.stdout)
    assert done.stderr == ""


def test_a_workers_mistake_is_found_among_stack_traces():
    text = (
        "An error occurred while calling o1.next.\n: org.apache.spark.SparkException: Job aborted: "
        "org.apache.spark.api.python.PythonException: Traceback (most recent call last):\n"
        '  File "a.py", line 1, in parse\nesmm_tf.errors.UserError: The rule.\nThe remedy.\n\n'
        "\tat org.apache.spark.api.python.BasePythonRunner.handle(PythonRunner.scala:1)\n"
    )

    with pytest.raises(UserError, match=r"^The rule.\nThe remedy.$"), spark_engine._told_to_user():
        raise pyspark.errors.PySparkException(text)
