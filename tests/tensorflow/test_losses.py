"""Data that is gone stops a retraining, and whatever ends one is told."""

from __future__ import annotations

import dataclasses
import datetime
import http.server
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.image_example_gen.options import Options
from components.lineage import History, Lineage, TrainedModel
from components.reuse import INPUTS_FILE
from pipeline.config import Loaded, load
from pipeline.errors import EXIT_CODES, DataError, DataLost, WorkspaceBusy
from pipeline.retraining import inventory, journal, losses, observe
from pipeline.retraining import retrain as nights
from pipeline.retraining.inventory import Entry, Inventory
from pipeline.retraining.losses import Losses
from pipeline.workspace import Workspace
from tests.kit.cli import perennial, process

NOW = datetime.datetime(2026, 5, 1, 3, tzinfo=datetime.UTC)


def images(label: str, count: int, span: int = 0, first: int = 0) -> dict[str, Entry]:
    return {
        f"{span}/{label}/{n}.png": Entry(f"{label}{n}", label, span)
        for n in range(first, first + count)
    }


BEFORE = {**images("cat", 60), **images("dog", 60)}


class TestWhatIsGone:
    @pytest.mark.parametrize(
        ("now", "expected", "stops"),
        [
            pytest.param(BEFORE, Losses(0, 120), False, id="nothing"),
            pytest.param(
                {**images("cat", 5), **images("dog", 5)},
                Losses(110, 120, ("cat", "dog")),
                True,
                id="a half-mounted disk",
            ),
            pytest.param({}, Losses(120, 120, ("cat", "dog")), True, id="an empty disk"),
            pytest.param(images("cat", 60), Losses(60, 120, ("dog",)), True, id="a class"),
            pytest.param(
                {**images("cat", 60), **images("dog", 2)},
                Losses(58, 120, ("dog",)),
                True,
                id="all but a rest of a class",
            ),
            pytest.param(
                {**images("cat", 54), **images("dog", 54)}, Losses(12, 120), False, id="a tenth"
            ),
            pytest.param(
                {**images("cat", 54), **images("dog", 53)},
                Losses(13, 120),
                True,
                id="more than a tenth",
            ),
            pytest.param(
                {name.replace("0/", "1/"): entry for name, entry in BEFORE.items()},
                Losses(0, 120),
                False,
                id="moved",
            ),
            pytest.param(
                {
                    **images("cat", 60),
                    **{f"0/hound/{n}.png": Entry(f"dog{n}", "hound", 0) for n in range(60)},
                },
                Losses(0, 120, (), ("dog",)),
                False,
                id="a renamed class",
            ),
            pytest.param(
                {
                    name: entry._replace(sha256=f"{entry.sha256} anew")
                    for name, entry in BEFORE.items()
                },
                Losses(0, 120),
                False,
                id="changed",
            ),
            pytest.param(
                {
                    **images("cat", 60),
                    **{n: e._replace(sha256="") for n, e in images("dog", 60).items()},
                },
                Losses(60, 120, ("dog",)),
                True,
                id="files that cannot be read",
            ),
            pytest.param(
                {
                    **images("cat", 60),
                    **{n: e._replace(sha256=losses._EMPTY) for n, e in images("dog", 60).items()},
                },
                Losses(60, 120, ("dog",)),
                True,
                id="empty files",
            ),
            pytest.param(
                {**images("cat", 60), **images("owl", 500), **images("dog", 1)},
                Losses(59, 120, ("dog",)),
                True,
                id="however much is new",
            ),
        ],
    )
    def test_is_told_by_content(self, now: Inventory, expected: Losses, stops: bool) -> None:
        found = losses.find(BEFORE, now, [0], Options())
        assert found == expected
        assert found.exceed(0.1) is stops
        assert not found.exceed(1.0)

    @pytest.mark.parametrize(
        ("labels", "relabelled", "confused"),
        [
            pytest.param({"cat": "dog", "dog": "cat"}, 120, ("cat", "dog"), id="swapped"),
            pytest.param({"dog": "hound"}, 0, (), id="renamed"),
            pytest.param({"dog": "cat"}, 0, (), id="merged"),
            pytest.param({"dog0": "cat", "dog1": "cat"}, 2, (), id="corrected"),
            pytest.param({"dog0": "puppy", "dog1": "puppy"}, 0, (), id="divided"),
            pytest.param({f"dog{n}": "cat" for n in range(13)}, 13, (), id="more than a tenth"),
            pytest.param({f"dog{n}": "cat" for n in range(30)}, 30, ("dog",), id="half of one"),
        ],
    )
    def test_labels_that_were_confused(
        self, labels: dict[str, str], relabelled: int, confused: tuple[str, ...]
    ) -> None:
        def label(entry: Entry) -> str:
            return labels.get(entry.sha256, labels.get(entry.label, entry.label))

        now = {name: entry._replace(label=label(entry)) for name, entry in BEFORE.items()}
        found = losses.find(BEFORE, now, [0], Options())
        assert (found.relabelled, found.confused) == (relabelled, confused)
        assert found.contradict(0.1) is (relabelled > 12)
        assert not found.contradict(1.0)
        # By a later span, as feedback gives them, the same.
        later = {f"1/{name}": entry._replace(span=1) for name, entry in now.items()}
        assert losses.find(BEFORE, {**BEFORE, **later}, [0, 1], Options()).relabelled == relabelled

    def test_a_small_class_is_confused_by_five_images(self) -> None:
        before = {**images("cat", 1000), **images("owl", 9), **images("kite", 4)}
        now = {
            name: entry._replace(label="cat") if entry.sha256 in moved else entry
            for moved in [{*(f"owl{n}" for n in range(5)), *(f"kite{n}" for n in range(3))}]
            for name, entry in before.items()
        }
        found = losses.find(before, now, [0], Options())
        assert (found.relabelled, found.confused) == (8, ("owl",))
        assert found.contradict(0.1)

    def test_copies_and_what_was_quarantined_do_not_count(self) -> None:
        copies = {f"copy {name}": entry for name, entry in BEFORE.items()}
        junk = {f"junk{n}": Entry(f"junk{n}", "cat", 0, is_used=False) for n in range(500)}
        found = losses.find({**BEFORE, **copies, **junk}, BEFORE, [0], Options())
        assert found == Losses(0, 120)

    def test_a_small_vanished_class_stops_where_the_share_does_not(self) -> None:
        before = {**images("cat", 1000), **images("owl", 3)}
        found = losses.find(before, images("cat", 1000), [0], Options())
        assert found == Losses(3, 1003, ("owl",))
        assert found.exceed(0.1)
        assert str(found) == (
            "3 of 1,003 images of the last training are missing, and with them the class 'owl'"
        )


class TestSpans:
    BEFORE = {
        name: entry
        for span in (1, 2, 3)
        for name, entry in images("cat", 9, span, 10 * span).items()
    }

    def of(self, *spans: int) -> Inventory:
        return {name: entry for name, entry in self.BEFORE.items() if entry.span in spans}

    @pytest.mark.parametrize(
        ("there", "options", "lost"),
        [
            pytest.param((2, 3, 4), Options(spans=3), 0, id="a rolling window"),
            pytest.param((2, 3), Options(spans=3), 9, id="a span that is gone from the window"),
            pytest.param((1, 3, 4), Options(spans=3), 9, id="one from its middle"),
            pytest.param((2, 3), Options(spans=10_000, held_out="all"), 9, id="of all spans one"),
            pytest.param((4,), Options(spans=1, held_out="all"), 27, id="held out, and gone"),
            pytest.param((2, 3), Options(first_span=2), 0, id="from a span on"),
            pytest.param((1,), Options(last_span=2), 9, id="up to a span"),
        ],
    )
    def test_a_window_leaves_spans_behind(
        self, there: tuple[int, ...], options: Options, lost: int
    ) -> None:
        now = {**self.of(*there), **images("cat", 9, 4, 40)}
        assert losses.find(self.BEFORE, now, there, options).images == lost


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
        assert "110 of 120 images of the last training are missing" in str(caught.value)
        assert "retrain.max_removed = 0.1" in str(caught.value)
        [text] = told
        assert text.startswith("perennial: perennial: failed: ")
        assert str(caught.value) in text
        [entry] = entries(night)
        assert (entry["event"], entry["result"], entry["exit_code"]) == ("stopped", "failed", 12)
        assert entry["detail"] == str(caught.value)
        assert "Retraining" not in capsys.readouterr().out

    def test_names_a_class_that_vanished(self, night: Loaded, data: Path) -> None:
        shutil.rmtree(data / "dog")
        with pytest.raises(DataLost, match="with them the class 'dog'"):
            retrain(night)

    def test_stops_where_two_classes_were_swapped(
        self, night: Loaded, data: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Against these labels the baseline would be no good, and its successor blessed."""
        (data / "cat").rename(data / "any")
        (data / "dog").rename(data / "cat")
        (data / "any").rename(data / "dog")
        with pytest.raises(DataLost, match="most of the classes 'cat', 'dog'") as caught:
            retrain(night)
        assert "retrain.max_relabelled = 0.1" in str(caught.value)
        assert len(told) == 1
        ran: list[str] = []
        monkeypatch.setattr(nights._Night, "run", lambda *_: ran.append("ran"))
        retrain(night, accept_loss=True)
        assert ran == ["ran"]
        stopped, decided = entries(night)
        assert stopped["exit_code"] == 12
        assert (decided["gone"], decided["relabelled"]) == (0, 120)

    def test_stops_where_it_is_not_known_what_was_trained_on(
        self, night: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "examples" / INPUTS_FILE).unlink()
        with pytest.raises(DataLost, match="losses cannot be ruled out"):
            retrain(night)
        ran: list[str] = []
        monkeypatch.setattr(nights._Night, "run", lambda *_: ran.append("ran"))
        retrain(night, accept_loss=True)
        assert ran == ["ran"]
        assert "no model has been judged yet" not in entries(night)[1]["reasons"]

    def test_goes_on_where_the_loss_is_accepted(
        self, night: Loaded, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.rmtree(data / "dog")
        ran: list[str] = []
        monkeypatch.setattr(nights._Night, "run", lambda *_: ran.append("ran"))
        retrain(night, accept_loss=True)
        assert ran == ["ran"]
        [entry] = entries(night)
        assert entry["gone"] == 60
        assert any("which is accepted" in reason for reason in entry["reasons"])
        config = night.config.model_copy(
            update={"retrain": night.config.retrain.model_copy(update={"max_removed": 1.0})}
        )
        retrain(Loaded(config, night.origins))
        assert ran == ["ran", "ran"]

    def test_accepting_is_no_reason_where_nothing_is_gone(
        self, night: Loaded, capsys: pytest.CaptureFixture[str]
    ) -> None:
        retrain(night, accept_loss=True)
        assert capsys.readouterr().out.startswith("Nothing to do: ")

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
        with pytest.raises(DataError, match="there is no such file or folder"):
            retrain(night)
        assert [entry["exit_code"] for entry in entries(night)] == [3]
        assert len(told) == 1
        assert "there is no such file or folder" in told[0]

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
        before = signal.getsignal(number)

        def slow(*_: object) -> None:
            os.kill(os.getpid(), number)
            time.sleep(60)

        monkeypatch.setattr(nights, "observe", slow)
        with pytest.raises(KeyboardInterrupt):
            retrain(night)
        assert [entry["result"] for entry in entries(night)] == ["interrupted"]
        assert "interrupted" in told[0]
        assert signal.getsignal(number) is before

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
        assert f"there is no workspace {workspace} yet" in refused.stdout
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


def test_losses_are_json() -> None:
    assert json.loads(json.dumps(Losses(1, 2, ("cat",)).as_json()))["vanished"] == ["cat"]
    assert dataclasses.asdict(Losses())["images"] == 0
