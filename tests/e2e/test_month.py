"""A month of retraining: thirty spans, good ones and bad ones, and a loop that is killed."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import REPO
from tests.kit import colours
from tests.kit.cli import perennial
from tests.kit.colours import COLORS, picture
from tests.kit.month import night

YELLOW = {"yellow": (200, 200, 60)}
EMPTY, CORRUPT, DRIFTED, NEW_CLASS, WORSE, REMOVED, FEEDBACK = 4, 5, 12, 14, 19, 20, 30
# Images of each class; all other days have USUAL.
SIZES = {1: 40, DRIFTED: 16, 13: 10, NEW_CLASS: 24}
USUAL = 3
SETTINGS = f"""
{colours.SETTINGS}min_accuracy = 0.6
max_accuracy_drop = 0.0
[retrain]
min_new_examples = 140
[retrain.drift]
min_examples = 110
cooldown_days = 30.0
"""


# All of it happens before the first test, and the last one changes the workspace.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.in_order]


class Night(NamedTuple):
    """One call of the schedule: its exit code, whether it was killed, and its decision."""

    day: int
    code: int | None
    decision: dict[str, Any]


def trains(content: bytes) -> bool:
    from components.image_example_gen.inputs import split_of

    digest = hashlib.sha256(content).hexdigest()
    return split_of(digest, {"train": 80, "eval": 20}) == "train"


def arrive(root: Path, day: int) -> None:
    """Write the span of a day, as a whole."""
    span = root / "data" / f".{day}"
    span.mkdir(parents=True)
    colors = {**COLORS, **(YELLOW if day >= NEW_CLASS else {})}
    if day not in (EMPTY, 29, REMOVED):
        for number, (label, color) in enumerate(colors.items()):
            (span / label).mkdir()
            for index in range(SIZES.get(day, USUAL)):
                seed = day * 10_000 + number * 1_000 + index
                light = 0.35 if day == DRIFTED else 1.0
                content = picture(seed, color, light)
                if day == CORRUPT:
                    content = content[:40]
                (span / label / f"{index}.png").write_bytes(content)
    if day == WORSE:
        # Mislabelled, and only among the images that train: what judges the model is right.
        for wrong, right in (("red", "green"), ("green", "blue"), ("blue", "red")):
            seeds = (
                seed for seed in range(500_000, 600_000) if trains(picture(seed, COLORS[right]))
            )
            for _ in range(150):
                seed = next(seeds)
                (span / wrong / f"wrong {seed}.png").write_bytes(picture(seed, COLORS[right]))
    span.rename(root / "data" / str(day))


def killed_night(root: Path, day: int, events: int, accept_loss: bool) -> None:
    """Run a night in a process of its own, which is killed."""
    code = (
        "import logging, sys; from pathlib import Path; from tests.kit.month import Killer, night\n"
        "logging.getLogger('perennial.progress').addHandler(Killer(int(sys.argv[3])))\n"
        f"night(Path(sys.argv[1]), int(sys.argv[2]), {accept_loss})"
    )
    arguments = [sys.executable, "-c", code, str(root), str(day), str(events)]
    done = subprocess.run(arguments, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr


class Month(NamedTuple):
    """What happened."""

    root: Path
    nights: list[Night]
    refused: list[int]  # exit codes of nights that a person had to look at

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    @property
    def journal(self) -> list[dict[str, Any]]:
        text = (self.workspace / "retraining.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def ended(self) -> list[dict[str, Any]]:
        return [entry for entry in self.journal if entry["event"] == "ended"]

    def records(self) -> list[dict[str, Any]]:
        """run.json of the runs that had a verdict, in order."""
        files = sorted(self.workspace.glob("runs/*/run.json"))
        found = [json.loads(file.read_text()) for file in files]
        return [record for record in found if record.get("verdict")]

    def of(self, day: int) -> Night:
        return [each for each in self.nights if each.day == day][-1]


def correct(root: Path) -> None:
    """Let a person look at what was served."""
    from pipeline.retraining import feedback

    table = root / "feedback.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("image", "label"), ("data/1/red/0.png", "green"), ("gone.png", "red")])
    made = feedback.add(table, f"{root}/data/{{SPAN}}")
    assert made.span.name == str(FEEDBACK)
    assert (made.images, len(made.bad)) == (1, 1)


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Month:
    root = tmp_path_factory.mktemp("month")
    (root / "perennial.toml").write_text(SETTINGS)
    dice = random.Random(8)
    # A run has 11 nodes, and the last event is the end of the push, before the label.
    kills = {13: dice.randint(5, 16), 18: 22, REMOVED: dice.randint(1, 4)}
    month = Month(root, [], [])
    for day in range(1, 31):
        if day == FEEDBACK:
            correct(root)
        else:
            arrive(root, day)
        if day == REMOVED:
            (root / "data" / str(WORSE)).rename(root / "taken away")
            month.refused.append(night(root, day))
        accepted = day == REMOVED
        if day in kills:
            killed_night(root, day, kills[day], accepted)
            month.nights.append(Night(day, None, _decision(month)))
        code = night(root, day, accepted)
        month.nights.append(Night(day, code, _decision(month)))
    return month


def _decision(month: Month) -> dict[str, Any]:
    return [entry for entry in month.journal if entry["event"] == "decision"][-1]


def test_most_nights_have_nothing_to_do(month: Month) -> None:
    codes = Counter(each.code for each in month.nights)
    assert codes[None] == 3
    busy = {each.day for each in month.nights if each.decision["retrain"]}
    assert busy == {1, 13, 18, WORSE, REMOVED}
    assert codes[9] == 1
    assert codes[4] == 1
    assert codes[0] == 28


def test_every_decision_is_explained(month: Month) -> None:
    decisions = [entry for entry in month.journal if entry["event"] == "decision"]
    assert len(decisions) == len(month.nights) == 33
    assert all(entry["reasons"] for entry in decisions)
    empty = [text for text in month.of(EMPTY).decision["reasons"] if f"span {EMPTY} " in text]
    assert empty
    after_kill = [
        each for each in month.nights if any("cut off" in text for text in each.decision["reasons"])
    ]
    assert [each.day for each in after_kill] == [13, 18, REMOVED]
    runs = {entry["run"] for entry in month.journal if entry["event"] == "started"}
    told = {entry["run"] for entry in month.ended()}
    continued = {
        run for run in runs for each in after_kill if run in " ".join(each.decision["reasons"])
    }
    assert runs == told | continued


def test_a_span_that_is_gone_is_for_a_person_to_decide(month: Month) -> None:
    assert month.refused == [12]
    [stopped] = [entry for entry in month.journal if entry["event"] == "stopped"]
    assert "retrain.max_removed = " in stopped["detail"]
    assert any("accepted" in reason for reason in month.of(REMOVED).decision["reasons"])


def test_drift_raises_an_alarm_and_nothing_else(month: Month) -> None:
    found = month.of(DRIFTED)
    assert found.code == 9
    assert found.decision["alarm"]
    assert not found.decision["retrain"]
    [drift] = [text for text in found.decision["reasons"] if text.startswith("drift")]
    assert "image/mean" in drift
    assert sum(each.decision["alarm"] for each in month.nights) == 1


def test_a_new_class_is_a_drift_of_labels_while_the_alarm_cools_down(month: Month) -> None:
    [told] = [text for text in month.of(17).decision["reasons"] if text.startswith("drift")]
    assert "image/class/text" in told
    assert "retrain.drift.cooldown_days" in told


def test_drift_is_measured_by_what_the_baseline_sees_too(month: Month) -> None:
    measured = [entry["drift"] for entry in month.journal if entry["event"] == "drift"]
    shifts = {
        each["value"]
        for drift in measured
        for each in drift["distances"]
        if each["what"] == "mean embedding"
    }
    assert len(measured) > 1
    assert len(shifts) > 1


def test_every_image_is_accounted_for(month: Month) -> None:
    from components.image_example_gen.accounting import read_accounting
    from components.reuse import INPUTS_FILE

    folder = max(
        (month.workspace / "artifacts/ImageExampleGen/examples").iterdir(),
        key=lambda path: int(path.name),
    )
    rows = [json.loads(line) for line in (folder / INPUTS_FILE).read_text().splitlines()]
    there = {
        str(path.relative_to(month.root / "data"))
        for day in range(1, REMOVED)
        for path in (month.root / "data" / str(day)).glob("*/*.png")
        if day != WORSE
    }
    assert {row["path"] for row in rows} == there
    fates = Counter(row["fate"] for row in rows)
    record = read_accounting(str(folder))
    assert fates["quarantined"] == record.all_quarantined == 3 * USUAL
    assert fates["train"] + fates["eval"] == record.all_examples
    assert record.classes == ["blue", "green", "red", "yellow"]


def test_what_is_served_was_never_worse_by_the_gate(month: Month) -> None:
    for record in month.records():
        checks = [check["passed"] for check in record["verdict"]["checks"]]
        assert checks
        assert all(checks) is bool(record["pushed"])
    worse = [entry for entry in month.ended() if entry["result"] == "rejected"]
    assert len(worse) == 1
    assert month.of(WORSE).code == 4


def test_what_is_served_changes_by_label_only(month: Month) -> None:
    from pipeline.config import load

    config = load(
        month.root / "perennial.toml", {"workspace": str(month.workspace)}, scheduled=True
    ).config
    pushed = config.registry.numbers()
    blessed = [entry for entry in month.ended() if entry["result"] == "blessed"]
    assert pushed == list(range(1, len(pushed) + 1))
    assert pushed == sorted({int(entry["pushed"].rpartition("/")[2]) for entry in blessed})
    assert config.registry.serving().labels == {"stable": 1, "canary": pushed[-1]}


def test_a_training_works_on_the_new_images_only(month: Month) -> None:
    _, _, _, worse, without = month.records()
    mislabelled = 3 * 150 + 4 * USUAL
    for record, new in ((worse, mislabelled), (without, 0)):
        nodes = {node["node"]: node for node in record["nodes"]}
        total = sum(sum(split.values()) for split in record["data"]["splits"].values())
        for name in ("ImageExampleGen", "StatisticsGen", "Transform"):
            # What the run that was killed had finished is in the cache.
            assert nodes[name].get("images_done", 0) == new
        assert nodes["Transform"]["images_reused"] == total - new


def test_the_history_page_has_every_run_and_how_it_ended(month: Month) -> None:
    from pipeline.report import history
    from pipeline.report.facts import State
    from pipeline.workspace import Workspace

    page = (month.workspace / "runs" / "index.html").read_text()
    found = {run.run_id: run.state for run in history.runs(Workspace(month.workspace))}
    assert all(run in page for run in found)
    ended = {"blessed": State.PUSHED, "rejected": State.REJECTED}
    for entry in month.ended():
        assert found[entry["run"]] is ended[entry["result"]]
    # The one that was killed after its push had already told of it, and was only not labelled.
    cut_off = found.keys() - {entry["run"] for entry in month.ended()}
    assert len(cut_off) == 3
    assert {found[run] for run in cut_off} <= {State.CUT_OFF, State.PUSHED}


def test_nothing_is_left_of_those_that_were_killed(month: Month) -> None:
    import ml_metadata
    from ml_metadata.proto import metadata_store_pb2

    from pipeline.workspace import Workspace

    workspace = Workspace(month.workspace)
    with workspace.lock():
        assert workspace.recover() == []
    states = metadata_store_pb2.Execution
    executions = ml_metadata.MetadataStore(workspace.connection()).get_executions()
    assert {each.last_known_state for each in executions} <= {
        states.COMPLETE,
        states.CACHED,
        states.FAILED,
    }
    assert not list(month.root.rglob("*.partial"))
    assert not list(month.root.rglob(".[0-9]*-*"))


def test_gc_frees_what_no_run_needs_and_the_loop_goes_on(month: Month) -> None:
    arguments = ["gc", "--workspace", str(month.workspace), "--keep", "1", "--older-than", "0"]
    artifacts = month.workspace / "artifacts"
    before = sorted(artifacts.glob("*/*/*"))
    dry = perennial(*arguments)
    assert dry.exit_code == 0, dry.output
    assert sorted(artifacts.glob("*/*/*")) == before
    # All pushed versions are kept: only the rejected model's run can go.
    assert "--apply" in dry.output
    named = [Path(line) for line in dry.output.splitlines() if line.startswith("/")]
    assert named
    done = perennial(*arguments, "--apply")
    assert done.exit_code == 0, done.output
    assert not any(path.exists() for path in named)
    assert not re.search("^/|--apply", perennial(*arguments).output, re.MULTILINE)
    assert night(month.root, 31) == 0
    assert not _decision(month)["retrain"]
