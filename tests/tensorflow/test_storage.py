"""Files by path or URI: on a disk, in memory, and on servers of S3 with faults."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from components import storage
from components.errors import DamagedFileError
from components.storage import staging
from components.storage.content import MANIFEST
from tests.kit import conditional_writes, stores
from tests.kit import s3 as s3_kit
from tests.kit.s3 import S3

LARGE = 120 * 2**20  # bytes, of which s3fs makes several parts


@pytest.fixture
def staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of copies."""
    monkeypatch.setenv(staging.FOLDER, str(tmp_path / "copies"))
    monkeypatch.delenv(staging.LIMIT_GB, raising=False)
    monkeypatch.setattr(staging, "_LATE_S", 3.0)
    return tmp_path / "copies"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    with s3_kit.moto() as server:
        yield stores.reached(server, monkeypatch)
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(params=["disk", "memory", "moto", "versity", "azurite"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Return a location without content."""
    with stores.place(request.param, tmp_path, monkeypatch) as location:
        yield location


class TestFiles:
    def test_what_is_written_is_read_listed_and_removed(self, place: str) -> None:
        one, two = storage.join(place, "a [1]", "one.txt"), storage.join(place, "b", "c", "two")
        assert not storage.exists(one)
        assert storage.read_text(one) is None
        with pytest.raises(FileNotFoundError):
            storage.read_bytes(one)
        storage.write_text(one, "grün")
        storage.write_bytes(two, b"")
        assert storage.read_text(one) == "grün"
        assert storage.read_bytes(one, 2) == b"gr"
        assert storage.size(one) == 5
        assert storage.exists(one)
        assert storage.exists(storage.parent(two))
        assert storage.files(place) == {"a [1]/one.txt": 5, "b/c/two": 0}
        assert storage.names(place) == ["a [1]", "b"]
        assert storage.names(storage.join(place, "none")) == []
        assert storage.files(storage.join(place, "none")) == {}
        storage.remove(one)
        storage.remove(one)
        assert storage.files(place) == {"b/c/two": 0}
        storage.remove_tree(place)
        storage.remove_tree(place)
        assert storage.files(place) == {}

    def test_a_neighbour_with_a_name_that_begins_alike_stays(self, place: str) -> None:
        storage.write_text(storage.join(place, "5", "x"), "5")
        storage.write_text(storage.join(place, "55", "x"), "55")
        assert storage.files(storage.join(place, "5")) == {"x": 1}
        storage.remove_tree(storage.join(place, "5"))
        assert storage.files(place) == {"55/x": 2}

    def test_a_checksum_follows_the_content(self, place: str) -> None:
        file = storage.join(place, "file")
        storage.write_text(file, "one")
        before = storage.checksum(file)
        assert storage.checksum(file) == before
        storage.write_text(file, "two")
        assert storage.checksum(file) != before or place.startswith("memory")
        assert storage.digest(file) == storage.digest(file)

    def test_a_file_is_made_by_one_of_all_who_try(self, place: str) -> None:
        storage.write_text(storage.join(place, "other"), "")
        file = storage.join(place, "file")

        def tried(number: int) -> bool:
            try:
                storage.create(file, str(number))
            except FileExistsError:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            won = [number for number, has in enumerate(threads.map(tried, range(8))) if has]
        assert [storage.read_text(file)] == [str(number) for number in won]

    def test_what_somebody_else_has_written_is_not_replaced(self, place: str) -> None:
        if not storage.is_uri(place):
            pytest.skip("a file is written by the holder of a lock")
        file = storage.join(place, "file")
        second = conditional_writes.check(file)
        storage.remove(file)
        with pytest.raises(FileExistsError):
            storage.replace(file, "three", second)
        assert not storage.exists(file)

    def test_of_lines_added_at_once_none_is_lost(self, place: str) -> None:
        storage.write_text(storage.join(place, "other"), "")
        file = storage.join(place, "log")
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda number: storage.append_line(file, str(number)), range(12)))
        lines = (storage.read_text(file) or "").splitlines()
        assert sorted(lines, key=int) == list(map(str, range(12)))

    def test_lines_are_added(self, place: str) -> None:
        file = storage.join(place, "log")
        storage.write_text(file, "cut off")
        for line in ("one", "two"):
            storage.append_line(file, line)
        assert storage.read_text(file) == "cut off\none\ntwo\n"

    def test_copies_and_moves(self, place: str, tmp_path: Path) -> None:
        source, target = storage.join(place, "source"), storage.join(place, "x", "target")
        storage.write_text(source, "content")
        storage.copy(source, target)
        storage.move(target, storage.join(place, "y"))
        assert storage.files(place) == {"source": 7, "y": 7}
        storage.copy(source, str(tmp_path / "here"))
        storage.copy(str(tmp_path / "here"), storage.join(place, "back"))
        assert storage.read_text(storage.join(place, "back")) == "content"
        storage.copy_tree(place, storage.join(place, "all"))
        assert len(storage.files(place)) == 6
        with storage.local_copy(storage.join(place, "all")) as folder:
            assert sorted(path.name for path in folder.iterdir()) == ["back", "source", "y"]

    def test_a_file_written_piece_by_piece_is_there_at_the_end(self, place: str) -> None:
        file = storage.join(place, "file")
        storage.write_text(file, "before")
        with contextlib.suppress(KeyError), storage.writing(file) as staged:
            staged.write_text("half")
            raise KeyError
        assert storage.files(place) == {"file": 6}
        with storage.writing(file) as staged:
            staged.write_text("whole")
            assert storage.read_text(file) == "before"
        assert storage.read_text(file) == "whole"

    def test_a_large_file(self, place: str, tmp_path: Path) -> None:
        whole = os.urandom(2**20) * (LARGE // 2**20)
        (tmp_path / "large").write_bytes(whole)
        storage.copy(str(tmp_path / "large"), storage.join(place, "large"))
        storage.copy(storage.join(place, "large"), str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == whole


class TestFaults:
    def test_an_answer_that_is_lost_is_no_conflict(self, s3: S3) -> None:
        """The client repeats the request, whose condition does not hold any more."""
        s3.faults.unanswered = 1
        known = storage.replace(s3.uri("file"), "one", "")
        s3.faults.unanswered = 1
        assert storage.replace(s3.uri("file"), "two", known) == storage.state(s3.uri("file"))
        assert storage.read_text(s3.uri("file")) == "two"
        assert len([line for line in s3.faults.log if line.startswith("PUT")]) == 4

    @pytest.mark.parametrize("fault", ["slow_s", "busy", "lost"])
    def test_what_passes_is_not_noticed(self, s3: S3, fault: str) -> None:
        storage.write_text(s3.uri("before"), "before")
        setattr(s3.faults, fault, 0.3 if fault == "slow_s" else 2)
        storage.write_text(s3.uri("file"), "content")
        assert storage.read_text(s3.uri("file")) == "content"
        assert storage.names(s3.uri()) == ["before", "file"]

    def test_what_does_not_pass_is_an_error_of_one_line(
        self, s3: S3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        fsspec.filesystem("s3").clear_instance_cache()
        monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
        storage.write_text(s3.uri("file"), "before")
        s3.faults.refused = "file"
        with pytest.raises(OSError, match=r"SlowDown|Reduce your rate") as told:
            storage.write_text(s3.uri("file"), "after")
        assert told.value.filename == s3.uri("file")
        assert "\n" not in str(told.value)
        assert storage.read_text(s3.uri("file")) == "before"

    def test_nobody_there(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
        fsspec.filesystem("s3").clear_instance_cache()
        with pytest.raises(OSError, match=r"127\.0\.0\.1:9") as told:
            storage.read_bytes(s3.uri("file"))
        assert not isinstance(told.value, FileNotFoundError)

    def test_no_keys(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in s3_kit.KEYS:
            monkeypatch.delenv(name)
        fsspec.filesystem("s3").clear_instance_cache()
        with pytest.raises(PermissionError, match="credentials"):
            storage.write_text(s3.uri("file"), "content")

    def test_no_account(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
        fsspec.get_filesystem_class("az").clear_instance_cache()
        with pytest.raises(OSError, match=r"connection_string or account_name") as caught:
            storage.names("az://container/photos")
        assert caught.value.filename == "az://container/photos"

    def test_a_profile(self, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (*s3_kit.KEYS, "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name)
        (tmp_path / "config").write_text(
            f"[profile minio]\nendpoint_url = {s3.url}\naws_access_key_id = a\n"
            "aws_secret_access_key = b\nregion = us-east-1\n"
        )
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_PROFILE", "minio")
        fsspec.filesystem("s3").clear_instance_cache()
        storage.write_text(s3.uri("file"), "content")
        assert storage.names(s3.uri()) == ["file"]


def write_artifact(uri: str, files: dict[str, str]) -> None:
    """Put out an artifact as a node does."""
    with staging.output(uri):
        for name, text in files.items():
            storage.write_text(storage.join(staging.local(uri), name), text)
        staging.finish(uri)


def stage(uri: str) -> None:
    with staging.inputs([uri]):
        pass


FILES = {"Split-train/a": "1", "Split-eval/b": "22", "accounting.json": "{}"}


class TestStaging:
    def test_a_copy_tells_where_it_comes_from(self, staged: Path) -> None:
        path = staging.local("s3://bucket/root/Trainer/model/7")
        assert path == f"{staged}/.staged/s3/bucket/root/Trainer/model/7"
        assert staging.origin(f"{path}/x") == "s3://bucket/root/Trainer/model/7/x"
        assert staging.origin("/a/b") == staging.local("/a/b") == "/a/b"

    def test_the_list_of_its_files_is_written_last(self, s3: S3, staged: Path) -> None:
        write_artifact(s3.uri("node", "out", "1"), FILES)
        puts = [line for line in s3.faults.log if line.startswith("PUT")]
        assert puts[-1] == f"PUT /bucket/node/out/1{MANIFEST}"
        assert len(puts) == len(FILES) + 1

    def test_files_of_splits_are_copied_when_they_are_read(self, s3: S3, staged: Path) -> None:
        uri = s3.uri("node", "out", "1")
        write_artifact(uri, FILES)
        staging.discard(uri)
        s3.faults.log.clear()
        with staging.inputs([uri], splits=[uri]):
            assert storage.files(staging.local(uri)) == {"accounting.json": 2}
            (path,) = staging.here_all([f"{staging.local(uri)}/Split-train/*"])
            assert Path(path).read_text() == "1"
            assert storage.names(staging.local(uri)) == ["Split-train", "accounting.json"]
        assert not any("Split-eval" in line for line in s3.faults.log)

    def test_a_file_is_copied_once(self, s3: S3, staged: Path) -> None:
        uri = s3.uri("node", "out", "1")
        write_artifact(uri, FILES)
        s3.faults.log.clear()
        for _ in range(2):
            with staging.inputs([uri]):
                assert storage.files(staging.local(uri)) == {k: len(v) for k, v in FILES.items()}
        assert not any("Split" in line for line in s3.faults.log)  # it has put them out itself

    def test_an_artifact_made_anew_is_not_taken_for_the_old_one(self, s3: S3, staged: Path) -> None:
        uri = s3.uri("node", "out", "1")
        write_artifact(uri, {"x": "old"})
        name = f"s3/bucket/node/out/1{MANIFEST}"
        kept = (staged / ".staged" / name).read_text()
        storage.remove_tree(uri)
        write_artifact(uri, {"x": "new"})
        root = Path(staging.local(uri))
        (root / "x").write_text("old")
        Path(f"{root}{MANIFEST}").write_text(kept)
        with staging.inputs([uri]):
            assert (root / "x").read_text() == "new"

    def test_an_upload_that_is_cut_off_leaves_no_list(
        self, s3: S3, staged: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        fsspec.filesystem("s3").clear_instance_cache()
        s3.faults.refused = "Split-eval"
        uri = s3.uri("node", "out", "1")
        with pytest.raises(OSError, match=r"SlowDown|Reduce"):
            write_artifact(uri, FILES)
        assert not storage.exists(f"{uri}{MANIFEST}")
        assert not Path(staging.local(uri)).exists()

    def test_an_object_that_comes_late_is_waited_for(self, s3: S3, staged: Path) -> None:
        uri = s3.uri("node", "out", "1")
        write_artifact(uri, FILES)
        staging.discard(uri)
        s3.faults.late_s = 600  # listings show nothing yet, and nothing is listed
        with staging.inputs([uri]):
            assert storage.files(staging.local(uri)) == {k: len(v) for k, v in FILES.items()}

    @pytest.mark.parametrize("damage", ["other", ""])
    def test_content_that_is_not_what_was_uploaded_is_refused(
        self, s3: S3, staged: Path, damage: str
    ) -> None:
        uri = s3.uri("node", "out", "1")
        write_artifact(uri, {"x": "right"})
        staging.discard(uri)
        storage.write_text(f"{uri}/x", damage)
        with (
            pytest.raises(staging.NotWholeError, match="uploaded"),
            staging.inputs([uri]),
        ):
            pass
        assert not Path(staging.local(uri), "x").exists()

    def test_a_file_that_is_gone_is_named(self, s3: S3, staged: Path) -> None:
        uri = s3.uri("node", "out", "1")
        write_artifact(uri, {"x": "right"})
        staging.discard(uri)
        storage.remove(f"{uri}/x")
        with pytest.raises(FileNotFoundError, match=r"out/1/x"):
            stage(uri)

    def test_what_was_made_before_is_copied_within_the_store(self, s3: S3, staged: Path) -> None:
        before, after = s3.uri("node", "out", "1"), s3.uri("node", "out", "2")
        write_artifact(before, {"shard-1": "one", "shard-2": "two", "shard-3": "three"})
        staging.discard(before)
        s3.faults.log.clear()
        with staging.output(after):
            root = staging.local(after)
            for name in ("shard-1", "shard-2", "shard-3"):
                staging.take_over(f"{before}/{name}", f"{root}/{name}")
            storage.write_text(f"{root}/shard-4", "four")
            assert Path(staging.here(f"{root}/shard-2")).read_text() == "two"
            staging.remove(f"{root}/shard-3")
            staging.finish(after)
        assert [line for line in s3.faults.log if "GET" in line and "shard-1" in line] == []
        found = staging.manifest_of(after).files
        assert {name: file.size for name, file in found.items()} == {
            "shard-1": 3,
            "shard-2": 3,
            "shard-4": 4,
        }
        assert set(storage.files(after)) == set(found)

    def test_copies_that_nobody_uses_make_room(
        self, s3: S3, staged: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        uris = [s3.uri("node", "out", str(number)) for number in range(3)]
        for uri in uris:
            write_artifact(uri, {"x": "x" * 1000})
            staging.discard(uri)
        monkeypatch.setenv(staging.LIMIT_GB, "0.0000025")
        with staging.inputs([uris[0]]):
            stage(uris[1])
            os.utime(f"{staging.local(uris[1])}{MANIFEST}", (0, 0))
            with staging.inputs([uris[2]]):
                there = [Path(staging.local(uri), "x").exists() for uri in uris]
                assert there == [True, False, True]
                with pytest.raises(OSError, match=staging.LIMIT_GB):
                    stage(uris[1])

    def test_what_a_killed_node_left_is_removed_by_the_next(self, s3: S3, staged: Path) -> None:
        left = Path(staging.local(s3.uri("node", "out", "1")))
        left.mkdir(parents=True)
        (left / "half").write_text("half")
        Path(f"{left}.taken.jsonl").touch()
        write_artifact(s3.uri("node", "out", "2"), {"x": "1"})
        assert not left.exists()

    def test_uploads_of_several_parts_go_with_the_artifact(self, s3: S3, staged: Path) -> None:
        store = fsspec.filesystem("s3")
        store.call_s3("create_multipart_upload", Bucket="bucket", Key="node/out/1/model.bin")
        store.call_s3("create_multipart_upload", Bucket="bucket", Key="node/out/11/model.bin")
        storage.remove_tree(s3.uri("node", "out", "1"))
        left = store.call_s3("list_multipart_uploads", Bucket="bucket")["Uploads"]
        assert [each["Key"] for each in left] == ["node/out/11/model.bin"]

    def test_a_list_that_is_damaged_is_told(self, s3: S3, staged: Path) -> None:
        uri = s3.uri("node", "out", "1")
        write_artifact(uri, {"x": "1"})
        storage.write_text(f"{uri}{MANIFEST}", json.dumps({"files": 3}))
        with pytest.raises(DamagedFileError, match="damaged"):
            stage(uri)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill_half(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ZeroDivisionError

    target = tmp_path / "new" / "span"
    with pytest.raises(ZeroDivisionError), storage.writing_folder(target) as folder:
        fill_half(folder)
    assert list(target.parent.iterdir()) == []
    with storage.writing_folder(target) as folder:
        (folder / "class").mkdir()
        (folder / "class" / "image").write_text("x")
        assert not target.exists()
    assert [path.name for path in target.parent.iterdir()] == ["span"]
    assert (target / "class" / "image").read_text() == "x"
