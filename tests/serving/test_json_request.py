"""REST JSON to tensors and back, by the rules and in the words of TF Serving."""

import contextlib
import json
import re

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from esmm_tf.serving import json_request, json_response

EXAMPLES = {"examples": tf.string}
RANK = {"context": tf.string, "candidates": tf.string}
DENSE = {"item": tf.int64, "price": tf.float32}


def read(document, dtypes):
    """Returns the request of a document, for a signature that has these inputs."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return json_request.read_request(body, lambda _: dtypes)


def columns_of(request):
    """Returns the inputs as lists, with their shapes and dtypes."""
    return {
        name: (values.tolist(), values.shape, values.dtype)
        for name, values in request.inputs.items()
    }


def fails(document, dtypes):
    """Returns the message of the error."""
    with pytest.raises(tf.errors.InvalidArgumentError) as error_info:
        read(document, dtypes)
    return error_info.value.message


def test_rows_of_a_signature_with_one_input_are_its_values():
    request = read({"instances": [{"b64": "AP8="}, "text", {"b64": ""}]}, EXAMPLES)

    assert request.in_rows
    assert columns_of(request) == {"examples": ([b"\x00\xff", b"text", b""], (3,), object)}


def test_rows_of_a_signature_with_many_inputs_are_objects():
    request = read({"instances": [{"item": 3, "price": 2}, {"price": 0.5, "item": -4}]}, DENSE)

    assert columns_of(request) == {
        "item": ([3, -4], (2,), np.int64),
        "price": ([2.0, 0.5], (2,), np.float32),
    }


def test_rows_may_name_the_only_input():
    request = read({"instances": [{"examples": {"b64": "eA=="}}, {"examples": "y"}]}, EXAMPLES)

    assert columns_of(request) == {"examples": ([b"x", b"y"], (2,), object)}


def test_rows_may_be_lists_of_one_shape():
    request = read({"instances": [[1, 2, 3], [4, 5, 6]]}, {"visits": tf.int64})

    assert columns_of(request) == {"visits": ([[1, 2, 3], [4, 5, 6]], (2, 3), np.int64)}


def test_columns_are_tensors_by_the_names_of_their_inputs():
    request = read({"inputs": {"candidates": ["a", "b"], "context": [{"b64": "Xg=="}]}}, RANK)

    assert not request.in_rows
    assert columns_of(request) == {
        "context": ([b"^"], (1,), object),
        "candidates": ([b"a", b"b"], (2,), object),
    }


def test_columns_of_a_signature_with_one_input_may_stand_without_its_name():
    request = read({"inputs": [[1.5], [2.5]]}, {"price": tf.float32})

    assert columns_of(request) == {"price": ([[1.5], [2.5]], (2, 1), np.float32)}


def test_columns_may_be_empty():
    request = read({"inputs": {"item": [], "price": []}}, DENSE)

    assert columns_of(request) == {"item": ([], (0,), np.int64), "price": ([], (0,), np.float32)}


def test_the_dtypes_are_those_of_the_signature_that_the_request_names():
    asked = []

    def find(signature):
        asked.append(signature)
        return EXAMPLES

    named = json_request.read_request(b'{"signature_name": "pctr", "inputs": ["x"]}', find)
    unnamed = json_request.read_request(b'{"inputs": ["x"]}', find)

    assert asked == ["pctr", ""]
    assert (named.signature, unnamed.signature) == ("pctr", "")


def test_numbers_that_json_does_not_know_are_read():
    request = read(b'{"inputs": [NaN, Infinity, -Infinity]}', {"price": tf.float32})

    assert [str(value) for value in request.inputs["price"]] == ["nan", "inf", "-inf"]


@pytest.mark.parametrize("text", ["eHk", "eHk=", "e H\nk="])
def test_base64_may_lack_its_padding_and_have_blanks(text):
    request = read({"instances": [{"b64": text}]}, EXAMPLES)

    assert request.inputs["examples"].tolist() == [b"xy"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"{", "JSON Parse error: Expecting property name enclosed .* at offset: 1"),
        (b'{"inputs": "\xff"}', "JSON Parse error: 'utf-8' codec can't decode byte 0xff .*"),
        (b'{"inputs": ' + b"1" * 5000 + b"}", "JSON Parse error: Exceeds the limit .*"),
        (b'{"inputs": ' + b"[" * 100_000, "JSON Parse error: Nested too deeply."),
        (b"[1]", re.escape("JSON Value: [1] Is not object")),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b'{"signature_name": 3}', ".* 'signature_name' key must be a string value."),
        (b'{"inputs": 1, "instances": 2}', ".* expecting only one of 'inputs' or 'instances' .*"),
        (b'{"instances": "x"}', ".* Excepting 'instances' to be an list/array"),
        (b'{"instances": []}', ".* No values in 'instances' array"),
    ],
)
def test_a_body_that_is_no_request_is_refused(body, message):
    assert re.fullmatch(message, fails(body, EXAMPLES))


@pytest.mark.parametrize(
    ("instances", "dtypes", "message"),
    [
        (["x"], RANK, "instances is a plain list, but expecting list of objects as .*"),
        ([{"item": 1, "price": 1}, 2], DENSE, "Expecting object but got list at item 1 .*"),
        (["x", {"examples": "y"}], EXAMPLES, "Expecting value/list but got object at item 1 .*"),
        (
            [{"item": 1, "price": 1}, {"item": 2}],
            DENSE,
            r"Failed to process element: 1 of 'instances' list. JSON object: {\"item\": 2} must "
            "only have keys: item,price",
        ),
        (
            [{"item": 1, "color": 1}],
            DENSE,
            "Failed to process element: 0 key: color of 'instances' list. Error: "
            "INVALID_ARGUMENT: JSON object: does not have named input: color",
        ),
        (
            [{"item": 1, "price": "2"}],
            DENSE,
            "Failed to process element: 0 key: price of 'instances' list. Error: "
            'INVALID_ARGUMENT: JSON Value: "2" Type: String is not of expected type: float',
        ),
        (
            [[1, 2], [3]],
            {"visits": tf.int64},
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
            "Expecting tensor size: 2 but got: 1",
        ),
        (
            [[[1, 2]], [[3], [4]]],
            {"visits": tf.int64},
            r".*Expecting shape \[1,2\] but got: \[2,1\]",
        ),
    ],
)
def test_rows_that_do_not_fit_the_signature_are_refused(instances, dtypes, message):
    assert re.fullmatch(message, fails({"instances": instances}, dtypes))


@pytest.mark.parametrize(
    ("inputs", "dtypes", "message"),
    [
        (["x"], RANK, "inputs is a plain value/list, but expecting an object as .*"),
        ({"context": ["x"]}, RANK, "Missing named input: candidates in 'inputs' object."),
        (["x", ["y"]], EXAMPLES, "Encountered list at unexpected level: 1 expected < 1"),
        ([["x"], "y"], EXAMPLES, '.* "y" found at incorrect level: 2 .* Expected at level: 2'),
        ([["x", "y"], ["z"]], EXAMPLES, "Encountered list at unexpected size: 1 at level: 1 .*"),
        ([{"b64": 3}], EXAMPLES, ".* not formatted correctly for base64 data"),
        ([{"b64": "a", "c": "d"}], EXAMPLES, ".* not formatted correctly for base64 data"),
        ([{"b64": "?"}], EXAMPLES, "Unable to base64 decode"),
        ([{"b64": "é"}], EXAMPLES, "Unable to base64 decode"),
        ([1], EXAMPLES, "JSON Value: 1 Type: Number is not of expected type: string"),
        ([None], EXAMPLES, "JSON Value: null Type: Null is not of expected type: string"),
        ([True], {"item": tf.int64}, "JSON Value: true Type: True is not of .* int64"),
        ([1.0], {"item": tf.int64}, "JSON Value: 1.0 Type: Number is not of .* int64"),
        ([2**63], {"item": tf.int64}, "JSON Value: 9223372036854775808 Type: Number is not .*"),
        ([False], {"price": tf.float32}, "JSON Value: false Type: False is not of .* float"),
        ([{"b64": "a"}], {"price": tf.float32}, "JSON Value: .* Type: Object is not of .* float"),
        ([2**24], {"price": tf.float32}, "Cannot convert JSON value: 16777216 to float without .*"),
        ([1e39], {"price": tf.float32}, r"Cannot convert JSON value: 1e\+39 to float without .*"),
    ],
)
def test_columns_that_do_not_fit_the_signature_are_refused(inputs, dtypes, message):
    assert re.fullmatch(message, fails({"inputs": inputs}, dtypes))


def test_a_signature_without_inputs_is_refused():
    message = fails({"signature_name": "__saved_model_init_op", "inputs": {}}, {})

    assert message == "Failed to get input map for signature: __saved_model_init_op"


def test_outputs_of_a_request_in_rows_are_objects():
    outputs = {"pctr": np.float32([0.5, 0.25]), "pcvr": np.float32([1, 0])}

    text = json_response.write_outputs(outputs, in_rows=True)

    assert json.loads(text) == {
        "predictions": [{"pctr": 0.5, "pcvr": 1}, {"pctr": 0.25, "pcvr": 0}]
    }


def test_the_only_output_of_a_request_in_rows_is_a_list():
    text = json_response.write_outputs({"pctr": np.float32([0.5, 0.25])}, in_rows=True)

    assert json.loads(text) == {"predictions": [0.5, 0.25]}


def test_outputs_of_a_request_in_columns_are_lists():
    outputs = {"pctr": np.float32([[0.5], [0.25]]), "rows": np.array([3])}

    text = json_response.write_outputs(outputs, in_rows=False)

    assert json.loads(text) == {"outputs": {"pctr": [[0.5], [0.25]], "rows": [3]}}


@pytest.mark.parametrize("size", [0, 2])
def test_the_only_output_of_a_request_in_columns_is_a_list(size):
    text = json_response.write_outputs({"pctr": np.ones(size, np.float32)}, in_rows=False)

    assert json.loads(text) == {"outputs": [1.0] * size}


def test_numbers_have_no_more_digits_than_they_need():
    outputs = {"pctr": np.float32([0.2, 1 / 3, 3, 1e-7, np.nan, np.inf, -np.inf])}

    text = json_response.write_outputs(outputs, in_rows=False)

    numbers = re.findall(r"[-\w.]+", text.partition(":")[2])
    assert numbers == ["0.2", "0.333333343", "3.0", "1e-07", "NaN", "Infinity", "-Infinity"]


@hypothesis.given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_numbers_read_back_are_the_same_float32(values):
    text = json_response.write_outputs({"pctr": np.float32(values)}, in_rows=True)

    found = np.float32(json.loads(text)["predictions"])
    assert found.tolist() == np.float32(values).tolist()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"pctr": np.float32(1)}, "Tensor name: pctr has no shape information "),
        (
            {"pctr": np.zeros(2), "pcvr": np.zeros(3)},
            "Tensor name: pcvr has inconsistent batch size: 3 expecting: 2",
        ),
    ],
)
def test_outputs_that_have_no_rows_are_refused(outputs, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"^{message}$"):
        json_response.write_outputs(outputs, in_rows=True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@hypothesis.given(
    st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name"]), JSON, min_size=1),
    st.sampled_from([EXAMPLES, RANK, DENSE]),
)
def test_any_json_is_a_request_or_refused(document, dtypes):
    with contextlib.suppress(tf.errors.InvalidArgumentError):
        request = read(document, dtypes)

        assert set(request.inputs) <= set(dtypes)
