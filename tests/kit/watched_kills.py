"""Kill pushes, promotions and rollbacks while a real server follows and a client keeps asking it.

    python -m tests.kit.watched_kills FOLDER [POINTS]

Unlike in `registry_faults` there is one registry, and the server is a process: the development
server, or the one that TENSORFLOW_MODEL_SERVER names. Each point is a process that pushes, promotes
with --server or rolls back, and is killed at a random step of its work on the disk. Afterwards one
of the two states is configured, all files are whole, and the server serves that state. Prints a
JSON object: `points` that were killed, `requests` for the label stable meanwhile, how many of them
`failed`, and `problems`, a line each.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import requests

from components import records
from components.model_registry import CANARY, STABLE, Registry, Serving, configuration, versions
from components.model_registry.serving import PREVIOUS, promoted
from components.model_server import launch
from tests.kit import registry_faults
from tests.kit.serving import GOOD

_NAME = "m"
_SECONDS = 60.0  # for the server to follow
_EXPORT = "from tests.kit.tiny_export import *; import sys; export_colour_model(Path(sys.argv[1]))"
_STEPS = 120  # of an action, at most

Action = tuple[str, Callable[[Registry], object], Serving]


class _Client(threading.Thread):
    """Requests for the label stable, one after the other, until `stop` is set."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.stop = url, threading.Event()
        self.count, self.failed = 0, list[str]()

    def run(self) -> None:
        while not self.stop.wait(0.02):
            answer = requests.post(f"{self.url}/labels/stable:predict", json=GOOD, timeout=60)
            self.count += 1
            if answer.status_code != 200:
                self.failed.append(answer.text[:200])


def _model(folder: Path, number: int) -> Path:
    """Export a model once, and make it differ by a file."""
    model = folder / "model"
    if not model.exists():
        subprocess.run([sys.executable, "-c", _EXPORT, str(model)], check=True)
    (model / "assets.extra").mkdir(exist_ok=True)
    (model / "assets.extra" / "number").write_text(str(number))
    return model


def _action(target: Registry, server: str, model: Path) -> Action:
    """Choose what is done next, and what is configured when it is."""
    now = target.serving()
    labels, newest = dict(now.labels), target.numbers()[-1]
    if CANARY in labels:
        if random.random() < 0.5:
            del labels[CANARY]
            return "withdraw", lambda t: t.rollback([server]), Serving.of(labels)
        version, to = labels[CANARY], STABLE
    elif PREVIOUS in labels and random.random() < 0.3:
        after = Serving.of({STABLE: labels[PREVIOUS]})
        return "rollback", lambda t: t.rollback([server]), after
    elif newest == labels[STABLE]:
        return "push", lambda t: t.push(model, {}, 4), now
    else:
        version, to = newest, random.choice([CANARY, STABLE])
    after = Serving.of(promoted(labels, version, to, lambda _: True))
    return f"{to} {version}", lambda t: t.promote(version, to, [server]), after


def _served(url: str) -> dict[str, str]:
    """Return the version that answers for each label."""
    found = {}
    for label in (STABLE, CANARY, PREVIOUS):
        answer = requests.get(f"{url}/labels/{label}/metadata", timeout=60)
        spec = answer.json().get("model_spec", {})
        found[label] = spec.get("version", str(answer.status_code))
    return found


def _check(target: Registry, url: str, before: Serving, after: Serving) -> Iterator[str]:
    found = target.serving()
    if found not in (before, after):
        yield f"it is {found}, not {before} or {after}"
    if Path(configuration.change_location(target.config)).exists():
        yield "a change is left unfinished"
    if damaged := records.read(
        str(Path(target.config).with_name(configuration.AUDIT_FILE))
    ).damaged:
        yield f"damaged: {damaged}"
    for number in target.numbers():
        manifest = versions.read_manifest(str(target.base), number)
        if manifest is None or versions.damaged_files(str(target.base), number, manifest):
            yield f"version {number} is not whole"
    give_up = time.monotonic() + _SECONDS
    wanted = {label: str(number) for label, number in found.labels.items()}
    while (served := _served(url)) | wanted != served:
        if time.monotonic() > give_up:
            yield f"the server has {served}, and configured is {found}"
            return
        time.sleep(0.2)


def main(folder: Path, most: int = 100) -> None:
    """Go on until so many processes were killed; print what came of them."""
    random.seed(registry_faults._SEED)
    base = folder / "serving" / _NAME
    target = Registry(str(base), name=_NAME)
    target.push(_model(folder, 0), {}, 4)
    target.promote(1, STABLE)
    source = launch.Source.of_config(Path(target.config))
    points, number, problems, by = 0, 0, list[str](), dict[str, int]()
    with launch.ServerProcess(launch.find_backend(), source) as server:
        url = f"http://{server.host}:{server.rest_port}/v1/models/{_NAME}"
        while _ready(url) != 200:
            time.sleep(0.2)
        client = _Client(url)
        client.start()
        while points < most:
            number += 1
            before = target.serving()
            model = _model(folder, number)
            address = f"{server.host}:{server.grpc_port}"
            name, do, after = _action(target, address, model)
            prepare = registry_faults.killing(folder, random.randint(1, _STEPS))
            with mock.patch.dict(registry_faults.ACTIONS, {name: (do, after)}):
                status, told, _ = registry_faults.child(target, name, prepare)
            if os.WIFSIGNALED(status):
                points += 1
                by[name.split()[0]] = by.get(name.split()[0], 0) + 1
            elif status:
                problems.append(f"{number}, {name}: {told}")
            target.recover()
            problems += [f"{number}, {name}: {each}" for each in _check(target, url, before, after)]
        client.stop.set()
        client.join()
    found = {"points": points, "by": by, "actions": number, "requests": client.count}
    print(json.dumps({**found, "failed": client.failed, "problems": problems}))


def _ready(url: str) -> int:
    try:
        return requests.get(f"{url}/labels/stable/metadata", timeout=60).status_code
    except requests.ConnectionError:
        return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
