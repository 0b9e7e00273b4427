"""`perennial data check`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import image_corpus as corpus
from tests.cli import perennial, process


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Check in this process, and see what the descriptors got too: the command moves them."""

    def check(*arguments: object) -> Done:
        capfd.readouterr()
        result = perennial("data", "check", *arguments)
        out, err = capfd.readouterr()
        return Done(result.exit_code, result.stdout + out, result.stderr + err)

    return check


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counter[str]]:
    root = tmp_path_factory.mktemp("check") / "data"
    root.mkdir()
    fates = corpus.write(root)
    return root, Counter(fate.partition(":")[0] for fate in fates.values())


def test_good_data_in_a_process_of_its_own(two_classes: Path) -> None:
    done = process("data", "check", two_classes)
    assert done.returncode == 0, done.stderr
    assert "80 inputs = 80 examples + 0 duplicates + 0 quarantined" in done.stdout
    assert "Quarantined" not in done.stdout
    assert done.stderr == ""


def test_bad_data_is_listed_and_ends_with_3(
    run: Callable[..., Done], nasty: tuple[Path, Counter[str]], tmp_path: Path
) -> None:
    root, counts = nasty
    listed = tmp_path / "bad.jsonl"
    done = run(root, "--quarantine", listed, "--set", "data.max_bad_fraction=0.1")
    assert done.returncode == 3
    assert f"= {counts['example']} examples + {counts['duplicate']} duplicates + " in done.stdout
    assert "dog/empty.jpg: empty: zero bytes" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "cannot be used, more than data.max_bad_fraction = 0.1 allows" in done.stderr
    assert len(listed.read_text().splitlines()) == counts["quarantined"]


def test_json_has_everything(run: Callable[..., Done], nasty: tuple[Path, Counter[str]]) -> None:
    root, counts = nasty
    done = run(root, "--set", "data.max_bad_fraction=1", "--log-format", "json")
    assert done.returncode == 0, done.stderr
    found = events(done.stdout)
    (summary,) = [event for event in found if event["event"] == "summary"]
    assert summary["inputs"] == sum(counts.values())
    assert sum(sum(split.values()) for split in summary["splits"].values()) == counts["example"]
    assert len(summary["quarantine"]) == counts["quarantined"]


@pytest.mark.parametrize("arguments", [("/no/such/folder",), ("digits", "--set", "data.spans=2")])
def test_what_cannot_be_read_ends_with_3(
    run: Callable[..., Done], arguments: tuple[str, ...]
) -> None:
    done = run(*arguments)
    assert done.returncode == 3
    assert done.stderr.startswith("perennial: error: ")
    assert done.stderr.count("\n") == 1


def test_a_list_that_cannot_be_written_ends_with_2(
    run: Callable[..., Done], two_classes: Path
) -> None:
    done = run(two_classes, "--quarantine", two_classes)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
