"""`perennial submit --wait` and `perennial watch`: runs as Kubeflow and Argo tell of them."""

from __future__ import annotations

import datetime
import http.server
import json
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from components import progress
from kubeflow import follow
from kubeflow.client import Kubeflow
from kubeflow.cluster import PodLogs
from kubeflow.commands.connection import Connection
from kubeflow.workflow import START_TIMEOUT, parse
from pipeline.errors import KubeflowUnreachable, NodeFailed
from tests.kit.cli import perennial
from tests.kit.kubeflow_stub import Node, Stub, pod_name, workflow

LATE = {START_TIMEOUT: "60"}
WAITING = "Unschedulable: 0/2 nodes are available: 2 node(s) didn't match Pod's node affinity."
ENDED = "2026-11-29T03:05:00Z"
DRIVER = Node("trainer-driver(0)", "Succeeded", ended=ENDED, template="system-container-driver")
RUNNING = Node("trainer.executor(0)", "Running")
DONE = RUNNING._replace(phase="Succeeded", ended=ENDED)
FAILED = RUNNING._replace(phase="Failed", ended=ENDED, message="main: Error (exit code 1)")
PENDING = RUNNING._replace(phase="Pending", message=WAITING)
USAGE = {"wall_s": 12.5, "cpu_s": 20.0, "peak_mb": 900.0}
REPORT = "minio://mlpipeline/v2/artifacts/digits/1/pusher/2/report"


def log(*events: dict[str, Any]) -> str:
    """Return the output of a pod: events among other lines."""
    lines = [progress.as_line(event["event"], event, 1.0) for event in events]
    return "\n".join(["I0000 oneDNN", *lines, "{no JSON", '{"level": "INFO"}'])


START = {"event": "node_start", "node": "Trainer"}
END = {"event": "node_end", "node": "Trainer", "state": "complete", **USAGE, "error": None}
EPOCH = {"event": "epoch", "epoch": 1, "epochs": 2, "loss": 0.5, "node": "Trainer"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KF_PIPELINES_ENDPOINT", "KUBECONFIG", "PERENNIAL_WEBHOOK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setattr(follow, "LOOK_EVERY_S", 0)


def wait(stub: Stub, package: Path, *options: str) -> Result:
    command = ("submit", package, "--param", "data_root=x", "--host", stub.url, "--wait")
    return perennial(*command, *options)


def events(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


class TestWait:
    def test_shows_what_pods_do_and_what_came_of_it(self, stub: Stub, package: Path) -> None:
        pusher = Node("pusher.executor(0)", "Succeeded", ended=ENDED)
        stub.states = ["PENDING", "RUNNING", "RUNNING", "SUCCEEDED"]
        stub.workflows["runs-1"] = [
            workflow(),
            workflow(DRIVER, PENDING),
            workflow(DRIVER, RUNNING),
            workflow(DRIVER, DONE, pusher, packed=True),
        ]
        outcome = {"event": "outcome", "accuracy": 0.9, "blessed": 1.0}
        pushed = {"event": "outcome", "pushed": "/models/3", "report": REPORT}
        cached = {**END, "node": "Pusher", "state": "cached"}
        stub.logs[pod_name(RUNNING)] = log(START, EPOCH, outcome, END)
        stub.logs[pod_name(pusher)] = log({**START, "node": "Pusher"}, cached, pushed)
        result = wait(stub, package, "--log-format", "json")
        assert result.exit_code == 0, result.output
        shown = [(each["event"], each.get("node")) for each in events(result)]
        assert shown == [
            ("run_start", None),
            ("note", None),
            ("node_start", "Trainer"),
            ("epoch", "Trainer"),
            ("node_end", "Trainer"),
            ("node_start", "Pusher"),
            ("node_end", "Pusher"),
            ("run_end", None),
            ("summary", None),
        ]
        assert re.fullmatch(f"trainer .*: {re.escape(WAITING)}", events(result)[1]["text"])
        last = events(result)[-1]
        assert (last["accuracy"], last["blessed"], last["pushed"]) == (0.9, 1.0, "/models/3")
        query = (
            "source=minio&bucket=mlpipeline&key=v2%2Fartifacts%2Fdigits%2F1%2Fpusher%2F2%2Freport"
        )
        assert last["report"] == f"{stub.url}/artifacts/get?{query}"
        assert last["page"] == f"{stub.url}/#/runs/details/runs-1"

    def test_prints_lines_where_there_is_no_terminal(self, stub: Stub, package: Path) -> None:
        stub.states = ["SUCCEEDED"]
        stub.workflows["runs-1"] = [workflow(DRIVER, DONE)]
        stub.logs[pod_name(DONE)] = log(START, EPOCH, END, {"event": "outcome", "pushed": None})
        result = wait(stub, package)
        lines = result.stdout.splitlines()
        assert lines[1] == f"Run       {stub.url}/#/runs/details/runs-1"
        shown = "\n".join(lines)
        assert re.search(r"Trainer .*\n.*Trainer: epoch 1/2.*\n.*Trainer .*12\.5 s", shown)
        assert "Pushed  nothing" in lines

    def test_logs_come_through_the_server_of_the_pages_too(self, stub: Stub, package: Path) -> None:
        stub.pages = True
        stub.states = ["SUCCEEDED"]
        stub.workflows["runs-1"] = [workflow(DRIVER, DONE)]
        stub.logs[pod_name(DONE)] = log(START, END)
        result = wait(stub, package, "--log-format", "json")
        assert [e["wall_s"] for e in events(result) if e["event"] == "node_end"] == [12.5]

    @pytest.mark.parametrize("pages", [False, True])
    def test_without_logs_it_tells_what_argo_knows(
        self, stub: Stub, package: Path, pages: bool
    ) -> None:
        stub.pages = pages
        stub.states = ["RUNNING", "SUCCEEDED"]
        stub.workflows["runs-1"] = [workflow(DRIVER, RUNNING), workflow(DRIVER, DONE)]
        result = wait(stub, package, "--log-format", "json")
        shown = [(e["event"], e["text"]) for e in events(result)[1:-2]]
        # Of a pod with several nodes it is not known which of them ran, nor on what.
        (started, start), (complete, end) = shown
        assert started == complete == "note"
        assert re.match(r"trainer start", start)
        assert re.match(r"trainer complete .*300 s", end)

    def test_a_pod_that_is_made_anew_under_its_name_is_told(
        self, stub: Stub, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As Argo 4 does with a deleted pod where Kubeflow configures it."""
        again = RUNNING._replace(message="pod deleted")
        stub.states = ["RUNNING", "RUNNING", "SUCCEEDED"]
        stub.workflows["runs-1"] = [workflow(RUNNING), workflow(again), workflow(DONE)]
        second = {**EPOCH, "epoch": 2}
        logs = iter([log(START, EPOCH), log(second), log(second, END)])
        monkeypatch.setattr(PodLogs, "read", lambda *_: next(logs))
        shown = [
            (each["event"], each.get("epoch", each.get("text")))
            for each in events(wait(stub, package, "--log-format", "json"))[1:-2]
        ]
        assert [shown[0], shown[1], *shown[3:]] == [
            ("node_start", None),
            ("epoch", 1),
            ("epoch", 2),
            ("node_end", None),
        ]
        assert shown[2][0] == "note"
        assert re.fullmatch("trainer .*again.*: pod deleted", str(shown[2][1]))

    def test_events_are_shown_once(self, stub: Stub, package: Path) -> None:
        stub.states = ["SUCCEEDED"]
        stub.workflows["runs-1"] = [workflow(DRIVER, DONE)]
        stub.logs[pod_name(DONE)] = log(START, END)
        records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = records.append  # type: ignore[method-assign, assignment]
        logging.getLogger().addHandler(handler)
        try:
            wait(stub, package)
        finally:
            logging.getLogger().removeHandler(handler)
        assert not [record for record in records if record.name == progress.LOGGER.name]

    def test_logs_that_kubeflow_does_not_give_out_come_from_kubernetes(
        self, stub: Stub, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stub.states = ["RUNNING", "SUCCEEDED"]
        stub.workflows["runs-1"] = [workflow(DRIVER, RUNNING), workflow(DRIVER, DONE)]
        asked: list[tuple[str, str]] = []

        def read(self: PodLogs, namespace: str, pod: str) -> str:
            asked.append((namespace, pod))
            return log(START) if len(asked) == 1 else log(START, END)

        monkeypatch.setattr(PodLogs, "read", read)
        result = wait(stub, package, "--log-format", "json")
        shown = [(e["event"], e["node"]) for e in events(result)[1:-2]]
        assert shown == [("node_start", "Trainer"), ("node_end", "Trainer")]
        assert asked == [("team", pod_name(DONE))] * 2

    def test_a_failure_is_told_with_its_reason(self, stub: Stub, package: Path) -> None:
        stub.states = ["RUNNING", "FAILED"]
        stopped = Node(
            "other.executor(0)", "Failed", "workflow shutdown with strategy", ended=ENDED
        )
        stub.workflows["runs-1"] = [workflow(RUNNING), workflow(stopped, FAILED)]
        reason = "/mnt/none: no such folder"
        error = {"event": "error", "kind": "DataError", "message": reason, "exit_code": 3}
        stub.logs[pod_name(FAILED)] = log(START, error)
        result = wait(stub, package)
        assert result.exit_code == NodeFailed.exit_code
        (line,) = result.stderr.splitlines()
        assert f"failed: trainer: {reason}; {stub.url}/#/runs/details/runs-1" in line

    def test_the_reason_comes_from_kubernetes_where_there_is_no_log(
        self, stub: Stub, package: Path
    ) -> None:
        stub.states = ["FAILED"]
        message = "main: OOMKilled (exit code 137)"
        stub.workflows["runs-1"] = [workflow(FAILED._replace(message=message))]
        assert f"failed: trainer: {message}; " in wait(stub, package).stderr

    def test_what_a_pod_waits_for_is_told_once_a_kind(self, stub: Stub, package: Path) -> None:
        pulls = [
            f"{kind}: try {number}"
            for number in range(3)
            for kind in ("ErrImagePull", "ImagePullBackOff")
        ]
        stub.states = [*["RUNNING"] * len(pulls), "SUCCEEDED"]
        stub.workflows["runs-1"] = [
            *(workflow(PENDING._replace(message=message)) for message in pulls),
            workflow(DONE),
        ]
        notes = [
            event["text"]
            for event in events(wait(stub, package, "--log-format", "json"))
            if event["event"] == "note"
        ]
        assert [note.partition(": ")[::2] for note in notes[:-1]] == [
            ("trainer waits", message) for message in pulls[:2]
        ]

    def test_another_try_is_told_with_what_ended_the_first(self, stub: Stub, package: Path) -> None:
        stub.states = ["SUCCEEDED"]
        lost = FAILED._replace(phase="Error", message="pod deleted")
        again = DONE._replace(name="trainer.executor(1)")
        stub.workflows["runs-1"] = [workflow(lost, again)]
        notes = [
            event["text"]
            for event in events(wait(stub, package, "--log-format", "json"))
            if event["event"] == "note"
        ]
        assert re.fullmatch("trainer fail.*300 s: pod deleted", notes[0])
        assert re.fullmatch("trainer .*again.*2: pod deleted", notes[1])

    @pytest.mark.parametrize(
        "message",
        [
            WAITING,
            "ImagePullBackOff: Back-off pulling image",
            "",
            'persistentvolumeclaim "x" not found',
        ],
    )
    def test_a_run_that_waits_too_long_is_ended(
        self, stub: Stub, package: Path, message: str
    ) -> None:
        stub.states = ["RUNNING", "RUNNING", "FAILED"]
        pending = PENDING._replace(message=message)
        over = FAILED._replace(message="Step exceeded its deadline")
        stub.workflows["runs-1"] = [*2 * [workflow(pending, env=LATE)], workflow(over, env=LATE)]
        result = wait(stub, package)
        assert stub.terminated == ["runs-1"]
        assert result.exit_code == NodeFailed.exit_code
        assert "trainer " in result.stderr
        assert (message or "kubectl describe pod digits-x7-retry-system") in result.stderr

    @pytest.mark.parametrize(
        ("deadline", "reason"),
        [
            (0, "terminated .*trainer"),
            (3600, r"kubeflow\.run_timeout .*3600 s .*trainer"),
        ],
    )
    def test_a_run_that_others_ended(
        self, stub: Stub, package: Path, deadline: int, reason: str
    ) -> None:
        stub.states = ["RUNNING", "FAILED"]
        over = FAILED._replace(message="Step exceeded its deadline")
        stub.workflows["runs-1"] = [workflow(RUNNING), workflow(over, deadline=deadline)]
        result = wait(stub, package)
        assert result.exit_code == NodeFailed.exit_code
        assert re.search(reason, result.stderr)

    def test_one_that_may_still_wait_is_left_alone(self, stub: Stub, package: Path) -> None:
        stub.states = ["RUNNING", "SUCCEEDED"]
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        stub.workflows["runs-1"] = [workflow(PENDING._replace(started=now), env=LATE)]
        assert wait(stub, package).exit_code == 0
        assert stub.terminated == []

    def test_kubeflow_may_be_away_for_a_while(
        self, stub: Stub, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stub.states = ["SUCCEEDED"]
        stub.workflows["runs-1"] = [workflow(DONE)]
        look, calls = Kubeflow.look, []

        def flaky(self: Kubeflow, run_id: str) -> Any:
            calls.append(run_id)
            if len(calls) < 3:
                raise KubeflowUnreachable("no answer")
            return look(self, run_id)

        monkeypatch.setattr(Kubeflow, "look", flaky)
        assert wait(stub, package).exit_code == 0
        assert len(calls) == 3


class Hook(http.server.BaseHTTPRequestHandler):
    bodies: list[str]

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append(json.loads(content)["text"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the messages to the webhook."""
    bodies: list[str] = []
    kind = type("Hook", (Hook,), {"bodies": bodies})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("PERENNIAL_WEBHOOK", f"http://127.0.0.1:{server.server_port}/T0")
        yield bodies
        server.shutdown()


class TestWatch:
    def run(self, stub: Stub, state: str, finished: str = "1970-01-01T00:00:00Z") -> str:
        made = stub.new(
            "runs",
            display_name="nightly 3",
            state=state,
            created_at="2026-11-29T03:00:00Z",
            finished_at=finished,
        )
        identity: str = made["run_id"]
        return identity

    def look(self, stub: Stub) -> Result:
        return perennial("watch", "--once", "--host", stub.url)

    def test_ends_what_waits_for_ever_and_tells(self, stub: Stub, told: list[str]) -> None:
        run = self.run(stub, "RUNNING")
        stub.workflows[run] = [workflow(DRIVER, PENDING, env=LATE, packed=True)]
        result = self.look(stub)
        assert result.exit_code == 0, result.output
        assert stub.terminated == [run]
        (text,) = told
        assert re.match("perennial: kubeflow: failed: run 'nightly 3': .*trainer ", text)
        assert WAITING in text
        assert text.endswith(f"{stub.url}/#/runs/details/{run}")
        assert text.partition("failed: ")[2] in result.stdout

    def test_leaves_runs_of_others_alone(self, stub: Stub, told: list[str]) -> None:
        run = self.run(stub, "RUNNING")
        stub.workflows[run] = [workflow(PENDING, env=LATE, ours=False)]
        over = self.run(stub, "FAILED", "2999-01-01T00:00:00Z")
        stub.workflows[over] = [workflow(FAILED, ours=False)]
        assert self.look(stub).exit_code == 0
        assert (stub.terminated, told) == ([], [])

    def test_leaves_runs_alone_that_may_wait(self, stub: Stub, told: list[str]) -> None:
        run = self.run(stub, "RUNNING")
        stub.workflows[run] = [workflow(RUNNING, env=LATE)]
        assert self.look(stub).exit_code == 0
        assert (stub.terminated, told) == ([], [])

    def test_tells_of_runs_that_failed_with_their_reason(self, stub: Stub, told: list[str]) -> None:
        run = self.run(stub, "FAILED", "2999-01-01T00:00:00Z")
        stub.workflows[run] = [workflow(FAILED)]
        error = {"event": "error", "message": "no images", "kind": "DataError", "exit_code": 3}
        stub.logs[pod_name(FAILED)] = log(error)
        self.run(stub, "SUCCEEDED", "2999-01-01T00:00:00Z")
        self.run(stub, "FAILED", "2026-11-01T00:00:00Z")  # long ago
        assert self.look(stub).exit_code == 0
        assert [text.partition("'nightly 3': ")[2].partition(";")[0] for text in told] == [
            "trainer: no images"
        ]

    def test_tells_once(self, stub: Stub, told: list[str]) -> None:
        from kubeflow.watch import Watch

        run = self.run(stub, "RUNNING")
        stub.workflows[run] = [workflow(PENDING, env=LATE)]
        watch = Watch(Kubeflow(Connection(host=stub.url)), print)
        watch.look()
        watch.look()
        stub.things["runs"][run] |= {"state": "FAILED", "finished_at": "2999-01-01T00:00:00Z"}
        watch.look()
        assert (len(told), stub.terminated) == (1, [run])

    def test_tells_where_it_may_not_end_a_run(self, stub: Stub, told: list[str]) -> None:
        run = self.run(stub, "RUNNING")
        stub.workflows[run] = [workflow(PENDING, env=LATE)]
        stub.forbidden = ":terminate"
        assert self.look(stub).exit_code == 0
        assert re.search(r"trainer .*; .*\b403\b", told[0])


class TestWorkflow:
    @pytest.mark.parametrize(
        ("name", "task", "driver", "attempt"),
        [
            ("trainer.executor", "trainer", False, 0),
            ("trainer.executor(2)", "trainer", False, 2),
            ("trainer(0).executor(1)", "trainer", False, 1),
            ("condition-1.pusher.executor", "pusher", False, 0),
            ("trainer-driver", "trainer", True, 0),
            ("condition-1(0).pusher-driver(1)", "pusher", True, 1),
        ],
    )
    def test_reads_names_of_nodes(self, name: str, task: str, driver: bool, attempt: int) -> None:
        (pod,) = parse(json.dumps(workflow(Node(name, "Running")))).pods
        assert (pod.task, pod.driver, pod.attempt) == (task, driver, attempt)

    @pytest.mark.parametrize("text", ["{}", "[]", "null", '{"metadata": {"name": "x"}}', "x"])
    def test_refuses_what_is_none(self, text: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            parse(text)

    def test_names_pods_as_argo_did_before(self) -> None:
        manifest = workflow(RUNNING)
        key = "workflows.argoproj.io/pod-name-format"
        manifest["metadata"]["annotations"] = {key: "v1"}
        (pod,) = parse(json.dumps(manifest)).pods
        assert pod.name in manifest["status"]["nodes"]
