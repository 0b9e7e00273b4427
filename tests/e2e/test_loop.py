"""From what is served back to what is trained: serve, ask, monitor, label, retrain, promote."""

from __future__ import annotations

import csv
import datetime
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import requests
from PIL import Image

from components.model_server.server import ModelServer
from pipeline.monitoring import logs as recorded
from pipeline.monitoring import retention
from pipeline.monitoring.figures import Report
from pipeline.monitoring.recorder import RecordOptions
from tests.kit import colours
from tests.kit.cli import perennial
from tests.kit.colours import COLORS, picture
from tests.kit.serving import b64, wait_until
from tests.kit.traffic import NGINX, nginx, recording
from tests.kit.traffic import recorded as count_recorded

pytestmark = [
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not NGINX, reason="no nginx on this machine: make services"),
]
PREDICT = "/v1/models/perennial:predict"
SETTINGS = f"""
workspace = "work"
{colours.SETTINGS}min_accuracy = 0.5
[retrain]
min_new_examples = 1000
max_removed = 1
[retrain.traffic]
retrains = true
[monitor]
logs = "logs"
min_images = 40
"""


class Loop(NamedTuple):
    """What was done, before the tests look at it: by name, exit code and output."""

    root: Path
    done: Mapping[str, tuple[int, str]]
    report: Report
    steady: Report


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    root = tmp_path_factory.mktemp("loop")
    before, level = Path.cwd(), logging.getLogger().level
    os.chdir(root)
    try:
        yield _all_of_it(root)
    finally:
        os.chdir(before)
        logging.getLogger().setLevel(level)


def _all_of_it(root: Path) -> Loop:
    for number, (label, color) in enumerate(COLORS.items()):
        folder = root / "data" / "1" / label
        folder.mkdir(parents=True)
        for index in range(80):
            (folder / f"{index}.png").write_bytes(picture(1000 * number + index, color))
    (root / "loop.toml").write_text(SETTINGS)
    done: dict[str, tuple[int, str]] = {}

    def call(name: str, *arguments: object) -> None:
        result = perennial(*arguments)
        done[name] = result.exit_code, result.output
        # What follows needs it; the tests say which codes are right.
        assert result.exit_code in (0, 9, 12), f"{name}: {result.output}"

    config = ("--config", "loop.toml")
    call("run", "run", *config)
    call("promote first", "promote", 1, "--to", "stable", "--workspace", "work")
    models = root / "work" / "serving"
    # What comes is darker, of colours that lie between the classes, and new to the model.
    odd = [(130, 130, 60), (60, 130, 130), (130, 60, 130)]
    with ModelServer(config_file=models / "models.config") as server:
        server.wait_ready()
        with (
            recording(root / "logs", server, RecordOptions()) as port,
            nginx(server, port) as front,
        ):
            address = f"http://{front.host}:{front.rest_port}{PREDICT}"
            sent = 0
            for offset, light, colors in (
                (50_000, 1.0, list(COLORS.values())),
                (60_000, 0.6, [*odd, *odd]),
            ):
                for number, color in enumerate(colors):
                    for index in range(30):
                        image = picture(offset + 100 * number + index, color, light)
                        body = {"instances": [b64(image)]}
                        requests.post(address, json=body, timeout=60).raise_for_status()
                        sent += 1
                wait_until(lambda: count_recorded(port) == sent)  # noqa: B023
                if light == 1.0:
                    between = datetime.datetime.now(datetime.UTC)
    after = datetime.datetime.now(datetime.UTC)
    call("steady", "monitor", "logs", *config, "--until", between.isoformat(), "--json")
    steady_report = Report.model_validate_json(
        done["steady"][1][: done["steady"][1].rindex("}") + 1]
    )
    later = ("--days", (after - between).total_seconds() / 86400, "--until", after.isoformat())
    call("monitor", "monitor", "logs", *config, *later)
    report = Report.model_validate_json((root / "work/monitoring/monitor.json").read_bytes())
    moment = ("--days", 1e-6, "--until", between.isoformat(), "--dry-run")
    call("little", "monitor", "logs", *config, *moment)
    call("early", "retrain", *config, "--dry-run")
    call("ask", "ask", "logs", "asked", *config, *later, "--number", 24)
    _label(root / "asked")
    call("feedback", "feedback", "asked/labels.csv", "--data", "data/{SPAN}")
    call("retrain", "retrain", *config)
    call("again", "retrain", *config)
    call("promote", "promote", 2, "--to", "stable", "--workspace", "work")
    return Loop(root, done, report, steady_report)


def _label(folder: Path) -> None:
    """As a person would: what has most green is green; the last is left out."""
    with (folder / "labels.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines[:-1]:
        mean = np.asarray(Image.open(folder / line["image"])).mean(axis=(0, 1))
        line["label"] = list(COLORS)[int(mean.argmax())]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


def test_a_model_is_served_and_everything_asked_is_recorded(loop: Loop) -> None:
    assert loop.done["run"][0] == 0, loop.done["run"][1]
    assert loop.done["promote first"][0] == 0
    rows = recorded.read(loop.root / "logs").rows
    assert len(rows) == 90 + 180
    assert {(row.version, row.label, row.status) for row in rows} == {(1, "", "OK")}


def test_undisturbed_traffic_is_steady(loop: Loop) -> None:
    assert loop.done["steady"][0] == 0, loop.done["steady"][1]
    assert loop.steady.verdict == "steady"
    (group,) = loop.steady.groups
    assert group.images == 90
    assert {check.name for check in loop.steady.checks} >= {
        *("brightness", "format", "predicted classes", "confidence", "entropy"),
        *("embedding distance", "estimated accuracy", "unseen formats and sizes"),
    }


def test_drift_is_found_and_told_everywhere(loop: Loop) -> None:
    code, text = loop.done["monitor"]
    assert code == 9
    assert loop.report.verdict == "drifted"
    found = {check.name for check in loop.report.findings}
    assert {"brightness", "embedding distance"} <= found
    assert "Drifted" in text
    assert (loop.root / "work/monitoring/monitor.html").is_file()
    assert 'verdict="drifted"} 1' in (loop.root / "logs/monitor.prom").read_text()
    entries = [
        json.loads(line) for line in (loop.root / "work/retraining.jsonl").read_text().splitlines()
    ]
    told = [entry for entry in entries if entry["event"] == "traffic"]
    assert [entry["verdict"] for entry in told] == ["steady", "drifted"]
    assert any("brightness" in line for line in told[1]["traffic"])


def test_little_traffic_is_told_to_be_little(loop: Loop) -> None:
    code, text = loop.done["little"]
    assert code == 12
    assert "monitor.min_images" in text


def test_without_new_labels_there_is_nothing_to_learn(loop: Loop) -> None:
    code, text = loop.done["early"]
    assert code == 0
    assert not re.search("^Retraining", text, re.MULTILINE)
    assert "perennial ask" in text


def test_images_worth_a_label_are_asked_for(loop: Loop) -> None:
    assert loop.done["ask"][0] == 0, loop.done["ask"][1]
    with (loop.root / "asked/labels.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 24
    assert len({line["image"] for line in lines}) == 24
    assert all(line["guess"] in COLORS for line in lines)
    rows = {row.request: row for row in recorded.read(loop.root / "logs").rows}
    for line in lines:
        assert (loop.root / "asked" / line["image"]).read_bytes() == rows[line["request"]].image


def test_labels_become_a_span_and_the_drift_a_reason(loop: Loop) -> None:
    code, text = loop.done["feedback"]
    assert (code, "24 rows = 23 images + 0 duplicates + 1 bad" in text) == (0, True)
    assert len(list((loop.root / "data/2").glob("*/*.png"))) == 23
    code, text = loop.done["retrain"]
    assert code == 0, text
    decision = next(line for line in text.splitlines() if line.startswith("Retraining"))
    assert "brightness" in decision
    assert sorted(path.name for path in (loop.root / "work/serving/perennial").glob("[0-9]*")) == [
        "1",
        "2",
    ]


def test_the_reason_is_used_up(loop: Loop) -> None:
    code, text = loop.done["again"]
    assert code == 0
    assert not re.search("^Retraining", text, re.MULTILINE)


def test_the_new_model_is_promoted(loop: Loop) -> None:
    assert loop.done["promote"][0] == 0, loop.done["promote"][1]
    listed = perennial("models", "--workspace", loop.root / "work", "--json").output
    stable = [json.loads(line) for line in listed.splitlines() if "stable" in line]
    assert stable, listed


def test_gc_removes_old_traffic_only(loop: Loop) -> None:
    config = ("--config", loop.root / "loop.toml")
    (old, *_) = retention.files(loop.root / "logs")
    then = time.time() - 31 * 86400
    os.utime(old, (then, then))
    kept = len(retention.files(loop.root / "logs"))
    assert re.search(r"\b1 file ", perennial("gc", *config).output)
    assert old.exists()
    assert perennial("gc", *config, "--apply").exit_code == 0
    assert not old.exists()
    assert len(retention.files(loop.root / "logs")) == kept - 1
