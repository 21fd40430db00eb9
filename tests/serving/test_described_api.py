"""The REST API is what its OpenAPI description says, whatever it is sent."""

import hypothesis
import hypothesis.strategies as st
import pytest
import schemathesis
import tensorflow as tf
from rest_requests import predict
from schemathesis import checks

from esmm_tf.serving import rest_api, saved_model

pytestmark = pytest.mark.slow

VERSION = 7


@pytest.fixture(scope="module")
def api(server):
    """Returns what the server says of itself."""
    return schemathesis.openapi.from_asgi("/openapi.json", rest_api.build_app(server.versions))


NOT_CHECKED = [checks.unsupported_method, checks.positive_data_acceptance]


@pytest.mark.parametrize("known", [{}, {"name": "esmm"}, {"name": "esmm", "version": str(VERSION)}])
def test_any_request_is_answered_as_the_description_says(api, known):
    operations = [operation.ok() for operation in api.get_all_operations()]
    assert len(operations) == 6

    for operation in operations:
        check_answers(operation.as_strategy(path_parameters=known))


@pytest.mark.parametrize("path", ["", "/versions/{version}"])
def test_any_body_that_does_not_fit_the_description_is_refused(api, path):
    operation = api[f"/v1/models/{{name}}{path}:predict"]["POST"]

    check_answers(
        operation.as_strategy(
            schemathesis.GenerationMode.NEGATIVE,
            path_parameters={"name": "esmm", "version": str(VERSION)},
        )
    )


def check_answers(cases):
    """Checks that requests are answered as the description of the API says."""

    @hypothesis.given(cases)
    def check(case):
        case.call_and_validate(excluded_checks=NOT_CHECKED)

    check()


VALUES = {
    tf.string: st.sampled_from(["", "^"]) | st.text(),
    tf.int64: st.integers(-(2**63), 2**63 - 1),
    tf.float32: st.floats(width=32),
}


@hypothesis.given(data=st.data())
def test_no_tensors_make_the_server_fail(server, signatures, data):
    signature = data.draw(st.sampled_from(saved_model.SIGNATURES))
    _, specs = signatures[signature].structured_input_signature
    batch = data.draw(st.integers(0, 3))
    sizes = st.just(batch) | st.integers(0, 3)  # now and then not the same for all inputs
    columns = {
        name: data.draw(nested(VALUES[spec.dtype], [data.draw(sizes), *spec.shape[1:]]))
        for name, spec in specs.items()
    }

    status, response = predict(server, {"signature_name": signature, "inputs": columns})

    assert (status, list(response)) in [(200, ["outputs"]), (400, ["error"])]


def nested(values, shape):
    """Returns a strategy of lists of lists."""
    if not shape:
        return values
    return st.lists(nested(values, shape[1:]), min_size=shape[0], max_size=shape[0])
