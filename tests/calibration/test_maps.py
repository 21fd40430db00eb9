"""Calibration maps: what they do to a logit, and the file that keeps them."""

import json
import re

import numpy as np
import pytest

from esmm_tf.calibration import maps
from esmm_tf.calibration.maps import Calibration, Isotonic, Platt, Temperature
from esmm_tf.errors import UserError

LOGITS = np.array([-1000.0, -3.0, -2.0, 0.0, 0.5, 1.0, 4.0, 1000.0])
MAPS = {
    "platt": Platt(slope=0.5, offset=-1.25),
    "temperature": Temperature(temperature=4.0),
    "isotonic": Isotonic(knots=(-2.0, 0.0, 1.0), values=(-5.0, -4.0, 3.0)),
    "one point": Isotonic(knots=(2.0,), values=(1.5,)),
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("platt", [-501.25, -2.75, -2.25, -1.25, -1.0, -0.75, 0.75, 498.75]),
        ("temperature", [-250.0, -0.75, -0.5, 0.0, 0.125, 0.25, 1.0, 250.0]),
        ("isotonic", [-1003.0, -6.0, -5.0, -4.0, -0.5, 3.0, 6.0, 1002.0]),
        ("one point", [-1000.5, -3.5, -2.5, -0.5, 0.0, 0.5, 3.5, 999.5]),
    ],
)
def test_a_map_moves_logits(name, expected):
    assert maps.apply(MAPS[name], LOGITS).tolist() == expected


def test_logits_are_mapped_in_float64():
    mapped = maps.apply(Platt(slope=1.0, offset=1e-12), np.zeros(1, np.float32))

    assert mapped.tolist() == [1e-12]


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_read_as_it_was_written(name):
    text = json.dumps(maps.map_to_json(MAPS[name]))

    assert maps.map_from_json(json.loads(text)) == MAPS[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("platt", "platt, 0.5 * logit -1.25"),
        ("temperature", "temperature, logit / 4"),
        ("isotonic", "isotonic, 3 knots"),
    ],
)
def test_a_map_is_told_in_words(name, words):
    assert maps.describe(MAPS[name]) == words


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("what", ["slope", "temperature"])
def test_a_map_that_would_turn_ranks_is_refused(what, value):
    message = f"The {what} is {value}. Give a finite number above 0, so that ranks stay."
    tree = {
        "slope": {"method": "platt", "slope": value, "offset": 0.0},
        "temperature": {"method": "temperature", "temperature": value},
    }

    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        maps.map_from_json(tree[what])


@pytest.mark.parametrize(
    ("knots", "values", "message"),
    [
        ([], [], "There are 0 knots and 0 values."),
        ([1.0, 2.0], [0.0], "There are 2 knots and 1 values."),
        ([1.0, 1.0], [0.0, 1.0], "The knots are [1.0, 1.0]. Give rising numbers."),
        ([1.0, 2.0], [3.0, 3.0], "The values are [3.0, 3.0]. Give rising numbers."),
        ([1.0, np.inf], [3.0, 4.0], "The knots are [1.0, inf]. Give finite numbers."),
    ],
)
def test_points_that_do_not_rise_are_refused(knots, values, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        maps.map_from_json({"method": "isotonic", "knots": knots, "values": values})


def test_an_offset_that_is_not_finite_is_refused():
    with pytest.raises(UserError, match=r"^The numbers are \[inf\]\. Give finite numbers\.$"):
        Platt(slope=1.0, offset=np.inf)


def test_a_calibration_is_read_as_it_was_written():
    written = Calibration(
        maps={"pctr": MAPS["platt"], "pcvr": MAPS["isotonic"]},
        weights="ckpt-3:0123",
        files=("validation-0", "validation-1"),
        counts={"impressions": 30, "clicks": 20, "conversions": 10},
        report={"tasks": {"ctr": {"before": {"log_loss": 0.5}, "after": None}}},
    )

    tree = json.loads(json.dumps(written.to_json()))

    assert tree["format_version"] == 1
    assert tree["maps"]["pctr"] == {"method": "platt", "slope": 0.5, "offset": -1.25}
    assert Calibration.from_json(tree) == written
