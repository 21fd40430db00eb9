"""What every setting has: a default, a help text, and its checks."""

import dataclasses
from typing import Any

from esmm_tf.errors import UserError


def setting(default: Any = dataclasses.MISSING, *, help: str) -> Any:  # noqa: A002 - a flag's word
    """Returns a dataclass field whose flag shows `help`."""
    return dataclasses.field(default=default, metadata={"help": help})


def check_above(item: Any, bound: float, *names: str) -> None:
    """Raises a `UserError` unless settings are above a bound."""
    for name in names:
        value = getattr(item, name)
        if not value > bound:
            raise UserError(f"--{name} is {value}. Give a number above {bound}.")


def check_at_least_zero(item: Any, *names: str) -> None:
    """Raises a `UserError` unless settings are 0 or more."""
    for name in names:
        value = getattr(item, name)
        if not value >= 0:
            raise UserError(f"--{name} is {value}. Give 0 or more.")
