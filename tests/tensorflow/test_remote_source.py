"""Images and manifests in an object store."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem

from components.errors import BadDataError
from components.image_example_gen import files
from components.image_example_gen.dataset import list_data
from components.image_example_gen.inputs import scan
from components.image_example_gen.options import Options
from components.storage import locations
from tests.kit import image_corpus as corpus
from tests.kit.data_sources import digest, example, items, problems, write_records
from tests.kit.image_folders import put

IMAGE = corpus.make("JPEG", 1)


class MemoryFileSystem(AbstractFileSystem):
    """Files of a dict, at mem://."""

    protocol = "mem"
    content: dict[str, bytes] = {}

    def _name(self, path: str) -> str:
        return f"mem://{self._strip_protocol(path)}"

    def info(self, path: str, **_: object) -> dict[str, Any]:
        if (name := self._name(path)) not in self.content:
            raise FileNotFoundError(path)
        data = self.content[name]
        about = {"name": self._strip_protocol(path), "size": len(data), "type": "file"}
        return about | {"ETag": f"crc of {data!r}"}

    def exists(self, path: str, **_: object) -> bool:
        return self._name(path) in self.content

    def find(self, path: str, **_: object) -> dict[str, dict[str, Any]]:
        below = f"{self._name(path)}/"
        names = [name for name in self.content if name.startswith(below)]
        return {self._strip_protocol(name): self.info(name) for name in names}

    def open(self, path: str, *_: object, **__: object) -> io.BytesIO:
        self.info(path)
        return io.BytesIO(self.content[self._name(path)])

    def cat_file(self, path: str, *_: object, end: int | None = None, **__: object) -> bytes:
        return self.open(path).read()[:end]

    def get_file(self, rpath: str, lpath: str, **_: object) -> None:
        Path(lpath).write_bytes(self.cat_file(rpath))


class TestRemote:
    @pytest.fixture
    def store(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
        content: dict[str, bytes] = {}
        monkeypatch.setattr(MemoryFileSystem, "content", content)
        fsspec.register_implementation("mem", MemoryFileSystem, clobber=True)
        return content

    def test_a_folder(self, store: dict[str, bytes]) -> None:
        store |= {
            "mem://b/pets/cat/1.png": b"one",
            "mem://b/pets/dog/x/2.PNG": b"two",
            "mem://b/pets/dog/.hidden.png": b"",
            "mem://b/pets/dog/notes.txt": b"",
            "mem://b/other/3.png": b"",
        }
        found = items("mem://b/pets")
        assert {n: (i.label, i.load()) for n, i in found.items()} == {
            "cat/1.png": ("cat", b"one"),
            "dog/x/2.PNG": ("dog", b"two"),
        }

    def test_the_fingerprint_asks_the_store_and_reads_nothing(
        self, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def of() -> str:
            return digest("mem://b/pets")

        store["mem://b/pets/cat/1.png"] = b"one"
        monkeypatch.setattr(MemoryFileSystem, "open", None)
        before = of()
        assert of() == before
        store["mem://b/pets/cat/1.png"] = b"two"
        assert of() != before

    def test_a_manifest_and_a_file_that_is_gone(self, store: dict[str, bytes]) -> None:
        store["mem://b/list.csv"] = b"path,label\n1.png,cat\nmem://b/no.png,dog\n"
        store["mem://b/1.png"] = b"one"
        found = items("mem://b/list.csv")
        assert found["1.png"].load() == b"one"
        with pytest.raises(files.Unusable, match="unreadable"):
            found["mem://b/no.png"].load()

    def test_a_store_that_does_not_answer_is_asked_once_and_not_for_long(
        self, store: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        forever = threading.Event()

        def exists(_: object, path: str, **__: object) -> bool:
            asked.append(path)
            return forever.wait(60)

        monkeypatch.setattr(MemoryFileSystem, "exists", exists)
        opened: list[str] = []
        monkeypatch.setattr(MemoryFileSystem, "open", lambda _, path, *__: opened.append(path))
        monkeypatch.setattr(files, "REACH_S", 0.1)
        put(tmp_path, "1.png")
        rows = [f"mem://gone/{number}.png,dog" for number in range(50)]
        (tmp_path / "list.csv").write_text("\n".join(["path,label", "1.png,cat", *rows]))
        try:
            found = problems(tmp_path / "list.csv")
            units = scan(list_data(str(tmp_path / "list.csv"), Options()))
        finally:
            forever.set()
        assert sum(entry.problem is not None for unit in units for entry in unit) == 50
        assert opened == []  # nor is any read, which would take minutes each
        assert len(found) == 50
        assert all(text.startswith("unreachable: mem://gone: no answer") for text in found.values())
        assert asked == ["mem://gone/0.png"] * 2  # for the one listing and the other

    def test_what_only_a_client_raises_is_a_row(
        self, store: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As Google's does, whose errors are no OSErrors."""

        class RetryError(Exception):
            pass

        def fail(*_: object, **__: object) -> None:
            raise RetryError("Timeout of 120.0s exceeded")

        for method in ("cat_file", "info"):
            monkeypatch.setattr(MemoryFileSystem, method, fail)
        with pytest.raises(files.Unusable, match="RetryError: Timeout") as told:
            files.read("mem://bucket/1.png", 100)
        assert told.value.kind == "unreachable"
        assert files.digest("mem://bucket/1.png") == ""

    def test_what_a_client_says_is_told(
        self, store: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def exists(_: object, path: str, **__: object) -> bool:
            raise RuntimeError(f"no credentials for {path}\nand a long story")

        monkeypatch.setattr(MemoryFileSystem, "exists", exists)
        (tmp_path / "list.csv").write_text("path,label\nmem://b/1.png,cat\n")
        (problem,) = problems(tmp_path / "list.csv").values()
        assert problem.endswith("RuntimeError: no credentials for mem://b/1.png")

    def test_records(self, store: dict[str, bytes], tmp_path: Path) -> None:
        path = write_records(tmp_path / "x.tfrecord", example(image=IMAGE, label=1))
        store["mem://b/x-train.tfrecord"] = path.read_bytes()
        (item,) = items("mem://b/x-train.tfrecord").values()
        assert (item.label, item.split, item.load()) == ("1", "train", IMAGE)

    def test_a_client_that_is_not_installed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # An extra, which may be installed, and used by an earlier test.
        monkeypatch.setitem(sys.modules, "adlfs", None)
        monkeypatch.delitem(_registry, "az", raising=False)
        monkeypatch.setattr(locations, "_missing", locations._missing.__wrapped__)
        with pytest.raises(BadDataError, match=r"az:// needs a client that is not installed.*adl"):
            list_data("az://bucket/pets", Options())

    @pytest.mark.parametrize("scheme", ["ftp", "what"])
    def test_a_scheme_that_nothing_reads(self, scheme: str) -> None:
        with pytest.raises(BadDataError, match=f"{scheme}:// is not .*storage.*copy the data"):
            list_data(f"{scheme}://host/pets", Options())
