"""Dataclass fields as flags, and how a command ends."""

import dataclasses
import os
import sys
import types

import pytest

from esmm_tf.config import flags, serving
from esmm_tf.config.evaluation import EvaluateConfig, PredictConfig, ScoreConfig
from esmm_tf.config.fields import setting
from esmm_tf.config.training import (
    GuardConfig,
    InputConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from esmm_tf.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paths:
    source: str = setting(help="file to read")
    target: str = setting("out.txt", help="file to write")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    rows: int = setting(3, help="rows to read, in thousands")
    rate: float = setting(0.25, help="share of rows to keep")
    fast: bool = setting(False, help="skip the checks")
    units: tuple[int, ...] = setting((8, 4), help="units of each layer")
    names: tuple[str, ...] = setting((), help="names of columns")
    steps: tuple[float, ...] = setting((0.5,), help="step sizes")


def run(*args, main=None, configs=(Paths, Sizes)):
    """Returns the exit code of a command, and the settings that it was called with."""
    received = []

    def record(*settings):
        """Copies rows."""
        received.extend(settings)

    with pytest.raises(SystemExit) as exit_info:
        flags.run(main or record, *configs, argv=["command", *args])
    return exit_info.value.code, received


def test_flags_that_are_not_given_have_the_defaults_of_the_fields():
    code, received = run("--source=in.txt")

    assert code == 0
    assert received == [Paths(source="in.txt"), Sizes()]


def test_each_type_of_field_is_read_from_its_flag():
    code, received = run(
        "--source=in.txt",
        "--target=other.txt",
        "--rows=7",
        "--rate=1e-3",
        "--fast",
        "--units=16,2,1",
        "--names=a,b",
        "--steps=0.25,4",
    )

    assert code == 0
    assert received == [
        Paths(source="in.txt", target="other.txt"),
        Sizes(
            rows=7,
            rate=0.001,
            fast=True,
            units=(16, 2, 1),
            names=("a", "b"),
            steps=(0.25, 4.0),
        ),
    ]
    assert type(received[1].steps[1]) is float


@pytest.mark.parametrize("flag", ["--fast=false", "--nofast", "--fast=0"])
def test_a_switch_can_be_turned_off(flag):
    _, received = run("--source=in.txt", "--fast", flag)

    assert received[1].fast is False


def test_an_empty_list_is_an_empty_tuple():
    _, received = run("--source=in.txt", "--units=")

    assert received[1].units == ()


def test_a_flagfile_gives_flags_one_a_line_and_later_flags_win(tmp_path):
    flagfile = tmp_path / "a.flagfile"
    flagfile.write_text("# a comment\n--source=in.txt\n--rows=5\n--units=2,1\n", encoding="utf-8")

    code, received = run(f"--flagfile={flagfile}", "--rows=6")

    assert code == 0
    assert received == [Paths(source="in.txt"), Sizes(rows=6, units=(2, 1))]


def test_arguments_are_those_of_the_process_by_default(monkeypatch):
    received = []
    monkeypatch.setattr("sys.argv", ["command", "--source=from_argv"])

    with pytest.raises(SystemExit, match=r"^0$"):
        flags.run(received.append, Paths)

    assert received == [Paths(source="from_argv")]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "error: --source is missing. Give the file to read.\n"),
        (
            ["--source=in.txt", "--rwos=7"],
            "error: Unknown command line flag 'rwos'. Did you mean: rows ?\n",
        ),
        (
            ["--source=in.txt", "extra"],
            "error: Unexpected argument 'extra'. Flags are written --name=value.\n",
        ),
        (
            ["--source=in.txt", "--units=8,x"],
            "error: --units is '8,x'. Give int values, comma-separated.\n",
        ),
        (
            ["--source=in.txt", "--steps=x"],
            "error: --steps is 'x'. Give float values, comma-separated.\n",
        ),
        (
            ["--source=in.txt", "--rows=many"],
            "error: flag --rows=many: invalid literal for int() with base 10: 'many'\n",
        ),
        (
            ["--flagfile=/nowhere/a.flagfile"],
            "error: ERROR:: Unable to open flagfile: [Errno 2] No such file or directory: "
            "'/nowhere/a.flagfile'\n",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_message_and_exit_code_2(args, message, capsys):
    code, received = run(*args)

    assert code == 2
    assert received == []
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_each_flag_with_its_default(flag, capsys):
    code, received = run(flag)

    assert code == 0
    assert received == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Copies rows."
    expected = {
        "source": "file to read (required)",
        "target": "file to write (default: 'out.txt')",
        "rows": "rows to read, in thousands (default: 3)",
        "rate": "share of rows to keep (default: 0.25)",
        "fast": "skip the checks (default: False)",
        "units": "units of each layer (default: '8,4')",
        "names": "names of columns (default: '')",
        "steps": "step sizes (default: '0.5')",
        "flagfile": "file with one flag per line",
    }
    pairs = zip(lines[2::2], lines[3::2], strict=True)
    assert {name.strip(" -"): text.strip() for name, text in pairs} == expected


def test_long_help_is_wrapped_and_keeps_every_word(capsys):
    words = " ".join(f"word{place}" for place in range(40))
    long = dataclasses.make_dataclass(
        "Long", [("name", str, setting("x", help=words))], kw_only=True, frozen=True
    )

    run("--help", configs=(long,))

    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 96
    assert f"{words} (default: 'x')" in " ".join(out.split())


def test_a_users_mistake_in_the_command_is_one_message_and_exit_code_2(capsys):
    def fail(*_):
        raise UserError("The file is empty. Give another one.")

    code, _ = run("--source=in.txt", main=fail)

    assert code == 2
    assert capsys.readouterr().err == "error: The file is empty. Give another one.\n"


def test_what_settings_refuse_is_one_message_and_exit_code_2(capsys):
    code, _ = run("--epsilon=0", configs=(OptimizerConfig,))

    assert code == 2
    assert capsys.readouterr().err == "error: --epsilon is 0.0. Give a number above 0.\n"


def test_an_interrupted_command_ends_with_exit_code_130(capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    code, _ = run("--source=in.txt", main=interrupt)

    assert code == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_a_bug_keeps_its_traceback():
    def fail(*_):
        raise ValueError("a bug of ours")

    with pytest.raises(ValueError, match="a bug of ours"):
        flags.run(fail, Paths, argv=["command", "--source=in.txt"])


@pytest.mark.parametrize(
    "configs",
    [
        (TrainConfig, ModelConfig, OptimizerConfig, InputConfig),
        (GuardConfig, MethodConfig),
        (ScoreConfig, EvaluateConfig),
        (ScoreConfig, PredictConfig),
        (serving.ExportConfig,),
    ],
)
def test_the_flags_of_each_command_are_its_settings_with_their_defaults(configs):
    required = [
        field.name
        for cls in configs
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING
    ]

    code, received = run(*(f"--{name}=text" for name in required), configs=configs)

    assert code == 0
    expected = [
        cls(**{f.name: "text" for f in dataclasses.fields(cls) if f.name in required})
        for cls in configs
    ]
    assert received == expected


def test_a_command_leaves_at_once_where_tensorflow_io_would_abort_at_exit(monkeypatch):
    codes = []
    monkeypatch.setitem(sys.modules, "tensorflow_io", types.ModuleType("tensorflow_io"))
    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(os, "_exit", codes.append)

    with pytest.raises(SystemExit):
        flags.run(lambda: None)

    assert codes == [0]
