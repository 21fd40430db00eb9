"""Finding a method: by its name here, or by the dotted path of a module of the user's own."""

import re
import sys

import numpy as np
import pytest
from shop_batch import FEATURES, LABELS, build_model

from esmm_tf.errors import UserError
from esmm_tf.methods import Method, load_method
from esmm_tf.model import losses
from esmm_tf.model.layers import EntireSpaceOutputs

OWN_METHOD = """
from esmm_tf import keys
from esmm_tf.model.losses import cross_entropy_of
from esmm_tf.methods import Method
from esmm_tf.model.layers import EntireSpaceOutputs

def network(builder):
    ctr_logits = builder.tower("ctr_tower", builder.encode())
    return EntireSpaceOutputs(name="outputs")(ctr_logits, builder.constant_cvr())

METHOD = Method(
    title="MINE",
    network=network,
    losses={"ctr_loss": cross_entropy_of(keys.CLICK, keys.CTR_LOGITS)},
    tasks=(keys.CTR,),
)
"""


@pytest.mark.parametrize("name", ["esm", "", ".esmm", "ESMM"])
def test_a_method_that_is_not_there_is_refused_with_those_that_are(name):
    message = (
        f"--method is {name!r}. Give one of aman, base, ctr, division, esmm, esmm_ns, "
        "oversampling, unbias, or the dotted path of a module that defines METHOD."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load_method(name)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no.such_module", "No module named 'no'"),
        ("esmm_tf.keys", "module 'esmm_tf.keys' has no attribute 'METHOD'"),
    ],
)
def test_a_path_that_leads_to_no_method_is_refused(path, reason):
    message = (
        f"--method is {path!r}, which cannot be loaded: {reason}. Give one of aman, base, ctr, "
        "division, esmm, esmm_ns, oversampling, unbias, or the dotted path of a module that "
        "defines METHOD."
    )

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        load_method(path)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Returns the dotted path of a method of the user's own."""
    package = tmp_path / "lab"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(OWN_METHOD, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "lab.mine"
    for name in ("lab.mine", "lab"):
        sys.modules.pop(name, None)


def test_a_method_of_the_users_own_is_loaded_by_its_path_and_built(own_module):
    method = load_method(own_module)

    model = build_model(own_module, trained=True)

    assert isinstance(method, Method)
    assert method.title == "MINE"
    assert {layer.name for layer in model.layers if layer.variables} == {
        "encoder",
        "ctr_tower",
        "constant_cvr",
    }
    assert isinstance(model.get_layer("outputs"), EntireSpaceOutputs)
    np.testing.assert_allclose(
        model.compute_loss(FEATURES, LABELS, model(FEATURES)),
        losses.cross_entropy(LABELS["click"], model(FEATURES)["ctr_logits"]),
        rtol=1e-5,
    )


def test_a_path_of_the_users_own_whose_module_is_broken_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "lab_broken").mkdir()
    (tmp_path / "lab_broken" / "mine.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(ZeroDivisionError):
        load_method("lab_broken.mine")
