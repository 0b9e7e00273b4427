"""AtomicPusher: versions appear whole, increase, repeat no model, and are removed when old."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components import storage
from components.errors import ConfigError
from components.model_registry import Registry, versions
from tests.kit.registry_models import FILES, assert_whole, write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "serving" / "digits"


def push(model: Path, base: Path, keep: int = 10, served: Collection[int] = ()) -> int:
    return versions.push(model, base, {"run": "r"}, keep, lambda: served)


class TestFileSystem:
    def test_versions_increase_whatever_the_clock_says(self, model: Path, base: Path) -> None:
        assert push(model, base) == 1
        write_model(model, "next")
        assert push(model, base) == 2
        assert_whole(str(base), 1, "model")
        assert_whole(str(base), 2, "next")

    def test_continues_from_versions_that_others_made(self, model: Path, base: Path) -> None:
        write_model(base / "1700000000")
        assert push(model, base) == 1700000001

    def test_the_same_model_is_pushed_once(self, model: Path, base: Path) -> None:
        assert push(model, base) == push(model, base) == 1
        assert versions.find(str(base)) == [1]

    def test_pushes_at_the_same_moment_take_turns(self, tmp_path: Path, base: Path) -> None:
        models = [write_model(tmp_path / str(n), f"model {n}") for n in range(6)]
        with ThreadPoolExecutor(6) as pool:
            pushed = list(pool.map(lambda model: push(model, base), models))
        assert sorted(pushed) == [1, 2, 3, 4, 5, 6]
        for number, version in enumerate(pushed):
            assert_whole(str(base), version, f"model {number}")

    @pytest.mark.parametrize("fail_at", range(1, 8))
    def test_a_disk_that_is_full_at_any_file_shows_no_version(
        self, model: Path, base: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
    ) -> None:
        calls = 0
        fsync = os.fsync

        def failing(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(ConfigError, match=f"the disk that holds {base} is full"):
            push(model, base)
        assert [entry.name for entry in base.iterdir()] == [".lock"]

    def test_a_disk_without_the_space_is_refused_before_anything_is_copied(
        self, model: Path, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        statvfs = os.statvfs

        def nearly_full(path: Path) -> os.statvfs_result:
            values = list(statvfs(path))
            values[4] = 0  # blocks available
            return os.statvfs_result(values)

        monkeypatch.setattr(os, "statvfs", nearly_full)
        monkeypatch.setattr(shutil, "copytree", None)
        with pytest.raises(ConfigError, match=r"takes .* MB and the disk .* has 0\.0 MB free"):
            push(model, base)

    @pytest.mark.parametrize(
        ("entry", "reason"),
        [
            ("holiday.jpg", "is not a version number"),
            ("007/saved_model.pb", "is not a version number"),
            ("99999999999999999999/saved_model.pb", "is not a version number that can be served"),
            ("2024/holiday.jpg", "has no saved_model.pb in it"),
        ],
    )
    def test_a_folder_that_holds_other_things_is_refused_and_left_alone(
        self, model: Path, base: Path, entry: str, reason: str
    ) -> None:
        (base / entry).parent.mkdir(parents=True)
        (base / entry).write_text("mine")
        before = sorted(base.rglob("*"))
        with pytest.raises(ConfigError, match=f"{base} is not only .* {reason}; move"):
            push(model, base)
        assert sorted(base.rglob("*")) == before

    def test_a_file_is_refused_as_the_folder(self, model: Path, base: Path) -> None:
        base.parent.mkdir()
        base.write_text("mine")
        with pytest.raises(ConfigError, match="is a file"):
            push(model, base)

    def test_the_newest_versions_remain_and_those_that_are_served(
        self, model: Path, base: Path
    ) -> None:
        for number in range(1, 6):
            write_model(model, f"model {number}")
            push(model, base, keep=2, served={1, 77})
        assert versions.find(str(base)) == [1, 4, 5]
        assert sorted(entry.name for entry in base.iterdir()) == [".lock", "1", "4", "5"]


class TestKilled:
    """SIGKILL before every step of a push that adds version 4 and removes version 2."""

    @pytest.fixture(scope="class")
    def killed(self, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, Path]]:
        """For each step the exit code of a push that was killed there, and what it left."""
        root = tmp_path_factory.mktemp("killed")
        start = root / "start"
        for number in (1, 2, 3):
            push(write_model(root / "model", f"model {number}"), start)
        model = write_model(root / "model", "model 4")

        def run(step: int) -> tuple[int, Path]:
            base = root / str(step) / "digits"
            shutil.copytree(start, base)
            arguments = [str(model), str(base), str(step)]
            command = [sys.executable, "-m", "tests.kit.push_until_killed", *arguments]
            return subprocess.run(command, check=False).returncode, base

        results: list[tuple[int, Path]] = []
        while not results or results[-1][0] == -signal.SIGKILL:
            results.append(run(len(results) + 1))
        return results

    def test_every_step_was_met_and_the_whole_push_ends_well(
        self, killed: list[tuple[int, Path]]
    ) -> None:
        codes = [code for code, _ in killed]
        assert codes[-1] == 0, "3: a version was seen that was not whole"
        assert len(codes) > 4 * len(FILES)
        assert versions.find(str(killed[-1][1])) == [1, 3, 4]

    def test_no_server_ever_finds_a_version_that_is_not_whole(
        self, killed: list[tuple[int, Path]]
    ) -> None:
        seen = set()
        for _, base in killed:
            numbers = versions.find(str(base))
            seen.add(tuple(numbers))
            for number in numbers:
                assert_whole(str(base), number, f"model {number}")
        # Before the new version, with it, and with the old one gone.
        assert seen == {(1, 2, 3), (1, 2, 3, 4), (1, 3, 4)}

    def test_the_next_push_succeeds_and_leaves_nothing_behind(
        self, killed: list[tuple[int, Path]], tmp_path: Path
    ) -> None:
        model = write_model(tmp_path / "model", "model 4")
        for _, base in killed:
            assert push(model, base, keep=2, served={1}) == 4
            assert_whole(str(base), 4, "model 4")
            assert sorted(e.name for e in base.iterdir()) == [".lock", "1", "3", "4"]


class TestObjectStore:
    """In fsspec's memory, reached as object stores are; test_storage.py has servers of S3."""

    @pytest.fixture
    def prefix(self) -> str:
        return f"memory://{uuid.uuid4().hex}/models/digits"

    def push(self, model: Path, base: str, keep: int = 10, served: Collection[int] = ()) -> int:
        return versions.push(model, base, {"run": "r"}, keep, lambda: served)

    def test_versions_increase_and_the_same_model_is_pushed_once(
        self, model: Path, prefix: str
    ) -> None:
        assert self.push(model, prefix) == self.push(model, prefix) == 1
        write_model(model, "next")
        assert self.push(model, prefix) == 2
        assert_whole(prefix, 1, "model")
        assert_whole(prefix, 2, "next")

    def test_the_manifest_is_written_when_everything_else_is_there_and_right(
        self, model: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_text = storage.write_text

        def checked(location: str, text: str) -> None:
            assert location == f"{prefix}/1/{versions.MANIFEST}"
            for name in FILES:
                assert storage.read_text(f"{prefix}/1/{name}") == f"model {name}"
            write_text(location, text)

        monkeypatch.setattr(storage, "write_text", checked)
        self.push(model, prefix)
        assert_whole(prefix, 1, "model")

    def test_what_does_not_read_back_as_written_is_no_version(
        self, model: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digest_of = versions.digest_of
        monkeypatch.setattr(
            versions,
            "digest_of",
            lambda at: "0" if at.startswith(prefix) and "variables" in at else digest_of(at),
        )
        with pytest.raises(ConfigError, match=r"variables\.index does not read back"):
            self.push(model, prefix)
        assert versions.find(prefix) == []

    def test_what_a_killed_push_left_does_not_count_and_goes(
        self, model: Path, prefix: str
    ) -> None:
        self.push(model, prefix)
        storage.write_text(f"{prefix}/2/saved_model.pb", "half")
        write_model(model, "next")
        assert self.push(model, prefix) == 3
        assert versions.find(prefix) == [1, 3]

    def test_a_push_beside_another_one_takes_a_number_of_its_own_and_leaves_it_alone(
        self, model: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upload, inner = storage.upload, model.with_name("inner")
        write_model(inner, "inner")

        def beside(source: str, location: str) -> None:
            if location.endswith("/1/saved_model.pb"):
                assert self.push(inner, prefix) == 2
            upload(source, location)

        monkeypatch.setattr(storage, "upload", beside)
        assert self.push(model, prefix) == 1
        assert_whole(prefix, 1, "model")
        assert_whole(prefix, 2, "inner")

    def test_the_newest_versions_remain_and_those_that_are_served(
        self, model: Path, prefix: str
    ) -> None:
        for number in range(1, 6):
            write_model(model, f"model {number}")
            self.push(model, prefix, keep=2, served={1})
        assert versions.find(prefix) == [1, 4, 5]

    def test_a_prefix_that_holds_other_things_is_refused(self, model: Path, prefix: str) -> None:
        storage.write_text(f"{prefix}/holiday.jpg", "mine")
        with pytest.raises(ConfigError, match=r"'holiday\.jpg' is not a version number"):
            self.push(model, prefix)


class TestServed:
    CONFIG = """
        model_config_list {
          config {
            name: "digits" base_path: "/elsewhere/digits"
            model_version_policy { specific { versions: 3 versions: 4 } }
            version_labels { key: "stable" value: 3 }
            version_labels { key: "canary" value: 5 }
          }
          config { name: "x" base_path: "/other" model_version_policy { specific { versions: 9 } } }
        }
    """

    def test_labelled_and_loaded_versions_of_the_same_model_are_pinned(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "models.config").write_text(self.CONFIG)
        assert Registry(str(tmp_path / "digits")).pinned() == {3, 4, 5}
        assert Registry(str(tmp_path / "cats")).pinned() == set()

    def test_without_a_configuration_nothing_is(self, tmp_path: Path) -> None:
        assert Registry(str(tmp_path / "digits")).pinned() == set()

    def test_an_unreadable_configuration_refuses_the_push(self, tmp_path: Path) -> None:
        (tmp_path / "models.config").write_text("model_config_list {")
        with pytest.raises(ConfigError, match=r"models\.config is not a ModelServerConfig"):
            Registry(str(tmp_path / "digits")).pinned()
