"""Settings: their defaults, help texts and checks, and how they become configs."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from esmm_tf.errors import UserError


def setting(default: Any = dataclasses.MISSING, *, help: str) -> Any:  # noqa: A002 - a flag's word
    """Returns a dataclass field whose flag shows `help`."""
    return dataclasses.field(default=default, metadata={"help": help})


def check_above(item: Any, bound: float, *names: str) -> None:
    """Raises a `UserError` unless the named settings are above a bound."""
    for name in names:
        value = getattr(item, name)
        if not value > bound:
            raise UserError(f"--{name} is {value}. Give a number above {bound}.")


def check_at_least_zero(item: Any, *names: str) -> None:
    """Raises a `UserError` unless the named settings are at least 0."""
    for name in names:
        value = getattr(item, name)
        if not value >= 0:
            raise UserError(f"--{name} is {value}. Give 0 or more.")


def build_configs(classes: Sequence[type], settings: Mapping[str, Any]) -> list[Any]:
    """Returns an instance of each class, made of the settings that are its fields.

    Args:
      classes: dataclasses of settings.
      settings: by name; a list stands for a tuple, and a setting that is not given has its default.

    Raises:
      UserError: if a setting is not a field of any class, a setting without a default is missing,
        or a class refuses its values.
    """
    known = list(dict.fromkeys(field.name for cls in classes for field in dataclasses.fields(cls)))
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"There is no setting {name!r}.{hint} Known: {', '.join(known)}.")
    return [_build(cls, settings) for cls in classes]


def _build(cls: type, settings: Mapping[str, Any]) -> Any:
    values = {}
    for field in dataclasses.fields(cls):
        if field.name in settings:
            value = settings[field.name]
            values[field.name] = tuple(value) if isinstance(value, list) else value
        elif field.default is dataclasses.MISSING:
            raise UserError(f"--{field.name} is missing. Give the {field.metadata['help']}.")
    return cls(**values)


def settings_of(*configs: Any) -> dict[str, Any]:
    """Returns the settings that configs hold, by name."""
    return {
        field.name: getattr(config, field.name)
        for config in configs
        for field in dataclasses.fields(config)
    }
