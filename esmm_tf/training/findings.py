"""What a guard found, and what is done about it: nothing, a warning, or the end of the run."""

import dataclasses
from typing import Any

from esmm_tf import console
from esmm_tf.config.training import OFF, STOP
from esmm_tf.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong: the guard that saw it, and a message: rule, what was received, remedy.

    The flag of the guard `unnested_labels` is `--on_unnested_labels`.
    """

    guard: str
    message: str


def act(finding: Finding | None, config: Any) -> None:
    """Warns of the finding, if there is one, unless its guard is off.

    Args:
      finding: of a guard.
      config: whose field `on_<guard>` is `off`, `warn` or `stop`.

    Raises:
      UserError: with the message, if that field is `stop`.
    """
    if finding is None:
        return
    action = getattr(config, f"on_{finding.guard}")
    if action == STOP:
        raise UserError(f"{finding.message} To go on all the same, give --on_{finding.guard}=warn.")
    if action != OFF:
        console.warn(finding.message)
