"""Answers that both protocols give from the same messages."""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse, ModelVersionStatus

from components.model_server.errors import CODES
from components.model_server.manager import Version
from components.model_server.model import LoadedModel

SIGNATURES = "signature_def"  # the only kind of metadata there is


def signature_map(loaded: LoadedModel) -> SignatureDefMap:
    """Describe what can be asked of a version."""
    signatures = SignatureDefMap()
    for name, signature in loaded.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    return signatures


def status_response(versions: Sequence[Version]) -> GetModelStatusResponse:
    """Describe the state of versions."""
    response = GetModelStatusResponse()
    for version in versions:
        state = ModelVersionStatus.State.Value(version.state)
        added = response.model_version_status.add(version=version.number, state=state)
        added.status.SetInParent()  # present also where all is well
        if version.error:
            added.status.error_code = CODES.index(version.error.code)
            added.status.error_message = version.error.message
    return response
