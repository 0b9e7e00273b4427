"""The gRPC side, on the official stubs of tensorflow-serving-api.

Only its `*_pb2_grpc` modules and messages are imported: the modules that describe the services were
generated for an older protobuf and do not load.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from components.model_server.answers import SIGNATURES, signature_map, status_response
from components.model_server.errors import ServingError, invalid
from components.model_server.model import DEFAULT_SIGNATURE
from components.model_server.service import Service, Target
from components.model_server.tensors import from_proto, to_proto

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
        interceptors=[_RefuseJunk()],
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


def target_of(spec: model_pb2.ModelSpec) -> Target:
    """Read which version a request is for. Raises ServingError where that is not told."""
    if not spec.name:
        raise invalid("the ModelSpec names no model")
    version = spec.version.value if spec.HasField("version") else None
    return Target(spec.name, version, spec.version_label)


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, service: Service) -> None:
        self._service = service

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        service = self._service
        with _told(context):
            target = target_of(request.model_spec)
        with (
            _told(context),
            service.counted(target, "Predict", "GRPC"),
            service.place(),
            service.manager.acquire(*target) as (number, loaded),
        ):
            deadline = time.monotonic() + _seconds_left(context, service)
            most = service.limits.request_bytes
            inputs = {name: from_proto(name, proto, most) for name, proto in request.inputs.items()}
            signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
            outputs = service.predict(
                target, loaded, inputs, signature, request.output_filter, deadline
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
        with _told(context):
            target = target_of(request.model_spec)
        with _told(context), self._service.counted(target, "GetModelMetadata", "GRPC"):
            fields = list(request.metadata_field)
            if not fields:
                raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
            unknown = set(fields) - {SIGNATURES}
            if unknown:
                raise invalid(f"metadata fields {sorted(unknown)} are not supported")
            with self._service.manager.acquire(*target) as (number, loaded):
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
        with _told(context):
            if not request.HasField("model_spec"):
                raise invalid("Missing ModelSpec")
            return status_response(self._service.manager.status(*target_of(request.model_spec)))

    def HandleReloadConfigRequest(
        self,
        request: model_management_pb2.ReloadConfigRequest,
        context: grpc.ServicerContext,
    ) -> model_management_pb2.ReloadConfigResponse:
        with _told(context):
            self._service.manager.reload(request.config, _seconds_left(context, self._service))
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def _seconds_left(context: grpc.ServicerContext, service: Service) -> float:
    most = service.limits.request_seconds
    asked = context.time_remaining()
    return most if asked is None else min(asked, most)


class _Junk:
    """Stands for a message that could not be parsed."""


class _RefuseJunk(grpc.ServerInterceptor):
    """Answers INVALID_ARGUMENT to bytes that are not the message they should be.

    gRPC itself would log a traceback for each and answer INTERNAL, as if the server were at fault.
    """

    def intercept_service(
        self, continuation: Callable[..., Any], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = continuation(handler_call_details)
        if handler is None:
            return None

        def parse(raw: bytes) -> Any:
            try:
                return handler.request_deserializer(raw)
            except DecodeError:
                return _Junk()

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            if isinstance(request, _Junk):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message cannot be parsed")
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, parse, handler.response_serializer)


@contextlib.contextmanager
def _told(context: grpc.ServicerContext) -> Iterator[None]:
    """Tell the client about a ServingError."""
    try:
        yield
    except ServingError as error:
        _abort(context, error)


def _abort(context: grpc.ServicerContext, error: ServingError) -> NoReturn:
    context.abort(grpc.StatusCode[error.code], error.message)
    raise AssertionError  # abort always raises
