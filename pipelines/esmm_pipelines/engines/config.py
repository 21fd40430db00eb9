"""Settings of what runs a pipeline."""

import dataclasses

from esmm_tf.config.fields import setting
from esmm_tf.errors import UserError

ENGINES = ("duckdb", "spark")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What runs the pipeline."""

    engine: str = setting("duckdb", help="'duckdb', on this machine, or 'spark'")
    memory_limit: str = setting(
        "4GB",
        help="memory of the duckdb engine, beyond which it spills to disk, or of Java on Spark's "
        "local[...]",
    )
    temp_dir: str = setting(
        "", help="where the engine keeps what it spills; by default the system's directory"
    )
    master: str = setting("", help="Spark's master, such as local[4] or spark://host:7077")
    spark_conf: tuple[str, ...] = setting(
        (), help="Spark's settings, key=value, comma-separated, such as spark.executor.memory=8g"
    )

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"--engine is {self.engine!r}. Use 'duckdb' or 'spark'.")
        if self.engine != "spark" and (self.master or self.spark_conf):
            raise UserError("--master and --spark_conf are Spark's. Give --engine=spark.")
        for pair in self.spark_conf:
            if "=" not in pair:
                raise UserError(f"--spark_conf has {pair!r}. Write key=value.")
