"""The command that compares methods: whole, killed and started again, and refused."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from esmm_tf import compare
from esmm_tf.config.experiments import CompareConfig
from esmm_tf.config.training import InputConfig, ModelConfig
from esmm_tf.data.writer import DataSetWriter
from esmm_tf.errors import UserError
from esmm_tf.schema.columns import HashBucketColumn, IdentityColumn
from esmm_tf.schema.schema import Feature, Schema

ROOT = pathlib.Path(__file__).parents[1]
SCHEMA = Schema(
    name="tiny",
    features=(
        Feature(
            name="user", side="context", dtype="int64", column=HashBucketColumn(hash_buckets=30)
        ),
        Feature(
            name="item", side="impression", dtype="int64", column=IdentityColumn(vocabulary_size=10)
        ),
    ),
    group_key="user",
)
NAMES = ("base", "division")  # both take pCTR from the CTR network
SETTINGS = (
    f"--methods={','.join(NAMES)}",
    "--seeds=1",
    "--epochs=1",
    "--learning_rates=0.01",
    "--hidden_units=4",
    "--embedding_dim=2",
    "--batch_size=100",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Returns records of 80 groups of 5 in each split, in which items differ."""
    directory = tmp_path_factory.mktemp("compared") / "data"
    rng = np.random.default_rng(0)
    with DataSetWriter(str(directory), SCHEMA) as writer:
        for split in ("train", "validation", "test"):
            for user in range(80):
                item = rng.integers(0, 10, 5)
                click = (rng.random(5) < 0.2 + 0.05 * item).astype(np.int64)
                conversion = click * (rng.random(5) < 0.7 - 0.05 * item)
                writer.write(
                    split,
                    {"user": [user], "item": item, "click": click, "conversion": conversion},
                )
    return directory


def start(data, output_dir):
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "esmm_tf.compare",
            f"--data_dir={data}",
            f"--output_dir={output_dir}",
            *SETTINGS,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def written(output_dir, file):
    """Returns when each run wrote a result, by its name."""
    return {path.parent.name: path.stat().st_mtime_ns for path in output_dir.glob(f"runs/*/{file}")}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """Returns the directory of a comparison that was killed once, what was done then, its output.

    The command alone is killed, when the CTR network and a first candidate have been measured: the
    processes of its runs, which write to the same pipes, must end by themselves.
    """
    output_dir = tmp_path_factory.mktemp("comparison")
    first = start(data, output_dir)
    while len(written(output_dir, "validation.json")) < 2 and first.poll() is None:
        time.sleep(0.1)
    first.kill()
    try:
        first.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    before = written(output_dir, "validation.json")
    second = start(data, output_dir)
    output, errors = second.communicate()
    assert (second.returncode, errors) == (0, "")
    return output_dir, before, output


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_keeps_what_was_finished(finished):
    output_dir, before, _ = finished

    after = written(output_dir, "validation.json")
    assert 2 <= len(before) < len(after)
    assert {name: after[name] for name in before} == before


@pytest.mark.slow
def test_a_comparison_has_every_method(finished):
    output_dir, _, _ = finished

    tree = json.loads((output_dir / "comparison.json").read_text())

    assert list(tree["methods"]) == list(NAMES)
    for found in tree["methods"].values():
        assert len(found["tasks"]["ctcvr"]["auc"]["values"]) == 1
        assert found["against_best_other"]["tasks"]["ctcvr"]["difference"] is not None
    assert list(tree["fractions"]) == ["1"]
    assert len(tree["methods"]["base"]["candidates"]) == 1
    assert len(tree["ctr_network"]["candidates"]) == 1
    assert tree["data"]["splits"]["test"]["impressions"] == 400


@pytest.mark.slow
def test_candidates_meet_the_validation_split_and_only_the_chosen_ones_the_test_split(finished):
    output_dir, _, _ = finished

    tested = written(output_dir, "test.json")

    expected = {f"{name}-lr0.01-fraction1-seed1" for name in NAMES}
    assert set(tested) == expected
    candidates = expected | {"ctr-lr0.01-fraction1-seed1"}
    assert set(written(output_dir, "validation.json")) == candidates
    assert set(written(output_dir, "training.json")) == candidates


@pytest.mark.slow
def test_methods_that_share_the_ctr_network_have_its_pctr(finished):
    output_dir, _, _ = finished

    methods = json.loads((output_dir / "comparison.json").read_text())["methods"]

    aucs = {name: methods[name]["tasks"]["ctr"]["auc"]["values"] for name in NAMES}
    assert aucs["base"] == aucs["division"]


@pytest.mark.slow
def test_the_command_ends_with_the_table_and_what_it_wrote(finished):
    output_dir, _, output = finished

    assert "DIVISION" in output
    for file in re.search(r"wrote (.*)", output).group(1).split(", "):
        assert pathlib.Path(file).is_file()
    assert not list(output_dir.rglob("*.tmp"))
    assert not list(output_dir.rglob("checkpoints"))


@pytest.mark.slow
def test_a_comparison_with_other_settings_is_refused(finished, data):
    output_dir, _, _ = finished
    config = CompareConfig(
        data_dir=str(data), output_dir=str(output_dir), epochs=7, learning_rates=(0.01,)
    )

    with pytest.raises(UserError, match=r"other settings \(.*--epochs: 1, now 7"):
        compare.main(config, ModelConfig(), InputConfig())


def test_data_without_a_validation_split_are_refused(data_set, tmp_path):
    config = CompareConfig(data_dir=str(data_set), output_dir=str(tmp_path))

    with pytest.raises(UserError, match="has no split 'validation'"):
        compare.main(config, ModelConfig(), InputConfig())


@pytest.mark.slow
def test_a_run_that_fails_is_told_with_its_log(data, tmp_path):
    damaged = tmp_path / "data"
    shutil.copytree(data, damaged)
    shard = min(damaged.glob("train-*"))
    shard.write_bytes(shard.read_bytes()[:-50])
    config = CompareConfig(
        data_dir=str(damaged),
        output_dir=str(tmp_path / "comparison"),
        methods=("esmm",),
        learning_rates=(0.01,),
    )

    with pytest.raises(UserError, match=r"The run esmm-lr0\.01-fraction1-seed1 failed: .*log\.txt"):
        compare.main(config, ModelConfig(hidden_units=(4,)), InputConfig())

    log = next((tmp_path / "comparison").rglob("log.txt")).read_text()
    assert "Traceback (most recent call last)" in log
    assert "truncated record" in log
