"""Rejected rows: counted by reason, kept in a file; too many of them end a job."""

import collections
import contextlib
import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from esmm_tf.errors import UserError

_DIRECTORY, _FILE = "rejected", "rows.csv"
_NUM_REASONS_TOLD = 3


class RejectedRows(contextlib.AbstractContextManager["RejectedRows"]):
    """Keeps rejected rows in `rejected/rows.csv` of a directory, and counts them by reason.

    The file gets its name when the context is left without an error, and replaces that of an
    earlier run; if nothing was rejected, there is no file.

    Args:
      directory: of the data set; it need not exist.
      columns: of the file, to which the column `reason` is added.
    """

    def __init__(self, directory: str, columns: Sequence[str]) -> None:
        self.path = os.path.join(directory, _DIRECTORY, _FILE)
        self.counts: collections.Counter[str] = collections.Counter()
        self._temporary = f"{self.path}.tmp"
        self._columns = tuple(columns)
        self._file: TextIO | None = None

    def add(self, row: Sequence[Any], reason: str) -> None:
        """Appends a row, one value for each column; a missing one, `None`, is left empty."""
        if self._file is None:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            # What is no text, such as half a surrogate pair, must not stop the job.
            self._file = open(  # noqa: SIM115 - __exit__ closes it
                self._temporary, "w", encoding="utf-8", errors="backslashreplace", newline=""
            )
            self._writer = csv.writer(self._file, lineterminator="\n")
            self._writer.writerow((*self._columns, "reason"))
        self._writer.writerow((*row, reason))
        self.counts[reason] += 1

    def __exit__(self, error_type: Any, error: Any, traceback: Any) -> None:
        """Closes the file; without an error gives it its name."""
        if self._file is not None:
            self._file.close()
        if error_type is not None:
            _remove(self._temporary)
        elif self._file is not None:
            os.replace(self._temporary, self.path)
        else:
            _remove(self.path)


def check_share(rejected: Mapping[str, int], *, total: int, max_rejected: float, path: str) -> None:
    """Checks that no more rows were rejected than are allowed.

    Args:
      rejected: number of rejected rows, by reason.
      total: number of all rows, with the rejected ones.
      max_rejected: the share of the rows that may be rejected, 0 to 1.
      path: of the file that holds the rejected rows.

    Raises:
      UserError: if the share is larger; it names the commonest reasons.
    """
    number = sum(rejected.values())
    if number <= max_rejected * total:
        return
    commonest = collections.Counter(rejected).most_common(_NUM_REASONS_TOLD)
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in commonest)
    raise UserError(
        f"{number:,} of {total:,} rows were rejected, a share of {number / total:.2g}, and "
        f"--max_rejected is {max_rejected:g}. The commonest reasons: {reasons}. They are listed in "
        f"{path!r}. Mend the rows, or give a higher --max_rejected."
    )


def _remove(path: str) -> None:
    """Removes a file, if it is there, and its directory, if that is empty then."""
    with contextlib.suppress(OSError):
        os.remove(path)
        os.rmdir(os.path.dirname(path))
