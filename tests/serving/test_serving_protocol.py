"""Further cases of the contract of tests/serving/test_serving_contract.py, for the same servers.

They follow TensorFlow Serving's guide to its REST API, its protos, the tests of its conversion of
JSON (json_tensor_test.cc), and answers of its real core.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import requests

from components.model_server.client import Client, strings
from tests.kit.serving import (
    ECHO_VERSION,
    MODEL,
    PREDICT,
    Running,
    get,
    post,
    url,
)

STATUS = f"/v1/models/{MODEL}"


def body(signature: str, content: str) -> bytes:
    """Make a request with the text of its content."""
    return f'{{"signature_name": "{signature}", {content}}}'.encode()


class TestJsonValues:
    @pytest.mark.parametrize(
        ("signature", "content", "wanted"),
        [
            ("int32", '"instances": [[1, 2], [3, 4], [5, 6]]', [[1, 2], [3, 4], [5, 6]]),
            ("int32", '"instances": [{"x": [1, 2]}, {"x": [3, 4]}]', [[1, 2], [3, 4]]),
            ("int32", '"instances": [1, 2, 3]', [1, 2, 3]),
            ("int32", '"inputs": [[[1, 2], [3, 4]]]', [[[1, 2], [3, 4]]]),
            ("int32", '"inputs": {"x": [[1, 2]]}', [[1, 2]]),
            ("int32", '"inputs": 7', 7),
            ("int32", '"inputs": {"x": -2147483648}', -(2**31)),
            ("int32", '"inputs": []', []),
            ("int32", '"inputs": {"x": [[], []]}', [[], []]),
            ("int64", '"inputs": [9007199254740993, -9223372036854775808]', [2**53 + 1, -(2**63)]),
            ("uint8", '"inputs": [0, 255]', [0, 255]),
            ("bool", '"inputs": [true, false]', [True, False]),
            ("float32", '"instances": [1, 2.0, 5.003, 0.007, 0.0]', [1.0, 2.0, 5.003, 0.007, 0.0]),
            ("float32", '"inputs": [1e3, -2E-2, 16777215]', [1000.0, -0.02, 16777215.0]),
            ("float64", '"instances": [1.0, 2, 0.662, 0]', [1.0, 2.0, 0.662, 0.0]),
            ("float64", '"inputs": [0.1, 9007199254740991]', [0.1, 9007199254740991.0]),
            ("string", '"inputs": ["a", "\\u00e9", ""]', ["a", "é", ""]),
            ("string", '"inputs": {"b64": "aGVsbG8="}', "hello"),
            (
                "string",
                '"instances": [{"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}]',
                ["hello", "world"],
            ),
            ("string", '"instances": [[{"b64": "aGVsbG8="}], ["x"]]', [["hello"], ["x"]]),
            ("string", '"instances": [{"x": [[{"b64": "dGY="}], ["x"]]}]', [[["tf"], ["x"]]]),
            ("string", '"inputs": [{"b64": "aGVs\\nbG8=\\n"}]', ["hello"]),
            ("string", '"inputs": []', []),
            ("bytes", '"inputs": [{"b64": "AP8="}, "a"]', [{"b64": "AP8="}, {"b64": "YQ=="}]),
            ("bytes", '"instances": [["tf"]]', [[{"b64": "dGY="}]]),
            # Of other keys, and of names that the signature does not have, nothing is read.
            ("int32", '"inputs": [1], "more": {"inputs": 2}', [1]),
            ("int32", '"inputs": {"x": [1], "y": [2]}', [1]),
            # Numbers are rounded or, of small integers, wrap around.
            ("float32", '"inputs": [16777217, 1e39, -1e39]', [16777216.0, math.inf, -math.inf]),
            ("float64", '"inputs": [9007199254740993, 1e-400]', [9007199254740992.0, 0.0]),
            ("float64", '"inputs": [18446744073709551616]', [2.0**64]),
            ("uint8", '"inputs": [256, -1, 2147483647]', [0, 255, 255]),
            ("string", '"inputs": [{"b64": "YQ"}]', ["a"]),
            # The first of keys that come twice counts.
            ("int32", '"inputs": [1], "inputs": [2]', [1]),
            ("int32", '"inputs": {"x": [1], "x": [2]}', [1]),
        ],
        ids=str,
    )
    def test_come_back_as_they_went_in(
        self, echo_server: Running, signature: str, content: str, wanted: Any
    ) -> None:
        answer = post(echo_server, PREDICT, body(signature, content))
        assert answer.status_code == 200, answer.text
        form = "predictions" if '"instances"' in content else "outputs"
        assert answer.json() == {form: wanted}
        assert answer.headers["Content-Type"].startswith("application/json")

    @pytest.mark.parametrize(
        ("content", "wanted"),
        [
            ("9000000, 999999, 0.5", [9e6, 999999.0, 0.5]),
            ("0.0003, 0.00003, 555557.5", [0.0003, 3e-5, 555557.5]),
            ("0.1, 0.333333333333, 16777215", [0.1, 0.333333343, 16777215.0]),
            ("3.4e38, -3.4e38, 1.2e-38", [3.4e38, -3.4e38, 1.2e-38]),
        ],
        ids=str,
    )
    def test_floats_have_the_digits_of_their_type(
        self, echo_server: Running, content: str, wanted: list[float]
    ) -> None:
        answer = post(echo_server, PREDICT, body("float32", f'"inputs": [{content}]')).json()[
            "outputs"
        ]
        assert np.array(answer, np.float32).tolist() == np.array(wanted, np.float32).tolist()
        assert all(len(repr(number).partition("e")[0].strip("-0.")) <= 10 for number in answer)

    @pytest.mark.parametrize("signature", ["float32", "float64"])
    def test_numbers_that_are_none_and_infinite_ones_too(
        self, echo_server: Running, signature: str
    ) -> None:
        answer = post(echo_server, PREDICT, body(signature, '"inputs": [NaN, Infinity, -Infinity]'))
        assert answer.status_code == 200
        outputs = answer.json()["outputs"]
        assert np.isnan(outputs[0])
        assert outputs[1:] == [np.inf, -np.inf]

    @pytest.mark.parametrize(
        "sent",
        [
            b'{"signature_name": "int32", "inputs": [1]} and more',
            b'{"signature_name": "int32", "inputs": [1]}{"inputs": [2]}',
            b'\n\t {"signature_name": "int32",\r\n "inputs": [1] }\n',
            b'\xef\xbb\xbf{"signature_name": "int32", "inputs": [1]}',
        ],
        ids=["text", "another", "space", "mark"],
    )
    def test_what_is_around_the_json_is_left_alone(self, echo_server: Running, sent: bytes) -> None:
        answer = post(echo_server, PREDICT, sent)
        assert (answer.status_code, answer.json()) == (200, {"outputs": [1]})

    @pytest.mark.parametrize(
        ("signature", "content"),
        [
            ("int32", '"instances": [[1, 2], [3, 4], [5, 6, 7]]'),
            ("int32", '"instances": [[1, 2], [3, 4], [[5, 6]]]'),
            ("int32", '"instances": [1, [1]]'),
            ("int32", '"instances": [[1, 2], ["a", "b"]]'),
            ("int32", '"instances": [{"x": 1}, 2]'),
            ("int32", '"instances": [1, {"x": 2}]'),
            ("int32", '"instances": [{"x": 1}, {"y": 2}]'),
            ("int32", '"instances": [{"x": 1, "y": 2}]'),
            ("int32", '"instances": [[1, 2], [3, 4]], "inputs": [[1, 2]]'),
            ("int32", '"instances": 1'),
            ("int32", '"instances": {"x": [1]}'),
            ("int32", '"inputs": [1.5]'),
            ("int32", '"inputs": [2147483648]'),
            ("int32", '"inputs": ["1"]'),
            ("int32", '"inputs": [true]'),
            ("int32", '"inputs": [null]'),
            ("int32", '"inputs": null'),
            ("int32", '"inputs": [{"b64": "AAAA"}]'),
            ("int64", '"inputs": [9223372036854775808]'),
            ("bool", '"inputs": [1]'),
            ("bool", '"inputs": ["true"]'),
            ("float32", '"inputs": ["NaN"]'),
            ("float64", '"inputs": [1e400]'),
            ("uint8", '"inputs": [2147483648]'),
            ("string", '"inputs": ["\\ud800"]'),
            ("string", '"inputs": [1]'),
            ("string", '"inputs": [{"b64": "aGVsbG8=", "more": 1}]'),
            ("string", '"inputs": [{"b64": 1}]'),
            ("string", '"inputs": [{"b64": "a"}]'),
            ("string", '"instances": [["baz", "bar"], {"x": ["baz", "bat"]}]'),
            ("none", '"inputs": [1]'),
        ],
        ids=str,
    )
    def test_of_another_type_or_shape_are_refused(
        self, echo_server: Running, signature: str, content: str
    ) -> None:
        answer = post(echo_server, PREDICT, body(signature, content))
        assert answer.status_code == 400, answer.text
        assert set(answer.json()) == {"error"}

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            ({"instances": [{"number": [1.0], "count": [2], "text": ["a"]}] * 2}, 200),
            ({"inputs": {"number": [1.0], "count": [2], "text": ["a"]}}, 200),
            ({"inputs": {"number": [1.0], "count": [2], "text": ["a"], "more": 1}}, 200),
            ({"signature_name": "", "inputs": {"number": 1.0, "count": 2, "text": "a"}}, 200),
            ({"instances": [{"number": [1.0], "count": [2]}]}, 400),
            ({"instances": [{"number": [1.0], "count": [2], "text": ["a"], "more": [1]}]}, 400),
            ({"instances": [[1.0]]}, 400),
            ({"inputs": [1.0]}, 400),
            ({"inputs": {"number": [1.0], "count": [2]}}, 400),
            (
                {
                    "instances": [
                        {"number": [[1.0]], "count": [2], "text": ["a"]},
                        {"number": [1.0], "count": [2], "text": ["a"]},
                    ]
                },
                400,
            ),
        ],
        ids=lambda value: str(value)[:60],
    )
    def test_of_several_inputs(self, echo_server: Running, sent: Any, status: int) -> None:
        answer = post(echo_server, PREDICT, sent)
        assert answer.status_code == status, answer.text
        if status == 200:
            found = answer.json().get("outputs") or answer.json()["predictions"][0]
            assert found.keys() == {"number", "count", "text"}

    def test_outputs_of_different_batches_have_no_rows(self, echo_server: Running) -> None:
        sent = {"inputs": {"number": [1.0], "count": [2, 3], "text": ["a"]}}
        assert post(echo_server, PREDICT, sent).status_code == 200

    def test_an_empty_batch_has_empty_outputs(
        self, echo_server: Running, echo_client: Client
    ) -> None:
        sent: Any = {"inputs": {"number": [], "count": [], "text": []}}
        assert post(echo_server, PREDICT, sent).json() == {"outputs": sent["inputs"]}
        empty = {"x": np.zeros((0, 2), np.float32)}
        _, outputs = echo_client.predict(MODEL, empty, signature="float32")
        assert outputs["x"].shape == (0, 2)


class TestPaths:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("PUT", PREDICT, 400),
            ("DELETE", PREDICT, 400),
            ("OPTIONS", PREDICT, 400),
            ("PATCH", PREDICT, 400),
            ("GET", PREDICT, 400),
            ("HEAD", STATUS, 400),
            ("POST", STATUS, 400),
            ("PUT", STATUS, 400),
            ("POST", f"{STATUS}/metadata", 400),
            ("POST", f"{PREDICT}?x=1", 400),
            ("GET", f"{STATUS}?x=1", 404),
            ("GET", "/v1/models", 400),
            ("GET", "/v1/models/", 400),
            ("GET", "/v1/nonsense", 400),
            ("GET", f"{STATUS}/versions/x", 400),
            ("GET", f"{STATUS}/versions/99999999999999999999", 400),
            ("GET", f"{STATUS}/versions/{2**63 - 1}", 404),
            ("GET", f"{STATUS}/versions/{2**63}", 400),
            ("GET", f"{STATUS}/versions/{ECHO_VERSION}/more", 400),
            ("GET", f"{STATUS}/versions/9/metadata", 404),
            ("GET", f"{STATUS}/labels/none/metadata", 400),
            ("GET", "/v1/models/COLOURS", 404),
            ("GET", f"/V1/Models/{MODEL}", 200),
            ("GET", f"/v1/models/{MODEL}/VERSIONS/{ECHO_VERSION}", 200),
            ("GET", f"/v1/MODELS/{MODEL}/Metadata", 200),
            ("GET", "/elsewhere", 404),
            ("POST", "/elsewhere", 404),
        ],
    )
    def test_and_methods_have_their_status(
        self, echo_server: Running, method: str, path: str, status: int
    ) -> None:
        assert requests.request(method, url(echo_server, path), timeout=60).status_code == status

    @pytest.mark.parametrize("method", ["classify", "regress"])
    def test_a_method_that_the_request_is_not_for(self, echo_server: Running, method: str) -> None:
        sent = body("int32", '"inputs": [1]')
        assert post(echo_server, f"{STATUS}:{method}", sent).status_code == 400

    @pytest.mark.parametrize("where", ["", f"/versions/{ECHO_VERSION}", "/labels/stable"])
    def test_capitals_are_taken_but_for_the_method(self, echo_server: Running, where: str) -> None:
        path = f"/V1/MODELS/{MODEL}{where.upper().replace('STABLE', 'stable')}"
        sent = body("int32", '"inputs": [1]')
        assert post(echo_server, f"{path}:predict", sent).json() == {"outputs": [1]}
        assert post(echo_server, f"{path}:PREDICT", sent).status_code == 400

    def test_metadata_in_capitals_is_the_status(self, echo_server: Running) -> None:
        assert "model_version_status" in get(echo_server, f"{STATUS}/METADATA").json()

    @pytest.mark.parametrize("label", ["stable", "none"])
    def test_the_status_of_a_label_lists_all_versions(
        self, echo_server: Running, label: str
    ) -> None:
        found = get(echo_server, f"{STATUS}/labels/{label}").json()["model_version_status"]
        assert [each["version"] for each in found] == [str(ECHO_VERSION)]

    def test_metadata_has_the_initializer_too(self, echo_server: Running) -> None:
        answer = get(echo_server, f"{STATUS}/metadata").json()
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        assert "__saved_model_init_op" in signatures
        assert signatures["float64"]["inputs"]["x"]["dtype"] == "DT_DOUBLE"
        assert signatures["float64"]["inputs"]["x"]["tensor_shape"]["unknown_rank"] is True
        assert signatures["int32"]["method_name"] == "tensorflow/serving/predict"


def test_rest_and_grpc_agree_on_every_type(echo_server: Running, echo_client: Client) -> None:
    cases: list[tuple[str, list[Any]]] = [
        ("float32", [0.1, 1 / 3, 1e-30]),
        ("float64", [0.1, 1 / 3, 1e-300]),
        ("int64", [2**62 + 1]),
        ("string", ["é"]),
    ]
    for signature, value in cases:
        array = strings([v.encode() for v in value]) if signature == "string" else None
        given = np.array(value, signature) if array is None else array
        _, over_grpc = echo_client.predict(MODEL, {"x": given}, signature=signature)
        sent = body(signature, f'"inputs": {json.dumps(value)}')
        over_rest = post(echo_server, PREDICT, sent).json()["outputs"]
        if array is not None:
            over_rest = [text.encode() for text in over_rest]
        np.testing.assert_array_equal(np.array(over_rest, given.dtype), over_grpc["x"])
