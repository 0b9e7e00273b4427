"""The pages in Debian's Chromium: nothing missing, nothing loaded, readable by anyone anywhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.report import page as report_page
from pipeline.report import samples as sample_page
from pipeline.report import write
from pipeline.report.facts import Facts, RunData, State
from pipeline.workspace import Workspace
from tests.kit import report as report_kit

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine"),
]

PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
SEVERE = {"serious", "critical"}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By name: reports of a pushed, a rejected and a failed run, one of 100 classes, and others."""
    workspace = Workspace(tmp_path_factory.mktemp("work") / "<b>workspace")
    many = [f"species {index}" for index in range(100)]
    found = {
        "pushed": report_kit.facts(),
        "rejected": report_kit.facts(State.REJECTED, baseline=False),
        "failed": Facts(run=report_kit.run(State.FAILED, accuracy=None)),
        "many": report_kit.facts(classes=many),
    }
    paths = {}
    for number, (name, facts) in enumerate(found.items(), 1):
        record = report_kit.run(facts.run.state, number, 0.8 + number / 50)
        if name == "failed":  # with a reason and a source that are long, without any blank
            source = RunData(source=f"/{'photos' * 30}")
            record = record.model_copy(update={"error": f"/{'path' * 200}", "data": source})
        facts = facts.model_copy(update={"run": record})
        folder = workspace.run_dir(record.run_id)
        paths[name] = write.write_report(facts, folder, "../index.html")
        write.write_file(folder / "run.json", record.model_dump_json())
    report_kit.write_promotions(workspace)
    samples = workspace.root / "samples.html"
    pictures = [report_kit.picture(number) for number in range(3)]
    shown = [
        sample_page.Sample(f"{report_kit.EVIL}/{'long' * 20}.png", pictures[0], pictures[1:])
    ] * 9
    classes = [
        sample_page.ClassSamples(report_kit.EVIL, 1, shown),
        sample_page.ClassSamples("dog", 9, shown),
    ]
    write.write_file(
        samples,
        report_page.template("samples.html").render(
            source="/data/photos", facts=["2 classes"], classes=classes, side=96
        ),
    )
    return {**paths, "samples": samples, "index": write.write_index(workspace)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox"] if os.geteuid() == 0 else [],  # which root cannot have
        )
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., tuple[Page, list[str]]]]:
    """Return a function that opens a page and records its console messages and requests."""
    opened = []

    def open_page(path: Path, **options: Any) -> tuple[Page, list[str]]:
        context = browser.new_context(**options)
        opened.append(context)
        page, noise = context.new_page(), list[str]()
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on("request", lambda request: noise.append(request.url))
        page.goto(path.as_uri())
        noise[:] = [each for each in noise if each != path.as_uri() and each[:5] != "data:"]
        return page, noise

    yield open_page
    for context in opened:
        context.close()


@pytest.mark.parametrize("name", ["pushed", "rejected", "failed", "many", "samples", "index"])
@pytest.mark.parametrize(
    ("viewport", "scheme"), [(PHONE, "light"), (DESKTOP, "light"), (DESKTOP, "dark")]
)
def test_nothing_is_loaded_missing_or_hard_to_use(
    pages: dict[str, Path], visit: Any, name: str, viewport: Any, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page, noise = visit(pages[name], viewport=viewport, color_scheme=scheme)
    assert noise == []
    # Nothing but what is meant to scrolls sideways.
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    broken = "[...document.images].filter(i => !i.naturalWidth || !i.alt).map(i => i.outerHTML)"
    assert page.evaluate(broken) == []
    for target in page.evaluate("[...document.links].map(l => l.getAttribute('href'))"):
        if target.startswith("#"):
            assert page.locator(target).count() == 1, target
        else:
            assert (pages[name].parent / target).is_file(), target
    found = Axe().run(page).response["violations"]
    severe = [each for each in found if each["impact"] in SEVERE]
    assert [(each["id"], [n["html"] for n in each["nodes"]][:3]) for each in severe] == []


def test_a_long_failure_does_not_widen_the_table_of_runs(
    pages: dict[str, Path], visit: Any
) -> None:
    page, _ = visit(pages["index"], viewport=DESKTOP)
    wide = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    assert page.evaluate(f"{wide}.length") == 0
    page.locator("details.why summary").click()
    assert "pathpath" in page.locator("details.why small").inner_text()
    assert page.evaluate(f"{wide}.length") == 0


def test_names_are_text(pages: dict[str, Path], visit: Any) -> None:
    page, _ = visit(pages["pushed"], viewport=DESKTOP)
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.querySelectorAll('main i, main b, [onerror]').length") == 0
    for name in report_kit.NAMES:
        assert page.get_by_role("rowheader", name=name, exact=True).count() > 0, name


def test_the_verdict_and_the_accuracy_come_first(pages: dict[str, Path], visit: Any) -> None:
    page, _ = visit(pages["rejected"], viewport=PHONE)
    top = page.locator(".verdict")
    assert "evaluate.min_accuracy" in top.inner_text()
    assert "%" in top.locator(".main dd").inner_text()
    assert top.locator(".main dd").bounding_box()["y"] < PHONE["height"]


def test_dark_is_dark_and_print_is_light_and_has_everything(
    pages: dict[str, Path], visit: Any
) -> None:
    page, _ = visit(pages["many"], viewport=DESKTOP, color_scheme="dark")
    color = "getComputedStyle(document.body).getPropertyValue('--page')"
    assert page.evaluate(color) == "#14181d"
    folded = page.locator("details:not([open]) table").first
    assert not folded.is_visible()
    page.emulate_media(media="print")
    assert page.evaluate(color) == "#fff"
    assert not page.locator("nav").is_visible()
    assert folded.is_visible()
    page.set_viewport_size({"width": 700, "height": 990})  # A4 and its margins
    assert page.evaluate("document.documentElement.scrollWidth") == 700
    assert page.pdf()[:5] == b"%PDF-"


def test_figures_follow_the_colours_of_the_page(pages: dict[str, Path], visit: Any) -> None:
    colors = set()
    for scheme in ("light", "dark"):
        page, _ = visit(pages["pushed"], viewport=DESKTOP, color_scheme=scheme)
        text = page.locator("figure svg text").first
        assert text.evaluate("each => getComputedStyle(each).fontSize") == "11px"
        colors.add(text.evaluate("each => getComputedStyle(each).fill"))
    assert len(colors) == 2


def test_the_keyboard_reaches_what_scrolls(pages: dict[str, Path], visit: Any) -> None:
    page, _ = visit(pages["pushed"], viewport=PHONE)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.hash") == "#content"
    clipped = (
        "[...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1"
        " && getComputedStyle(e).overflowX === 'auto' && e.tabIndex !== 0).map(e => e.outerHTML)"
    )
    assert page.evaluate(clipped) == []
