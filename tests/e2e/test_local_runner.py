"""Nodes run in order, once; failures say what they are; nothing half-done is left behind."""

from __future__ import annotations

import dataclasses
import errno
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tfx.orchestration.portable import execution_publish_utils, outputs_utils

from components.lineage import Lineage
from pipeline import interrupts, local_runner
from pipeline.errors import INTERRUPTED, ConfigError, DataError, NodeFailed, NotBlessed, UserError
from pipeline.workspace import Workspace
from tests.kit import toy_pipeline
from tests.kit.recorder import Recorder

# Raised by protobuf's C code in our frames for a call that TFX makes.
pytestmark = pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated")

NODES = ["First", "Second", "Third"]


@dataclasses.dataclass
class Toy:
    """A workspace and what controls the nodes that run in it."""

    workspace: Workspace
    control: Path
    runs: int = 0

    def run(self, setting: str = "", node_timeout: float | None = None) -> local_runner.RunResult:
        self.runs += 1
        with self.workspace.lock():
            pipeline = toy_pipeline.create(self.workspace, self.control, setting)
            run_id = f"run-{self.runs}-{os.getpid()}"
            return local_runner.run(pipeline, self.workspace, run_id, node_timeout)

    def tell(self, node: str, action: str | None) -> None:
        toy_pipeline.tell(self.control, node, action)

    def executed(self) -> list[str]:
        """Return the nodes whose executors started since the last call."""
        record = self.control / "executed"
        nodes = record.read_text().split() if record.exists() else []
        record.unlink(missing_ok=True)
        return nodes

    def states(self) -> list[str]:
        return toy_pipeline.states(self.workspace.connection())

    def outputs(self) -> set[str]:
        """Ids of the executions that have an output or a temporary folder."""
        patterns = ("*/text/*", "*/.system/executor_execution/*/.temp")
        found = [path for each in patterns for path in self.workspace.artifacts.glob(each)]
        return {path.parent.name if path.name == ".temp" else path.name for path in found}


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    control = tmp_path / "control"
    control.mkdir()
    return Toy(Workspace(tmp_path / "workspace"), control)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """As in a terminal, even where the tests run as a background job with SIGINT ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, previous)


def _states(result: local_runner.RunResult) -> list[str]:
    return [node.state for node in result.nodes]


def _text(node: local_runner.NodeResult) -> str:
    [artifact] = node.outputs["text"]
    return (Path(artifact.uri) / "text").read_text()


def test_nodes_run_in_order_and_report(toy: Toy, recorder: Recorder) -> None:
    result = toy.run()
    assert toy.executed() == NODES
    assert _states(result) == ["complete"] * 3
    assert _text(result.nodes[2]) == "First Second Third "
    assert [event for event, _ in recorder.events] == [
        "run_start",
        *["node_start", "step", "node_end"] * 3,
        "run_end",
    ]
    assert recorder.of("run_start", "nodes") == [NODES]
    assert recorder.of("node_end", "node") == NODES
    assert recorder.of("run_end", "state") == ["complete"]
    for name in ("wall_s", "cpu_s", "peak_mb"):
        assert all(value > 0 for value in recorder.of("node_end", name))


def test_an_identical_run_executes_nothing_and_has_the_same_outputs(
    toy: Toy, recorder: Recorder
) -> None:
    first = toy.run()
    toy.executed()
    recorder.events.clear()
    second = toy.run()
    assert toy.executed() == []
    assert _states(second) == recorder.of("node_end", "state") == ["cached"] * 3
    for before, after in zip(first.nodes, second.nodes, strict=True):
        assert after.outputs["text"][0].uri == before.outputs["text"][0].uri
        assert after.execution_id != before.execution_id


def test_a_changed_setting_reruns_what_depends_on_it(toy: Toy) -> None:
    toy.run()
    toy.executed()
    assert _states(toy.run(setting="new")) == ["cached", "complete", "complete"]
    assert toy.executed() == ["Second", "Third"]


def test_deleted_outputs_are_made_again(toy: Toy) -> None:
    [artifact] = toy.run().nodes[1].outputs["text"]
    toy.executed()
    for path in (Path(artifact.uri) / "text", Path(artifact.uri)):
        path.unlink() if path.is_file() else path.rmdir()
    toy.run()
    assert toy.executed()[0] == "Second"


def test_a_failed_node_ends_the_run_and_the_next_run_goes_on_from_it(
    toy: Toy, recorder: Recorder
) -> None:
    toy.tell("Second", "fail")
    with pytest.raises(NodeFailed) as failed:
        toy.run()
    log = toy.workspace.log_path(f"run-1-{os.getpid()}")
    assert str(failed.value) == f"Second failed: ValueError: the first line; see {log}"
    assert recorder.of("node_end", "state") == ["complete", "failed", "skipped"]
    assert recorder.of("node_end", "error") == [None, str(failed.value), None]
    assert recorder.of("run_end", "state") == ["failed"]
    assert toy.states() == ["COMPLETE", "FAILED"]
    assert toy.outputs() == {"1"}
    toy.tell("Second", None)
    assert _states(toy.run()) == ["cached", "complete", "complete"]


@pytest.mark.parametrize("how", ["bad data", "bad data in beam", "bad data as text"])
def test_bad_data_is_reported_in_the_words_of_the_node(toy: Toy, how: str) -> None:
    toy.tell("Second", how)
    with pytest.raises(DataError) as failed:
        toy.run()
    assert str(failed.value) == toy_pipeline.BAD_DATA
    # What comes as text has lost them.
    assert failed.value.findings == (("cats: 0 of 10",) if how == "bad data" else ())


def test_an_error_of_our_own_is_told_whole_as_what_to_do_comes_last(toy: Toy) -> None:
    toy.tell("Second", "no weights")
    with pytest.raises(NodeFailed, match=f"^Second failed: {toy_pipeline.ADVICE}; see /"):
        toy.run()


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("not servable", NotBlessed, "Second: the candidate is not served; see "),
        ("push refused", NodeFailed, "Second: the disk is too small; see "),
    ],
)
def test_what_is_refused_fails_the_run_and_is_tried_again(
    toy: Toy, how: str, kind: type[UserError], words: str
) -> None:
    toy.tell("Second", how)
    with pytest.raises(kind, match=f"^{words}"):
        toy.run()
    assert toy.states() == ["COMPLETE", "FAILED"]
    toy.tell("Second", None)
    assert _states(toy.run()) == ["cached", "complete", "complete"]


def test_the_cause_is_reported_even_if_it_cannot_be_recorded(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("no metadata today")

    monkeypatch.setattr(execution_publish_utils, "publish_failed_execution", fail)
    toy.tell("Second", "bad data")
    with pytest.raises(DataError, match="folder 'cats' has no images"):
        toy.run()
    assert toy.states() == ["COMPLETE", "FAILED"]


def test_a_full_disk_is_called_that(toy: Toy) -> None:
    toy.tell("Second", "disk full")
    with pytest.raises(NodeFailed, match=r"^Second failed: no space left on the disk that holds /"):
        toy.run()


def test_inputs_that_cannot_be_resolved_fail_the_run(toy: Toy, recorder: Recorder) -> None:
    pipeline = toy_pipeline.create_unresolvable(toy.workspace, toy.control)
    with toy.workspace.lock(), pytest.raises(NodeFailed) as failed:
        local_runner.run(pipeline, toy.workspace, "1")
    assert "Look failed: InputResolutionError: Error while resolving inputs" in str(failed.value)
    assert recorder.of("node_end", "state") == ["failed", "skipped", "skipped"]
    assert toy.executed() == []


def test_a_resolver_that_found_nothing_is_tried_again(toy: Toy) -> None:
    def resolve(run_id: str) -> local_runner.RunResult:
        pipeline = toy_pipeline.create_resolving(toy.workspace, toy.control)
        with toy.workspace.lock():
            return local_runner.run(pipeline, toy.workspace, run_id)

    with pytest.raises(NodeFailed, match=r"^Look failed: InputResolutionError"):
        resolve("1")
    toy.run()
    toy.tell("Taker", "fail")
    with pytest.raises(NodeFailed, match=r"^Taker failed"):
        resolve("2")
    toy.tell("Taker", None)
    again = resolve("3")
    assert _states(again) == ["resolved", "complete"]
    assert _text(again.nodes[1]) == "First Second Third Taker "
    assert toy.states() == [
        *("FAILED", "COMPLETE", "COMPLETE", "COMPLETE"),
        *("COMPLETE", "FAILED", "COMPLETE", "COMPLETE"),
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
    assert _states(toy.run()) == ["cached", "cached" if done else "complete", "complete"]


def test_an_ignored_interrupt_stays_ignored(toy: Toy) -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    toy.tell("Second", "interrupted")
    try:
        assert _states(toy.run()) == ["complete"] * 3
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
    assert _states(toy.run()) == ["cached", "cached" if done else "complete", "complete"]
    assert toy.states()[1] == ("COMPLETE" if done else "FAILED")
    assert toy.outputs() == ({"1", "2", "5"} if done else {"1", "4", "5"})
    told = [] if done else ["Node was cut off in an earlier run (execution 2)"]
    notes = recorder.of("note", "text")
    assert [text.split(";")[0] for text in notes] == told
    assert all("for want of memory, make train.batch_size or" in text for text in notes)


def test_recovery_keeps_what_a_node_can_resume_from(toy: Toy) -> None:
    toy.tell("Second", "fail")
    with pytest.raises(NodeFailed):
        toy.run()
    [folder] = toy.workspace.artifacts.glob("Second/.system/stateful_working_dir/*")
    (folder / "checkpoint").touch()
    toy.tell("Second", None)
    toy.run()
    assert (folder / "checkpoint").exists()


def test_a_pipeline_outside_the_workspace_is_refused(toy: Toy, tmp_path: Path) -> None:
    elsewhere = toy_pipeline.create(Workspace(tmp_path / "elsewhere"), toy.control)
    with toy.workspace.lock(), pytest.raises(ValueError, match="elsewhere"):
        local_runner.run(elsewhere, toy.workspace, "1")


def test_out_of_memory_says_what_to_do(toy: Toy) -> None:
    toy.tell("Second", "out of memory")
    with pytest.raises(NodeFailed, match=r"^Second failed: out of memory; free some, or make "):
        toy.run()
    assert toy.states() == ["COMPLETE", "FAILED"]
    assert toy.outputs() == {"1"}
    toy.tell("Second", None)
    assert _states(toy.run()) == ["cached", "complete", "complete"]


def test_a_hung_node_is_stopped_and_tried_again(
    toy: Toy, recorder: Recorder, capfd: pytest.CaptureFixture[str]
) -> None:
    toy.tell("Second", "hung")
    with pytest.raises(NodeFailed, match=r"^Second was stopped: it took longer than node_timeout"):
        toy.run(node_timeout=0.5)
    assert "in _hung\n" in capfd.readouterr().err  # of which a run makes its log
    assert recorder.of("run_end", "state") == ["failed"]
    assert toy.states() == ["COMPLETE", "FAILED"]
    assert toy.outputs() == {"1"}
    toy.tell("Second", None)
    assert _states(toy.run(node_timeout=60)) == ["cached", "complete", "complete"]


def _run_with_little_patience(toy: Toy) -> None:
    interrupts._GRACE_S = 0.5
    toy.run(node_timeout=0.5)


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
    assert _states(toy.run()) == ["cached", "complete", "complete"]
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
    assert _states(toy.run()) == ["cached", "complete", "complete"]


class TestMetadata:
    """The database goes while the second node runs."""

    def put_back(self, toy: Toy) -> None:
        (toy.control / "metadata.sqlite").replace(toy.workspace.metadata)

    def after_that_the_run_goes_on(self, toy: Toy) -> None:
        toy.tell("Second", None)
        assert _states(toy.run()) == ["cached", "complete", "complete"]
        assert toy.states()[:2] == ["COMPLETE", "FAILED"]
        assert toy.outputs() == {"1", "4", "5"}

    def test_that_disappears_is_missed_and_not_made_anew(self, toy: Toy) -> None:
        toy.tell("Second", "metadata gone")
        words = f"Second failed: {toy.workspace.metadata} is gone; put it back and run again"
        with pytest.raises(NodeFailed, match=f"^{words}"):
            toy.run()
        assert not toy.workspace.metadata.exists()
        with pytest.raises(ConfigError, match=f"{toy.workspace.metadata} is missing"):
            toy.run()
        self.put_back(toy)
        self.after_that_the_run_goes_on(toy)

    def test_that_is_emptied_is_not_taken_for_a_new_one(self, toy: Toy) -> None:
        toy.tell("Second", "metadata emptied")
        with pytest.raises(NodeFailed, match=r"^Second failed"):
            toy.run()
        with pytest.raises(ConfigError, match=r"does not know .*/Second/text/2, so it is"):
            toy.run()
        self.put_back(toy)
        self.after_that_the_run_goes_on(toy)

    def test_that_is_damaged_is_named(self, toy: Toy) -> None:
        toy.tell("Second", "metadata damaged")
        with pytest.raises(NodeFailed, match=r"^Second failed: .*file is not a database"):
            toy.run()
        with pytest.raises(ConfigError, match=f"{toy.workspace.metadata} cannot be read"):
            toy.run()
        self.put_back(toy)
        self.after_that_the_run_goes_on(toy)

    def test_that_another_process_locks_is_waited_for(self, toy: Toy) -> None:
        toy.tell("Second", "metadata locked")
        assert _states(toy.run()) == ["complete"] * 3
        assert (toy.control / "unlocked").exists()

    def test_of_an_earlier_time_is_not_mixed_with_later_outputs(self, toy: Toy) -> None:
        toy.run()
        shutil.copy(toy.workspace.metadata, toy.control)
        toy.run(setting="new")
        self.put_back(toy)
        with pytest.raises(ConfigError, match=r"does not know .*/text/[56], so it is not the file"):
            toy.run()


@pytest.mark.parametrize("jump", ["clock back", "clock forward"])
def test_a_jump_of_the_clock_changes_nothing(
    toy: Toy, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, jump: str
) -> None:
    real, behind = time.time, toy.control / "a day behind"
    monkeypatch.setattr(time, "time", lambda: real() - 86_400 * behind.exists())
    if jump == "clock forward":
        behind.touch()
    toy.tell("Second", jump)
    assert _states(toy.run()) == ["complete"] * 3
    toy.tell("Second", None)
    assert all(0 <= value < 600 for value in recorder.of("node_end", "wall_s"))
    assert _states(toy.run()) == ["cached"] * 3
    assert _states(toy.run(setting="new")) == ["cached", "complete", "complete"]


class TestElsewhere:
    """A workspace that is moved, copied or reached by another path goes on where it is."""

    def test_a_copy_takes_all_from_its_own_cache_and_leaves_the_original_alone(
        self, toy: Toy, tmp_path: Path
    ) -> None:
        toy.run()
        before = _tree(toy.workspace.root)
        copy = shutil.copytree(toy.workspace.root, tmp_path / "copy")
        shutil.rmtree(copy / "artifacts" / "Third")
        toy.executed()
        elsewhere = Toy(Workspace(copy), toy.control, runs=1)
        elsewhere.run()
        assert elsewhere.executed() == ["Third"]  # and not what the original still has
        assert _tree(toy.workspace.root) == before
        uris = [each.uri for each in lineage_of(elsewhere.workspace).artifacts()]
        assert all(uri.startswith(f"{copy}/artifacts/") for uri in uris)
        toy.run("other")
        assert toy.executed() == NODES[1:]

    def test_a_moved_one_is_recognised_also_where_nothing_runs(
        self, toy: Toy, tmp_path: Path
    ) -> None:
        toy.run()
        moved = Workspace(toy.workspace.root.rename(tmp_path / "moved"))
        for artifact in lineage_of(moved).artifacts():
            assert Path(artifact.uri, "text").exists()
        toy.executed()
        assert Toy(moved, toy.control, runs=1).run().nodes[-1].state == "cached"
        assert toy.executed() == []

    def test_a_link_to_it_is_no_other_place(self, toy: Toy, tmp_path: Path) -> None:
        toy.run()
        before = toy.workspace.stamp.read_bytes()
        (tmp_path / "link").symlink_to(toy.workspace.root)
        Workspace.open(tmp_path / "link")
        assert toy.workspace.stamp.read_bytes() == before

    def test_model_servers_follow(self, toy: Toy, tmp_path: Path) -> None:
        toy.run()
        serving = toy.workspace.root / "serving"
        serving.mkdir()
        text = f'base_path: "{serving}/digits" base_path: "/elsewhere/digits"'
        (serving / "models.config").write_text(text)
        moved = Workspace.open(toy.workspace.root.rename(tmp_path / "moved"))
        told = (moved.root / "serving" / "models.config").read_text()
        assert told == f'base_path: "{moved.root}/serving/digits" base_path: "/elsewhere/digits"'

    def test_what_was_cut_off_is_done_by_the_next_use(
        self, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        toy.run()
        moved = Workspace(toy.workspace.root.rename(tmp_path / "moved"))
        with monkeypatch.context() as patch:
            patch.setattr("components.storage.write_text", _no_space)
            with pytest.raises(ConfigError, match="No space"):
                Workspace.open(moved.root)
        for artifact in lineage_of(moved).artifacts():
            assert Path(artifact.uri, "text").exists()


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def lineage_of(workspace: Workspace) -> Lineage:
    return Lineage.at(Workspace.open(workspace.root).connection())


def _tree(root: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}
