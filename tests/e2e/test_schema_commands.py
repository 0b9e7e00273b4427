"""perennial schema infer, review and accept, on a workspace."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.cli import perennial


class Schema:
    """The commands, on one workspace and one committed schema."""

    def __init__(self, root: Path) -> None:
        self.workspace, self.committed = root / "workspace", root / "schema.pbtxt"
        self.candidate = self.workspace / "schema" / "candidate.pbtxt"

    def __call__(self, command: str, *arguments: str) -> tuple[int, str]:
        common = ("--workspace", self.workspace, "--schema", self.committed)
        result = perennial("schema", command, *common, *arguments)
        return result.exit_code, result.output


@pytest.fixture
def schema(tmp_path: Path) -> Schema:
    return Schema(tmp_path)


def test_from_data_to_a_committed_schema_and_on_to_a_new_class(
    schema: Schema, two_classes: Path, image_bytes: Callable[..., bytes]
) -> None:
    code, told = schema("infer", "--data", str(two_classes))
    assert code == 0
    options = f"--workspace {schema.workspace} --schema {schema.committed}"
    assert told.splitlines()[-1].endswith(f"next: perennial schema review {options}")
    code, shown = schema("review")
    assert code == 8
    assert shown.splitlines()[:2] == ["+ class cat", "+ class dog"]
    assert schema("accept")[0] == 0
    code, shown = schema("review")
    assert (code, shown.count("\n")) == (0, 1)
    assert shown.startswith(f"{schema.committed}: ")

    # The class ids of a curated schema stay, whatever is found later.
    text = schema.committed.read_text()
    swapped = text.replace('"cat"', '"-"').replace('"dog"', '"cat"').replace('"-"', '"dog"')
    schema.committed.write_text(swapped)
    (two_classes / "ant").mkdir()
    for index in range(40):
        data = image_bytes(color=(index, 7, 7))
        (two_classes / "ant" / f"{index}.png").write_bytes(data)
    assert schema("infer", "--data", str(two_classes))[0] == 0
    code, shown = schema("review")
    assert code == 8
    assert [line for line in shown.splitlines() if "class " in line] == ["+ class ant"]
    assert schema("accept")[0] == 0
    order = sorted(("cat", "dog", "ant"), key=schema.committed.read_text().index)
    assert order == ["dog", "cat", "ant"]
    # The statistics of the latest run serve as well as the data.
    assert schema("infer", "--fresh")[0] == 0
    order = sorted(("cat", "dog", "ant"), key=schema.candidate.read_text().index)
    assert order == ["ant", "cat", "dog"]


def test_without_statistics_or_data_it_says_what_to_do(schema: Schema) -> None:
    code, shown = schema("infer")
    assert code == 2
    assert "give --data" in shown
    assert not schema.workspace.exists()
    schema.workspace.touch()
    assert "give --data" in schema("infer")[1]


def test_without_a_candidate_it_says_what_to_do(schema: Schema) -> None:
    code, shown = schema("review")
    assert code == 2
    assert re.search(f"{schema.candidate} .*`perennial schema infer`", shown)


def test_a_broken_candidate_is_not_accepted(schema: Schema, tmp_path: Path) -> None:
    schema.candidate.parent.mkdir(parents=True)
    schema.candidate.write_text("feature {")
    schema.committed.write_text("kept")
    code, shown = schema("accept")
    assert code == 3
    assert "candidate.pbtxt: " in shown
    assert schema.committed.read_text() == "kept"
    assert {path.name for path in schema.committed.parent.iterdir()} == {
        "schema.pbtxt",
        "workspace",
    }


def test_a_folder_instead_of_a_schema_is_one_line(schema: Schema) -> None:
    schema.committed.mkdir(parents=True)
    code, shown = schema("review")
    assert code == 3
    assert re.search(f"{schema.committed}: .*Is a directory", shown)


def test_no_schema_named(tmp_path: Path) -> None:
    result = perennial("schema", "review", "--workspace", tmp_path)
    assert result.exit_code == 2
    assert "give --schema FILE" in result.output
