"""Several processes at once: pushes, promotions and servers in one workspace."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components import storage
from components.model_registry import CANARY, STABLE, Registry, versions
from components.model_registry.configuration import AUDIT_FILE
from components.model_server.server import ModelServer
from pipeline.errors import ConfigError
from tests import REPO
from tests.kit.registry_models import assert_whole, write_model
from tests.kit.serving import MODEL, SECONDS, b64, picture, post

PUSH = """
import sys
from pathlib import Path
from components.model_registry import Registry
root, registry = Path(sys.argv[1]), Registry(sys.argv[2])
for number in range(10):
    registry.push(root / str(number), {"run": sys.argv[3]}, 100)
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "serving" / MODEL


def test_two_processes_push_each_model_once(tmp_path: Path, base: Path) -> None:
    for number in range(10):
        write_model(tmp_path / "models" / str(number), f"model {number}")
    command = [sys.executable, "-c", PUSH, str(tmp_path / "models"), str(base)]
    both = [subprocess.Popen([*command, name], cwd=REPO) for name in ("one", "other")]
    assert [process.wait() for process in both] == [0, 0]
    numbers = versions.find(str(base))
    assert numbers == list(range(1, len(numbers) + 1))
    # Whose turn it is decides between ten versions and, where they alternate, twenty.
    assert 10 <= len(numbers) <= 20
    for number in numbers:
        content = storage.read_text(f"{base}/{number}/saved_model.pb") or ""
        assert_whole(str(base), number, content.removesuffix(" saved_model.pb"))
    assert not list(base.glob(".[0-9]*-*"))


def test_a_push_keeps_what_is_promoted_meanwhile(tmp_path: Path, base: Path) -> None:
    target = Registry(str(base))
    for number in (1, 2):
        target.push(write_model(tmp_path / "model", f"model {number}"), {}, 10)
    target.promote(2, STABLE)

    def keep_pushing() -> None:
        for number in range(3, 23):
            target.push(write_model(tmp_path / "model", f"model {number}"), {}, 1)

    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(keep_pushing)
        while not pushing.done():
            newest = max(versions.find(str(base)))
            try:
                target.promote(newest, CANARY)
            except ConfigError:
                continue  # it was superseded before its turn, and is refused as not there
            assert {2, newest} <= set(versions.find(str(base)))
        pushing.result()
    labels = target.serving().labels
    assert set(labels.values()) <= set(versions.find(str(base)))


def test_promotions_take_turns_and_are_both_on_record(tmp_path: Path, base: Path) -> None:
    for number in (1, 2, 3):
        versions.push(write_model(tmp_path / "model", f"model {number}"), base, {}, 10, lambda: ())
    target = Registry(str(base), str(base.parent / "models.config"), MODEL)
    target.promote(1, STABLE)

    def change(turn: int) -> None:
        # Whoever comes second may find that there is nothing to withdraw.
        with contextlib.suppress(ConfigError):
            target.promote(2, CANARY) if turn % 2 else target.rollback()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(32)))
    log = (base.parent / AUDIT_FILE).read_text().splitlines()
    results = [json.loads(line)["result"] for line in log]
    assert results == ["started", "done"] * (len(results) // 2)
    states = [json.loads(line) for line in log[1::2]]
    for before, after in itertools.pairwise(states):
        assert after["from"] == before["to"]
    last = states[-1]["to"]["labels"]
    assert last == target.serving().labels
    assert last[STABLE] == 1


def test_two_servers_follow_the_same_configuration(base: Path, colour_models: list[Path]) -> None:
    for model in colour_models[:2]:
        versions.push(model, base, {}, 10, lambda: ())
    config = base.parent / "models.config"
    target = Registry(str(base), str(config), MODEL)
    target.promote(1, STABLE)

    def server() -> ModelServer:
        return ModelServer(config_file=config, poll_seconds=0.05, config_poll_seconds=0.05)

    with server() as one, server() as other:
        for each in (one, other):
            each.wait_ready(SECONDS)
        addresses = [f"{each.host}:{each.grpc_port}" for each in (one, other)]
        target.promote(2, CANARY, addresses, SECONDS)
        target.promote(2, STABLE, addresses, SECONDS)
        for each in (one, other):
            answer = post(
                each, f"/v1/models/{MODEL}/labels/stable:predict", {"instances": [b64(picture())]}
            )
            assert answer.status_code == 200
            assert answer.headers["X-Model-Version"] == "2"
