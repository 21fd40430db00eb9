"""Turns dataclass fields into absl flags and back; nothing below this layer sees a flag."""

import dataclasses
import errno
import os
import sys
import textwrap
import typing
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from esmm_tf.config.fields import build_configs
from esmm_tf.errors import UserError

_USER_MISTAKE = 2
_INTERRUPTED = 130
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def run(
    main: Callable[..., None], *configs: type, argv: Sequence[str] | None = None
) -> typing.NoReturn:
    """Parses the command line into one instance of each config and calls `main` with them.

    `--help` explains each flag; `--flagfile=FILE` reads flags from a file. A user's mistake prints
    its message and exits with code 2; anything else that goes wrong shows its traceback.
    """
    code = _run(main, configs, list(sys.argv if argv is None else argv))
    if argv is None and "tensorflow_io" in sys.modules:
        # Its S3 client aborts the process at exit, which would turn success into code 134.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _run(main: Callable[..., None], configs: Sequence[type], argv: list[str]) -> int:
    values = _define(configs)
    try:
        rest = values(argv)
        if values.help:
            print(_help_text(main, configs))
            return 0
        if len(rest) > 1:
            raise UserError(f"Unexpected argument {rest[1]!r}. Flags are written --name=value.")
        main(*build_configs(configs, _read(configs, values)))
    except (UserError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return _USER_MISTAKE
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        print(f"error: {error}. Make room, or name a directory with more.", file=sys.stderr)
        return _USER_MISTAKE
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _define(configs: Sequence[type]) -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "show this text", short_name="h", flag_values=values)
    for config in configs:
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            default = None if field.default is dataclasses.MISSING else field.default
            kind = hints[field.name]
            define = {
                bool: flags.DEFINE_bool,
                int: flags.DEFINE_integer,
                float: flags.DEFINE_float,
                str: flags.DEFINE_string,
            }.get(kind, flags.DEFINE_list)
            if isinstance(default, tuple):
                default = [str(item) for item in default]
            define(field.name, default, field.metadata["help"], flag_values=values)
    return values


def _read(configs: Sequence[type], values: flags.FlagValues) -> dict[str, Any]:
    """Returns the settings that are given or have a default, by name."""
    settings = {}
    for config in configs:
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            value = values[field.name].value
            if isinstance(value, list):
                value = _tuple(field.name, value, typing.get_args(hints[field.name])[0])
            if value is not None:
                settings[field.name] = value
    return settings


def _tuple(name: str, items: list[str], kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(item) for item in items if item)
    except ValueError:
        raise UserError(
            f"--{name} is {','.join(items)!r}. Give {kind.__name__} values, comma-separated."
        ) from None


def _help_text(main: Callable[..., None], configs: Sequence[type]) -> str:
    lines = [(main.__doc__ or "").split("\n\n")[0].strip(), ""]
    for config in configs:
        for field in dataclasses.fields(config):
            default = field.default
            if isinstance(default, tuple):
                default = ",".join(map(str, default))
            shown = "required" if default is dataclasses.MISSING else f"default: {default!r}"
            lines.append(f"  --{field.name}")
            lines += textwrap.wrap(
                f"{field.metadata['help']} ({shown})",
                width=96,
                initial_indent="      ",
                subsequent_indent="      ",
            )
    lines += ["  --flagfile", "      file with one flag per line"]
    return "\n".join(lines)
