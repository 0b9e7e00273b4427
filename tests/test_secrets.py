"""A password or a signature in a URL is in nothing that a run leaves or says."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli import perennial, sets
from tests.test_e2e import perennial_run
from tests.test_weights import official_arrays, save

PASSWORD, SIGNATURE, DATA_TOKEN = "open-sesame-1", "f00dfacecafe0123456789", "t0ken-of-the-data-42"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The URL of weights that are served here, with secrets in it, and their digest."""
    (tmp_path / "served").mkdir()
    digest = save(tmp_path / "served" / "bit.npz", official_arrays()).sha256
    handler = functools.partial(_Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        yield f"http://user:{PASSWORD}@{host}/bit.npz?X-Signature={SIGNATURE}&v=1", digest
        server.shutdown()


def _files_with(folder: Path, *secrets: str) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    wanted = [secret.encode() for secret in secrets]
    return [file for file in files if any(secret in file.read_bytes() for secret in wanted)]


def test_no_file_of_a_run_holds_them(
    tmp_path: Path,
    weights: tuple[str, str],
    few_digits: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    url, digest = weights
    workspace = tmp_path / "w"
    settings = {
        "train.hyperparameters.variant": "tiny",
        "train.hyperparameters.weights.source": url,
        "train.hyperparameters.weights.sha256": digest,
        "transform.image_size": 32,
        "transform.train_size": 40,
        "train.batch_size": 16,
        "train.epochs": 1,
        "evaluate.min_accuracy": 0.01,
        "infra_validation.enabled": "false",
    }
    places = ["--workspace", str(workspace), "--recipe", "bit"]
    run = perennial_run(*places, "--data", str(few_digits("01", 60)), *sets(settings))
    assert run.code in (0, 4), run.stderr
    assert {"Trainer", "Evaluator"} <= run.states("complete")
    assert list((tmp_path / "keras" / "perennial").iterdir())  # it was fetched, by the whole URL
    record = json.loads(next(workspace.glob("runs/*/run.json")).read_text())
    shown = record["settings"]["train.hyperparameters.weights.source"]["value"]
    assert shown.startswith("http://***@127.0.0.1:")
    assert shown.endswith("/bit.npz?X-Signature=***&v=***")

    data = f"https://user:{DATA_TOKEN}@127.0.0.1:1/photos.csv?token={SIGNATURE}"
    failed = perennial_run(*places, "--data", data, *sets(settings))
    assert failed.code not in (0, 4)
    secrets = (PASSWORD, SIGNATURE, DATA_TOKEN)
    assert _files_with(workspace, *secrets) == []
    assert [file for file in tmp_path.glob("perennial-*") if _files_with(file, *secrets)] == []
    for each in (run, failed):
        told = f"{each.events} {each.stderr}"
        assert [secret for secret in secrets if secret in told] == []


def test_a_compiled_pipeline_refers_to_them(tmp_path: Path, weights: tuple[str, str]) -> None:
    url, digest = weights
    output = tmp_path / "pipeline.yaml"
    settings = {
        "train.recipe": "bit",
        "train.hyperparameters.weights.sha256": digest,
        "data.source": "/data",
        "kubeflow.image": "registry/perennial:1",
        "kubeflow.pipeline_root": "/mnt/perennial",
    }
    command = ["compile", "--output", str(output), *sets(settings)]
    key = "train.hyperparameters.weights.source"
    refused = perennial(*command, *sets({key: url}))
    assert refused.exit_code == 2
    assert key in refused.stderr
    assert "env:" in refused.stderr
    assert SIGNATURE not in refused.output
    assert not output.exists()
    done = perennial(*command, *sets({key: "env:WEIGHTS_URL"}))
    assert done.exit_code == 0, done.output
    assert "env:WEIGHTS_URL" in output.read_text()
