"""`import esmm_tf`: which names it has, and what they bring with them."""

import pathlib
import subprocess
import sys

import pytest

import esmm_tf

PUBLIC_NAMES = (pathlib.Path(__file__).parent / "public_names.txt").read_text().split()


def test_the_public_names_are_those_that_were_promised():
    assert sorted(esmm_tf.__all__) == PUBLIC_NAMES
    assert dir(esmm_tf) == sorted(esmm_tf.__all__)


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_is_explained(name):
    item = getattr(esmm_tf, name)

    assert isinstance(item, str) or item.__doc__


def test_another_name_is_refused_as_of_any_module():
    with pytest.raises(AttributeError, match=r"^module 'esmm_tf' has no attribute 'Estimater'$"):
        esmm_tf.Estimater  # noqa: B018 - it is the attribute's absence that is tested


def test_a_schema_is_built_without_tensorflow():
    code = """
import sys, esmm_tf
column = esmm_tf.HashBucketColumn(hash_buckets=10)
item = esmm_tf.Feature(name="item", side="impression", dtype="int64", column=column)
schema = esmm_tf.Schema(name="shop", features=(item,))
print(schema.record_hash(), "tensorflow" in sys.modules, "tf_keras" in sys.modules)
"""

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split()[1:] == ["False", "False"]
    assert done.stderr == ""
