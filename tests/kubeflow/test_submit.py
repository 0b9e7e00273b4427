"""`perennial submit` and `perennial schedule` against a stand-in for the API."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from kubeflow import client, cluster, transport
from kubeflow.commands.connection import Connection
from pipeline.errors import ConfigError, KubeflowRefused, KubeflowUnreachable
from tests.kit.cli import perennial
from tests.kit.kubeflow_stub import Stub, check

USAGE = ConfigError.exit_code


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the tests, and no cluster."""
    for name in ("ENDPOINT", "UI_ENDPOINT", "IAP_OAUTH2_CLIENT_ID"):
        monkeypatch.delenv(f"KF_PIPELINES_{name}", raising=False)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))


def refused(code: int, *arguments: str | Path) -> str:
    """Return the one line of a command that fails with `code`."""
    result = perennial(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("perennial: error: ")
    return line


class TestSubmit:
    def test_uploads_and_runs(self, stub: Stub, package: Path) -> None:
        result = perennial(
            *("submit", package, "--host", stub.url, "--param", "data_root=gs://b/photos"),
            *("--param", "epochs=7", "--param", "seed=5", "--param", "learning_rate=1e-3"),
            *("--param", "warm_start=true", "--param", "pipeline_root=gs://other"),
            *("--name", "by hand", "--service-account", "trainer"),
        )
        assert result.exit_code == 0, result.output
        (version,) = stub.things["versions"].values()
        assert stub.uploads["versions-1"] == package.read_bytes()
        assert stub.things["pipelines"]["pipelines-1"]["display_name"] == "digits"
        assert stub.things["experiments"]["experiments-1"]["display_name"] == "digits"
        assert stub.things["runs"]["runs-1"] == {
            "run_id": "runs-1",
            "display_name": "by hand",
            "experiment_id": "experiments-1",
            "service_account": "trainer",
            "pipeline_version_reference": {
                "pipeline_id": "pipelines-1",
                "pipeline_version_id": version["pipeline_version_id"],
            },
            "runtime_config": {
                "parameters": {
                    "data_root": "gs://b/photos",
                    "epochs": "7",
                    "seed": 5,
                    "learning_rate": 0.001,
                    "warm_start": True,
                    "pipeline_root": "gs://other",
                }
            },
        }
        assert result.stdout.splitlines() == [
            f"Pipeline  digits, version {version['display_name']} (uploaded)",
            f"Run       {stub.url}/#/runs/details/runs-1",
        ]
        assert result.stderr == ""

    def test_links_are_of_the_pages(
        self, stub: Stub, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the API has another address, such as Kubeflow's with users."""
        monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example/pipeline/")
        command = ("--host", stub.url, "--param", "data_root=x")
        lines = perennial("submit", package, *command).stdout.splitlines()
        assert lines[-1].split() == [
            "Run",
            "https://kubeflow.example/pipeline/#/runs/details/runs-1",
        ]
        scheduled = perennial("schedule", "create", package, *command, "--cron", "@daily").stdout
        assert "https://kubeflow.example/pipeline/#/recurringrun/details/" in scheduled
        assert "--ui-host 'kubeflow.example'" in refused(
            USAGE, "submit", package, *command, "--ui-host", "kubeflow.example"
        )

    def test_a_pod_knows_the_path_of_the_pages_only(self) -> None:
        kubeflow = client.Kubeflow(Connection(in_cluster=True, namespace="team"), dry_run=True)
        page = kubeflow.artifact("minio://mlpipeline/v2/report")
        assert page == (
            "/pipeline/artifacts/get?source=minio&bucket=mlpipeline&key=v2%2Freport&namespace=team"
        )

    def test_uploads_a_file_once(self, stub: Stub, package: Path, tmp_path: Path) -> None:
        command = ("submit", "--host", stub.url, "--param", "data_root=x")
        assert "(uploaded)" in perennial(*command, package).stdout
        assert "(uploaded before)" in perennial(*command, package).stdout
        changed = tmp_path / "digits.yaml"
        changed.write_text(package.read_text().replace("perennial:1", "perennial:2"))
        assert "(uploaded)" in perennial(*command, changed).stdout
        assert [len(stub.things[kind]) for kind in ("pipelines", "versions", "runs")] == [1, 2, 3]
        assert len(stub.things["experiments"]) == 1

    def test_a_profile_is_asked_in_its_namespace(self, stub: Stub, package: Path) -> None:
        command = ("--host", stub.url, "--namespace", "team", "--param", "data_root=x")
        assert perennial("submit", package, *command).exit_code == 0
        assert stub.things["pipelines"]["pipelines-1"]["namespace"] == "team"
        assert stub.things["experiments"]["experiments-1"]["namespace"] == "team"

    def test_a_dry_run_prints_what_would_be_sent(self, stub: Stub, package: Path) -> None:
        command = ("submit", package, "--param", "data_root=x", "--name", "n", "--host", stub.url)
        dry = perennial(*command, "--dry-run")
        assert stub.asked == []
        assert dry.exit_code == 0
        requests = json.loads(dry.stdout)
        kinds = ("V2beta1Pipeline", "", "V2beta1Experiment", "V2beta1Run")
        for request, kind in zip(requests, kinds, strict=True):
            assert request["method"] == "POST"
            assert request["url"].startswith(stub.url)
            if kind:
                check(request["body"], kind)
        assert requests[1]["files"] == {"uploadfile": str(package)}

        # The same as what is sent, but for what the server gives.
        assert perennial(*command).exit_code == 0
        sent = stub.things["runs"]["runs-1"]
        assert requests[-1]["body"]["runtime_config"] == sent["runtime_config"]
        assert requests[-1]["body"].keys() == sent.keys() - {"run_id"}
        posted = [path for method, path in stub.asked if method == "POST"]
        assert [path.partition("?")[0] for path in posted] == [
            request["url"].removeprefix(stub.url) for request in requests
        ]

    def test_what_could_never_start_is_refused_unless_told_otherwise(
        self, stub: Stub, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked: list[tuple[str | None, str]] = []

        def check(_: object, namespace: str | None, service_account: str) -> list[str]:
            looked.append((namespace, service_account))
            if namespace is None:
                return ["nodes may not be read"]
            raise ConfigError("there is no claim 'images'")

        monkeypatch.setattr(cluster, "check", check)
        schedule = ("schedule", "create", package, "--cron", "@daily")
        for words in (("submit", package), schedule):
            command = (*words, "--param", "data_root=x", "--host", stub.url)
            asked = len(stub.asked)
            assert "no claim 'images'" in refused(USAGE, *command, "--namespace", "team")
            assert len(stub.asked) == asked
            allowed = perennial(*command, "--namespace", "team", "--no-check")
            assert allowed.exit_code == 0
            assert perennial(*command, "--dry-run").exit_code == 0
            remarked = perennial(*command, "--name", "other")
            assert remarked.exit_code == 0
            assert remarked.stderr == "perennial: note: nodes may not be read\n"
        assert looked == [("team", "perennial-pipeline"), (None, "perennial-pipeline")] * 2

    def test_a_dry_run_needs_no_host(self, package: Path) -> None:
        result = perennial("submit", package, "--param", "data_root=x", "--dry-run")
        assert result.exit_code == 0
        assert len(json.loads(result.stdout)) == 4

    @pytest.mark.parametrize(
        ("param", "problem"),
        [
            ("epochs", "--param 'epochs': must be NAME=VALUE"),
            ("epoch=3", "no such parameter; there are data_root, epochs, learning_rate"),
            ("seed=3.5", "--param 'seed=3.5': must be a whole number"),
            ("learning_rate=fast", "--param 'learning_rate=fast': must be a number"),
            ("learning_rate=nan", "--param 'learning_rate=nan': must be a number"),
            ("warm_start=yes", "--param 'warm_start=yes': must be true or false"),
            ("epochs=3", "parameter data_root has no default: give --param data_root="),
        ],
    )
    def test_wrong_parameters_are_told(
        self, package: Path, stub: Stub, param: str, problem: str
    ) -> None:
        assert problem in refused(USAGE, "submit", package, "--host", stub.url, "--param", param)
        assert stub.asked == []

    @pytest.mark.parametrize(
        ("param", "problem"),
        [
            # Strings for Kubeflow, since they may be unset.
            ("epochs=many", "parameter epochs: train.epochs = 'many': must be a valid integer"),
            ("epochs=0", "parameter epochs: train.epochs = 0: must be greater than or equal to 1"),
            ("seed=-1", "parameter seed: train.seed = -1: must be greater than or equal to 0"),
            ("learning_rate=-1", "train.hyperparameters.learning_rate = -1.0"),
            ("recipe=vti", "no such recipe; did you mean"),
            ("pipeline_root=ftp://b/x", "kubeflow.pipeline_root = 'ftp://b/x'"),
        ],
    )
    def test_values_that_a_run_would_refuse_are_told(
        self, package: Path, stub: Stub, param: str, problem: str
    ) -> None:
        command = ("submit", package, "--host", stub.url, "--param", "data_root=gs://b/x")
        assert problem in refused(USAGE, *command, "--param", param)
        assert stub.asked == []

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (b"a: [", "not YAML (at line 2)"),
            (b"\xff\xfe\x00", "not YAML"),
            (b"", "is not a pipeline of Kubeflow"),
            (b"a: 1", "is not a pipeline of Kubeflow"),
            (b"- 1", "is not a pipeline of Kubeflow"),
        ],
    )
    def test_other_files_are_told(self, tmp_path: Path, content: bytes, problem: str) -> None:
        path = tmp_path / "other.yaml"
        path.write_bytes(content)
        line = refused(USAGE, "submit", path, "--dry-run")
        assert f"{path}: {problem}" in line
        assert "compile it with perennial compile" in line

    def test_pipelines_of_others_are_told(self, tmp_path: Path, package: Path) -> None:
        path = tmp_path / "other.yaml"
        path.write_text(package.read_text().replace("kubeflow.entrypoint", "other.main"))
        line = refused(USAGE, "submit", path, "--dry-run")
        assert "pipeline 'digits' is not one of this project" in line

    def test_a_missing_file_is_told(self, tmp_path: Path) -> None:
        line = refused(USAGE, "submit", tmp_path / "none.yaml", "--dry-run")
        assert "none.yaml: cannot be read: No such file" in line


class TestConnection:
    def command(self, package: Path, url: str) -> list[str | Path]:
        return ["submit", package, "--param", "data_root=x", "--host", url]

    def test_a_token(self, stub: Stub, package: Path, tmp_path: Path) -> None:
        stub.token = "t0ken"
        (tmp_path / "token").write_text("t0ken\n")
        command = self.command(package, stub.url)
        assert perennial(*command, "--token-file", tmp_path / "token").exit_code == 0
        line = refused(KubeflowRefused.exit_code, *command)
        assert f"{stub.url}: not logged in (401 Unauthorized)" in line

    def test_cookies(self, stub: Stub, package: Path, tmp_path: Path) -> None:
        stub.cookie = "authservice_session=abc"
        (tmp_path / "cookies").write_text("authservice_session=abc")
        command = self.command(package, stub.url)
        assert perennial(*command, "--cookies-file", tmp_path / "cookies").exit_code == 0

    def test_the_token_of_the_pod(
        self, stub: Stub, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stub.token = "pod"
        (tmp_path / "token").write_text("pod")
        monkeypatch.setattr(transport, "_POD_TOKEN", tmp_path / "token")
        monkeypatch.setattr(client, "_IN_CLUSTER", stub.url)
        command = ("submit", package, "--param", "data_root=x", "--in-cluster")
        assert perennial(*command).exit_code == 0

    def test_an_identity_aware_proxy(
        self, stub: Stub, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stub.token = "of-google"
        clients: list[str] = []

        def get_auth_token(client_id: str, *_: Any) -> tuple[str, bool]:
            clients.append(client_id)
            return "of-google", False

        monkeypatch.setattr("kfp.client.auth.get_auth_token", get_auth_token)
        command = self.command(package, stub.url)
        assert perennial(*command, "--iap-client-id", "client.apps").exit_code == 0
        assert clients == ["client.apps"]

    def test_a_secret_that_is_refused_is_not_told(
        self, stub: Stub, package: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        stub.token = "right"
        (tmp_path / "token").write_text("hunter2")
        command = [*self.command(package, stub.url), "--token-file", tmp_path / "token"]
        assert "hunter2" not in refused(KubeflowRefused.exit_code, *command)
        assert "hunter2" not in caplog.text
        assert "hunter2" not in perennial(*command, "--dry-run").output

    def test_a_refusal_is_told_in_the_words_of_kubeflow(self, stub: Stub, package: Path) -> None:
        stub.status = 400
        line = refused(
            KubeflowRefused.exit_code, *self.command(package, stub.url), "--namespace", "team"
        )
        assert "Kubeflow Pipelines refused: namespace 'team' is not yours (400)" in line

    def test_a_forbidden_namespace_is_told(self, stub: Stub, package: Path) -> None:
        stub.status = 403
        line = refused(KubeflowRefused.exit_code, *self.command(package, stub.url))
        assert "not allowed (403 Forbidden)" in line

    def test_a_login_page_is_told(self, stub: Stub, package: Path) -> None:
        stub.html = True
        line = refused(KubeflowRefused.exit_code, *self.command(package, stub.url))
        assert "answers with a web page, perhaps to log in" in line

    def test_a_host_that_does_not_answer_is_told(self, package: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            line = refused(KubeflowUnreachable.exit_code, *self.command(package, url))
        assert f"{url}: no answer from Kubeflow Pipelines" in line
        assert "Connection refused" in line

    def test_mistakes_are_told(self, package: Path, tmp_path: Path) -> None:
        command = ("submit", package, "--param", "data_root=x")
        assert "--host is not given" in refused(USAGE, *command)
        assert "must start with http://" in refused(USAGE, *command, "--host", "kubeflow:80")
        both = ("--in-cluster", "--token-file", tmp_path)
        assert "--in-cluster and --token-file: give one of" in refused(USAGE, *command, *both)
        missing = ("--host", "http://h", "--token-file", tmp_path / "none")
        assert "none: cannot be read: No such file" in refused(USAGE, *command, *missing)
        (tmp_path / "empty").write_text("\n")
        empty = ("--host", "http://h", "--cookies-file", tmp_path / "empty")
        assert "empty: must be one line" in refused(USAGE, *command, *empty)


class TestSchedule:
    def create(self, stub: Stub, package: Path, *options: str) -> Result:
        command = ("schedule", "create", package, "--host", stub.url, "--cron", "0 0 3 * * *")
        return perennial(*command, "--param", "data_root=gs://b/[[ScheduledTime]]", *options)

    def test_create(self, stub: Stub, package: Path) -> None:
        result = self.create(stub, package, "--name", "nightly")
        assert result.exit_code == 0, result.output
        made = stub.things["recurringruns"]["recurringruns-1"]
        assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
        assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == (1, True, "ENABLE")
        assert (made["display_name"], made["service_account"]) == ("nightly", "perennial-pipeline")
        assert made["runtime_config"]["parameters"] == {"data_root": "gs://b/[[ScheduledTime]]"}
        assert made["pipeline_version_reference"]["pipeline_version_id"] == "versions-1"
        assert "Schedule  nightly: at 03:00, every day\n" in result.stdout
        assert f"Page      {stub.url}/#/recurringrun/details/recurringruns-1" in result.stdout

    def test_a_name_is_given_once(self, stub: Stub, package: Path) -> None:
        assert self.create(stub, package).exit_code == 0
        result = self.create(stub, package)
        assert result.exit_code == USAGE
        assert "schedule 'digits' exists; delete it first" in result.stderr

    def test_a_dry_run(self, stub: Stub, package: Path) -> None:
        result = self.create(stub, package, "--dry-run")
        assert stub.asked == []
        check(json.loads(result.stdout)[-1]["body"], "V2beta1RecurringRun")

    def test_list_pause_resume_delete(self, stub: Stub, package: Path) -> None:
        assert "no schedules" in perennial("schedule", "list", "--host", stub.url).stdout
        self.create(stub, package)
        stub.new("recurringruns", display_name="other", trigger={"periodic_schedule": {}})
        for number in range(150):
            five = {"cron_schedule": {"cron": "0 3 * * *"}}
            stub.new("recurringruns", display_name=f"old-{number}", trigger=five)

        def listed() -> list[str]:
            return perennial("schedule", "list", "--host", stub.url).stdout.splitlines()

        assert len(listed()) == 152
        assert listed()[0] == "digits   runs    at 03:00, every day (0 0 3 * * *)"
        assert listed()[1] == "other    paused  by an interval"
        assert "paused  cron '0 3 * * *': has five fields" in listed()[2]
        paused = perennial("schedule", "pause", "digits", "--host", stub.url)
        assert paused.stdout == "paused digits; a current run continues\n"
        assert listed()[0].startswith("digits   paused")
        resumed = perennial("schedule", "resume", "digits", "--host", stub.url)
        assert resumed.stdout == "digits runs again: at 03:00, every day (0 0 3 * * *)\n"
        assert listed()[0].startswith("digits   runs")
        assert perennial("schedule", "delete", "digits", "--host", stub.url).exit_code == 0
        assert listed()[0].startswith("other")

    @pytest.mark.parametrize("verb", ["pause", "resume", "delete"])
    def test_an_unknown_name_is_told(self, stub: Stub, verb: str) -> None:
        line = refused(USAGE, "schedule", verb, "weekly", "--host", stub.url)
        assert "no schedule is called 'weekly'" in line

    def test_a_wrong_cron_is_told_before_anything_is_asked(self, stub: Stub, package: Path) -> None:
        command = ("schedule", "create", package, "--host", stub.url, "--param", "data_root=x")
        line = refused(USAGE, *command, "--cron", "0 3 * * *")
        assert "has five fields" in line
        assert "did you mean '0 0 3 * * *'?" in line
        assert stub.asked == []


def test_the_stub_refuses_what_the_models_lack() -> None:
    with pytest.raises(ValueError, match="no_catch_up"):
        check({"no_catch_up": True}, "V2beta1RecurringRun")
    with pytest.raises(ValueError, match="no bool"):
        check({"no_catchup": "yes"}, "V2beta1RecurringRun")
    with pytest.raises(ValueError, match="RecurringRunMode"):
        check({"mode": "ON"}, "V2beta1RecurringRun")
