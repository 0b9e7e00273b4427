"""The page that images are labelled on, in Debian's Chromium; and the choice of the images."""

from __future__ import annotations

import asyncio
import csv
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import portpicker
import pytest
import requests
from aiohttp import web

from pipeline.errors import ConfigError, DataError
from pipeline.monitoring import ask
from pipeline.monitoring.ask import DISAGREE, DISTANT, UNSURE, Candidates, LabelRequest, choose
from pipeline.monitoring.baseline import Answers
from pipeline.monitoring.label import application
from pipeline.monitoring.label_table import TABLE, read_table, write_table
from pipeline.monitoring.rows import Row
from pipeline.retraining import feedback
from tests.kit.cli import perennial
from tests.kit.serving import SECONDS, picture

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CLASSES = ["red", "green", "blue", *(f"shade {n}" for n in range(9))]


def row(colour: str, seed: int, **fields: Any) -> Row:
    image = picture(colour, (20 + seed, 20))
    given = {"predicted": colour, "version": 1, "format": "png", "image": image, **fields}
    probabilities = np.full(len(CLASSES), 0.05)
    probabilities[CLASSES.index(colour)] = 0.45
    digest = f"{seed:02}{colour}".encode().hex().ljust(64, "0")
    return Row(f"r{seed}", 0, 0, "rest", "m", sha256=digest, probabilities=probabilities, **given)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = {"red": 1, "green": 2, "blue": 3}
    asked = [
        LabelRequest(row(name, seed), UNSURE, [name, *(each for each in CLASSES if each != name)])
        for name, seed in names.items()
    ]
    ask.write(asked, CLASSES, tmp_path / "asked")
    return tmp_path / "asked"


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    loop, port = asyncio.new_event_loop(), portpicker.pick_unused_port()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(application(folder), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(SECONDS)
    yield f"http://127.0.0.1:{port}/"
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(SECONDS)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def table(folder: Path) -> list[str]:
    with (folder / TABLE).open(newline="") as file:
        return [line["label"] for line in csv.DictReader(file)]


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
class TestPage:
    def test_is_worked_by_keys_alone(self, folder: Path, address: str) -> None:
        from axe_playwright_python.sync_playwright import Axe
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM,
                args=["--no-sandbox"] if os.geteuid() == 0 else [],
            )
            page = browser.new_page()
            noise: list[str] = []
            page.on("console", lambda message: noise.append(message.text))
            page.on("pageerror", lambda error: noise.append(str(error)))
            requested: list[str] = []
            page.on("request", lambda request: requested.append(request.url))
            page.goto(address)
            status = page.get_by_role("status")
            status.get_by_text("0 of 3").wait_for()
            page.wait_for_function("document.getElementById('image').naturalWidth > 0")
            choices = page.locator("#choices button")
            assert choices.count() == 9
            page.keyboard.press("1")
            status.get_by_text("1 of 3").wait_for()
            assert table(folder) == ["red", "", ""]
            page.keyboard.press("2")  # the second likeliest of the second image
            status.get_by_text("2 of 3").wait_for()
            assert table(folder) == ["red", "red", ""]
            page.keyboard.press("ArrowLeft")
            page.keyboard.press("0")
            status.get_by_text("1 of 3").wait_for()
            page.keyboard.press("1")
            status.get_by_text("2 of 3").wait_for()
            page.locator("#name").fill("Käse 9")
            page.keyboard.press("Enter")
            status.get_by_text("all done").wait_for()
            assert table(folder) == ["red", "green", "Käse 9"]
            found = Axe().run(page).response["violations"]
            severe = [each["id"] for each in found if each["impact"] in ("serious", "critical")]
            browser.close()
        assert severe == []
        assert noise == []
        assert all(url.startswith((address, "data:")) for url in requested)

    def test_goes_on_where_it_was_left(self, folder: Path, address: str) -> None:
        sent = {"image": read_table(folder / TABLE)[0]["image"], "label": "blue"}
        requests.post(f"{address}label", json=sent, timeout=60).raise_for_status()
        found = requests.get(f"{address}state", timeout=60).json()
        assert [each["label"] for each in found["images"]] == ["blue", "", ""]
        assert found["classes"] == sorted(CLASSES)


class TestServer:
    def test_gives_out_nothing_else(self, folder: Path, address: str) -> None:
        (folder / "images" / "secret.txt").write_text("secret")
        for path in ("images/secret.txt", "images/..%2flabels.csv", "labels.csv", "items.json"):
            assert requests.get(f"{address}{path}", timeout=60).status_code == 404

    def test_takes_labels_from_its_page_only(self, folder: Path, address: str) -> None:
        image = read_table(folder / TABLE)[0]["image"]
        form = requests.post(f"{address}label", data={"image": image, "label": "x"}, timeout=60)
        assert form.status_code == 415
        other = {"image": "elsewhere", "label": "x"}
        assert requests.post(f"{address}label", json=other, timeout=60).status_code == 400
        assert table(folder) == ["", "", ""]

    def test_what_is_no_folder_of_ask(self, tmp_path: Path) -> None:
        with pytest.raises(DataError):
            application(tmp_path)
        (tmp_path / TABLE).write_text("image,label\na,b\n")
        with pytest.raises(DataError, match=r"perennial ask"):
            application(tmp_path)
        assert perennial("label", tmp_path).exit_code == 3


class TestTable:
    def test_feedback_takes_it_back_and_leaves_out_what_nobody_labelled(
        self, folder: Path, tmp_path: Path
    ) -> None:
        lines = read_table(folder / TABLE)
        assert [line["guess"] for line in lines] == ["red", "green", "blue"]
        assert all(line["label"] == "" for line in lines)
        lines[0]["label"], lines[1]["label"] = "red", "blue"
        write_table(folder / TABLE, lines)
        made = feedback.add(folder / TABLE, f"{tmp_path}/data/{{SPAN}}")
        assert (made.images, [bad.reason for bad in made.bad]) == (2, ["no label"])

    def test_a_folder_with_something_in_it_is_kept(self, folder: Path) -> None:
        with pytest.raises(ConfigError):
            ask.write([], CLASSES, folder)


def candidates(seed: int, count: int = 200) -> Candidates:
    random = np.random.default_rng(seed)
    raw = random.dirichlet(np.ones(4), count)
    points = random.normal(size=(count, 5))
    return Candidates(raw, points, np.zeros(count, bool), np.zeros(count, bool))


class TestChoice:
    def test_the_least_sure_of_each_class_where_points_are_not_known(self) -> None:
        given = candidates(0)._replace(points=np.zeros((200, 0)))
        ordered = np.sort(given.probabilities, axis=1)
        margins = ordered[:, -1] - ordered[:, -2]
        predicted = given.probabilities.argmax(axis=1)
        chosen = [index for index, _ in choose(given, 12)]
        for kind in range(4):
            of_kind = np.flatnonzero(predicted == kind)
            least = of_kind[np.argsort(margins[of_kind])][:3]
            assert [index for index in chosen if predicted[index] == kind] == list(least)

    def test_a_frequent_class_leaves_room_for_rare_ones(self) -> None:
        """Of 100 images, 96 are predicted to be of one class, and all are equally unsure."""
        predicted = np.repeat([0, 1, 2], [96, 2, 2])
        probabilities = np.where(predicted[:, None] == np.arange(3), 0.4, 0.3)
        none = np.zeros(100, bool)
        chosen = choose(Candidates(probabilities, np.zeros((100, 0)), none, none), 6)
        assert np.bincount(predicted[[index for index, _ in chosen]]).tolist() == [2, 2, 2]

    def test_each_reason_gets_a_part(self) -> None:
        given = candidates(1)
        given.is_disputed[:50] = True
        given.is_far[50:100] = True
        reasons = [reason for _, reason in choose(given, 20)]
        assert {name: reasons.count(name) for name in (DISAGREE, DISTANT, UNSURE)} == {
            DISAGREE: 5,
            DISTANT: 5,
            UNSURE: 10,
        }

    def test_no_image_twice_and_at_most_so_many(self) -> None:
        given = candidates(2)
        given.is_disputed[:], given.is_far[:] = True, True
        for number in (1, 3, 50, 200, 500):
            chosen = [index for index, _ in choose(given, number)]
            assert len(set(chosen)) == len(chosen) == min(number, 200)

    def test_what_is_alike_is_not_asked_for_again(self) -> None:
        """Three clusters of equally unsure images, one of them of 90 in 100."""
        points = np.repeat(np.eye(3) * 10, [90, 5, 5], axis=0)
        points += np.random.default_rng(0).normal(0, 0.1, points.shape)
        even = np.full((100, 2), 0.5)
        given = Candidates(even, points, np.zeros(100, bool), np.zeros(100, bool))
        clusters = {int(points[index].argmax()) for index, _ in choose(given, 34)[:3]}
        assert clusters == {0, 1, 2}


class TestSelection:
    ANSWERS = Answers(
        CLASSES,
        np.zeros((1, len(CLASSES))),
        np.ones(1, bool),
        np.zeros((1, 0)),
        np.zeros((1, 0)),
    )

    def select(self, rows: list[Row], known: set[str] | None = None) -> list[LabelRequest]:
        return ask.select(rows, self.ANSWERS, lambda *_: None, known or set(), 10)

    def test_near_duplicates_are_asked_for_once(self) -> None:
        found = self.select([row("red", 0), row("red", 1), row("blue", 2)])
        assert sorted(each.row.predicted for each in found) == ["blue", "red"]

    def test_what_has_a_label_is_not_asked_for(self) -> None:
        (left,) = self.select([row("red", 0), row("blue", 2)], {row("red", 0).sha256})
        assert left.row.predicted == "blue"
        assert left.choices[0] == "blue"
        assert sorted(left.choices) == sorted(CLASSES)

    def test_versions_that_disagree_are_a_reason(self) -> None:
        shadow = row("red", 0, predicted="green", version=2, is_shadow=True)
        first, second = self.select([row("red", 0), shadow, row("blue", 2)])
        assert (first.row.version, first.row.predicted, first.reason) == (1, "red", DISAGREE)
        assert second.reason == UNSURE

    def test_without_images_there_is_nothing_to_ask(self) -> None:
        with pytest.raises(DataError, match="recorded"):
            self.select([row("red", 0, image=b"")])
