"""The paper's comparison as one call: what `python -m esmm_tf.compare` does, for Python."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from esmm_tf import console, files
from esmm_tf.config.experiments import CompareConfig
from esmm_tf.config.fields import build_configs
from esmm_tf.config.training import InputConfig, ModelConfig
from esmm_tf.experiments import plan
from esmm_tf.experiments.execute import ComparisonSettings
from esmm_tf.reports import comparison_page

RESULT_FILE = "comparison.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """Every method with several seeds on one data set.

    Args:
      tree: the content of `comparison.json`.
      written: the files that were written, `comparison.json` first.
    """

    tree: Mapping[str, Any]
    written: Sequence[str]

    def table(self) -> str:
        """Returns the paper's Table 2 as text."""
        return comparison_page.format_table(self.tree)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of `comparison.json`."""
        return dict(self.tree)


def compare_methods(
    data_dir: str, output_dir: str, *, verbose: bool = False, **settings: Any
) -> MethodComparison:
    """Trains and measures the paper's systems, each with several seeds, and returns their table.

    Started again with the same `output_dir`, it goes on. Runs are trained in processes of their
    own: call it under `if __name__ == "__main__":` in a script.

    Args:
      data_dir: data set with the splits train, validation and test.
      output_dir: receives runs, `comparison.json`, tables and figures.
      verbose: whether bars and lines show the progress.
      settings: flags of `python -m esmm_tf.compare`, such as `methods=["base", "esmm"]`.

    Raises:
      UserError: if a setting or the data is wrong, a run fails, or the extra `report` is missing.
    """
    given = {**settings, "data_dir": data_dir, "output_dir": output_dir}
    config, model, inputs = build_configs((CompareConfig, ModelConfig, InputConfig), given)
    comparison_page.check_installed()
    with console.showing(verbose):
        tree = plan.run_comparison(ComparisonSettings(compare=config, model=model, input=inputs))
    path = os.path.join(output_dir, RESULT_FILE)
    files.write_json(tree, path)
    written = [path, *comparison_page.write_report(tree, output_dir)]
    return MethodComparison(tree=tree, written=written)
