"""Runs are logged to MLflow: to a tracking server of its own, on loopback."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import portpicker
import pytest
import requests
from mlflow.tracking import MlflowClient

import pipeline
from pipeline import tracking
from pipeline.report import history, write
from pipeline.report.facts import Facts, Setting, State
from pipeline.workspace import Workspace
from tests.kit import report as report_kit
from tests.kit.recorder import Recorder

START_S = 180.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a tracking server that keeps artifacts too."""
    folder, port = tmp_path_factory.mktemp("mlflow"), portpicker.pick_unused_port()
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--port", str(port), "--workers", "1"),
                *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
                *("--artifacts-destination", str(folder / "artifacts")),
            ],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/health", timeout=5).ok:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def written(root: Path, facts: Facts) -> Workspace:
    """Create a workspace with a run that has ended."""
    workspace = Workspace(root)
    folder = workspace.run_dir(facts.run.run_id)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(facts.run.model_dump_json())
    (folder / "config.toml").write_text('workspace = "work"\n')
    write.write_report(facts, folder)
    return workspace


class TestServer:
    def test_a_pushed_run_has_settings_curves_metrics_tags_and_report(
        self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
    ) -> None:
        monkeypatch.setenv(tracking.VARIABLE, server)
        facts = report_kit.facts()
        many = {f"beam.nodes.n{i}": Setting(value=i, origin="default") for i in range(250)}
        run = facts.run.model_copy(update={"settings": {**facts.run.settings, **many}})
        facts = facts.model_copy(update={"run": run})
        workspace = written(tmp_path, facts)
        logged = tracking.log(workspace, run.run_id)
        assert logged is not None
        client = MlflowClient(tracking_uri=server)
        found = client.get_run(logged)
        assert client.get_experiment(found.info.experiment_id).name == "perennial"
        assert (found.info.run_name, found.info.status) == (run.run_id, "FINISHED")
        assert found.info.end_time - found.info.start_time == 56_600
        assert found.data.params == {key: str(s.value) for key, s in run.settings.items()}
        assert facts.evaluation is not None
        for name, estimate in facts.evaluation.candidate.metrics.items():
            if estimate.value is not None:
                assert found.data.metrics[f"candidate.{name}"] == pytest.approx(estimate.value)
        assert "baseline.accuracy" in found.data.metrics
        curve = client.get_metric_history(logged, "val_accuracy")
        assert [each.step for each in curve] == list(range(1, 13))
        assert curve[0].value == pytest.approx(0.15)
        assert found.data.tags["perennial.state"] == "pushed"
        assert found.data.tags["perennial.blessed"] == "true"
        assert found.data.tags["perennial.version"] == "1"
        files = {each.path for each in client.list_artifacts(logged)}
        assert files == {"report.html", "report.json", "config.toml"}
        copy = client.download_artifacts(logged, "report.json", str(tmp_path))
        assert (
            Path(copy).read_bytes() == (workspace.run_dir(run.run_id) / history.FACTS).read_bytes()
        )
        assert any("MLflow" in str(note) for note in recorder.of("note", "text"))

    @pytest.mark.parametrize(
        ("state", "status"), [(State.REJECTED, "FINISHED"), (State.FAILED, "FAILED")]
    )
    def test_a_run_without_a_push_is_logged_with_its_reason(
        self,
        server: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        state: State,
        status: str,
    ) -> None:
        monkeypatch.setenv(tracking.VARIABLE, server)
        facts = Facts(run=report_kit.run(state))
        logged = tracking.log(written(tmp_path, facts), facts.run.run_id)
        found = MlflowClient(tracking_uri=server).get_run(logged)
        assert found.info.status == status
        assert found.data.tags["perennial.error"] == facts.run.error
        assert "perennial.version" not in found.data.tags


def test_a_server_that_is_away_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    port = portpicker.pick_unused_port()
    monkeypatch.setenv(tracking.VARIABLE, f"http://me:secret@127.0.0.1:{port}")
    workspace = written(tmp_path, Facts(run=report_kit.run()))
    assert tracking.log(workspace, report_kit.run().run_id) is None
    [note] = recorder.of("note", "text")
    assert re.search(rf"MLflow .*127\.0\.0\.1:{port}: ", str(note))
    assert "secret" not in str(note)


def test_without_the_variable_nothing_is_imported_or_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    monkeypatch.delenv(tracking.VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert tracking.log(Workspace(tmp_path), "none") is None
    assert recorder.of("note", "text") == []


def test_without_mlflow_a_note_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    monkeypatch.setenv(tracking.VARIABLE, "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    monkeypatch.delitem(sys.modules, "pipeline.mlflow_log", raising=False)
    monkeypatch.delattr(pipeline, "mlflow_log", raising=False)
    assert tracking.log(Workspace(tmp_path), "none") is None
    [note] = recorder.of("note", "text")
    assert "make venv EXTRAS=mlflow" in str(note)
