"""`perennial data check`: what it prints, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.kit import image_corpus as corpus
from tests.kit.cli import perennial, process

FEW = ("--set", "data.min_eval=0")  # as much as few images tell is not what is tested here


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
    done = process("data", "check", two_classes, *FEW)
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
    assert '"empty: ' in listed.read_text()
    assert done.stderr.count("\n") == 1
    assert "data.max_bad_fraction = 0.1 " in done.stderr
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
    assert f"'{two_classes}' " in done.stderr


def notes(text: str) -> list[str]:
    return [event["text"] for event in events(text) if event["event"] == "note"]


def summary(text: str) -> dict[str, Any]:
    (found,) = [event for event in events(text) if event["event"] == "summary"]
    return found


def write_classes(root: Path, names: list[str], images: int, first: int = 0) -> Path:
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, images):
            picture = corpus.make("PNG", zlib.crc32(f"{name} {index}".encode()))
            (root / name / f"{index}.png").write_bytes(picture)
    return root


def test_ten_classes_of_ten_images_are_in_train_and_eval(
    run: Callable[..., Done], tmp_path: Path
) -> None:
    names = [f"class {letter}" for letter in "abcdefghij"]
    done = run(write_classes(tmp_path, names, 10), "--log-format", "json")
    assert done.returncode == 0, done.stderr
    splits = summary(done.stdout)["splits"]
    assert set(splits["train"]) == set(splits["eval"]) == set(names)
    assert sum(sum(split.values()) for split in splits.values()) == 100


def test_a_class_of_one_image_is_named_with_what_to_do(
    run: Callable[..., Done], tmp_path: Path
) -> None:
    write_classes(tmp_path, ["cat", "dog"], 5)
    write_classes(tmp_path, ["cow"], 1)
    done = run(tmp_path)
    assert done.returncode == 3
    assert "'cow'" in done.stderr
    assert "data.ignore" in done.stderr
    assert run(tmp_path, "--set", 'data.ignore=["cow"]', *FEW).returncode == 0


def test_what_is_read_as_what_comes_first(run: Callable[..., Done], tmp_path: Path) -> None:
    write_classes(tmp_path, ["cat", "dog"], 3)
    write_classes(tmp_path, ["@eaDir"], 3)
    done = run(tmp_path, "--log-format", "json", *FEW)
    start, first, second, third, loading = notes(done.stdout)[:5]
    assert start == f"reading {tmp_path}"
    assert first.startswith("classes: ")
    assert "cat, dog" in first
    assert second.startswith("splits: ")
    assert "@eaDir" in third
    # Its import takes seconds, in which people look at what was read as what.
    assert "TensorFlow" in loading
    kinds = [event["event"] for event in events(done.stdout)]
    assert kinds[:5] == ["note"] * 5
    assert [what for what, _ in summary(done.stdout)["reading"]] == ["Classes", "Splits", "Ignored"]


def test_what_can_be_read_in_two_ways_is_not_read(run: Callable[..., Done], tmp_path: Path) -> None:
    write_classes(tmp_path, ["batch1/cat", "batch1/dog", "batch2/cat", "batch2/dog"], 3)
    done = run(tmp_path)
    assert done.returncode == 3
    assert f"perennial data check {tmp_path} --set data.depth=2" in done.stderr
    assert "{SPAN}" in done.stderr
    assert "data.min_eval" not in done.stderr  # it does not decide how a folder is read
    assert run(tmp_path, "--set", "data.depth=2", *FEW).returncode == 0


def test_names_that_look_alike_stop_unless_they_are_kept(
    run: Callable[..., Done], tmp_path: Path
) -> None:
    write_classes(tmp_path, ["cat", "Cat", "dog"], 3)
    done = run(tmp_path)
    assert done.returncode == 3
    assert "'Cat', 'cat'" in done.stderr
    kept = run(tmp_path, "--set", "data.similar_classes=keep", "--log-format", "json", *FEW)
    assert kept.returncode == 0
    assert summary(kept.stdout)["similar"] == [["Cat", "cat"]]


def test_the_splits_of_the_runs_of_a_workspace_are_kept(
    run: Callable[..., Done], tmp_path: Path
) -> None:
    from components.image_example_gen import assignments

    data = write_classes(tmp_path / "data", ["cat", "dog"], 2)
    folder = tmp_path / "work" / "artifacts" / "ImageExampleGen" / "examples" / "7"
    folder.mkdir(parents=True)
    rule = assignments.read(str(folder), {"train": 80, "eval": 20}, False).rule
    digests = []
    arguments = (data, "--workspace", tmp_path / "work", "--log-format", "json", *FEW)
    for split in ("train", "eval"):
        known = {
            hashlib.sha256((data / label / "0.png").read_bytes()).hexdigest()[:16]: split
            for label in ("cat", "dog")
        }
        assignments.Assignments(rule, known).write(str(folder))
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert summary(done.stdout)["held_out"].keys() == {"eval"}
        digests.append(summary(done.stdout)["held_out"]["eval"])
    assert len(set(digests)) == 2


def test_a_row_that_cannot_be_reached_is_one_row(run: Callable[..., Done], tmp_path: Path) -> None:
    write_classes(tmp_path, ["cat", "dog"], 10)
    rows = [f"{label}/{n}.png,{label}" for label in ("cat", "dog") for n in range(10)]
    rows.append("http://example.org/1.png,cat")
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    done = run(tmp_path / "list.csv", "--log-format", "json", *FEW)
    assert done.returncode == 0, done.stderr
    assert summary(done.stdout)["quarantined"] == {"unreachable": 1}


def test_numbers_that_are_off_by_one_are_told(run: Callable[..., Done], tmp_path: Path) -> None:
    from tests.kit.data_sources import example, write_records

    (tmp_path / "labels.txt").write_text("none\ncat\ndog\n")
    records = [example(image=corpus.make("PNG", n), label=1 + n % 2) for n in range(8)]
    write_records(tmp_path / "pets.tfrecord", *records)
    done = run(tmp_path, "--log-format", "json", *FEW)
    assert done.returncode == 0, done.stderr
    assert any("'none'" in finding for finding in summary(done.stdout)["findings"])
