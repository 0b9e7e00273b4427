"""The gRPC side, on the official stubs of tensorflow-serving-api.

Only its `*_pb2_grpc` modules and messages are imported: the modules that describe the services were
generated for an older protobuf and do not load.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent import futures

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from components.model_server.errors import ServingError, invalid
from components.model_server.model import DEFAULT_SIGNATURE, LoadedModel
from components.model_server.service import (
    SIGNATURES,
    Service,
    Target,
    signature_map,
    status_response,
)
from components.model_server.tensors import Arrays, from_proto, to_proto

_SPARE_THREADS = 4  # so that status answers while all places for predictions are taken
_WAITING_CALLS = 64  # calls held beyond the running ones before gRPC itself refuses more


def make_server(service: Service, address: str) -> tuple[grpc.Server, int]:
    """Make a server for `address` ("host:port", port 0 for any free one), not yet started.

    Returns:
        The server and its port.

    Raises:
        OSError: the address cannot be bound.
    """
    limits = service.limits
    threads = limits.concurrency + _SPARE_THREADS
    server = grpc.server(
        futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc"),
        maximum_concurrent_rpcs=threads + _WAITING_CALLS,
        options=[
            ("grpc.max_receive_message_length", limits.request_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # else a second server would take half of the calls
            # gRPC counts no connections; silent ones are closed instead.
            ("grpc.server_handshake_timeout_ms", int(1000 * limits.receive_seconds)),
            ("grpc.max_connection_idle_ms", int(1000 * limits.idle_seconds)),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        _PredictionService(service), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(service), server)
    try:
        return server, server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {address}: {error}") from error


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        with _answering(context):
            service, target = self._service, _target(request.model_spec)
            signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
            most = service.limits.request_bytes

            def read(_: LoadedModel) -> Arrays:
                return {name: from_proto(name, p, most) for name, p in request.inputs.items()}

            with service.counted(target, "Predict", "GRPC"):
                deadline = time.monotonic() + _seconds_left(context, service)
                number, outputs = service.predict(
                    target, signature, read, deadline, request.output_filter
                )
                response = predict_pb2.PredictResponse()
                for name, array in outputs.items():
                    response.outputs[name].CopyFrom(to_proto(array))
                response.model_spec.name = target.model
                response.model_spec.version.value = number
                response.model_spec.signature_name = signature
                return response

    def GetModelMetadata(
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        with _answering(context):
            service, target = self._service, _target(request.model_spec)
            with service.counted(target, "GetModelMetadata", "GRPC"):
                if not request.metadata_field:
                    raise invalid("GetModelMetadataRequest must name at least one metadata_field")
                if unknown := set(request.metadata_field) - {SIGNATURES}:
                    raise invalid(f"metadata fields {sorted(unknown)} are not supported")
                number, loaded = service.manager.find(*target)
                response = get_model_metadata_pb2.GetModelMetadataResponse()
                response.model_spec.name = target.model
                response.model_spec.version.value = number
                response.metadata[SIGNATURES].Pack(signature_map(loaded))
                return response


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        with _answering(context):
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            return status_response(self._service.manager.status(*_target(request.model_spec)))

    def HandleReloadConfigRequest(
        self,
        request: model_management_pb2.ReloadConfigRequest,
        context: grpc.ServicerContext,
    ) -> model_management_pb2.ReloadConfigResponse:
        with _answering(context):
            self._service.manager.reload(request.config, _seconds_left(context, self._service))
            response = model_management_pb2.ReloadConfigResponse()
            response.status.SetInParent()
            return response


def _target(spec: model_pb2.ModelSpec) -> Target:
    if not spec.name:
        raise invalid("the ModelSpec names no model")
    version = spec.version.value if spec.HasField("version") else None
    return Target(spec.name, version, spec.version_label)


def _seconds_left(context: grpc.ServicerContext, service: Service) -> float:
    most = service.limits.request_seconds
    wanted = context.time_remaining()
    return most if wanted is None else min(wanted, most)


@contextlib.contextmanager
def _answering(context: grpc.ServicerContext) -> Iterator[None]:
    """Send a ServingError to the client."""
    try:
        yield
    except ServingError as error:
        context.abort(grpc.StatusCode[error.code], error.message)
