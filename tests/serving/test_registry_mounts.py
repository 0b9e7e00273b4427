"""The registry on file systems of other kinds, which are mounted for it: as root only."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components import records
from components.errors import ConfigError, PromotionFailed
from components.model_registry import CANARY, STABLE, Registry, Serving, versions
from components.model_registry.configuration import AUDIT_FILE
from pipeline.workspace import Workspace
from tests.kit.cli import perennial
from tests.kit.registry_models import assert_whole, write_model

DISKS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q"]}
DISK_BYTES = 320 << 20  # the least that mkfs.xfs takes is 300 MB
OVERLAYS = ("overlay", "overlay on squashfs")
RUNS = 5  # of which the first three have pushed


def run(*command: str | Path) -> None:
    """Do it, or skip the test where that is not possible here."""
    try:
        subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{command[0]}: {error.stderr.strip()}")


@contextlib.contextmanager
def mount(where: Path, *arguments: str | Path) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    run("mount", *arguments, where)
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


@pytest.fixture(params=["tmpfs", *DISKS, *OVERLAYS, "fuse"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Mount a folder in which `made` has made a workspace: below it, of an overlay."""
    if os.geteuid():
        pytest.skip("only root mounts")
    kind, where, below = request.param, tmp_path / "mounted", tmp_path / "below"
    below.mkdir()
    with contextlib.ExitStack() as stack:
        if kind in DISKS:
            image = tmp_path / "image"
            with image.open("wb") as file:
                file.truncate(DISK_BYTES)
            run(*DISKS[kind], image)
            stack.enter_context(mount(where, "-o", "loop", image))
        elif kind in OVERLAYS:
            make(below, where)
            if kind != "overlay":
                image = tmp_path / "image"
                run("mksquashfs", below, image, "-quiet", "-no-progress")
                below = stack.enter_context(mount(tmp_path / "squashed", "-o", "loop,ro", image))
            # Of an overlay's own folders an overlay cannot be made.
            above = stack.enter_context(mount(tmp_path / "above", "-t", "tmpfs", "none"))
            for name in ("upper", "work"):
                (above / name).mkdir()
            layers = f"lowerdir={below},upperdir={above}/upper,workdir={above}/work"
            stack.enter_context(mount(where, "-t", "overlay", "-o", layers, "overlay"))
        elif kind == "fuse":
            where.mkdir()
            run("bindfs", below, where)
            stack.callback(subprocess.run, ["umount", "--lazy", str(where)], check=True)
        else:
            stack.enter_context(mount(where, "-t", kind, "none"))
        if kind not in OVERLAYS:
            make(where, where)
        yield where


def make(root: Path, seen: Path) -> None:
    """Three versions, of which the first is stable, and artifacts of five runs.

    Other processes will see it as `seen`.
    """
    import ml_metadata
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    workspace = Workspace(root / "w")
    with workspace.lock():
        workspace.recover()
    registry = Registry(str(workspace.root / "serving" / "perennial"))
    for number in (1, 2, 3):
        model = write_model(root / "w" / "model", f"model {number}")
        registry.push(model, {"run": f"run-{number}"}, 10)
    registry.promote(1, STABLE)
    config = Path(registry.config)
    config.write_text(config.read_text().replace(str(root), str(seen)))
    store = ml_metadata.MetadataStore(workspace.connection())
    kinds = [
        store.put_context_type(mlmd.ContextType(name="pipeline_run")),
        store.put_execution_type(mlmd.ExecutionType(name="Trainer")),
        store.put_artifact_type(mlmd.ArtifactType(name="Model")),
    ]
    for number in range(1, RUNS + 1):
        uri = Path("w") / "artifacts" / "Trainer" / "model" / str(number)
        write_model(root / uri)
        artifact = mlmd.Artifact(type_id=kinds[2], uri=str(seen / uri), state=mlmd.Artifact.LIVE)
        event = mlmd.Event(type=mlmd.Event.OUTPUT)
        context = mlmd.Context(type_id=kinds[0], name=f"run-{number}")
        execution = mlmd.Execution(type_id=kinds[1])
        store.put_execution(execution, [(artifact, event)], [context])


@pytest.fixture
def workspace(root: Path) -> Path:
    return root / "w"


@pytest.fixture
def registry(workspace: Path) -> Registry:
    return Registry(str(workspace / "serving" / "perennial"))


def kind_of(request: pytest.FixtureRequest) -> Any:
    return request.node.callspec.params["root"]


def test_push_promote_and_roll_back(
    request: pytest.FixtureRequest, registry: Registry, tmp_path: Path
) -> None:
    base = Path(registry.base or "")
    assert registry.numbers() == [1, 2, 3]
    if kind_of(request) in OVERLAYS:
        with pytest.raises(OSError, match="cross-device") as caught:
            (base / "2").rename(base / ".other")
        assert caught.value.errno == errno.EXDEV
    registry.promote(2, CANARY)
    registry.promote(2, STABLE)
    assert registry.serving() == Serving.of({STABLE: 2, "previous": 1})
    registry.rollback()
    assert registry.serving() == Serving.of({STABLE: 1})
    # What is superseded goes, also where it cannot be renamed, and what is served stays.
    for number in (4, 5):
        model = write_model(tmp_path / "model", f"model {number}")
        assert registry.push(model, {"run": f"run-{number}"}, 2) == number
    assert registry.numbers() == [1, 4, 5]
    for number in registry.numbers():
        registry.verify(number)
        assert_whole(str(base), number, f"model {number}")
    assert sorted(os.listdir(base)) == [".lock", "1", "4", "5"]  # noqa: PTH208 - names
    registry.promote(5, CANARY)
    folder = base.parent
    log = (folder / AUDIT_FILE).read_text().splitlines()
    assert len(log) == 2 * 5
    assert not list(folder.glob(".models.config*"))


def test_the_commands(registry: Registry, workspace: Path) -> None:
    given = ("--workspace", workspace)
    assert perennial("promote", 3, "--to", "canary", *given).exit_code == 0
    assert perennial("rollback", *given).exit_code == 0
    assert perennial("models", *given).exit_code == 0
    assert registry.serving() == Serving.of({STABLE: 1})
    gc = ("gc", *given, "--keep", 1, "--older-than", 0)
    found = perennial(*gc)
    assert found.exit_code == 0, found.output
    artifacts = workspace / "artifacts" / "Trainer" / "model"
    # Three have pushed, and the last one is the latest.
    assert str(artifacts / "4") in found.output.splitlines()
    assert perennial(*gc, "--apply").exit_code == 0
    assert sorted(path.name for path in artifacts.iterdir()) == ["1", "2", "3", "5"]
    assert str(artifacts) not in perennial(*gc).output


def test_a_push_that_is_cut_off_is_cleared_away(registry: Registry, tmp_path: Path) -> None:
    base = Path(registry.base or "")
    shutil.copytree(base / "2", base / ".3-x")
    # As a removal that was cut off leaves a version that cannot be renamed.
    (base / "2" / versions.MANIFEST).unlink()
    assert registry.push(write_model(tmp_path / "model", "model 4"), {}, 1) == 4
    assert sorted(os.listdir(base)) == [".lock", "1", "4"]  # noqa: PTH208 - names


@pytest.mark.parametrize("pages", range(7))
def test_a_disk_that_is_really_full_changes_nothing_or_all(tmp_path: Path, pages: int) -> None:
    """Where a page is left, the kernel writes a part of what it is given."""
    if os.geteuid():
        pytest.skip("only root mounts")
    page = os.sysconf("SC_PAGE_SIZE")
    with mount(tmp_path / "small", "-t", "tmpfs", "-o", f"size={64 * page}", "none") as root:
        base = root / "serving" / "m"
        registry = Registry(str(base))
        for number in (1, 2):
            registry.push(write_model(tmp_path / "model", f"model {number}"), {}, 10)
        registry.promote(1, STABLE)
        # A log that ends a byte before its page does.
        log = base.parent / AUDIT_FILE
        line = json.dumps({"x": ""})
        fill = page - 1 - log.stat().st_size - len(line) - 1
        with log.open("a") as file:
            file.write(json.dumps({"x": "y" * fill}) + "\n")
        before = registry.serving()
        with (root / "filler").open("wb", buffering=0) as file:
            while (disk := os.statvfs(root)).f_bavail > pages:
                file.write(bytes(page * (disk.f_bavail - pages)))
        told = ""
        try:
            registry.promote(2, CANARY)
        except (ConfigError, PromotionFailed) as error:
            told = str(error)
        after = Serving.of({STABLE: 1, CANARY: 2})
        assert registry.serving() == (before if told else after)
        assert not told or "No space left" in told
        with pytest.raises(ConfigError, match=r"free|full"):
            registry.push(write_model(tmp_path / "model", "x" * 20_000), {}, 10)
        assert registry.numbers() == [1, 2]
        (root / "filler").unlink()
        assert records.read(str(log)).damaged == []
        assert registry.promote(2, CANARY) == Serving.of({STABLE: 1, CANARY: 2})
        assert records.read(str(log)).damaged == []
