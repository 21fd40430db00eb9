"""What the pages of reports share: the extra they need, pictures and templates."""

import base64
import dataclasses
import importlib
from typing import Any

from esmm_tf.errors import UserError
from esmm_tf.reports import words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture of the page: the name of its file, PNG bytes, and what it shows in words."""

    file: str
    png: bytes
    alt: str

    def _repr_png_(self) -> bytes:
        """Returns what Jupyter shows."""
        return self.png

    @property
    def source(self) -> str:
        """Returns the picture as the address of an `img`."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def load_extra(drawing: str, *, otherwise: str = "") -> tuple[Any, Any]:
    """Returns the module that draws, which needs Matplotlib, and Jinja2.

    Args:
      drawing: the name of that module.
      otherwise: what the user can do without them, as the end of the message.

    Raises:
      UserError: if the extra `report` is not installed.
    """
    try:
        return importlib.import_module(f"esmm_tf.reports.{drawing}"), importlib.import_module(
            "jinja2"
        )
    except ImportError:
        raise UserError(
            "A report needs Matplotlib and Jinja2. Install them with pip install "
            f"'esmm_tf[report]'{otherwise}."
        ) from None


def build_environment(jinja2: Any) -> Any:
    """Returns the environment of the templates: all text escaped, no name left undefined."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("esmm_tf.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "bounds", "signed", "count", "percent", "p_value"):
        environment.filters[name] = getattr(words, name)
    for name in ("task_title", "share"):
        environment.globals[name] = getattr(words, name)
    return environment
