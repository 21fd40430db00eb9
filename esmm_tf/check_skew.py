"""`python -m esmm_tf.check_skew`: whether serving gives the same scores as the training path.

Exits with code 1 if it does not.
"""

from typing import NoReturn

import esmm_tf.startup  # noqa: F401 - before everything that imports TensorFlow
from esmm_tf import files
from esmm_tf.config import flags
from esmm_tf.config.serving import SkewConfig
from esmm_tf.serving import skew

_HAS_SKEW = 1


def main(config: SkewConfig) -> None:
    """Compares an export, and a live server, with the scores of the training path; exits 1 on skew.

    Raises:
      SystemExit: with code 1 if scores differ or a signature gives none.
    """
    report = skew.check(config)
    print(report.text())
    if config.output:
        files.write_json(report.to_json(), config.output)
        print(f"wrote {config.output}")
    print(report.verdict())
    if not report.passed:
        raise SystemExit(_HAS_SKEW)


def run() -> NoReturn:
    """Runs the command with the flags of the command line."""
    flags.run(main, SkewConfig)


if __name__ == "__main__":
    run()
