"""Nodes run in order, once, and failures say what they are."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tfx.orchestration.portable import execution_publish_utils

from pipeline import local_runner
from pipeline.errors import DataError, NodeFailed, NotBlessed, UserError
from pipeline.workspace import Workspace
from tests.kit import toy_pipeline
from tests.kit.recorder import Recorder
from tests.kit.toy_workspace import NODES, Toy, node_states

pytestmark = [
    # Raised by protobuf's C code in our frames for a call that TFX makes.
    pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated"),
    pytest.mark.usefixtures("interruptible"),
]


def _text(node: local_runner.NodeResult) -> str:
    [artifact] = node.outputs["text"]
    return (Path(artifact.uri) / "text").read_text()


def test_nodes_run_in_order_and_report(toy: Toy, recorder: Recorder) -> None:
    result = toy.run()
    assert toy.executed() == NODES
    assert node_states(result) == ["complete"] * 3
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
    assert node_states(second) == recorder.of("node_end", "state") == ["cached"] * 3
    for before, after in zip(first.nodes, second.nodes, strict=True):
        assert after.outputs["text"][0].uri == before.outputs["text"][0].uri
        assert after.execution_id != before.execution_id


def test_a_changed_setting_reruns_what_depends_on_it(toy: Toy) -> None:
    toy.run()
    toy.executed()
    assert node_states(toy.run(setting="new")) == ["cached", "complete", "complete"]
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
    assert node_states(toy.run()) == ["cached", "complete", "complete"]


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
    assert node_states(toy.run()) == ["cached", "complete", "complete"]


def test_the_cause_is_reported_even_if_it_cannot_be_recorded(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise RuntimeError("no metadata today")

    monkeypatch.setattr(execution_publish_utils, "publish_failed_execution", fail)
    toy.tell("Second", "bad data")
    with pytest.raises(DataError, match=re.escape(toy_pipeline.BAD_DATA)):
        toy.run()
    assert toy.states() == ["COMPLETE", "FAILED"]


def test_a_full_disk_is_called_that(toy: Toy) -> None:
    toy.tell("Second", "disk full")
    with pytest.raises(NodeFailed, match=r"^Second failed: .*space .* /"):
        toy.run()


def test_inputs_that_cannot_be_resolved_fail_the_run(toy: Toy, recorder: Recorder) -> None:
    pipeline = toy_pipeline.create_unresolvable(toy.workspace, toy.control)
    with toy.workspace.lock(), pytest.raises(NodeFailed) as failed:
        local_runner.run(pipeline, toy.workspace, "1")
    assert str(failed.value).startswith("Look failed: InputResolutionError: ")
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
    assert node_states(again) == ["resolved", "complete"]
    assert _text(again.nodes[1]) == "First Second Third Taker "
    assert toy.states() == [
        *("FAILED", "COMPLETE", "COMPLETE", "COMPLETE"),
        *("COMPLETE", "FAILED", "COMPLETE", "COMPLETE"),
    ]


def test_a_pipeline_outside_the_workspace_is_refused(toy: Toy, tmp_path: Path) -> None:
    elsewhere = toy_pipeline.create(Workspace(tmp_path / "elsewhere"), toy.control)
    with toy.workspace.lock(), pytest.raises(ValueError, match="elsewhere"):
        local_runner.run(elsewhere, toy.workspace, "1")
