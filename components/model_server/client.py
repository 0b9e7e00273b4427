"""A client of the development server and of TensorFlow Serving."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from typing import Any, Self

import grpc
import numpy as np
import requests
import tensorflow as tf
from google.protobuf.message import Message
from tensorflow.core.protobuf import error_codes_pb2
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from components.model_server.errors import HTTP_STATUS, LONGEST_MESSAGE, ServingError
from components.model_server.tensors import Arrays, to_proto
from components.wording import of_op

_POLL_SECONDS = 0.05
_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # which the environment names for elsewhere
]


# The first code of each status, and what REST alone answers.
_CODES = {status: code for code, status in reversed(HTTP_STATUS.items())}
_CODES |= {408: "DEADLINE_EXCEEDED", 413: "RESOURCE_EXHAUSTED"}


class Client:
    """A connection to one model server. Calls fail with ServingError in the code of the server.

    A call names the model and, for one certain version, its number or its label.
    """

    def __init__(self, host: str, grpc_port: int, rest_port: int, timeout: float = 30.0) -> None:
        """Prepare to connect; `timeout` in seconds holds for each call."""
        self._url = f"http://{host}:{rest_port}/v1/models"
        self._timeout = timeout
        self._channel = grpc.insecure_channel(f"{host}:{grpc_port}", options=_CHANNEL)
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)
        self._http = requests.Session()
        self._http.trust_env = False  # as above

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def predict(
        self,
        model: str,
        inputs: Arrays,
        *,
        signature: str = "",
        version: int | None = None,
        label: str = "",
    ) -> tuple[int, Arrays]:
        """Predict over gRPC: arrays by input name (bytes in arrays of dtype object).

        Returns:
            The version that answered, and its outputs by name.
        """
        request = predict_pb2.PredictRequest(model_spec=_spec(model, version, label))
        request.model_spec.signature_name = signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(to_proto(array))
        return self.send(request)

    def send(self, request: predict_pb2.PredictRequest) -> tuple[int, Arrays]:
        """Predict over gRPC, as `predict`, for a request that is made already."""
        response = self._call(self._predictions.Predict, request)
        outputs = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
        return response.model_spec.version.value, outputs

    def predict_images(
        self, model: str, images: Sequence[bytes], version: int | None = None, label: str = ""
    ) -> list[dict[str, Any]]:
        """Predict over REST for encoded images.

        Returns:
            For each image {"probabilities": [float, ...], "label": str}.
        """
        rows = [{"b64": base64.b64encode(image).decode()} for image in images]
        url = f"{self._model_url(model, version, label)}:predict"
        return self._http_json("POST", url, {"instances": rows})["predictions"]

    def status(self, model: str) -> dict[int, tuple[str, str]]:
        """Return state (START, LOADING, AVAILABLE, UNLOADING, END) and error of each version."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=_spec(model, None, ""))
        response = self._call(self._models.GetModelStatus, request)
        name = get_model_status_pb2.ModelVersionStatus.State.Name
        return {
            version.version: (name(version.state), version.status.error_message)
            for version in response.model_version_status
        }

    def rest_status(self, model: str) -> dict[int, str]:
        """Return the same states over REST."""
        answer = self._http_json("GET", self._model_url(model, None, ""))
        return {int(v["version"]): v["state"] for v in answer["model_version_status"]}

    def reload(self, config: ModelServerConfig) -> None:
        """Replace the configuration of the server."""
        request = model_management_pb2.ReloadConfigRequest(config=config)
        response = self._call(self._models.HandleReloadConfigRequest, request)
        if status := response.status.error_code:
            code = error_codes_pb2.Code.Name(status)
            raise ServingError(code, response.status.error_message)

    def failures(self, model: str) -> dict[int, str]:
        """Return the error of each version that could not be loaded.

        Of a server that does not answer there is none.
        """
        return {
            version: error
            for version, (state, error) in self._states(model).items()
            if state == "END" and error
        }

    def wait_available(
        self, model: str, version: int, timeout: float = 60.0, former: str = ""
    ) -> None:
        """Wait until a version answers requests.

        Args:
            model: its name.
            version: the number.
            timeout: in seconds.
            former: error with which it had ended before the change that is waited for; it counts
                once it was seen in another state.

        Raises:
            ServingError: FAILED_PRECONDITION where it cannot be loaded, or DEADLINE_EXCEEDED after
                `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            state, error = self._states(model).get(version, ("unknown", ""))
            if state == "AVAILABLE":
                return
            is_former = state == "END" and error == former
            former = former if is_former else ""
            is_over = time.monotonic() > deadline
            if state == "END" and error and not is_former:
                raise ServingError("FAILED_PRECONDITION", f"{model} version {version}: {error}")
            if is_over:
                why = f": {error}" if error else ""
                raise ServingError(
                    "DEADLINE_EXCEEDED",
                    f"{model} version {version} is {state} after {timeout:g} s{why}",
                )
            time.sleep(_POLL_SECONDS)

    def is_settled(self, model: str) -> bool:
        """Whether a version answers requests and no other is being loaded.

        Raises:
            ServingError: FAILED_PRECONDITION where a version could not be loaded.
        """
        for version, error in self.failures(model).items():
            raise ServingError("FAILED_PRECONDITION", f"{model} version {version}: {error}")
        found = {state for state, _ in self._states(model).values()}
        return "AVAILABLE" in found and not found & {"START", "LOADING"}

    def _states(self, model: str) -> dict[int, tuple[str, str]]:
        """Return `status`, but nothing while the server is starting."""
        try:
            return self.status(model)
        except ServingError as error:
            if error.code not in ("NOT_FOUND", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
                raise
            return {}

    def _call(self, method: grpc.UnaryUnaryMultiCallable, request: Message) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise ServingError(error.code().name, _reason(error.details() or "")) from None

    def _model_url(self, model: str, version: int | None, label: str) -> str:
        if version is not None:
            return f"{self._url}/{model}/versions/{version}"
        return f"{self._url}/{model}/labels/{label}" if label else f"{self._url}/{model}"

    def _http_json(self, method: str, url: str, content: Any = None) -> Any:
        try:
            response = self._http.request(method, url, json=content, timeout=self._timeout)
            answer = response.json()
        except requests.RequestException as error:  # also for an answer that is not JSON
            # Of a connection that fails it is urllib3's, with the reason in it.
            reason = getattr(error.args[0], "reason", error) if error.args else error
            raise ServingError("UNAVAILABLE", str(reason)) from error
        if not response.ok:
            code = _CODES.get(response.status_code, "UNKNOWN")
            raise ServingError(code, _reason(answer.get("error", answer)), response.status_code)
        return answer


def _reason(message: object) -> str:
    """Shorten a message: TensorFlow Serving passes on those of TensorFlow's ops."""
    return of_op(str(message), LONGEST_MESSAGE)


def _spec(model: str, version: int | None, label: str) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=model)
    if version is not None:
        spec.version.value = version
    elif label:
        spec.version_label = label
    return spec


def strings(values: Sequence[bytes]) -> np.ndarray:
    """Make a string tensor of shape [N], such as a batch of images."""
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array
