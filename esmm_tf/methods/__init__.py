"""The systems that are compared, each declared in a module that defines `METHOD`."""

import importlib
import pkgutil

from esmm_tf.errors import UserError
from esmm_tf.methods._method import Method, NetworkBuilder, cvr_tower_method

__all__ = ["Method", "NetworkBuilder", "cvr_tower_method", "load_method", "names"]


def names() -> tuple[str, ...]:
    """Returns the names of all methods of this package, in alphabetical order."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in modules if not name.startswith("_")))


def load_method(name: str) -> Method:
    """Returns a method by its name: a module of this package, or any module's dotted path.

    Raises:
      UserError: if there is no such module, or it defines no `METHOD`.
    """
    if name.startswith(".") or ("." not in name and name not in names()):
        raise UserError(
            f"--method is {name!r}. Give one of {', '.join(names())}, or the dotted path of a "
            "module that defines METHOD."
        )
    path = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise _not_loaded(name, str(error)) from None
    if not hasattr(module, "METHOD"):
        raise _not_loaded(name, f"module {path!r} has no attribute 'METHOD'")
    return module.METHOD


def _not_loaded(name: str, reason: str) -> UserError:
    return UserError(
        f"--method is {name!r}, which cannot be loaded: {reason}. Give one of "
        f"{', '.join(names())}, or the dotted path of a module that defines METHOD."
    )
