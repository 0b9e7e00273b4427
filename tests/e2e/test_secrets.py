"""A password or a signature in a URL is in nothing that a run leaves or says."""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from pipeline.retraining import journal
from tests.kit.cli import perennial, process, sets, ungated
from tests.kit.runs import Run, perennial_run
from tests.kit.weights import bit_arrays, save_arrays

PASSWORD, SIGNATURE, DATA_TOKEN = "open-sesame-1", "f00dfacecafe0123456789", "t0ken-of-the-data-42"
HOOK, PROXY = "T0B0xoxbhook0123456789", "pr0xy-passw0rd-77"
SECRETS = (PASSWORD, SIGNATURE, DATA_TOKEN, HOOK, PROXY)
DATA = f"https://user:{DATA_TOKEN}@127.0.0.1:1/photos.csv?token={SIGNATURE}"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where everything is that the commands of this module write."""
    place = tmp_path_factory.mktemp("secrets")
    with mock.patch.dict(os.environ, KERAS_HOME=str(place / "keras"), TMPDIR=str(place)):
        yield place


@pytest.fixture(scope="module")
def weights(place: Path) -> Iterator[tuple[str, str]]:
    """Serve weights: a URL with secrets in it, and their digest."""
    (place / "served").mkdir()
    digest = save_arrays(place / "served" / "bit.npz", bit_arrays()).sha256
    handler = functools.partial(_Quiet, directory=str(place / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        yield f"http://user:{PASSWORD}@{host}/bit.npz?X-Signature={SIGNATURE}&v=1", digest
        server.shutdown()


@pytest.fixture(scope="module")
def options(weights: tuple[str, str], place: Path) -> list[str]:
    """Of a run, and of the retraining of its model."""
    url, digest = weights
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
    return ["--workspace", str(place / "w"), "--recipe", "bit", *sets(settings), *ungated()]


@pytest.fixture(scope="module")
def data(few_digits: Callable[..., Path]) -> str:
    return str(few_digits("01", 60))


@pytest.fixture(scope="module")
def trained(options: list[str], data: str) -> Run:
    return perennial_run(*options, "--data", data)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the requests to a webhook whose URL is secret in each of its parts."""
    bodies: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            bodies.append(body)
            self.send_response(500 if "answer 500" in body else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{HOOK}?token={HOOK}"
        monkeypatch.setenv("PERENNIAL_WEBHOOK", url)
        yield bodies
        server.shutdown()


def _files_with(folder: Path, *secrets: str) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    wanted = [secret.encode() for secret in secrets]
    return [file for file in files if any(secret in file.read_bytes() for secret in wanted)]


def _assert_kept(place: Path, *texts: object) -> None:
    """No secret is in what was printed or sent, nor in any file that was written."""
    told = " ".join(map(str, texts))
    assert [secret for secret in SECRETS if secret in told] == []
    assert _files_with(place / "w", *SECRETS) == []
    assert [file for file in place.glob("perennial-*") if _files_with(file, *SECRETS)] == []


def test_no_file_of_a_run_holds_them(place: Path, trained: Run, options: list[str]) -> None:
    assert trained.code == 0, trained.stderr
    assert {"Trainer", "Evaluator", "Pusher"} <= trained.states("complete")
    assert list((place / "keras" / "perennial").iterdir())  # it was fetched, by the whole URL
    record = json.loads(next(place.glob("w/runs/*/run.json")).read_text())
    shown = record["settings"]["train.hyperparameters.weights.source"]["value"]
    assert shown.startswith("http://***@127.0.0.1:")
    assert shown.endswith("/bit.npz?X-Signature=***&v=***")
    failed = perennial_run(*options, "--data", DATA)
    assert failed.code not in (0, 4)
    _assert_kept(place, trained.events, trained.stderr, failed.events, failed.stderr)


def test_nor_does_any_of_a_retraining(
    place: Path,
    trained: Run,
    options: list[str],
    data: str,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one that pushes and labels, and of ones that stop early, by any of its parts."""
    assert trained.code == 0, trained.stderr
    monkeypatch.setenv("PHOTOS", DATA)
    monkeypatch.setenv("https_proxy", f"http://proxy-user:{PROXY}@127.0.0.1:1")
    same = sets({"train.warm_start": "false", "retrain.promote": "stable"})
    done = process("retrain", *options, *same, "--data", data, "--force")
    assert done.returncode == 0, done.stderr
    assert "version 1 is not newer than version 1, which is stable" in done.stdout
    assert len(told) == 1
    workspace = str(place / "w")
    shown = [
        perennial("models", "--workspace", workspace),
        perennial("runs", "--workspace", workspace),
        perennial("doctor"),
        perennial("promote", 9, "--to", "stable", "--workspace", workspace, "--server", DATA),
    ]
    assert [each.exit_code for each in shown] == [0, 0, 0, 2], [each.output for each in shown]
    ended = [
        process("retrain", *options, "--data", DATA),
        process("retrain", *options, "--data", "env:PHOTOS"),
        # Of the baseline's settings, which hold no secret, and its weights that were fetched.
        process("retrain", "--workspace", workspace, "--data", data, "--dry-run"),
        process("retrain", *options, "--data", data, "--set", f"train.epochs={DATA}"),
        process("retrain", *options, "--data", data, *sets({"push.directory": DATA})),
    ]
    assert [each.returncode for each in ended] == [3, 3, 0, 2, 2], [e.stderr for e in ended]
    assert len(told) == 5
    lines = journal.read(str(place / "w" / journal.FILE))
    assert [line["event"] for line in lines].count("stopped") == 4
    printed = [f"{each.stdout} {each.stderr}" for each in (done, *ended)]
    _assert_kept(place, *printed, *(each.output for each in shown), *told)


def test_nor_does_what_is_printed_where_the_webhook_fails(
    place: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = place / "w"
    for url in (os.environ["PERENNIAL_WEBHOOK"], f"https://u:{HOOK}@127.0.0.1:1/{HOOK}", HOOK):
        monkeypatch.setenv("PERENNIAL_WEBHOOK", url)
        failed = process("retrain", "--workspace", workspace, "--set", "answer 500=1")
        assert failed.returncode == 2
        assert "PERENNIAL_WEBHOOK" in failed.stdout
        _assert_kept(place, failed.stdout, failed.stderr)
    assert len(told) == 1


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
