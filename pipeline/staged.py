"""Execution of a node on local copies of artifacts that are in an object store."""

from __future__ import annotations

import contextlib
import copy
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attr
from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration.portable import base_executor_operator, data_types
from tfx.proto.orchestration import executable_spec_pb2, execution_result_pb2
from tfx.types import Artifact, standard_artifacts

from components import storage
from components.storage import staging

_Artifacts = Mapping[str, Sequence[Artifact]]
# Workers of other runners do not share a disk with this process: they read the store themselves.
_LOCAL = ("--runner=FnApiRunner", "--runner=DirectRunner")


def is_staged(spec: object) -> bool:
    """Tell whether an executor can run on copies that are on this machine."""
    if not isinstance(spec, executable_spec_pb2.BeamExecutableSpec):
        return True
    placed = [each.value.string_value for each in spec.beam_pipeline_args_placeholders]
    runners = [each for each in placed if each.startswith("--runner=")]
    return all(each in _LOCAL for each in runners)


class StagedOperator(base_executor_operator.BaseExecutorOperator):
    """Runs an executor by another operator, on copies, and uploads what it has put out.

    Temporary files are on this machine too. The folder that attempts at a node share stays where it
    is: writers use the store.
    """

    SUPPORTED_EXECUTOR_SPEC_TYPE = [
        executable_spec_pb2.BeamExecutableSpec,
        executable_spec_pb2.PythonClassExecutableSpec,
    ]
    SUPPORTED_PLATFORM_CONFIG_TYPE: list[type] = []

    def __init__(
        self,
        executor_spec: Any,
        platform_config: Any = None,
        *,
        operator: Callable[..., base_executor_operator.BaseExecutorOperator],
    ) -> None:
        super().__init__(executor_spec, platform_config)
        self._operator = operator(executor_spec, platform_config)

    def run_executor(
        self, execution_info: data_types.ExecutionInfo
    ) -> execution_result_pb2.ExecutorOutput | None:
        """Run the other operator on copies, and return its output with the URIs of the store.

        Raises OSError where artifacts cannot be copied; then none is in the store.
        """
        with _staged(execution_info) as info:
            output = self._operator.run_executor(info)
            if output is None or output.execution_result.code:
                return output
            for uri in _uris(execution_info.output_dict):
                staging.finish(uri)
            for artifacts in output.output_artifacts.values():
                for artifact in artifacts.artifacts:
                    _as_stored(artifact)
        return output


@contextlib.contextmanager
def _staged(info: data_types.ExecutionInfo) -> Iterator[data_types.ExecutionInfo]:
    sources, targets = list(_uris(info.input_dict)), list(_uris(info.output_dict))
    splits = list(_uris(info.input_dict, standard_artifacts.Examples))
    # TFX has the output of an executor and its temporary files in one folder.
    written = Path(staging.local(info.execution_output_uri)).parent
    with contextlib.ExitStack() as stack:
        stack.enter_context(staging.inputs(sources, splits))
        for uri in targets:
            stack.enter_context(staging.output(uri))
        written.mkdir(parents=True, exist_ok=True)
        stack.callback(shutil.rmtree, written, ignore_errors=True)
        yield attr.evolve(
            info,
            input_dict=_local(info.input_dict),
            output_dict=_local(info.output_dict),
            tmp_dir=staging.local(info.tmp_dir),
            execution_output_uri=staging.local(info.execution_output_uri),
        )


def _uris(artifacts: _Artifacts, kind: type[Artifact] = Artifact) -> Iterator[str]:
    """Return the URIs in a store."""
    for each in artifacts.values():
        for artifact in each:
            if storage.is_uri(artifact.uri) and isinstance(artifact, kind):
                yield artifact.uri


def _local(artifacts: _Artifacts) -> dict[str, list[Artifact]]:
    copies = copy.deepcopy({key: list(each) for key, each in artifacts.items()})
    for artifact in itertools.chain(*copies.values()):
        artifact.uri = staging.local(artifact.uri)
    return copies


def _as_stored(artifact: metadata_store_pb2.Artifact) -> None:
    """Name places in the store, and not those of copies."""
    artifact.uri = staging.origin(artifact.uri)
    for value in artifact.custom_properties.values():
        if value.HasField("string_value"):
            value.string_value = staging.origin(value.string_value)
