"""Pods of small nodes: which attempts succeed, what they leave behind and what they say."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kubeflow import attempts, entrypoint
from kubeflow.patient_metadata import PatientMetadata
from tests import REPO
from tests.kit import toy_pipeline
from tests.kit.toy_pods import Toy

pytestmark = pytest.mark.filterwarnings("ignore:label\\(\\) is deprecated")


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_nodes_run_in_processes_of_their_own_and_the_next_run_takes_them_from_the_cache(
    toy: Toy,
) -> None:
    first = toy.pod("First")
    assert (first.code, first.stderr.count("Traceback")) == (0, 0)
    assert [event["state"] for event in first.of("node_end")] == ["complete"]
    metrics = first.metrics["first_metrics"]
    assert metrics.keys() == {"seconds", "cpu_seconds", "peak_megabytes", "cached"}
    again = toy.pod("First", run="run-2")
    assert [event["state"] for event in again.of("node_end")] == ["cached"]
    assert again.metrics["first_metrics"]["cached"] == 1
    assert toy.states() == ["COMPLETE", "CACHED"]


def test_a_pod_that_is_killed_is_retried_in_its_run(toy: Toy) -> None:
    toy.tell("First", "killed")
    assert toy.pod("First").code == -signal.SIGKILL
    assert toy.states() == ["RUNNING"]
    (half,) = toy.workspace.artifacts.glob("First/text/*/text")
    assert half.read_text() == "half "
    other = half.with_name("left over")
    other.touch()

    toy.tell("First", None)
    retried = toy.pod("First")
    assert retried.code == 0
    assert any("First was cut off" in event["text"] for event in retried.of("note"))
    assert toy.states() == ["COMPLETE"]
    assert half.read_text() == "First "
    assert not other.exists()


def test_a_pod_that_is_told_to_end_leaves_nothing_half_done(toy: Toy) -> None:
    toy.tell("First", "terminated")
    ended = toy.pod("First")
    assert ended.code == 130
    assert [event["kind"] for event in ended.of("error")] == ["Interrupted"]
    assert toy.states() == ["FAILED"]
    assert toy.outputs("First") == []
    assert not ended.output.exists()


def test_a_failed_node_fails_its_pod_and_says_why_once_in_json(toy: Toy) -> None:
    toy.tell("First", "fail")
    failed = toy.pod("First")
    assert failed.code == 5
    (error,) = failed.of("error")
    assert error["message"].startswith("First failed: ValueError: the first line; see ")
    tracebacks = [event.get("traceback", "") for event in failed.of("log")]
    assert any("\nValueError: " in text and "\nthe first line" in text for text in tracebacks)
    assert toy.states() == ["FAILED"]
    toy.tell("First", "bad data")
    assert toy.pod("First").code == 3


def test_a_node_that_the_launcher_gives_up_on_fails_its_pod(toy: Toy) -> None:
    toy.pipeline = toy_pipeline.create_unresolvable(toy.workspace, toy.control)
    failed = toy.pod("Look")
    assert failed.code == 5
    assert "Look failed: InputResolutionError" in failed.of("error")[0]["message"]
    assert toy.states() == ["FAILED"]


def test_what_succeeded_before_its_pod_was_lost_is_not_done_twice(toy: Toy) -> None:
    states = [event["state"] for _ in range(2) for event in toy.pod("First").of("node_end")]
    assert states == ["complete", "complete"]
    assert toy.states() == ["COMPLETE"]
    assert (toy.control / "executed").read_text().split() == ["First"]


def test_a_pod_of_several_nodes_takes_up_after_the_last_one_that_it_finished(toy: Toy) -> None:
    nodes = ("First", "Second", "Third")
    toy.tell("Second", "killed")
    assert toy.pod(*nodes).code == -signal.SIGKILL
    toy.tell("Second", None)
    retried = toy.pod(*nodes)
    assert retried.code == 0
    assert (toy.control / "executed").read_text().split() == ["First", "Second", *nodes[1:]]
    assert toy.states() == ["COMPLETE"] * 3
    assert {event["node"] for event in retried.of("note")} == {"Second"}
    assert [event["node"] for event in retried.of("node_start")] == [*nodes]
    assert [event["state"] for event in retried.of("node_end")] == ["complete"] * 3
    (text,) = toy.workspace.artifacts.glob("Third/text/*/text")
    assert text.read_text() == "First Second Third "
    metrics = retried.metrics
    # What the first one used is not known to the second attempt.
    assert metrics["first_metrics"].keys() == {"cached"}
    assert metrics["second_metrics"].keys() == metrics["third_metrics"].keys() >= {"seconds"}


def test_a_pod_of_several_nodes_ends_at_one_that_fails(toy: Toy) -> None:
    toy.tell("Second", "fail")
    failed = toy.pod("First", "Second", "Third")
    assert failed.code == 5
    ended = {event["node"]: event["state"] for event in failed.of("node_end")}
    assert ended == {"First": "complete", "Second": "failed"}
    told = {event["node"] for event in failed.of("log") if event["level"] == "ERROR"}
    assert told == {"Second"}
    assert toy.states() == ["COMPLETE", "FAILED"]
    assert failed.of("note") == []
    assert not failed.output.exists()


def test_what_an_attempt_decided_is_kept_for_the_next_one_of_the_same_task(toy: Toy) -> None:
    handle = PatientMetadata(toy.env)
    assert attempts.recall(handle, "runs/1/data") is None
    decided = {"plan": "x" * 100_000, "decision": "retrain"}
    attempts.remember(handle, "runs/1/data", decided)
    assert attempts.recall(handle, "runs/1/data") == decided
    assert attempts.recall(handle, "runs/2/data") is None


def test_runs_that_share_a_run_id_do_not_take_each_others_nodes_for_their_own(toy: Toy) -> None:
    assert toy.pod("First", folder="a").code == 0
    other = toy.pod("First", folder="b")
    assert other.code == 5
    assert "First has execution 1 in this run, which another run" in other.of("error")[0]["message"]
    assert not other.output.exists()
    assert toy.states() == ["COMPLETE"]


PLACEHOLDER = "{{$.pipeline_job_uuid}}"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"--run-id": PLACEHOLDER},
            f"argument --run-id: Kubeflow left the placeholder {PLACEHOLDER}",
        ),
        ({"--run-id": ""}, "argument --run-id: must not be empty"),
        ({"--executor-input": "{{$}}"}, "argument --executor-input: Kubeflow left the placeholder"),
        (
            {"--executor-input": json.dumps({"outputs": PLACEHOLDER})},
            "argument --executor-input: Kubeflow left the placeholder",
        ),
        ({"--plan": "x {{$.inputs.parameters['plan']}}"}, "argument --plan: Kubeflow left the"),
    ],
)
def test_what_kubeflow_did_not_resolve_is_refused(
    capfd: pytest.CaptureFixture[str], changed: dict[str, str], words: str
) -> None:
    given = {"--run": "First", "--plan": "", "--run-id": "1", "--executor-input": "{}"} | changed
    arguments = [part for option in given.items() for part in option]
    assert entrypoint.main(["nodes", *arguments]) == 2
    (event,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (event["event"], event["kind"], event["exit_code"]) == ("error", "ConfigError", 2)
    assert event["message"].startswith(words)


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("https://bucket/perennial", "https:// is not storage"),
        ("s3://bucket/exp [1]", "holds [, which Beam takes for a pattern"),
        ("gs://", "must name a bucket after ://"),
        ("", "must not be empty"),
        ("perennial", "must be an absolute path or a URI"),
    ],
)
def test_a_plan_refuses_a_root_that_nodes_cannot_write_to(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], root: str, words: str
) -> None:
    files = {name: str(tmp_path / name) for name in ("output", "record")}
    places = [f"--{name}={path}" for name, path in files.items()]
    given = ["--given", "{}", "--nodes", "First", "--run-id", "run-1", f"--pipeline-root={root}"]
    assert entrypoint.main(["plan", *given, *places]) == 2
    (event,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert (event["event"], event["kind"], event["exit_code"]) == ("error", "ConfigError", 2)
    named = f"parameter pipeline_root: kubeflow.pipeline_root = {root!r}: "
    assert event["message"].startswith(named + words)
    assert list(tmp_path.iterdir()) == []


def test_without_a_database_it_is_one_line(toy: Toy) -> None:
    toy.env = {}
    refused = toy.pod("First")
    assert refused.code == 2
    (error,) = refused.events
    assert error["message"].startswith("PERENNIAL_METADATA_KIND is not set")


def test_a_light_node_imports_neither_beam_nor_all_components_of_tfx(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from kubeflow import imports\n"
        "imports.defer('tfx.components')\n"
        "with imports.without('apache_beam'):\n"
        "    import kubeflow.execution\n"
        "heavy = ('apache_beam', 'tensorflow_data_validation', 'tensorflow_model_analysis')\n"
        "print([name for name in heavy if name in sys.modules])\n"
        "import tensorflow_data_validation, tfx.components\n"
        "print(tfx.components.Trainer.__name__, 'apache_beam' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "Trainer True"]
