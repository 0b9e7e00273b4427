"""Changes of what is served at the same time, where an object store has no lock for them."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from components import storage
from components.errors import ConfigError, PromotionFailed
from components.kubernetes_api import ConflictError
from components.model_registry import CANARY, STABLE, Registry, configuration, versions
from components.model_registry.configuration import AUDIT_FILE, DONE, Change
from tests.kit import stores

ENTRY = {"action": "a change", "who": "ann@host", "at": "2026-01-01T00:00:00+00:00"}


@pytest.fixture(params=["memory", "moto", "versity", "azurite"])
def config(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Return the location of a configuration beside which three versions were pushed."""
    with stores.place(request.param, tmp_path, monkeypatch) as place:
        for number in range(1, 4):
            model = tmp_path / str(number)
            model.mkdir()
            (model / "saved_model.pb").write_text(str(number))
            versions.push(model, f"{place}/colours", {"run": str(number)}, 10, lambda: ())
        yield f"{place}/models.config"


@pytest.fixture
def registry(config: str) -> Registry:
    return Registry(f"{storage.parent(config)}/colours")


def audit(config: str) -> list[dict[str, object]]:
    text = storage.read_text(f"{storage.parent(config)}/{AUDIT_FILE}") or ""
    return [json.loads(line) for line in text.splitlines()]


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have somebody act once, after the configuration was read and before it is written."""
    found = versions.damaged_files
    waiting = [act]

    def checked(*args: object) -> list[str]:
        if waiting:
            waiting.pop()()
        return found(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(versions, "damaged_files", checked)


def cut_off(config: str, steps: list[str], seconds: float) -> None:
    """Leave a change behind, as a process that was killed after its first write."""
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    before = storage.read_text(config)
    change = Change(entry=ENTRY, before=before, steps=steps, followed=True, until=until)
    storage.create(configuration.change_location(config), change.model_dump_json())
    storage.write_text(config, steps[0])


def test_no_change_of_many_at_once_is_lost(config: str) -> None:
    def add(name: str) -> None:
        while True:
            try:
                found = configuration.open_to_change(config, None)
                text = f"{found.text or ''}# {name}\n"
                found.begin({**ENTRY, "who": name}, 60, [text], False)
                found.write(text)
                found.end()
            except ConfigError:
                continue
            return

    names = [f"ann{number}" for number in range(6)]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(add, names))
    text = storage.read_text(config) or ""
    assert sorted(text.splitlines()) == [f"# {name}" for name in names]
    done = [entry["who"] for entry in audit(config) if entry["result"] == DONE]
    assert [f"# {name}" for name in done] == text.splitlines()
    assert not storage.exists(configuration.change_location(config))


def test_a_promotion_goes_on_from_what_another_has_made_of_it(
    registry: Registry, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Registry(registry.base)
    meanwhile(monkeypatch, lambda: other.promote(1, STABLE))
    assert registry.promote(2, CANARY).labels == {STABLE: 1, CANARY: 2}
    results = [(entry["action"], entry["result"]) for entry in audit(config)]
    both = ["promote 1 to stable", "promote 2 to canary"]
    assert results == [(action, result) for action in both for result in ("started", DONE)]


def test_a_promotion_that_another_one_rules_out_leaves_that_one_alone(
    registry: Registry, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Registry(registry.base)
    meanwhile(monkeypatch, lambda: other.promote(1, STABLE))
    with pytest.raises(ConfigError, match=r"^version 2 .*'stable'.*--server"):
        registry.promote(2, STABLE)
    assert registry.serving().labels == {STABLE: 1}
    assert {entry["action"] for entry in audit(config)} == {"promote 1 to stable"}
    assert not storage.exists(configuration.change_location(config))


def test_who_is_at_work_is_waited_for(registry: Registry, config: str) -> None:
    cut_off(config, ["# half\n"], seconds=60)
    with pytest.raises(ConfigError, match=f"^{config} .* ann@host "):
        registry.promote(1, STABLE)
    assert storage.read_text(config) == "# half\n"


def test_a_change_that_was_cut_off_is_undone_by_one_of_all_who_find_it(
    registry: Registry, config: str
) -> None:
    storage.write_text(config, "# before\n")
    cut_off(config, ["# half\n"], seconds=-1)
    together = threading.Barrier(4)
    read = configuration.read_text

    def read_together(location: str) -> str | None:
        text = read(location)
        together.wait(timeout=60)
        return text

    with (
        mock.patch.object(configuration, "read_text", read_together),
        ThreadPoolExecutor(4) as threads,
    ):
        list(threads.map(lambda _: registry.recover(), range(4)))
    assert storage.read_text(config) == "# before\n"
    assert [entry["result"] for entry in audit(config)] == ["failed: cut off, and undone"]
    assert not storage.exists(configuration.change_location(config))


def test_who_takes_too_long_does_not_replace_what_came_after(
    registry: Registry, config: str
) -> None:
    """A process that was stopped for an hour finds that others have undone its change."""
    slow = configuration.open_to_change(config, None)
    slow.begin(ENTRY, -3600, ["# one\n", "# two\n"], True)
    slow.write("# one\n")
    registry.promote(1, STABLE)
    after = storage.read_text(config)
    with pytest.raises(ConflictError):
        slow.write("# two\n")
    assert config in slow.put_back("failed: too late")
    assert storage.read_text(config) == after
    assert registry.promote(2, CANARY).labels == {STABLE: 1, CANARY: 2}


def test_a_hand_that_edits_the_file_is_not_undone(
    registry: Registry, config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a promotion waits for its servers, which never follow."""
    registry.promote(1, STABLE)
    edited = f"# by hand\n{storage.read_text(config)}"

    def edit(*_: object) -> None:
        storage.write_text(config, edited)
        raise PromotionFailed("no server follows")

    monkeypatch.setattr("components.model_registry.followers.Named.wait", edit)
    monkeypatch.setattr("components.model_registry.followers.Named.prepare", lambda *_: None)
    with pytest.raises(PromotionFailed, match=rf"{config} .*stable .*1\b"):
        registry.promote(2, CANARY, ("127.0.0.1:1",), 1.0)
    assert storage.read_text(config) == edited
