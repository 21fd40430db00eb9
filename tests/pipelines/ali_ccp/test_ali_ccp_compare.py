"""Tianchi's raw files to the paper's table by the two commands of the README, in small."""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from esmm_pipelines.synthetic import command as synthetic

ROOT = pathlib.Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = shlex.split("--seeds=1 --methods=esmm_ns,esmm --epochs=1 --learning_rates=0.001")
SMALLER = shlex.split("--hidden_units=4 --embedding_dim=2")


def commands_of_the_readme():
    """Returns the commands that convert Ali-CCP and compare methods on it, without `python`."""
    (section,) = re.findall(r"### Use Ali-CCP\n.*?```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = section.replace("\\\n", " ").splitlines()
    wanted = [
        line for line in lines if "esmm_pipelines.ali_ccp" in line or "esmm_tf.compare" in line
    ]
    return [shlex.split(line, comments=True)[1:] for line in wanted]


@pytest.mark.slow
def test_two_commands_lead_from_raw_files_to_the_table(tmp_path):
    convert, compare = commands_of_the_readme()
    synthetic.generate(
        synthetic.SyntheticConfig(
            output_dir=str(tmp_path / "raw"),
            format="ali_ccp_raw",
            num_impressions=4000,
            click_rate=0.2,
            conversion_rate=0.3,
            compressed=True,
        )
    )
    raw = {
        "--skeleton=": "sample_skeleton_train",
        "--common_features=": "common_features_train",
        "--test_skeleton=": "sample_skeleton_test",
        "--test_common_features=": "common_features_test",
    }
    given = [f"{flag}{tmp_path}/raw/{name}.csv.gz" for flag, name in raw.items()]
    (tmp_path / "flagfiles").symlink_to(ROOT / "flagfiles")

    for command in ([*convert, *given], [*compare, *SMALL, *SMALLER]):
        subprocess.run([sys.executable, *command], cwd=tmp_path, check=True)

    results = tmp_path / "ali_ccp" / "comparison"
    methods = json.loads((results / "comparison.json").read_text(encoding="utf-8"))["methods"]
    assert list(methods) == ["esmm_ns", "esmm"]
    assert all(0 < method["tasks"]["ctcvr"]["auc"]["mean"] < 1 for method in methods.values())
    assert "| ESMM" in (results / "table.md").read_text(encoding="utf-8")
    assert len(convert) == 2 + 1 + 4
