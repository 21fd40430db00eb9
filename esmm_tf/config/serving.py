"""Settings of the serving commands, one frozen dataclass per concern."""

import dataclasses

from esmm_tf.config.evaluation import ScoreConfig
from esmm_tf.config.fields import check_above, check_at_least_zero, setting
from esmm_tf.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Which trained model becomes a SavedModel, and where."""

    model_dir: str = setting(help="directory of a trained model")
    export_dir: str = setting(help="directory that receives one numbered directory per version")
    version: int = setting(0, help="number of the version; 0 takes the next free one")
    keep_versions: int = setting(5, help="versions that are kept, the highest ones")
    model_name: str = setting("esmm", help="name under which the server has the model")
    files: str = setting(
        "",
        help="held-out records of which warm-up and golden requests are made: files or globs, "
        "comma-separated, or a data set's directory; by default those that training validated on, "
        "or the split 'test' beside those it trained on",
    )
    split: str = setting("test", help="split that a directory in --files stands for")
    batch_sizes: tuple[int, ...] = setting(
        (1, 8, 64, 512),
        help="impressions in the warm-up requests, comma-separated and rising, to which the server "
        "may pad its batches; the last is the most that a request may hold where it batches",
    )

    def __post_init__(self) -> None:
        check_at_least_zero(self, "version")
        check_above(self, 0, "keep_versions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What the local server serves, and where it listens; the names are TF Serving's."""

    export_dir: str = setting(help="directory of the versions, of which the highest is served")
    model_name: str = setting("esmm", help="name under which requests ask for the model")
    host: str = setting("127.0.0.1", help="address to listen on; 0.0.0.0 is all of the machine's")
    port: int = setting(8500, help="port of gRPC; 0 takes any free one")
    rest_api_port: int = setting(8501, help="port of REST; 0 takes any free one")
    file_system_poll_wait_seconds: int = setting(
        1, help="seconds between two looks for a new version; 0 looks at the start only"
    )

    def __post_init__(self) -> None:
        check_at_least_zero(self, "port", "rest_api_port", "file_system_poll_wait_seconds")
        for name in ("port", "rest_api_port"):
            if getattr(self, name) > 65535:
                raise UserError(f"--{name} is {getattr(self, name)}. Give 65535 at most.")
        if not self.model_name or {*"/:"} & {*self.model_name}:
            raise UserError(
                f"--model_name is {self.model_name!r}. It is a part of addresses: give a name "
                "without '/' and ':'."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkewConfig(ScoreConfig):
    """Which export is compared with the trained model, on what, and how closely."""

    batch_size: int = setting(512, help="impressions in a request, at most")
    export_dir: str = setting(help="directory of the exported versions")
    version: int = setting(0, help="number of the version; 0 takes the highest")
    server: str = setting(
        "", help="host:port of a live server's gRPC, which is compared too, such as localhost:8500"
    )
    model_name: str = setting("esmm", help="name under which the server has the model")
    tolerance: float = setting(
        1e-5,
        help="relative difference of a probability that is allowed; float32 alone makes about "
        "1e-6, as sums are taken in another order",
    )
    max_impressions: int = setting(10_000, help="impressions to compare, the first ones")
    output: str = setting("", help="JSON file to write")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_zero(self, "version", "tolerance")
        check_above(self, 0, "max_impressions")
