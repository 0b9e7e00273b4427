"""A web page on loopback for one person, to label images with the keys 1 to 9."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiohttp import web

from pipeline.errors import DataError
from pipeline.monitoring.label_table import IMAGES, ITEMS, TABLE, read_table, write_table

_PAGE = Path(__file__).with_name("label.html")
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'",
}


def application(folder: Path) -> web.Application:
    """Make the page for a folder written by `ask.write`. Raises DataError for another folder."""
    read_table(folder / TABLE)
    try:
        items = json.loads((folder / ITEMS).read_bytes())
        classes = list(items["classes"])
        choices = {each["image"]: list(each["choices"]) for each in items["images"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / ITEMS}: cannot be read: {type(error).__name__}") from error

    async def page(_: web.Request) -> web.FileResponse:
        return web.FileResponse(_PAGE, headers={"Content-Type": "text/html; charset=utf-8"})

    async def state(_: web.Request) -> web.Response:
        lines = read_table(folder / TABLE)
        images = [{**line, "choices": choices.get(line["image"], [])} for line in lines]
        return web.json_response({"classes": classes, "images": images})

    async def image(request: web.Request) -> web.StreamResponse:
        name = f"{IMAGES}/{request.match_info['name']}"
        if name not in choices:
            raise web.HTTPNotFound
        return web.FileResponse(folder / name)

    async def label(request: web.Request) -> web.Response:
        # A browser sends JSON of another site's page only after a preflight, which fails here.
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType
        sent: Any = await request.json()
        lines = read_table(folder / TABLE)
        chosen = [line for line in lines if line["image"] == sent["image"]]
        if not chosen or not isinstance(sent["label"], str):
            raise web.HTTPBadRequest
        chosen[0]["label"] = sent["label"].strip()
        write_table(folder / TABLE, lines)
        return web.json_response({})

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(_HEADERS)

    app = web.Application()
    app.on_response_prepare.append(add_headers)
    app.router.add_get("/", page)
    app.router.add_get("/state", state)
    app.router.add_get(f"/{IMAGES}/{{name}}", image)
    app.router.add_post("/label", label)
    return app


def serve(folder: Path, port: int) -> None:
    """Serve the page on loopback until it is interrupted."""
    web.run_app(application(folder), host="127.0.0.1", port=port, access_log=None, print=None)
