"""The pipeline from Python, and the notebook of the documents that shows it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from pipeline import api
from pipeline.errors import ConfigError, DataError, NotBlessed
from pipeline.report import write
from pipeline.report.facts import Facts, State
from pipeline.workspace import Workspace
from tests import REPO
from tests.kit import report as report_kit

NOTEBOOK = REPO / "docs" / "notebook.ipynb"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Create a workspace of two runs that have ended."""
    place = Workspace(tmp_path / "work")
    for number, state in ((1, State.PUSHED), (2, State.REJECTED)):
        facts = report_kit.facts(state).model_copy(update={"run": report_kit.run(state, number)})
        folder = place.run_dir(facts.run.run_id)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(facts.run.model_dump_json())
        write.write_report(facts, folder)
    return place.root


class TestRuns:
    def test_are_found_by_what_the_command_line_takes(self, workspace: Path) -> None:
        newest, oldest = api.runs(workspace)
        assert (newest.id, oldest.id) == ("20261102-041040-c102", "20261101-041040-c101")
        assert api.find(workspace=workspace) == newest
        assert api.find("c101", str(workspace)) == oldest
        assert oldest.page.is_file()
        assert oldest.folder == workspace / "runs" / oldest.id
        with pytest.raises(ConfigError, match="is not a run"):
            api.find("c109", workspace)

    def test_have_a_report(self, workspace: Path) -> None:
        report = api.find("c101", workspace).report()
        assert isinstance(report, Facts)
        assert report.run.state is State.PUSHED
        assert report.evaluation is not None
        expected = report_kit.facts().evaluation
        assert report.evaluation == expected

    def test_without_a_model_cannot_predict(self, workspace: Path) -> None:
        with pytest.raises(ConfigError, match="has no model"):
            api.find("c101", workspace).predict([workspace])


class TestPredict:
    def test_files_and_folders_have_classes_or_a_problem(
        self, colour_models: list[Path], tmp_path: Path
    ) -> None:
        folder = tmp_path / "images"
        folder.mkdir()
        (folder / "0.png").write_bytes(report_kit.picture(1))
        (tmp_path / "note.txt").write_text("no image")
        good, bad = api.predict(str(colour_models[0]), [folder, str(tmp_path / "note.txt")], top=2)
        assert good.file == folder / "0.png"
        assert len(good.classes) == 2
        assert good.label == good.classes[0][0]
        assert 1 >= good.classes[0][1] >= good.classes[1][1] >= 0
        assert good.problem == ""
        assert (bad.classes, bad.label) == ((), "")
        assert bad.problem.startswith("not an image")

    def test_a_folder_without_images_is_refused(
        self, colour_models: list[Path], tmp_path: Path
    ) -> None:
        with pytest.raises(DataError, match="no file in this folder"):
            api.predict(str(colour_models[0]), [tmp_path])


class TestSettings:
    def test_values_win_over_the_file_over_defaults(self, tmp_path: Path) -> None:
        file = tmp_path / "perennial.toml"
        file.write_text("train.epochs = 3\ntrain.seed = 4\n")
        values = {"train.epochs": 5, "workspace": tmp_path / "work"}
        config, origins = api.settings(values, file=str(file))
        assert (config.train.epochs, config.train.seed) == (5, 4)
        assert config.workspace == tmp_path / "work"
        assert origins["train.seed"].startswith("file:")
        assert origins["data.eval"] == "default"

    def test_mistakes_are_those_of_the_command_line(self) -> None:
        with pytest.raises(ConfigError, match=r"train\.epochs = 0: must be greater"):
            api.run({"train.epochs": 0})
        with pytest.raises(DataError, match="there is no such file or folder"):
            api.run({"data.source": "/no/such/folder"})
        assert NotBlessed.exit_code == 4


def _text(cell: Any) -> str:
    parts = [
        "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
        for output in cell["outputs"]
    ]
    return "\n".join(parts)


def _check(cells: list[Any]) -> None:
    """Assert what each code cell of the notebook prints or shows."""
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    trained, report, plot, weakest, predictions, again, refused = code
    assert "Pushed " in _text(trained)
    assert re.search(r"^pushed: accuracy 9\d\.\d%, 95% interval", _text(report))
    assert "passed min_accuracy" in _text(report)
    assert "FAILED" not in _text(report)
    assert "image/png" in plot["outputs"][0]["data"]
    assert len(_text(weakest).splitlines()) == 3
    assert re.search(r"0003\.png \[\('3', [01]\.\d+\)", _text(predictions))
    states = dict(re.findall(r"\('(\w+)', '(\w+)'\)", _text(again)))
    assert len(states) == 11
    assert set(states.values()) == {"cached", "resolved"}
    assert _text(refused).startswith("exit code 4")
    assert "evaluate.min_class_recall" in _text(refused)


class TestNotebook:
    def test_is_kept_with_small_outputs_of_no_machine(self) -> None:
        text = NOTEBOOK.read_text(encoding="utf-8")
        assert len(text) < 100_000
        assert "/tmp/" not in text
        cells = json.loads(text)["cells"]
        _check(cells)
        assert {each["output_type"] for cell in cells for each in cell.get("outputs", ())} <= {
            *("stream", "execute_result"),
        }

    @pytest.mark.slow
    def test_runs(self, tmp_path: Path) -> None:
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
        client = NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            coalesce_streams=True,
            resources={"metadata": {"path": str(tmp_path)}},
        )
        client.execute()
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [
                    each
                    for each in cell.outputs
                    if "application/javascript" not in each.get("data", {})  # Beam's
                ]
        _check(notebook.cells)
