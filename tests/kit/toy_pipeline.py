"""A pipeline of small nodes whose executors do what a control folder tells them.

The control folder is no part of a node's cache key, so the same pipeline can fail once and then go
on. A file named after a node holds its action; without one the node copies its inputs and succeeds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import ml_metadata
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Artifact, Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components import progress
from components.errors import BadDataError, ConfigError, NotServableError
from pipeline.workspace import Workspace
from trainer_module.weights import WeightsError

BAD_DATA = "folder 'cats' has no images [0 of 10]; add some"
ADVICE = f"the weights do not fit: {'why ' * 200}and what to do"


class Text(Artifact):
    TYPE_NAME = "ToyText"


class Never(Artifact):
    """A type that no node makes."""

    TYPE_NAME = "ToyNever"


class Spec(ComponentSpec):
    PARAMETERS: ClassVar = {
        "node": ExecutionParameter(type=str),
        "control": ExecutionParameter(type=str),
        "setting": ExecutionParameter(type=str),
    }
    INPUTS: ClassVar = {
        "source": ChannelParameter(type=Text, optional=True),
        "never": ChannelParameter(type=Never, optional=True),
    }
    OUTPUTS: ClassVar = {"text": ChannelParameter(type=Text)}


class Executor(BaseExecutor):
    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        node = exec_properties["node"]
        control = Path(exec_properties["control"])
        output = Path(output_dict["text"][0].uri) / "text"
        with open(control / "executed", "a") as executed:
            executed.write(f"{node}\n")
        output.write_text("half ")
        progress.report("step", what=node, done=1, total=2, unit="lines")
        action = control / node
        if action.exists():
            ACTIONS[action.read_text()](control)
        sources = [Path(artifact.uri) / "text" for artifact in input_dict.get("source", [])]
        output.write_text("".join(source.read_text() for source in sources) + f"{node} ")


def tell(control: Path, node: str, action: str | None) -> None:
    """Have a node take one of `ACTIONS` from now on; None: succeed."""
    (control / node).unlink(missing_ok=True)
    if action is not None:
        (control / node).write_text(action)


def states(connection: metadata_store_pb2.ConnectionConfig) -> list[str]:
    """Of all executions ever, in order."""
    name = metadata_store_pb2.Execution.State.Name
    executions = ml_metadata.MetadataStore(connection).get_executions()
    return [name(each.last_known_state) for each in executions]


def _no_weights(_: Path) -> None:
    raise WeightsError(ADVICE)


def _fail(_: Path) -> None:
    # With what TensorFlow begins its errors with.
    raise ValueError(
        "Graph execution error:\n\nDetected at node a/b defined at (most recent call last):\n"
        "<stack traces unavailable>\nthe first line\nand a second"
    )


def _bad_data(_: Path) -> None:
    raise BadDataError(BAD_DATA, findings=["cats: 0 of 10"])


def _not_servable(_: Path) -> None:
    raise NotServableError("the candidate is not served")


def _push_refused(_: Path) -> None:
    raise ConfigError("the disk is too small")


def _bad_data_in_beam(_: Path) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create([1]) | "Read" >> beam.Map(_bad_data)


def _bad_data_as_text(_: Path) -> None:
    raise RuntimeError(f"Traceback (most recent call last)\ncomponents.BadDataError: {BAD_DATA}\n")


def _disk_full(_: Path) -> None:
    with open("/dev/full", "w") as file:
        file.write("x")


def _killed(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _interrupted(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)  # the signal comes while this lasts


def _interrupted_in_beam(_: Path) -> None:
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create([1]) | "Read" >> beam.Map(_interrupted)


def _interrupt_swallowed(control: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        _interrupted(control)


def _terminated(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)


def _out_of_memory(_: Path) -> None:
    bytearray(1 << 62)


def _hung(_: Path) -> None:
    time.sleep(3600)


def _hung_in_native_code(_: Path) -> None:
    _lock_twice(ctypes.CDLL(None))


def _hung_with_lock(_: Path) -> None:
    # Unlike the other it does not let go of the interpreter's lock, so that no thread runs.
    _lock_twice(ctypes.PyDLL(None))


def _lock_twice(library: ctypes.CDLL) -> None:
    """Wait for good; no signal ends it."""
    lock = ctypes.create_string_buffer(256)
    for _turn in range(2):
        library.pthread_mutex_lock(lock)


def _metadata(control: Path) -> Path:
    return control.parent / "workspace" / "metadata.sqlite"


def _metadata_gone(control: Path) -> None:
    _metadata(control).rename(control / "metadata.sqlite")


def _metadata_emptied(control: Path) -> None:
    shutil.copy(_metadata(control), control)
    os.truncate(_metadata(control), 0)


def _metadata_damaged(control: Path) -> None:
    shutil.copy(_metadata(control), control)
    _metadata(control).write_bytes(b"no database" * 1000)


def _metadata_locked(control: Path) -> None:
    """Another process locks the database for a while, and writes `unlocked` when it lets go."""
    command = [sys.executable, "-c", _LOCK_METADATA, str(_metadata(control)), str(control)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()


_LOCK_METADATA = """
import pathlib, sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print(flush=True)
time.sleep(2)
(pathlib.Path(sys.argv[2]) / "unlocked").touch()
"""


def _clock_back(control: Path) -> None:
    (control / "a day behind").touch()


def _clock_forward(control: Path) -> None:
    (control / "a day behind").unlink()


ACTIONS = {
    "out of memory": _out_of_memory,
    "hung": _hung,
    "hung in native code": _hung_in_native_code,
    "hung with the lock of Python": _hung_with_lock,
    "metadata gone": _metadata_gone,
    "metadata emptied": _metadata_emptied,
    "metadata damaged": _metadata_damaged,
    "metadata locked": _metadata_locked,
    "clock back": _clock_back,
    "clock forward": _clock_forward,
    "fail": _fail,
    "no weights": _no_weights,
    "bad data": _bad_data,
    "not servable": _not_servable,
    "push refused": _push_refused,
    "bad data in beam": _bad_data_in_beam,
    "bad data as text": _bad_data_as_text,
    "disk full": _disk_full,
    "killed": _killed,
    "interrupted": _interrupted,
    "interrupted in beam": _interrupted_in_beam,
    "interrupt swallowed": _interrupt_swallowed,
    "terminated": _terminated,
}


class Node(BaseComponent):
    SPEC_CLASS = Spec
    EXECUTOR_SPEC = ExecutorClassSpec(Executor)

    def __init__(
        self,
        node: str,
        control: Path,
        source: Channel | None = None,
        never: Channel | None = None,
        setting: str = "",
    ) -> None:
        spec = Spec(
            node=node,
            control=str(control),
            setting=setting,
            source=source,
            never=never,
            text=Channel(type=Text),
        )
        super().__init__(spec)
        self.with_id(node)


def create(workspace: Workspace, control: Path, setting: str = "") -> Pipeline:
    """First -> Second -> Third, and `setting` is a parameter of Second."""
    first = Node("First", control)
    second = Node("Second", control, source=first.outputs["text"], setting=setting)
    third = Node("Third", control, source=second.outputs["text"])
    return _pipeline(workspace, [first, second, third])


def create_unresolvable(workspace: Workspace, control: Path) -> Pipeline:
    """Create a pipeline with a node that needs a missing artifact, then one that does not."""
    resolver = Resolver(strategy_class=LatestArtifactStrategy, never=Channel(type=Never))
    needy = Node("Needy", control, never=resolver.with_id("Look").outputs["never"])
    last = Node("Last", control, source=needy.outputs["text"])
    return _pipeline(workspace, [resolver, needy, last])


def create_resolving(workspace: Workspace, control: Path) -> Pipeline:
    """Create a pipeline with a resolver of the latest text, then a node that takes it."""
    resolver = Resolver(strategy_class=LatestArtifactStrategy, text=Channel(type=Text))
    taker = Node("Taker", control, source=resolver.with_id("Look").outputs["text"])
    return _pipeline(workspace, [resolver, taker])


def _pipeline(workspace: Workspace, components: Sequence[Any]) -> Pipeline:
    return Pipeline(
        pipeline_name="toy",
        pipeline_root=str(workspace.artifacts),
        components=list(components),
        enable_cache=True,
    )
