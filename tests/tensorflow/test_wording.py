"""Messages: what an op's error comes to, and which bad files are shown."""

from __future__ import annotations

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from components.image_example_gen.accounting import varied
from components.model_server.client import Client
from components.model_server.errors import ServingError
from components.wording import LONGEST, bounded, of_op


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Invalid PNG data, size 4", "Invalid PNG data, size 4"),
        (
            "{{function_node __wrapped__DecodeJpeg_device_/job:localhost/replica:0/task:0/device:"
            "CPU:0}} Invalid PNG data, size 100 [Op:DecodeJpeg] name: ",
            "Invalid PNG data, size 100",
        ),
        (
            "Graph execution error:\n\nDetected at node cond/DecodeJpeg defined at (most recent "
            'call last):\n  File "/a/b.py", line 57, in <module>\n\n  File "c.py", line 1, in g\n\n'
            "Invalid PNG data, size 100\n\t [[{{node cond/DecodeJpeg}}]]\n\t [[PartitionedCall]] "
            "[Op:__inference_g3_1910]",
            "Invalid PNG data, size 100",
        ),
        (
            "{{function_node __inference_a_1}} {{function_node cond_true_2}} broken, and [why]\n"
            "\t [[{{node cond/x}}]]\n\t [[StatefulPartitionedCall/map/while]]",
            "broken, and [why]",
        ),
        (
            "2 root error(s) found.\n  (0) INVALID_ARGUMENT: {{function_node f}} broken\n"
            "\t [[{{node x}}]]\n  (1) INVALID_ARGUMENT: broken\n0 successful operations.",
            "broken",
        ),
        ("StringToNumberOp could not correctly convert string: unreadable", "unreadable"),
    ],
)
def test_of_an_op_only_what_is_wrong_is_told(message: str, told: str) -> None:
    assert of_op(message) == told


def test_of_a_graph_of_this_tensorflow_too() -> None:
    @tf.function
    def decode(data: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            tf.constant(True), lambda: tf.io.decode_png(data), lambda: tf.io.decode_png("")
        )

    for call in (tf.io.decode_png, decode):
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            call(tf.constant(b"\x89PNG\r\n\x1a\n"))
        assert of_op(str(caught.value)) == "Invalid PNG. Failed to initialize decoder."


def test_no_reason_is_long_whatever_is_in_it() -> None:
    for text in ("x" * 50_000_000, "a\nb" * 10_000):
        assert len(bounded(text)) <= LONGEST + 3
        assert "\n" not in of_op(text)
    assert bounded(" one \n two ") == "one two"


def test_each_reason_is_shown_once_before_one_is_repeated() -> None:
    reasons = [
        "damaged: size 1",
        "damaged: size 22",
        "unsupported: HEIC",
        "damaged: size 3",
        "empty",
    ]
    lines = [{"path": str(index), "reason": reason} for index, reason in enumerate(reasons)]
    assert [line["path"] for line in varied(lines, 4)] == ["0", "2", "4", "1"]


def test_a_server_that_passes_on_all_that_an_op_says_is_quoted_cleanly() -> None:
    """TensorFlow Serving sends whatever the session's status holds."""

    class Refused(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.INVALID_ARGUMENT

        def details(self) -> str:
            return "{{function_node __inference_a_1}} not a PNG\n\t [[{{node DecodeJpeg}}]]" * 1000

    def predict(_request: object, timeout: float) -> None:
        assert timeout > 0
        raise Refused

    with Client("127.0.0.1", 1, 1) as client, pytest.raises(ServingError) as caught:
        client._call(predict, predict_pb2.PredictRequest())
    assert (caught.value.code, caught.value.message) == ("INVALID_ARGUMENT", "not a PNG")
