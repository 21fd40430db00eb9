"""What CONTRIBUTING.md shows: the plan of the rooms, and a method of one's own that works."""

import pathlib
import re
import sys

import numpy as np
import plan_of_rooms
import pytest
from shop_batch import FEATURES, LABELS, WEIGHT, build_model

TEXT = (pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Returns a small model of the example."""
    (tmp_path / "my_methods").mkdir()
    (tmp_path / "my_methods" / "ipw.py").write_text(EXAMPLE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield build_model("my_methods.ipw", trained=True)
    for name in ("my_methods.ipw", "my_methods"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("sample_weight", [None, WEIGHT])
def test_the_loss_of_the_example_weighs_by_inverse_pctr(model, sample_weight):
    outputs = model(FEATURES)
    pctr, pcvr = (outputs[name].numpy().astype(np.float64) for name in ("pctr", "pcvr"))
    conversion = LABELS["conversion"].numpy()

    loss = model.compute_loss(FEATURES, LABELS, outputs, sample_weight)

    entropy = -np.log(np.where(conversion == 1, pcvr, 1 - pcvr))
    weight = 1.0 if sample_weight is None else sample_weight.numpy()
    np.testing.assert_allclose(loss, (weight * entropy / pctr).mean(), rtol=1e-5)


def test_the_example_takes_one_file_of_under_80_lines():
    assert len(EXAMPLE.splitlines()) < 80


@pytest.mark.parametrize("package", plan_of_rooms.PACKAGES)
def test_the_plan_of_the_rooms_is_that_of_the_code(package):
    written = plan_of_rooms.written_plans()[package]

    assert written == plan_of_rooms.build_plan(package)
