"""perennial predict: from a folder, a version or a server, and what it does with bad files."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from components.model_server.server import ModelServer
from components.servable import CLASSES_FILE
from pipeline.predictors import _batches
from tests.kit.cli import perennial
from tests.kit.serving import MODEL, PURE, push


def invoke(*arguments: object) -> Result:
    return perennial("predict", *arguments)


def answers(result: Result) -> dict[str, Any]:
    """Parse the JSON objects, by the name of their file."""
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return {Path(row["file"]).name: row for row in rows}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, colour_models: list[Path]) -> Path:
    """Versions 1 and 3 are pushed; 3 is surer than 1."""
    root = tmp_path_factory.mktemp("workspace")
    base = root / "serving" / MODEL
    base.mkdir(parents=True)
    push(colour_models[0], base, 1)
    push(colour_models[2], base, 3)
    return root


@pytest.fixture(scope="module")
def server(workspace: Path) -> Iterator[ModelServer]:
    with ModelServer(workspace / "serving" / MODEL, MODEL) as started:
        started.wait_ready(60)
        yield started


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a red TIFF, a blue PNG in a folder below, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "below").mkdir()
    Image.new("RGB", (9, 12), PURE["red"]).save(folder / "red.tiff")
    Image.new("RGB", (9, 12), PURE["blue"]).save(folder / "below" / "blue.PNG")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.parametrize("named", ["number", "version", "base", "grpc", "rest"])
def test_a_model_is_found_by_version_folder_or_address(
    workspace: Path, server: ModelServer, images: Path, named: str
) -> None:
    base = workspace / "serving" / MODEL
    model = {
        "number": 3,
        "version": base / "3",
        "base": base,
        "grpc": f"{server.host}:{server.grpc_port}",
        "rest": f"http://{server.host}:{server.rest_port}",
    }[named]
    result = invoke(model, images, "--json", "--workspace", workspace, "--name", MODEL)
    assert result.exit_code == 0, result.output
    found = answers(result)
    assert set(found) == {"red.tiff", "blue.PNG"}
    for name, label in (("red.tiff", "red"), ("blue.PNG", "blue")):
        classes = found[name]["classes"]
        assert classes[0]["label"] == label
        assert {each["label"] for each in classes} == {"red", "green", "blue"}
        shares = [each["probability"] for each in classes]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5)


def test_versions_differ(workspace: Path, images: Path) -> None:
    shares = [
        answers(invoke(version, images, "--json", "--workspace", workspace, "--name", MODEL))
        for version in (1, 3)
    ]
    first, third = (each["red.tiff"]["classes"][0]["probability"] for each in shares)
    assert first < third


def test_text_has_a_line_for_each_file_and_bad_ones_on_stderr(
    workspace: Path, images: Path, tmp_path: Path
) -> None:
    junk = tmp_path / "junk\n.png"
    junk.write_bytes(b"junk")
    model = workspace / "serving" / MODEL
    result = invoke(model, images / "red.tiff", junk, tmp_path / "absent.png", "--top", 1)
    assert result.exit_code == 3
    assert result.stdout.startswith(f"{images / 'red.tiff'}: red ")
    assert len(result.stdout.splitlines()) == 1
    problems = result.stderr.splitlines()
    assert "junk?.png: " in problems[0]
    assert "absent.png: No such file" in problems[1]
    assert len(problems) == 3
    assert problems[2].startswith("perennial: error: 2 of 3 ")


def test_a_server_s_classes_are_named_only_where_they_are_known(
    server: ModelServer, images: Path, tmp_path: Path
) -> None:
    address = f"{server.host}:{server.grpc_port}"
    arguments = (address, images / "red.tiff", "--workspace", tmp_path, "--name", MODEL, "--json")
    found = answers(invoke(*arguments))["red.tiff"]["classes"]
    assert [each["label"] for each in found] == ["red", "class 1", "class 2"]
    names = tmp_path / "names.txt"
    names.write_text("red\ngrün\nblue\n", encoding="utf-8")
    found = answers(invoke(*arguments, "--labels", names))["red.tiff"]["classes"]
    assert {each["label"] for each in found} == {"red", "grün", "blue"}
    names.write_text("other\nnames\naltogether\n")
    found = answers(invoke(*arguments, "--labels", names))["red.tiff"]["classes"]
    assert [each["label"] for each in found] == ["red", "class 1", "class 2"]


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_server_s_classes_are_those_of_the_version_that_answers(
    workspace: Path, server: ModelServer, images: Path, tmp_path: Path, scheme: str
) -> None:
    """Never those of another version, however well they seem to fit, as the likeliest here does."""
    port = server.rest_port if scheme else server.grpc_port
    there = tmp_path / "serving" / MODEL
    shutil.copytree(workspace / "serving" / MODEL / "3", there / "3")
    swapped = there / "9"
    shutil.copytree(there / "3", swapped)
    (swapped / CLASSES_FILE).write_text(json.dumps(["red", "blue", "green"]))

    def named() -> list[str]:
        result = invoke(
            *(f"{scheme}{server.host}:{port}", images / "red.tiff", "--workspace", tmp_path),
            *("--name", MODEL, "--json"),
        )
        return [each["label"] for each in answers(result)["red.tiff"]["classes"]]

    assert named() == ["red", "green", "blue"]
    shutil.rmtree(there / "3")
    assert named() == ["red", "class 1", "class 2"]


def test_the_latest_run_is_one_that_finished(images: Path, tmp_path: Path) -> None:
    def run(run_id: str, state: str) -> None:
        folder = tmp_path / "runs" / run_id
        folder.mkdir(parents=True)
        record: dict[str, Any] = {
            "run_id": run_id,
            "started": "2026-05-01T03:00:00+00:00",
            "state": state,
        }
        record |= {"name": "perennial", "recipe": "vit", "settings": {}}
        record |= {"data": {"source": "digits"}, "code": {"versions": {}}}
        (folder / "run.json").write_text(json.dumps(record))

    def answer() -> str:
        result = invoke("latest", images / "red.tiff", "--workspace", tmp_path)
        assert result.exit_code == 2
        return result.output

    run("20260501-030000-aaaa", "failed")
    assert f"{tmp_path} " in answer()
    assert "`perennial runs`" in answer()
    for number, state in enumerate(("pushed", "rejected"), start=2):
        run(f"2026050{number}-030000-aaaa", state)
        for later, unfinished in enumerate(("failed", "running", "interrupted"), start=1):
            run(f"2026050{number}-04000{later}-bbbb", unfinished)
        assert f"run 2026050{number}-030000-aaaa ({state}) " in answer()


def test_the_model_of_a_run_is_found_where_its_workspace_is_now(
    images: Path, tmp_path: Path, colour_models: list[Path]
) -> None:
    """Not where its record has it: of a copy that is the original's."""
    original = tmp_path / "original"
    run_id, model = "20260501-030000-aaaa", original / "artifacts" / "Trainer" / "model" / "7"
    shutil.copytree(colour_models[0], model / "Format-Serving")
    folder = original / "runs" / run_id
    folder.mkdir(parents=True)
    record = {"run_id": run_id, "started": "2026-05-01T03:00:00+00:00", "state": "pushed"}
    record |= {"name": "perennial", "recipe": "vit", "settings": {}}  # type: ignore[dict-item]
    record |= {"data": {"source": "digits"}, "code": {"versions": {}}}  # type: ignore[dict-item]
    artifact = {"name": "model", "uri": str(model)}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "report.json").write_text(json.dumps({"artifacts": [artifact]}))
    copy = shutil.copytree(original, tmp_path / "copy")
    (model / "Format-Serving" / "saved_model.pb").unlink()
    found = invoke("latest", images / "red.tiff", "--json", "--workspace", copy)
    assert found.exit_code == 0, found.output
    assert answers(found)["red.tiff"]["classes"][0]["label"] == "red"
    assert invoke("latest", images / "red.tiff", "--workspace", original).exit_code == 2


def test_labels_that_cannot_be_read_are_named(
    workspace: Path, images: Path, tmp_path: Path
) -> None:
    arguments = (workspace / "serving" / MODEL, images / "red.tiff", "--labels")
    absent, binary = tmp_path / "absent.txt", tmp_path / "binary.txt"
    binary.write_bytes(b"\xff")
    for path, why in ((absent, "No such file or directory"), (binary, "UTF-8")):
        result = invoke(*arguments, path)
        assert result.exit_code == 2
        assert re.search(f"--labels {path}: .*{why};", result.output)


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("nonsense", 2, "{tmp} .*--workspace"),
        ("127.0.0.1:1", 2, "127.0.0.1:1, model perennial: UNAVAILABLE: .*[?]"),
        (
            "http://127.0.0.1:1",
            2,
            r"UNAVAILABLE: HTTPConnection\(host='127.0.0.1', port=1\): Failed",
        ),
        ("https://127.0.0.1:1", 2, "https://127.0.0.1:1: .*HOST:PORT .*http://HOST:PORT"),
        ("{tmp}", 2, "{tmp}: .*saved_model.pb .*versions"),
        ("{broken}", 2, "{broken}: .*classifier"),
    ],
)
def test_a_model_that_cannot_be_asked_is_named(
    images: Path, tmp_path: Path, model: str, code: int, words: str
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"junk")
    folders = {"tmp": tmp_path, "broken": tmp_path / "broken"}
    result = invoke(model.format(**folders), images / "red.tiff", "--workspace", tmp_path)
    assert result.exit_code == code, result.output
    assert re.search(words.format(**folders), result.output)
    assert result.output.count("\n") == 1


def test_a_model_that_a_server_does_not_have_says_what_to_do(
    server: ModelServer, images: Path, tmp_path: Path
) -> None:
    for address in (
        f"{server.host}:{server.grpc_port}",
        f"http://{server.host}:{server.rest_port}",
    ):
        result = invoke(address, images / "red.tiff", "--workspace", tmp_path, "--name", "other")
        assert result.exit_code == 2
        assert re.search("model other: NOT_FOUND: .*AVAILABLE, .*--name", result.output)


def test_a_folder_without_images_is_bad_data(workspace: Path, tmp_path: Path) -> None:
    result = invoke(workspace / "serving" / MODEL, tmp_path)
    assert result.exit_code == 3
    assert f"{tmp_path}: " in result.output


class TestBatches:
    """Photos that do not fit into one request are sent in several."""

    @pytest.fixture(scope="class")
    def photos(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """24 MB of PNGs, one of which alone is larger than a request may be."""
        folder = tmp_path_factory.mktemp("photos")
        rng = np.random.default_rng(0)
        for index, side in enumerate([700, 700, 2400, 700, 700, 700]):
            noise = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
            noise[..., index % 3] += 190
            Image.fromarray(noise).save(folder / f"{index}.png", compress_level=0)
        return folder

    @pytest.mark.parametrize("scheme", ["", "http://"])
    def test_each_is_answered_and_one_that_is_too_large_is_named(
        self, server: ModelServer, photos: Path, tmp_path: Path, scheme: str
    ) -> None:
        port = server.rest_port if scheme else server.grpc_port
        arguments = (f"{scheme}{server.host}:{port}", photos, "--workspace", tmp_path)
        result = invoke(*arguments, "--name", MODEL, "--json")
        assert result.exit_code == 3
        found = answers(result)
        assert list(found) == [f"{index}.png" for index in range(6)]
        assert "RESOURCE_EXHAUSTED" in found.pop("2.png")["error"]
        for name, row in found.items():
            expected = ("red", "green", "blue")[int(name[0]) % 3]
            assert row["classes"][0]["label"] == expected

    def test_a_model_in_this_process_takes_it(self, workspace: Path, photos: Path) -> None:
        result = invoke(3, photos, "--json", "--workspace", workspace, "--name", MODEL)
        assert result.exit_code == 0
        assert len(answers(result)) == 6

    def test_requests_are_small(self, photos: Path, tmp_path: Path) -> None:
        for index in range(40):
            Image.new("RGB", (2000, 1000)).save(tmp_path / f"{index:02d}.png")
        files = [*sorted(photos.iterdir()), *sorted(tmp_path.iterdir())]
        batches = list(_batches(files))
        assert [file for batch in batches for file, _ in batch] == files
        sizes = [[len(content) for _, content in batch] for batch in batches]
        assert all(len(batch) == 1 or sum(batch) <= 8 * 2**20 for batch in sizes)
        assert [len(batch) for batch in sizes] == [2, 1, 3 + 13, 16, 11]
