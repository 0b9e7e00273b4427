"""Runs that are interrupted, killed, hang or run out of memory leave nothing half done."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from tfx.orchestration.portable import execution_publish_utils, outputs_utils

from pipeline import interrupts
from pipeline.errors import INTERRUPTED, NodeFailed
from tests.kit.recorder import Recorder
from tests.kit.toy_workspace import Toy, node_states

pytestmark = [
    # Raised by protobuf's C code in our frames for a call that TFX makes.
    pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated"),
    pytest.mark.usefixtures("interruptible"),
]


INTERRUPTIONS = ["interrupted", "interrupted in beam", "interrupt swallowed", "terminated"]


@pytest.mark.parametrize("how", INTERRUPTIONS)
def test_an_interrupted_run_leaves_nothing_half_done(
    toy: Toy, recorder: Recorder, how: str
) -> None:
    toy.tell("Second", how)
    with pytest.raises(KeyboardInterrupt):
        toy.run()
    assert recorder.of("node_end", "error") == [None, "interrupted", None]
    assert recorder.of("run_end", "state") == ["interrupted"]
    # A node that swallowed the interrupt went on to its end.
    done = how == "interrupt swallowed"
    assert toy.states() == ["COMPLETE", "COMPLETE" if done else "FAILED"]
    assert toy.outputs() == ({"1", "2"} if done else {"1"})
    toy.tell("Second", None)
    assert node_states(toy.run()) == ["cached", "cached" if done else "complete", "complete"]


def test_an_ignored_interrupt_stays_ignored(toy: Toy) -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    toy.tell("Second", "interrupted")
    try:
        assert node_states(toy.run()) == ["complete"] * 3
    finally:
        signal.signal(signal.SIGINT, previous)


def _dying(function: Callable[..., Any], before: bool) -> Callable[..., Any]:
    """Wrap `function` so that its second call kills the process before or after its work."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        result = None if before and calls == 2 else function(*args, **kwargs)
        if calls == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


MOMENTS = {
    "registered": (execution_publish_utils, "register_execution", False),
    "folders made": (outputs_utils, "make_output_dirs", False),
    "not published": (execution_publish_utils, "publish_succeeded_execution", True),
    "published": (execution_publish_utils, "publish_succeeded_execution", False),
}


def _run_and_die(toy: Toy, moment: str) -> None:
    if moment == "executing":
        toy.tell("Second", "killed")
    else:
        module, name, before = MOMENTS[moment]
        setattr(module, name, _dying(getattr(module, name), before))
    toy.run()


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Start processes with TFX imported, which takes seconds, and nothing run in them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@pytest.mark.parametrize("moment", ["executing", *MOMENTS])
def test_the_run_after_a_kill_goes_on_from_the_killed_node(
    toy: Toy,
    recorder: Recorder,
    processes: multiprocessing.context.ForkServerContext,
    moment: str,
) -> None:
    process = processes.Process(target=_run_and_die, args=(toy, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = moment == "published"
    assert toy.states() == ["COMPLETE", "COMPLETE" if done else "RUNNING"]
    toy.tell("Second", None)
    assert node_states(toy.run()) == ["cached", "cached" if done else "complete", "complete"]
    assert toy.states()[1] == ("COMPLETE" if done else "FAILED")
    assert toy.outputs() == ({"1", "2", "5"} if done else {"1", "4", "5"})
    notes = recorder.of("note", "text")
    assert len(notes) == (0 if done else 1)
    told = r"Node was cut .*\(execution 2\); .*train\.batch_size .*transform\.image_size"
    assert all(re.match(told, text) for text in notes)


def test_recovery_keeps_what_a_node_can_resume_from(toy: Toy) -> None:
    toy.tell("Second", "fail")
    with pytest.raises(NodeFailed):
        toy.run()
    [folder] = toy.workspace.artifacts.glob("Second/.system/stateful_working_dir/*")
    (folder / "checkpoint").touch()
    toy.tell("Second", None)
    toy.run()
    assert (folder / "checkpoint").exists()


def test_out_of_memory_says_what_to_do(toy: Toy) -> None:
    toy.tell("Second", "out of memory")
    with pytest.raises(NodeFailed, match=r"^Second failed: .*memory; .*train\.batch_size "):
        toy.run()
    assert toy.states() == ["COMPLETE", "FAILED"]
    assert toy.outputs() == {"1"}
    toy.tell("Second", None)
    assert node_states(toy.run()) == ["cached", "complete", "complete"]


def test_a_hung_node_is_stopped_and_tried_again(
    toy: Toy, recorder: Recorder, capfd: pytest.CaptureFixture[str]
) -> None:
    toy.tell("Second", "hung")
    with pytest.raises(NodeFailed, match=r"^Second was stopped: .*node_timeout = 10\b"):
        toy.run(node_timeout=10)
    assert "in _hung\n" in capfd.readouterr().err  # of which a run makes its log
    assert recorder.of("run_end", "state") == ["failed"]
    assert toy.states() == ["COMPLETE", "FAILED"]
    assert toy.outputs() == {"1"}
    toy.tell("Second", None)
    assert node_states(toy.run(node_timeout=60)) == ["cached", "complete", "complete"]


def _run_with_little_patience(toy: Toy) -> None:
    interrupts._GRACE_S = 0.5
    toy.run(node_timeout=10)


def test_a_node_that_hangs_in_native_code_takes_the_process_with_it(
    toy: Toy, processes: multiprocessing.context.ForkServerContext
) -> None:
    toy.tell("Second", "hung in native code")
    process = processes.Process(target=_run_with_little_patience, args=(toy,))
    process.start()
    process.join()
    assert process.exitcode == NodeFailed.exit_code
    assert toy.states() == ["COMPLETE", "RUNNING"]
    toy.tell("Second", None)
    assert node_states(toy.run()) == ["cached", "complete", "complete"]
    assert toy.states()[1] == "FAILED"


def _run_patiently(toy: Toy, grace_s: float) -> None:
    interrupts._GRACE_S = grace_s
    toy.run()


@pytest.mark.parametrize(
    ("how", "grace_s", "signals", "exit_code"),
    [
        ("hung in native code", 0.5, 1, INTERRUPTED),
        ("hung in native code", 3600, 2, INTERRUPTED),
        ("hung with the lock of Python", 3600, 2, -signal.SIGTERM),
    ],
)
def test_signals_end_a_node_that_hangs(
    toy: Toy,
    processes: multiprocessing.context.ForkServerContext,
    how: str,
    grace_s: float,
    signals: int,
    exit_code: int,
) -> None:
    toy.tell("Second", how)
    process = processes.Process(target=_run_patiently, args=(toy, grace_s))
    process.start()
    assert process.pid
    while not toy.workspace.metadata.exists() or toy.states() != ["COMPLETE", "RUNNING"]:
        time.sleep(0.2)
    time.sleep(1)  # it is recorded before it hangs
    for _ in range(signals):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.5)  # two at once are one
    process.join()
    assert process.exitcode == exit_code
    toy.tell("Second", None)
    assert node_states(toy.run()) == ["cached", "complete", "complete"]
