"""The history of runs: its page, its files and its commands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from pipeline.errors import ConfigError
from pipeline.report import history, page, write
from pipeline.report.facts import Run, Setting, State
from pipeline.report.text import differences
from pipeline.workspace import Workspace
from tests.kit import report as report_kit
from tests.kit.cli import perennial
from tests.kit.elements import Elements
from tests.kit.report import EVIL, NAMES


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Four runs: pushed, rejected, pushed and failed, in this order; the first has a report."""
    place = Workspace(tmp_path / "work")
    states = (State.PUSHED, State.REJECTED, State.PUSHED, State.FAILED)
    for number, state in enumerate(states, 1):
        accuracy = None if state is State.FAILED else 0.8 + number / 100
        _record(place, state, number, accuracy)
    first = report_kit.facts().model_copy(update={"run": report_kit.run()})
    folder = place.run_dir(first.run.run_id)
    write.write_file(folder / history.FACTS, first.model_dump_json())
    write.write_file(folder / write.PAGE, page.render(first, []))
    return place


def _record(place: Workspace, state: State, number: int, accuracy: float | None = None) -> str:
    run = report_kit.run(state, number, accuracy)
    write.write_file(place.run_dir(run.run_id) / "run.json", run.model_dump_json())
    return run.run_id


class TestHistory:
    def test_runs_are_found_by_parts_of_their_ids(self, workspace: Workspace) -> None:
        found = {
            name: history.find(workspace, name).run_id[6:8]
            for name in ("latest", "20261102-041040-c102", "20261101", "c103")
        }
        assert list(found.values()) == ["04", "02", "01", "03"]

    @pytest.mark.parametrize("name", ["202611", "nonsense", "c1"])
    def test_a_name_of_none_or_several_is_refused(self, workspace: Workspace, name: str) -> None:
        with pytest.raises(
            ConfigError, match=rf"^{name} .*{workspace.root}; .*\b4, .*`perennial runs`"
        ):
            history.find(workspace, name)

    def test_a_killed_run_was_cut_off_and_a_living_one_runs(self, workspace: Workspace) -> None:
        killed = _record(workspace, State.RUNNING, 5)
        assert history.find(workspace, killed).state is State.CUT_OFF
        with Workspace(workspace.root).lock():
            assert history.find(workspace, killed).state is State.RUNNING
            _record(workspace, State.RUNNING, 6)
            assert history.find(workspace, killed).state is State.CUT_OFF

    def test_a_record_that_cannot_be_read_hides_no_other(self, workspace: Workspace) -> None:
        folder = workspace.runs / "20261120-000000-beef"
        folder.mkdir()
        (folder / "run.json").write_text("{")
        assert len(history.rows(workspace)) == 4

    def test_the_index_has_every_run_and_promotion(self, workspace: Workspace) -> None:
        report_kit.write_promotions(workspace)
        text = write.write_index(workspace).read_text()
        for number in range(1, 5):
            assert f"202611{number:02}-041040" in text
        linked = [attrs["href"] for tag, attrs in Elements(text).found if tag == "a"]
        assert [link for link in linked if link and link.endswith("report.html")] == [
            "20261101-041040-c101/report.html"
        ]
        assert "stable v1, canary v3" in text
        assert "&lt;i&gt;done" in text
        svg = (workspace.runs / "history.svg").read_text()
        assert svg.count(">v1<") == 1
        assert "stable v1, canary v3" in svg
        rows = json.loads((workspace.runs / "runs.json").read_text())
        assert [row["accuracy"] for row in rows] == [None, *map(pytest.approx, (0.83, 0.82, 0.81))]

    def test_the_index_names_the_command_that_withdraws_a_canary(
        self, workspace: Workspace
    ) -> None:
        report_kit.write_promotions(workspace)
        assert "perennial rollback" not in write.write_index(workspace).read_text()
        log = workspace.root / "serving" / "models.audit.jsonl"
        done = {**json.loads(log.read_text()), "result": "done"}
        log.write_text(json.dumps(done) + "\n")
        text = write.write_index(workspace).read_text()
        assert f"perennial rollback --workspace {workspace.root}" in text
        with log.open("a") as file:
            file.write(json.dumps({**done, "to": {"labels": {"stable": 3}}}) + "\n")
        assert "perennial rollback" not in write.write_index(workspace).read_text()

    def test_the_record_of_an_ended_run_is_read_for_one_table_only(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed = _record(workspace, State.RUNNING, 5)
        before = history.rows(workspace)
        write.write_index(workspace)
        read = history._read
        names = []

        def counted(place: Workspace, run_id: str, newest: str) -> Run | None:
            names.append(run_id)
            return read(place, run_id, newest)

        monkeypatch.setattr(history, "_read", counted)
        assert history.rows(workspace) == before
        assert names == [killed]

    @pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"run": "a"}]', "[[]]", '"text"'])
    def test_a_damaged_table_is_made_anew(self, workspace: Workspace, content: str) -> None:
        before = history.rows(workspace)
        (workspace.runs / history.TABLE).write_text(content)
        assert history.rows(workspace) == before

    def test_a_row_of_a_run_that_was_removed_is_gone(self, workspace: Workspace) -> None:
        write.write_index(workspace)
        (first, *_, last) = history.rows(workspace)
        shutil.rmtree(workspace.run_dir(last["run"]))
        assert history.rows(workspace)[0] == first
        assert last["run"] not in {row["run"] for row in history.rows(workspace)}

    def test_the_index_shows_the_newest_runs_and_its_tables_all(
        self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(write, "INDEXED", 2)
        text = write.write_index(workspace).read_text()
        shown = [number for number in range(1, 5) if f"202611{number:02}-041040" in text]
        assert shown == [3, 4]
        assert re.search(r"\b2 runs", text)
        assert re.search(r"\b4 runs ", text)
        assert len(json.loads((workspace.runs / history.TABLE).read_text())) == 4

    def test_an_empty_workspace_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=f"^{tmp_path} .*--workspace"):
            history.find(Workspace(tmp_path), "latest")
        listed = perennial("runs", "--workspace", tmp_path)
        assert re.fullmatch(f"{tmp_path} .*--workspace\n", listed.output)
        assert perennial("runs", "--workspace", tmp_path, "--json").output == ""


def invoke(workspace: Workspace, *arguments: str) -> Result:
    return perennial(*arguments, "--workspace", workspace.root)


def json_lines(result: Result) -> Iterator[Any]:
    assert result.exit_code == 0, result.output
    return map(json.loads, result.output.splitlines())


class TestCommands:
    def test_runs(self, workspace: Workspace) -> None:
        rows = list(json_lines(invoke(workspace, "runs", "--json")))
        assert [row["state"] for row in rows] == ["failed", "pushed", "rejected", "pushed"]
        lines = invoke(workspace, "runs").output.strip().splitlines()
        assert lines[0].split() == [
            "run",
            "state",
            "accuracy",
            "baseline",
            "recipe",
            "data",
            "time",
        ]
        assert "pushed v3" in lines[2]
        assert "83.00%" in lines[2]
        assert all(line == line.rstrip() for line in lines)

    def test_show_tells_what_the_page_tells(self, workspace: Workspace) -> None:
        output = invoke(workspace, "show", "c101").output
        assert re.match(r"20261101-041040-c101: .*\bversion 1\b", output)
        told = (EVIL, "images of", "best epoch", "Macro F1", "of 1 test mistakes")
        for text in (*told, "preset:data-digits", "git checkout 7a59f67"):
            assert text in output, text
        found = json.loads(invoke(workspace, "show", "c101", "--json").output)
        assert found["training"]["best_epoch"] == 10

    def test_show_of_a_failed_run_tells_why(self, workspace: Workspace) -> None:
        output = invoke(workspace, "show", "c104").output
        assert "Failed: accuracy 0.9000 " in output
        assert f"train: {EVIL}: " in output

    def test_an_unknown_run_is_a_usage_error(self, workspace: Workspace) -> None:
        for command in (["show", "nope"], ["compare", "c101", "nope"], ["report", "nope"]):
            result = invoke(workspace, *command)
            assert result.exit_code == 2
            assert re.search(rf"error: nope .*{workspace.root};", result.output)

    def test_compare_names_what_differs_and_by_how_much(self) -> None:
        first, second = report_kit.facts(), report_kit.facts(baseline=False)
        assert second.evaluation
        worse = report_kit.model_figures(NAMES, 0.5, seed=3)
        settings = second.run.settings | {"train.epochs": Setting(value=20, origin="command line")}
        second = second.model_copy(
            update={
                "evaluation": second.evaluation.model_copy(update={"candidate": worse}),
                "run": second.run.model_copy(update={"settings": settings}),
            }
        )
        found = differences(first, second)
        assert found["settings"] == [{"name": "train.epochs", "a": 12, "b": 20}]
        assert found["data"] == []
        accuracy = next(row for row in found["metrics"] if row["name"] == "accuracy")
        assert accuracy["change"] == pytest.approx(accuracy["b"] - accuracy["a"])
        assert accuracy["change"] < 0
        changes = [abs(row["change"]) for row in found["classes"]]
        assert changes == sorted(changes, reverse=True)
        assert 0 not in changes

    def test_compare_prints_a_line_for_each(self, workspace: Workspace) -> None:
        output = invoke(workspace, "compare", "c101", "c102").output
        assert "20261101-041040-c101 (pushed) and 20261102-041040-c102 (rejected)" in output
        assert "train images" in output
