"""What becomes of the registry when processes are killed, disks fail and files are damaged."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import records, servable, storage
from components.errors import DamagedFileError
from components.image_evaluator import figures
from components.image_example_gen.accounting import FILE_NAME, read_accounting
from components.image_example_validator.findings import FINDINGS_FILE, read_findings
from components.model_registry import CANARY, STABLE, Registry, Serving, configuration, versions
from components.model_server import launch
from pipeline.errors import ConfigError
from pipeline.report.facts import RECORD, State
from pipeline.report.write import _csv
from pipeline.retraining import inventory, journal, notify
from pipeline.run import new_run_id
from pipeline.settings.retraining import NotifyConfig
from pipeline.workspace import Workspace
from tests import REPO
from tests.kit import report as report_kit
from tests.kit.cli import perennial, process

_ACCOUNTING: dict[str, object] = {
    "classes": ["cat"],
    "splits": {"train": {"cat": 1}},
    "inputs": 1,
    "duplicates": 0,
    "quarantined": {},
    "ignored": {},
    "normalized": {},
    "spans": [],
}
_FIELDS = [*_ACCOUNTING, "more"]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def target(tmp_path: Path) -> Registry:
    """Three versions of which the first is stable."""
    base = tmp_path / "w" / "serving" / "m"
    target = Registry(str(base), str(base.parent / "models.config"), "m")
    for number in (1, 2, 3):
        model = tmp_path / f"model-{number}"
        (model / "variables").mkdir(parents=True)
        (model / "saved_model.pb").write_bytes(bytes([number]) * 10)
        target.push(model, {}, 10)
    target.promote(1, STABLE)
    return target


class TestCutOff:
    """A change whose process was killed; that of a real server is in the points above."""

    @pytest.fixture
    def cut_off(self, target: Registry) -> Registry:
        """Killed between the two steps of a promotion with a server."""
        before = storage.read_text(target.config)
        target.promote(2, CANARY)
        between = storage.read_text(target.config) or ""
        entry: dict[str, Any] = {
            "action": "promote 3 to canary",
            "who": "a@b",
            "at": "2026-01-01T00:00:00+00:00",
        }
        entry |= {"to": {"labels": {}, "loaded": []}}
        change = configuration.Change(
            entry=entry,
            before=before,
            steps=[between, "other"],
            followed=True,
            until="2026-01-01T00:00:00+00:00",
        )
        Path(configuration.change_location(target.config)).write_text(change.model_dump_json())
        return target

    @pytest.mark.parametrize("command", [("models",), ("rollback",), ("promote", "2")])
    def test_is_undone_by_the_next_command_which_tells(
        self, cut_off: Registry, command: tuple[str, ...]
    ) -> None:
        workspace = Path(cut_off.config).parent.parent
        more = ("--to", "canary") if command[0] == "promote" else ()
        result = process(*command, *more, "--workspace", workspace)
        assert "promote 3 to canary, by a@b" in result.stderr
        assert "was cut off, and is undone" in result.stderr
        expected = {STABLE: 1, CANARY: 2} if more else {STABLE: 1}
        assert cut_off.serving() == Serving.of(expected)
        assert not Path(configuration.change_location(cut_off.config)).exists()

    def test_is_undone_by_a_push(self, cut_off: Registry, tmp_path: Path) -> None:
        model = tmp_path / "model-1"
        assert cut_off.push(model, {}, 1) == 4
        assert cut_off.serving() == Serving.of({STABLE: 1})
        assert versions.find(str(cut_off.base)) == [1, 4]

    def test_stays_while_somebody_is_at_work(self, cut_off: Registry) -> None:
        with storage.locked(Path(cut_off.config).parent):
            cut_off.recover()
            assert Path(configuration.change_location(cut_off.config)).exists()
        cut_off.recover()
        assert not Path(configuration.change_location(cut_off.config)).exists()

    def test_stays_as_somebody_else_has_made_it_since(self, cut_off: Registry) -> None:
        Path(cut_off.config).write_text("")
        cut_off.recover()
        assert Path(cut_off.config).read_text() == ""
        assert not Path(configuration.change_location(cut_off.config)).exists()

    @pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[]", b'{"entry": 1}'])
    def test_what_nobody_can_read_is_removed(self, target: Registry, content: bytes) -> None:
        Path(configuration.change_location(target.config)).write_bytes(content)
        assert target.promote(2, CANARY) == Serving.of({STABLE: 1, CANARY: 2})
        assert not Path(configuration.change_location(target.config)).exists()


class TestEdited:
    @pytest.mark.parametrize("number", [99, -3])
    def test_a_label_of_no_version_is_refused_and_can_be_put_right(
        self, target: Registry, number: int
    ) -> None:
        config = Path(target.config)
        config.write_text(config.read_text().replace("value: 1", f"value: {number}"))
        for change in (
            lambda: target.promote(2, CANARY),
            lambda: target.rollback(),
        ):
            with pytest.raises(ConfigError, match=rf"'stable' names version {number} .*1, 2, 3"):
                change()
        assert target.promote(2, STABLE) == Serving.of({STABLE: 2})

    def test_another_folder_is_refused_by_all_that_change_or_serve(
        self, target: Registry, tmp_path: Path
    ) -> None:
        moved = tmp_path / "moved"
        (tmp_path / "w").rename(moved)
        for command in (
            ["promote", "2", "--to", "canary"],
            ["rollback"],
            ["serve", "--dev-server"],
        ):
            result = perennial(*command, "--workspace", moved)
            assert result.exit_code == 2
            assert "was the folder moved or copied" in result.stderr

    def test_where_a_canary_has_to_go_first_that_is_the_advice(self, target: Registry) -> None:
        target.promote(2, CANARY)
        with pytest.raises(ConfigError, match="withdraw version 2 first"):
            target.promote(3, CANARY)


class TestReading:
    @given(st.lists(st.binary(max_size=40) | ANY_JSON.map(lambda v: json.dumps(v).encode())))
    def test_any_bytes_are_read_as_entries_and_lines_that_are_none(
        self, lines: list[bytes]
    ) -> None:
        text = b"\n".join([*lines, b""]).decode("utf-8", "replace")
        found = records.parse(text.split("\n"), "x", journal._check)
        assert all(isinstance(entry["event"], str) for entry in found.entries)
        for kind in ("started", "ended"):
            assert all("run" in entry for entry in found.entries if entry["event"] == kind)

    def test_a_torn_line_is_named_and_swallows_nothing(self, target: Registry) -> None:
        log = Path(target.config).with_name(configuration.AUDIT_FILE)
        with log.open("a") as file:
            file.write('{"at": "2026')
        target.promote(2, CANARY)
        found = records.read(str(log))
        assert [entry["result"] for entry in found.entries] == ["started", "done"] * 2
        assert len(found.damaged) == 1
        assert f"{log}, line 3" in found.damaged[0]

    @given(st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
    def test_a_damaged_file_is_one_line(self, content: bytes) -> None:
        files = {
            servable.CLASSES_FILE: servable.read_classes,
            servable.INPUT_FILE: servable.read_image_size,
        }
        for name, read in files.items():
            with mock.patch.object(storage, "read_bytes", return_value=content):
                failed = _failure_of(functools.partial(read, "x"))
            assert failed == "" or failed.startswith(f"x/{name} is damaged: ")
            assert "\n" not in failed

    @given(content=st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode()))
    def test_so_are_figures_verdicts_accountings_findings_and_inventories(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes
    ) -> None:
        folder = tmp_path_factory.getbasetemp() / "damaged"
        folder.mkdir(exist_ok=True)
        readers: dict[str, Callable[[], object]] = {
            figures.FIGURES: lambda: figures.read_figures(str(folder)),
            figures.VERDICT: lambda: figures.read_verdict(str(folder)),
            figures.PREDICTIONS: lambda: figures.read_predictions(str(folder)),
            FILE_NAME: lambda: read_accounting(str(folder)),
            FINDINGS_FILE: lambda: read_findings(str(folder)),
            "inputs.jsonl": lambda: inventory.read_inputs(str(folder / "inputs.jsonl")),
        }
        for name, read in readers.items():
            (folder / name).write_bytes(content)
            failed = _failure_of(read)
            assert failed == "" or str(folder / name) in failed

    @given(key=st.sampled_from(_FIELDS), value=ANY_JSON)
    def test_an_accounting_with_anything_in_a_field_is_read_or_named(
        self, tmp_path_factory: pytest.TempPathFactory, key: str, value: object
    ) -> None:
        folder = tmp_path_factory.getbasetemp() / "accounting"
        folder.mkdir(exist_ok=True)
        (folder / FILE_NAME).write_text(json.dumps({**_ACCOUNTING, key: value}))
        failed = _failure_of(lambda: read_accounting(str(folder)))
        assert failed == "" or str(folder / FILE_NAME) in failed

    @given(
        st.lists(st.dictionaries(st.sampled_from(["split", "check", "subject", "level"]), ANY_JSON))
    )
    def test_findings_with_anything_in_a_field_are_read_or_named(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
    ) -> None:
        folder = tmp_path_factory.getbasetemp() / "findings"
        folder.mkdir(exist_ok=True)
        (folder / FINDINGS_FILE).write_text(json.dumps(rows))
        failed = _failure_of(lambda: read_findings(str(folder)))
        assert failed == "" or str(folder / FINDINGS_FILE) in failed

    @given(
        st.binary(max_size=80)
        | st.lists(
            st.sampled_from(
                [
                    b"model_config_list {",
                    b"config {",
                    b"}",
                    b'name: "m"',
                    b'base_path: "/x"',
                    b"model_version_policy { specific { versions: 3 } }",
                    b"model_version_policy { specific { versions: -1 versions: 99999999999 } }",
                    b'version_labels { key: "stable" value: 1 }',
                    b'version_labels { key: "" value: -9223372036854775808 }',
                    b"logging_config { }",
                    b"# a remark\n",
                ]
            ),
            max_size=12,
        ).map(b" ".join)
    )
    def test_any_configuration_is_read_or_named_by_all_that_read_it(
        self, tmp_path_factory: pytest.TempPathFactory, content: bytes
    ) -> None:
        folder = tmp_path_factory.getbasetemp() / "configured"
        base = folder / "m"
        if not base.exists():
            model = folder / "model"
            model.mkdir(parents=True)
            (model / versions.SERVABLE).write_bytes(b"x")
            Registry(str(base)).push(model, {}, 10)
        registry = Registry(str(base))
        config = Path(registry.config)
        config.write_bytes(content)
        Path(configuration.change_location(registry.config)).write_bytes(content)
        for read in (
            registry.recover,
            registry.serving,
            registry.pinned,
            registry.versions,
            registry.check_folder,
            registry.rollback,
            lambda: registry.promote(1, CANARY),
            lambda: registry.push(folder / "model", {}, 10),
            lambda: Registry.of_config(registry.config, None, None),
            lambda: launch.Source.of_config(config),
        ):
            try:
                read()
            except ConfigError as error:
                assert "\n" not in str(error)  # noqa: PT017 - any of them may fail
        # Where nobody can read the configuration, the change waits for one that can be read.
        config.unlink()
        registry.recover()
        assert not Path(configuration.change_location(registry.config)).exists()

    @given(key=st.sampled_from([*report_kit.run(State.PUSHED).model_dump()]), value=ANY_JSON)
    def test_a_record_of_a_run_with_anything_in_it_is_listed_or_left_out(
        self, tmp_path_factory: pytest.TempPathFactory, key: str, value: object
    ) -> None:
        workspace = Workspace(tmp_path_factory.getbasetemp() / "records")
        folder = workspace.run_dir("20260101-000000-0000")
        folder.mkdir(parents=True, exist_ok=True)
        record = report_kit.run(State.PUSHED).model_dump(mode="json") | {key: value}
        (folder / RECORD).write_text(json.dumps(record))
        assert perennial("runs", "--workspace", workspace.root).exit_code == 0

    def test_a_damaged_audit_log_costs_no_report(self, target: Registry) -> None:
        from pipeline.report import history

        log = Path(target.config).with_name(configuration.AUDIT_FILE)
        log.write_bytes(b'{}\n\xff\n[]\n{"at": 3}\n' + log.read_bytes())
        found = history.promotions(Workspace(Path(target.config).parent.parent))
        assert [each.result for each in found] == ["done", "started"]


class TestAround:
    def test_newest_is_last_made_though_the_clock_was_set_back(self, tmp_path: Path) -> None:
        workspace = Workspace(tmp_path)
        workspace.run_dir("20990101-000000-ffff").mkdir(parents=True)
        made = [new_run_id(workspace)]
        workspace.run_dir(made[0]).mkdir()
        made.append(new_run_id(workspace))
        assert ["20990101-000000-ffff", *made] == sorted(["20990101-000000-ffff", *made])

    def test_texts_in_tables_are_no_formulas(self) -> None:
        text = _csv([{"=name": each, "n": -1.5} for each in ("=1+1", "+1", "-1", "@x", "cat")])
        assert text.splitlines() == [
            "'=name,n",
            "'=1+1,-1.5",
            "'+1,-1.5",
            "'-1,-1.5",
            "'@x,-1.5",
            "cat,-1.5",
        ]

    def test_a_webhook_that_drips_keeps_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(notify, "TIMEOUT_S", 0.3)
        monkeypatch.setattr(notify, "_post", lambda *_: time.sleep(30))
        monkeypatch.setenv(NotifyConfig().webhook_env, "http://localhost:1/")
        told = notify.send(NotifyConfig(), "failed", "m", "x")
        assert told is not None
        assert "not answered" in told

    def test_markup_calls_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[bytes] = []
        monkeypatch.setattr(notify, "_post", lambda _, body: sent.append(body))
        monkeypatch.setenv(NotifyConfig().webhook_env, "http://localhost:1/")
        assert notify.send(NotifyConfig(), "failed", "m", "class <!channel> & co") is None
        assert json.loads(sent[0])["text"].endswith("class &lt;!channel&gt; &amp; co")

    def test_a_port_in_use_is_told_before_anything_is_served(self, target: Registry) -> None:
        workspace = Path(target.config).parent.parent
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            result = perennial("serve", "--dev-server", "--port", port, "--workspace", workspace)
        assert result.exit_code == 2
        assert f"port {port} is in use" in result.stderr
        assert result.stdout == ""

    def test_a_wrong_public_key_serves_nothing_and_fails(self, target: Registry) -> None:
        workspace = Path(target.config).parent.parent
        wrong = workspace / "wrong.pem"
        wrong.write_text("no key")
        result = perennial("serve", "--dev-server", "--public-key", wrong, "--workspace", workspace)
        assert result.exit_code == 2
        assert "wrong.pem is not an elliptic public key" in result.stderr

    def test_a_server_ends_with_its_parent(self, tmp_path: Path) -> None:
        script = (
            "import os, sys; from pathlib import Path\n"
            "from components.model_server.launch import *\n"
            f"source = Source.of_model(Path({str(tmp_path)!r}), 'm')\n"
            "server = ServerProcess(own_backend(), source)\n"
            "server.__enter__(); print(server.pid, flush=True); os.kill(os.getpid(), 9)"
        )
        done = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True)
        assert done.returncode == -signal.SIGKILL
        pid = int(done.stdout)
        for _ in range(600):
            if not _is_alive(pid):
                return
            time.sleep(0.1)
        pytest.fail("it lives on")

    def test_a_version_that_cannot_be_renamed_is_removed_all_the_same(
        self, target: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        real = Path.rename

        def rename(self: Path, to: Path) -> Path:
            if ".removed-" in str(to):
                raise OSError(18, os.strerror(18), str(self))  # EXDEV, as of an overlay
            return real(self, to)

        monkeypatch.setattr(Path, "rename", rename)
        model = tmp_path / "model-1"
        assert target.push(model, {}, 1) == 4
        assert versions.find(str(target.base)) == [1, 4]

    def test_a_version_that_cannot_be_removed_fails_no_push(
        self, target: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def refuse(_: Path) -> None:
            raise OSError(5, os.strerror(5))

        monkeypatch.setattr(versions, "remove_folder", refuse)
        model = tmp_path / "model-1"
        assert target.push(model, {}, 1) == 4
        assert versions.find(str(target.base)) == [1, 2, 3, 4]


def _failure_of(read: Callable[[], object]) -> str:
    """Return the line of a damaged file, "" for one that is none; let other errors through."""
    try:
        read()
    except DamagedFileError as error:
        return str(error)
    return ""


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
