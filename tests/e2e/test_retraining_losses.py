"""Retraining where earlier images are gone: what stops it, and what it reports."""

from __future__ import annotations

import datetime
import http.server
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.lineage import History, Lineage, TrainedModel
from components.reuse import INPUTS_FILE
from pipeline.config import Loaded, load
from pipeline.errors import EXIT_CODES, DataError, DataLost, WorkspaceBusy
from pipeline.retraining import inventory, journal, observe
from pipeline.retraining import retrain as nights
from pipeline.workspace import Workspace
from tests.kit.cli import perennial, process

NOW = datetime.datetime(2026, 5, 1, 3, tzinfo=datetime.UTC)


def picture(path: Path, color: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for label, green in (("cat", 0), ("dog", 200)):
        for number in range(60):
            picture(tmp_path / "data" / label / f"{number}.png", (number, green, 9))
    return tmp_path / "data"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the messages to the webhook."""
    texts: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PERENNIAL_WEBHOOK", f"http://127.0.0.1:{server.server_port}/T0")
        yield texts
        server.shutdown()


@pytest.fixture
def night(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """Return the configuration of a retraining whose baseline has seen all of `data`."""
    loaded = load(
        None, {"data.source": str(data), "workspace": str(tmp_path / "work")}, scheduled=True
    )
    entries, _ = inventory.take(str(data), loaded.config.data.options, None)
    examples = tmp_path / "examples"
    examples.mkdir()
    rows = [
        {"path": name, "label": e.label, "sha256": e.sha256, "span": e.span, "fate": "train"}
        for name, e in entries.items()
    ]
    (examples / INPUTS_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    last = TrainedModel(1, "model", True, NOW - datetime.timedelta(days=3), str(examples))
    workspace = Workspace(loaded.config.workspace)
    with workspace.lock():
        workspace.metadata.touch()
    monkeypatch.setattr(Lineage, "history", lambda *_: History(last, last))
    monkeypatch.setattr(Lineage, "at", lambda _: Lineage(None))
    return loaded


def entries(loaded: Loaded) -> list[dict[str, Any]]:
    return journal.read(str(loaded.config.workspace / journal.FILE))


def retrain(loaded: Loaded, **options: Any) -> None:
    nights.retrain(loaded.config, loaded.origins, "plain", now=NOW, **options)


class TestANightWithDataGone:
    def test_stops_with_a_code_of_its_own_and_is_told(
        self, night: Loaded, data: Path, told: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        for path in [*data.glob("cat/*.png")][5:] + [*data.glob("dog/*.png")][5:]:
            path.unlink()
        with pytest.raises(DataLost) as caught:
            retrain(night, force=True)
        assert caught.value.exit_code == 12
        assert EXIT_CODES[12] == DataLost.meaning
        assert re.search(r"\b110 of 120 .*retrain\.max_removed = 0\.1", str(caught.value))
        [text] = told
        assert text.startswith("perennial: perennial: failed: ")
        assert str(caught.value) in text
        [entry] = entries(night)
        assert (entry["event"], entry["result"], entry["exit_code"]) == ("stopped", "failed", 12)
        assert entry["detail"] == str(caught.value)
        assert "Retraining" not in capsys.readouterr().out

    def test_names_a_class_that_vanished(self, night: Loaded, data: Path) -> None:
        shutil.rmtree(data / "dog")
        with pytest.raises(DataLost, match=r"\b60 of 120 .*'dog'.*retrain\.max_removed"):
            retrain(night)

    def test_stops_where_two_classes_were_swapped(
        self, night: Loaded, data: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Against these labels the baseline would be no good, and its successor blessed."""
        (data / "cat").rename(data / "any")
        (data / "dog").rename(data / "cat")
        (data / "any").rename(data / "dog")
        with pytest.raises(DataLost, match=r"'cat', 'dog'") as caught:
            retrain(night)
        assert "retrain.max_relabelled = 0.1" in str(caught.value)
        assert len(told) == 1
        ran: list[str] = []
        monkeypatch.setattr(nights._Retraining, "run", lambda *_: ran.append("ran"))
        retrain(night, accept_loss=True)
        assert ran == ["ran"]
        stopped, decided = entries(night)
        assert stopped["exit_code"] == 12
        assert (decided["gone"], decided["relabelled"]) == (0, 120)

    def test_stops_where_it_is_not_known_what_was_trained_on(
        self, night: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "examples" / INPUTS_FILE).unlink()
        with pytest.raises(DataLost, match=f"{INPUTS_FILE} .*--accept-loss"):
            retrain(night)
        ran: list[str] = []
        monkeypatch.setattr(nights._Retraining, "run", lambda *_: ran.append("ran"))
        retrain(night, accept_loss=True)
        assert ran == ["ran"]
        assert not any("judged" in reason for reason in entries(night)[1]["reasons"])

    def test_goes_on_where_the_loss_is_accepted(
        self, night: Loaded, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.rmtree(data / "dog")
        ran: list[str] = []
        monkeypatch.setattr(nights._Retraining, "run", lambda *_: ran.append("ran"))
        retrain(night, accept_loss=True)
        assert ran == ["ran"]
        [entry] = entries(night)
        assert entry["gone"] == 60
        assert any("accepted" in reason for reason in entry["reasons"])
        config = night.config.model_copy(
            update={"retrain": night.config.retrain.model_copy(update={"max_removed": 1.0})}
        )
        retrain(Loaded(config, night.origins))
        assert ran == ["ran", "ran"]

    def test_accepting_is_no_reason_where_nothing_is_gone(
        self, night: Loaded, capsys: pytest.CaptureFixture[str]
    ) -> None:
        retrain(night, accept_loss=True)
        assert capsys.readouterr().out.startswith("Nothing ")

    def test_a_dry_run_stops_too_and_tells_nobody(
        self, night: Loaded, data: Path, told: list[str]
    ) -> None:
        shutil.rmtree(data / "dog")
        with pytest.raises(DataLost):
            retrain(night, dry_run=True)
        assert told == []
        assert entries(night) == []

    def test_the_first_task_of_a_cluster_stops_too(self, night: Loaded, data: Path) -> None:
        from ml_metadata.proto import metadata_store_pb2

        shutil.rmtree(data / "dog")
        root = str(night.config.workspace)
        with pytest.raises(DataLost):
            observe.decide_in_cluster(night.config, metadata_store_pb2.ConnectionConfig(), root)
        [entry] = entries(night)
        assert entry["exit_code"] == 12


class TestWhateverEndsOneIsTold:
    def test_a_data_folder_that_is_missing(
        self, night: Loaded, data: Path, told: list[str]
    ) -> None:
        data.rename(data.with_name("elsewhere"))
        with pytest.raises(DataError, match=rf"^data\.source = '{data}"):
            retrain(night)
        assert [entry["exit_code"] for entry in entries(night)] == [3]
        assert len(told) == 1
        assert str(data) in told[0]

    def test_a_workspace_that_is_held(self, night: Loaded, told: list[str]) -> None:
        with Workspace(night.config.workspace).lock(), pytest.raises(WorkspaceBusy):
            retrain(night)
        assert [entry["exit_code"] for entry in entries(night)] == [6]
        assert len(told) == 1

    @pytest.mark.parametrize(
        ("error", "code", "result"),
        [
            (RuntimeError("boom"), None, "failed"),
            (KeyboardInterrupt(), None, "interrupted"),
            (OSError(5, "Input/output error"), None, "failed"),
            (MemoryError(), None, "failed"),
        ],
    )
    def test_what_nobody_expects(
        self,
        night: Loaded,
        told: list[str],
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        code: int | None,
        result: str,
    ) -> None:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(nights, "observe", fail)
        with pytest.raises(type(error)):
            retrain(night)
        [entry] = entries(night)
        assert (entry["event"], entry["result"], entry["exit_code"]) == ("stopped", result, code)
        [text] = told
        assert ": failed: " in text

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal(
        self, night: Loaded, told: list[str], monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def slow(*_: object) -> None:
            os.kill(os.getpid(), number)
            time.sleep(60)

        monkeypatch.setattr(nights, "observe", slow)
        before = signal.default_int_handler
        outside = signal.signal(number, before)  # under nohup SIGHUP is ignored, and stays so
        try:
            with pytest.raises(KeyboardInterrupt):
                retrain(night)
            assert signal.getsignal(number) is before
        finally:
            signal.signal(number, outside)
        assert [entry["result"] for entry in entries(night)] == ["interrupted"]
        assert "interrupted" in told[0]

    def test_once_and_not_twice(
        self, night: Loaded, data: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run tells of its end itself."""

        def fail(*_: object) -> None:
            raise DataError("no good")

        picture(data / "cat" / "new.png", (9, 99, 99))
        monkeypatch.setattr(nights, "run_locked", fail)
        with pytest.raises(DataError):
            retrain(night)
        assert len(told) == 1
        assert [entry["event"] for entry in entries(night)] == ["decision", "started", "ended"]
        assert journal.unfinished(entries(night))

    def test_a_configuration_that_cannot_be_read(self, told: list[str], tmp_path: Path) -> None:
        """Nor is there a journal then, as it is not known where; that is told too."""
        bad = tmp_path / "bad.toml"
        bad.write_text("[train\n")
        done = process("retrain", "--config", bad, "--log-format", "json")
        assert done.returncode == 2
        assert len(told) == 1
        assert str(bad) in told[0]
        note, error = map(json.loads, done.stdout.splitlines())
        assert (note["event"], error["exit_code"]) == ("note", 2)
        assert "--workspace" in note["text"]

    @pytest.mark.parametrize(
        ("arguments", "content"),
        [
            pytest.param(["--workspace", "{workspace}"], "[train\n", id="no TOML"),
            pytest.param([], "workspace = 'work'\n[train]\nepochs = 'x'\n", id="a value"),
            pytest.param(["--set", "epochs"], "workspace = 'work'\n", id="an option"),
            pytest.param(["--recipe", "nix"], "workspace = 'work'\n", id="a recipe"),
            pytest.param(
                ["--set", "workspace={workspace}", "--set", "no.such=1"],
                "workspace = 3\nname = 4\nnotify.on = 5\n",
                id="several",
            ),
        ],
    )
    def test_settings_that_do_not_load_are_in_the_journal(
        self, told: list[str], tmp_path: Path, arguments: list[str], content: str
    ) -> None:
        file, workspace = tmp_path / "settings.toml", tmp_path / "work"
        file.write_text(content)
        given = [part.format(workspace=workspace) for part in arguments]
        refused = perennial("retrain", "--config", file, *given)
        assert refused.exit_code == 2
        assert str(workspace) in refused.stdout
        assert not workspace.exists()
        workspace.mkdir()
        again = perennial("retrain", "--config", file, *given)
        assert again.exit_code == 2
        assert "journal" not in again.stdout
        [entry] = journal.read(str(workspace / journal.FILE))
        assert (entry["event"], entry["result"], entry["exit_code"]) == ("stopped", "failed", 2)
        assert entry["detail"] in again.stderr
        assert len(told) == 2
        assert entry["detail"] in told[1]
        assert perennial("retrain", "--dry-run", "--config", file, *given).exit_code == 2
        assert len(told) == 2

    def test_the_webhook_is_the_one_that_the_settings_name(
        self, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OTHER_HOOK", os.environ["PERENNIAL_WEBHOOK"])
        monkeypatch.delenv("PERENNIAL_WEBHOOK")
        file = tmp_path / "settings.toml"
        file.write_text("name = 'birds'\nnotify.webhook_env = 'OTHER_HOOK'\nepochs = 1\n")
        assert perennial("retrain", "--config", file).exit_code == 2
        [text] = told
        assert text.startswith("perennial: birds: failed: ")
        file.write_text("notify.webhook_env = 'OTHER_HOOK'\nnotify.on = []\nepochs = 1\n")
        assert perennial("retrain", "--config", file).exit_code == 2
        assert len(told) == 1


def test_too_few_eval_images_to_tell_anything_stop_a_run(data: Path) -> None:
    from components.errors import DataLossError
    from components.image_example_gen.accounting import Accounting
    from pipeline.errors import data_error

    def check(counts: dict[str, int], fewest: int) -> None:
        Accounting(["cat", "dog"], {"train": {"cat": 9}, "eval": counts}).check_eval(fewest, "x")

    fewest = load(None, {"data.source": str(data)}).config.data.options.min_eval
    assert fewest == 5
    check({"cat": 5, "dog": 5}, fewest)
    check({"cat": 0, "dog": 1}, 0)
    for counts in ({"cat": 2, "dog": 1}, {"cat": 400, "dog": 4}, {}):
        with pytest.raises(DataLossError, match=r"data.min_eval = 5") as caught:
            check(counts, fewest)
        assert data_error(caught.value).exit_code == 12


def test_a_journal_with_what_stopped_has_no_unfinished_run() -> None:
    stopped = {"event": "stopped", "result": "failed"}
    assert journal.unfinished([{"event": "ended", "result": "blessed"}, stopped]) is None
    started = {"event": "started", "run": "1"}
    assert journal.unfinished([started, stopped]) is started
