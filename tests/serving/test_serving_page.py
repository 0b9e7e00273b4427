"""The page of the development server, in Chromium over its DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from components.model_server.server import ModelServer
from tests.kit.serving import MODEL, SECONDS, picture, push, url

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=SECONDS)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(str(message["params"]))
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def open(self, address: str) -> None:
        for domain in ("Page", "Runtime", "Log", "DOM"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=address)
        await self.until("document.readyState === 'complete'")

    async def value(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        async with asyncio.timeout(SECONDS):
            while not await self.value(expression):
                await asyncio.sleep(0.05)

    async def choose(self, path: Path) -> None:
        """Choose a file in the file dialogue."""
        document = await self.call("DOM.getDocument")
        found = await self.call(
            "DOM.querySelector", nodeId=document["root"]["nodeId"], selector="input[type=file]"
        )
        await self.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(path)])

    async def drop(self, path: Path) -> None:
        """Drop a file onto the page with the mouse."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            await self.call("Input.dispatchDragEvent", type=kind, x=200, y=200, data=data)

    async def message(self) -> str:
        return str(await self.value("document.querySelector('[role=status]').textContent"))

    async def classes(self) -> list[list[str]]:
        """Name and percentage in each row of the table."""
        found: list[list[str]] = await self.value(
            "[...document.querySelectorAll('tr')].map("
            "row => [row.cells[0].textContent, row.cells[2].textContent])"
        )
        return found


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Browser]:
    assert CHROMIUM
    arguments = [
        *("--headless=new", "--disable-gpu", "--no-first-run", "--window-size=800,700"),
        *("--remote-debugging-port=0", f"--user-data-dir={profile}"),
        *(["--no-sandbox"] if os.geteuid() == 0 else []),  # which root cannot have
    ]
    process = subprocess.Popen(
        [CHROMIUM, *arguments, "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(SECONDS), aiohttp.ClientSession() as http:
            written = profile / "DevToolsActivePort"
            while not (written.exists() and len(lines := written.read_text().splitlines()) == 2):
                assert process.poll() is None, "chromium has ended"
                await asyncio.sleep(0.05)
            async with http.get(f"http://127.0.0.1:{lines[0]}/json/list") as answer:
                targets = await answer.json()
            (page,) = [target for target in targets if target["type"] == "page"]
            address = page["webSocketDebuggerUrl"]
            async with http.ws_connect(address, max_msg_size=0) as socket:
                yield Browser(socket)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def server(tmp_path: Path, colour_models: list[Path]) -> Iterator[ModelServer]:
    base = tmp_path / "base"
    base.mkdir()
    push(colour_models[2], base, 3)
    with ModelServer(base, MODEL) as started:
        started.wait_ready(SECONDS)
        yield started


def test_a_chosen_or_dropped_image_shows_its_classes_and_the_served_version(
    server: ModelServer, tmp_path: Path
) -> None:
    chosen, dropped, junk = (tmp_path / name for name in ("a.png", "b.jpg", "c.png"))
    chosen.write_bytes(picture("red"))
    dropped.write_bytes(picture("blue", kind="JPEG"))
    junk.write_bytes(b"junk")

    async def visit() -> None:
        async with browser(tmp_path / "profile") as page:
            await page.open(url(server, "/"))
            assert "development" in await page.value("document.body.innerText")

            await page.choose(chosen)
            await page.until("document.querySelectorAll('tr').length === 3")
            assert await page.message() == f"red ({MODEL}, version 3)"
            classes = await page.classes()
            assert [name for name, _ in classes] == ["red", "green", "blue"]
            shares = [float(share.removesuffix("%")) for _, share in classes]
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) == pytest.approx(100, abs=0.2)
            # The preview was decoded, so the policy of the page lets it through.
            assert await page.value("document.querySelector('img').naturalWidth") == 12

            await page.drop(dropped)
            await page.until(
                "document.querySelector('[role=status]').textContent.startsWith('blue')"
            )
            assert [name for name, _ in await page.classes()] == ["blue", "green", "red"]
            assert page.complaints == []

            await page.choose(junk)
            await page.until("document.querySelector('[role=status]').classList.contains('bad')")
            assert await page.classes() == []
            assert "format" in await page.message()
            assert "node" not in await page.message()

    asyncio.run(visit())
