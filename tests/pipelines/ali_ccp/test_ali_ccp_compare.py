"""Tianchi's raw files to the paper's table by the two commands of the README, in small."""

import json
import pathlib
import re
import shlex

import pytest

from esmm_pipelines.ali_ccp import command as ali_ccp
from esmm_pipelines.synthetic import command as synthetic
from esmm_pipelines.synthetic import log, shop
from esmm_tf import compare

ROOT = pathlib.Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = shlex.split("--seeds=1 --methods=esmm --epochs=1 --learning_rates=0.001")
SMALLER = shlex.split("--hidden_units=4 --embedding_dim=2")
COMMANDS = {"esmm_pipelines.ali_ccp": ali_ccp.run, "esmm_tf.compare": compare.run}


def commands_of_the_readme():
    """Returns the commands that convert Ali-CCP and compare methods on it, without `python -m`."""
    (section,) = re.findall(r"### Use Ali-CCP\n.*?```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in section.replace("\\\n", " ").splitlines()]
    return [line[2:] for line in lines if line[:2] == ["python", "-m"] and line[2] in COMMANDS]


@pytest.mark.slow
def test_two_commands_lead_from_raw_files_to_the_table(tmp_path, monkeypatch):
    convert, comparison = commands_of_the_readme()
    monkeypatch.setattr(shop, "_PILOT_GROUPS", 10)
    synthetic.generate(
        log.SyntheticConfig(
            output_dir=str(tmp_path / "raw"),
            format="ali_ccp_raw",
            num_impressions=1000,
            mean_group_size=5.0,
            click_rate=0.4,
            conversion_rate=0.4,
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
    monkeypatch.chdir(tmp_path)

    for command in ([*convert, *given], [*comparison, *SMALL, *SMALLER]):
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit, match=r"^0$"):
            COMMANDS[command[0]]()

    results = tmp_path / "ali_ccp" / "comparison"
    methods = json.loads((results / "comparison.json").read_text(encoding="utf-8"))["methods"]
    assert list(methods) == ["esmm"]
    assert 0 < methods["esmm"]["tasks"]["ctcvr"]["auc"]["mean"] < 1
    assert "| ESMM" in (results / "table.md").read_text(encoding="utf-8")
    assert len(convert) == 1 + 1 + 4
