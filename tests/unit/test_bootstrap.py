"""Rules of pipeline/bootstrap.py. Nothing is fetched: archives are made up in temporary folders."""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipeline import bootstrap
from pipeline.host import BootstrapError, Host
from tests.kit.hosts import BOOKWORM

needs_apt = pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt")


needs_gpg = pytest.mark.skipif(not shutil.which("gpg"), reason="needs gpg to sign an archive")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a repository with the inputs of the stamp, which bootstrap takes for its own."""
    root = tmp_path / "repo"
    root.mkdir()
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\n[project]\nname = "p"\n[tool.ruff]\nline-length = 100\n'
    )
    (root / "requirements.lock").write_text("uv==1\n")
    for name, path in {
        "ROOT": root,
        "VENV": root / ".venv",
        "READY": root / ".venv" / ".ready",
        "LOCK_FILE": root / "requirements.lock",
    }.items():
        monkeypatch.setattr(bootstrap, name, path)
    # The tests themselves run in .venv, which main() would leave.
    monkeypatch.setattr(bootstrap, "_leave_virtual_environment", lambda: None)
    return root


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Create an unsigned archive with the runtime packages, each with a library of its name."""
    root = tmp_path / "archive"
    index = []
    (root / "pool").mkdir(parents=True)
    for package in bootstrap.RUNTIME_PACKAGES:
        tree = tmp_path / package
        library = tree / "usr/lib/x86_64-linux-gnu" / f"{package}.so.1.2"
        library.parent.mkdir(parents=True)
        library.write_text(package)
        library.with_name(f"{package}.so.1").symlink_to(library.name)
        (tree / "DEBIAN").mkdir()
        control = f"Package: {package}\nVersion: 1\nArchitecture: amd64\n"
        control += "Maintainer: nobody <nobody@invalid>\nDescription: none\n"
        (tree / "DEBIAN/control").write_text(control)
        deb = root / "pool" / f"{package}.deb"
        command = ["dpkg-deb", "--build", "--root-owner-group", str(tree), str(deb)]
        subprocess.run(command, check=True, capture_output=True)
        control += f"Filename: pool/{deb.name}\nSize: {deb.stat().st_size}\n"
        index.append(f"{control}SHA256: {_sha256(deb)}\n")
    packages = root / "dists/trixie/main/binary-amd64/Packages"
    packages.parent.mkdir(parents=True)
    packages.write_text("\n".join(index))
    (root / "dists/trixie/Release").write_text(
        "Suite: trixie\nCodename: trixie\nArchitectures: amd64\nComponents: main\n"
        "Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n"
        f" {_sha256(packages)} {packages.stat().st_size} main/binary-amd64/Packages\n"
    )
    return root


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def sign(tmp_path: Path) -> Callable[[Path, str], Path]:
    """Sign an archive in a new name; returns the keyring that verifies it."""

    def signed(archive: Path, name: str) -> Path:
        home = tmp_path / name
        home.mkdir(mode=0o700)
        gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--yes"]
        release = archive / "dists/trixie/Release"
        for command in (
            ["--quick-generate-key", f"{name}@invalid", "rsa2048", "sign"],
            ["--output", str(release.with_name("InRelease")), "--clearsign", str(release)],
            ["--output", str(home / "keyring.gpg"), "--export"],
        ):
            subprocess.run([*gpg, *command], check=True, capture_output=True)
        return home / "keyring.gpg"

    return signed


@needs_apt
class TestRuntime:
    def test_the_libraries_are_unpacked_under_every_name_they_are_loaded_by(
        self, archive: Path, tmp_path: Path
    ) -> None:
        target = tmp_path / "runtime"
        bootstrap.download_runtime(f"deb [trusted=yes] file:{archive} trixie main\n", target)
        assert {path.name: path.read_text() for path in target.iterdir()} == {
            f"{name}.so{suffix}": name
            for name in bootstrap.RUNTIME_PACKAGES
            for suffix in (".1", ".1.2")
        }
        assert not any(path.is_symlink() for path in target.iterdir())

    def test_an_unsigned_archive_is_refused(self, archive: Path, tmp_path: Path) -> None:
        self._refused(f"deb file:{archive} trixie main\n", tmp_path)

    @needs_gpg
    def test_a_signature_counts_only_from_the_named_key(
        self, archive: Path, sign: Callable[[Path, str], Path], tmp_path: Path
    ) -> None:
        stranger = sign(archive, "stranger")
        keyring = sign(archive, "distribution")
        self._refused(f"deb [signed-by={stranger}] file:{archive} trixie main\n", tmp_path)
        bootstrap.download_runtime(
            f"deb [signed-by={keyring}] file:{archive} trixie main\n", tmp_path / "runtime"
        )

    @needs_gpg
    def test_a_package_that_was_changed_after_signing_is_refused(
        self, archive: Path, sign: Callable[[Path, str], Path], tmp_path: Path
    ) -> None:
        keyring = sign(archive, "distribution")
        deb = archive / "pool/libc6.deb"
        deb.write_bytes(deb.read_bytes()[:-1] + b"x")
        self._refused(f"deb [signed-by={keyring}] file:{archive} trixie main\n", tmp_path)

    def test_an_archive_that_is_not_reached_is_an_error(self, tmp_path: Path) -> None:
        self._refused(f"deb [trusted=yes] file:{tmp_path}/absent trixie main\n", tmp_path)

    def _refused(self, sources: str, tmp_path: Path) -> None:
        with pytest.raises(BootstrapError, match=r"^apt-get .*\b100; "):
            bootstrap.download_runtime(sources, tmp_path / "runtime")
        assert not (tmp_path / "runtime").exists()
        assert not list(tmp_path.glob("apt-*"))

    def test_the_mirrors_are_tried_in_turn(
        self, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        tried: list[str] = []

        def download(sources: str, target: Path) -> None:
            tried.append(sources)
            if "second" not in sources:
                raise BootstrapError("no such archive", "none")

        keyring = tmp_path / "keyring.gpg"
        keyring.touch()
        monkeypatch.setattr(bootstrap, "NEWER_RELEASE", {"debian": (("trixie",), keyring)})
        monkeypatch.setattr(bootstrap, "archive_mirrors", lambda host: ["first", "second", "third"])
        monkeypatch.setattr(bootstrap, "download_runtime", download)
        monkeypatch.setattr(bootstrap, "patch_interpreter", lambda venv, runtime: None)
        bootstrap.add_runtime(BOOKWORM)
        assert tried == [
            f"deb [arch=amd64 signed-by={keyring}] {mirror} trixie main\n"
            for mirror in ("first", "second")
        ]

    def test_a_host_without_its_distributions_keys_is_told_the_package(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        absent = tmp_path / "keyring.gpg"
        monkeypatch.setattr(bootstrap, "NEWER_RELEASE", {"debian": (("trixie",), absent)})
        with pytest.raises(
            BootstrapError, match=f"{absent}.*apt-get install debian-archive-keyring$"
        ):
            bootstrap.add_runtime(BOOKWORM)


class TestLock:
    TEXT = "# by hand\na==1 \\\n    --hash=sha256:1\n    # via b\nb==2 \\\n    --hash=sha256:2\n"

    def test_entries_come_with_their_hashes(self) -> None:
        assert bootstrap.locked(("b",), self.TEXT) == "b==2 \\\n    --hash=sha256:2\n"

    def test_absent_names_are_named(self) -> None:
        with pytest.raises(BootstrapError, match=rf"^{bootstrap.LOCK_FILE.name} .* c, d; "):
            bootstrap.locked(("a", "c", "d"), self.TEXT)

    def test_the_lock_names_no_index(self) -> None:
        assert not re.search(r"://|--(extra-)?index|--find-links", bootstrap.LOCK_FILE.read_text())

    def test_the_lock_satisfies_pyproject(self) -> None:
        table = tomllib.loads((bootstrap.ROOT / "pyproject.toml").read_text())
        project, groups = table["project"], table["dependency-groups"]
        lists = [*project["optional-dependencies"].values(), *groups.values()]
        wanted = project["dependencies"] + [
            each for each in itertools.chain(*lists) if isinstance(each, str)
        ]
        pins = re.findall(r"^(\S+)==(\S+) ", bootstrap.LOCK_FILE.read_text(), re.MULTILINE)
        versions = dict(pins)
        for requirement in map(Requirement, wanted):
            assert requirement.specifier.contains(versions[requirement.name]), requirement

    def test_developers_tools_are_for_developers(self) -> None:
        text = bootstrap.LOCK_FILE.read_text()
        names = {
            extras: set(re.findall(r"^([a-z0-9-]+)==", bootstrap.selected(extras, text), re.M))
            for extras in ((), ("mlflow",), ("dev",))
        }
        assert {"tensorflow", "tfx", "keras", "model-signing"} <= names[()]
        assert names[()].isdisjoint({"pytest", "ruff", "mlflow", "mlflow-skinny", "playwright"})
        assert names[("mlflow",)] > names[()]
        assert "mlflow-skinny" in names[("mlflow",)]
        assert "mlflow" not in names[("mlflow",)]
        assert bootstrap.selected(("dev", "mlflow"), text) == text

    def test_an_extra_that_there_is_not_is_named(self) -> None:
        with pytest.raises(BootstrapError, match=r"^pyproject\.toml .*'mlfow'; .* dev$"):
            bootstrap.selected(("mlfow",), bootstrap.LOCK_FILE.read_text())


class TestStamp:
    def test_it_stays_while_nothing_that_is_installed_changes(self, project: Path) -> None:
        before = bootstrap.stamp()
        _edit(project / "pyproject.toml", "line-length = 100", "line-length = 90")
        assert bootstrap.stamp() == before

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("pyproject.toml", 'name = "p"', 'name = "q"'),
            ("pyproject.toml", "requires = []", 'requires = ["x"]'),
            ("requirements.lock", "uv==1", "uv==2"),
        ],
    )
    def test_it_changes_with_what_is_installed(
        self, project: Path, file: str, old: str, new: str
    ) -> None:
        before = bootstrap.stamp()
        _edit(project / file, old, new)
        assert bootstrap.stamp() != before

    @pytest.mark.parametrize(
        ("owner", "name", "value"),
        [
            (sys, "version", "3.11.99"),
            (sys, "base_prefix", "/opt/other"),
            (bootstrap, "glibc_version", lambda: (2, 99)),
        ],
    )
    def test_it_changes_with_the_interpreter_and_the_host(
        self,
        project: Path,
        monkeypatch: pytest.MonkeyPatch,
        owner: object,
        name: str,
        value: object,
    ) -> None:
        before = bootstrap.stamp()
        monkeypatch.setattr(owner, name, value)
        assert bootstrap.stamp() != before

    def test_it_changes_when_the_repository_is_moved(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = bootstrap.stamp()
        moved = project.rename(project.with_name("moved"))
        monkeypatch.setattr(bootstrap, "ROOT", moved)
        monkeypatch.setattr(bootstrap, "LOCK_FILE", moved / "requirements.lock")
        assert bootstrap.stamp() != before


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


class TestMain:
    def test_a_second_call_builds_nothing(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        builds = _count_builds(monkeypatch)
        assert [bootstrap.main(), bootstrap.main()] == [0, 0]
        assert len(builds) == 1

    def test_extras_are_added_once_and_stay_until_the_next_build(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        builds = _count_builds(monkeypatch)
        added: list[tuple[str, ...]] = []
        monkeypatch.setattr(bootstrap, "install", lambda extras: added.append(tuple(extras)))
        for extras in ((), ("dev",), ("dev",), (), ("mlflow",), ("dev", "mlflow")):
            assert bootstrap.main(extras) == 0
        assert added == [("dev",), ("mlflow",)]
        assert len(builds) == 1
        _edit(project / "requirements.lock", "uv==1", "uv==2")
        assert bootstrap.main(["dev"]) == 0
        assert (len(builds), len(added)) == (2, 3)

    def test_an_extra_that_could_not_be_installed_is_tried_again(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        builds = _count_builds(monkeypatch)

        def fail(extras: object) -> None:
            raise BootstrapError("it broke", "mend it")

        with monkeypatch.context() as patch:
            patch.setattr(bootstrap, "install", fail)
            assert bootstrap.main(["dev"]) == 1
        added: list[object] = []
        monkeypatch.setattr(bootstrap, "install", added.append)
        assert bootstrap.main(["dev"]) == 0
        assert (len(builds), added) == (1, [["dev"]])

    @pytest.mark.parametrize("step", ["shutil.rmtree", "_call"])
    @pytest.mark.parametrize(
        ("failure", "status"),
        [(BootstrapError("it broke", "mend it"), 1), (KeyboardInterrupt(), 130)],
    )
    def test_a_build_that_did_not_end_is_started_over(
        self,
        project: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        step: str,
        failure: BaseException,
        status: int,
    ) -> None:
        bootstrap.VENV.mkdir()
        bootstrap.READY.write_text("of an earlier build")

        def fail(*args: object, **keywords: object) -> str:
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(f"pipeline.bootstrap.{step}", fail)
            patch.setattr(bootstrap, "check_space", lambda folder: None)
            assert bootstrap.main() == status
        assert not bootstrap.READY.exists()
        assert len(capsys.readouterr().err.splitlines()) == 1
        builds = _count_builds(monkeypatch)
        assert bootstrap.main() == 0
        assert len(builds) == 1

    def test_a_second_build_waits_for_the_first_and_is_not_needed(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        builds: list[Host] = []
        building, waiting = threading.Event(), threading.Event()

        def build(host: Host) -> None:
            builds.append(host)
            building.set()
            assert waiting.wait(60)
            bootstrap.VENV.mkdir()

        monkeypatch.setattr(bootstrap, "build", build)
        monkeypatch.setattr(bootstrap, "_say", lambda text: waiting.set())
        first = threading.Thread(target=bootstrap.main)
        first.start()
        assert building.wait(60)
        assert bootstrap.main() == 0
        first.join(60)
        assert len(builds) == 1

    def test_a_folder_that_cannot_be_written_is_one_line(
        self,
        project: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (project / ".venv.lock").mkdir()  # cannot be opened, not even by root
        assert bootstrap.main() == 1
        assert re.fullmatch(r"bootstrap: \S+\.venv\.lock: .+; .+\n", capsys.readouterr().err)

    def test_what_a_command_said_is_shown_only_when_it_fails(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        script = "import sys; print('noise', file=sys.stderr); sys.exit(int(sys.argv[1]))"
        command = [sys.executable, "-c", script]
        bootstrap._call([*command, "0"], "none")
        assert capfd.readouterr() == ("", "")
        with pytest.raises(BootstrapError, match=r" 3; look there$"):
            bootstrap._call([*command, "3"], "look there")
        assert capfd.readouterr().err == "noise\n"

    def test_a_module_that_fails_is_named_rather_than_python(self) -> None:
        with pytest.raises(BootstrapError, match=r"^no_such_module .* 1; none$"):
            bootstrap._call([sys.executable, "-m", "no_such_module"], "none")

    def test_a_program_that_is_not_installed_is_named(self) -> None:
        with pytest.raises(BootstrapError, match=r"^no-such-program .*; get it$"):
            bootstrap._call(["no-such-program"], "get it")


def _count_builds(monkeypatch: pytest.MonkeyPatch) -> list[Host]:
    builds: list[Host] = []

    def build(host: Host) -> None:
        builds.append(host)
        bootstrap.VENV.mkdir(exist_ok=True)

    monkeypatch.setattr(bootstrap, "build", build)
    return builds
