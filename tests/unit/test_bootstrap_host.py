"""What pipeline/bootstrap.py finds out about a host, its mirrors and the settings of pip."""

from __future__ import annotations

import ast
import dataclasses
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pipeline import bootstrap
from pipeline import host as host_module
from pipeline.host import BootstrapError, Host
from tests.kit.hosts import BOOKWORM, TRIXIE

needs_apt = pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt")


class TestHost:
    @pytest.mark.parametrize(
        "host",
        [
            TRIXIE,
            BOOKWORM,
            dataclasses.replace(BOOKWORM, distribution="ubuntu", glibc=(2, 35)),
            dataclasses.replace(TRIXIE, distribution="fedora"),
        ],
    )
    def test_hosts_with_the_libraries_and_debian_and_ubuntu_hosts_without_pass(
        self, host: Host
    ) -> None:
        host_module.check_host(host)

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"system": "Darwin", "machine": "arm64", "glibc": None}, "Darwin .*arm64"),
            ({"machine": "aarch64"}, "Linux .*aarch64; "),
            ({"distribution": "rocky", "glibc": (2, 34)}, r"glibc 2\.38 \(found 2\.34\)"),
            ({"distribution": "alpine", "glibc": None}, r"glibc 2\.38 .*none"),
            ({"distribution": "fedora", "glibc": (2, 38)}, r"GCC 14.*CXXABI_1\.3\.15"),
        ],
    )
    def test_other_hosts_are_told_what_is_missing_and_the_way_out(
        self, changes: dict[str, object], named: str
    ) -> None:
        with pytest.raises(BootstrapError, match=named) as caught:
            host_module.check_host(dataclasses.replace(BOOKWORM, **changes))  # type: ignore[arg-type]
        assert caught.value.remedy == host_module.USE_CONTAINER
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("version", [(3, 8), (3, 10), (3, 12)])
    def test_other_pythons_are_refused(self, version: tuple[int, int]) -> None:
        host_module.check_python((3, 11))
        with pytest.raises(BootstrapError, match=rf"\b3\.11 .*\b3\.{version[1]};"):
            host_module.check_python(version)

    @pytest.mark.parametrize("module", [bootstrap, host_module])
    def test_older_pythons_can_run_as_far_as_that_message(self, module: ModuleType) -> None:
        source = Path(module.__file__ or "").read_text()
        tree = ast.parse(source, feature_version=(3, 8))
        imported = {
            name
            for node in tree.body
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert "dataclasses" in imported or "hashlib" in imported  # the test sees imports at all
        others = {
            str(name) for name in imported if str(name).split(".")[0] not in sys.stdlib_module_names
        }
        assert others <= {"pipeline", "pipeline.host"}
        assert not imported & {"tomllib", "fcntl"}  # newer than 3.8, or not on Windows

    def test_the_running_interpreter_is_described(self) -> None:
        host = host_module.inspect_host()
        assert host.python == sys.version_info[:2]
        assert host.libstdcxx is not None
        assert "libstdc++.so.6" in host.libstdcxx
        assert host.lacking == ""  # or these tests could not have been installed

    def test_a_symbol_counts_only_in_full(self, tmp_path: Path) -> None:
        library = tmp_path / "libstdc++.so.6"
        library.write_bytes(b"\0GLIBCXX_3.4.32\0CXXABI_1.3.151\0")
        assert list(host_module._missing_symbols(str(library))) == ["CXXABI_1.3.15"]
        assert list(host_module._missing_symbols(None)) == list(host_module.LIBSTDCXX_SYMBOLS)

    def test_a_full_disk_is_refused_before_anything_is_fetched(self, tmp_path: Path) -> None:
        host_module.check_space(tmp_path, needed=1)
        with pytest.raises(BootstrapError, match=rf" {tmp_path} .* {10**9} GB"):
            host_module.check_space(tmp_path, needed=10**18)


@needs_apt
class TestMirrors:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            (
                "sources.list",
                "# deb http://old.invalid/debian bookworm main\n"
                "deb http://sec.invalid/debian-security bookworm-security main\n"
                "deb [arch=amd64] http://a.invalid/debian bookworm main contrib\n"
                "deb-src http://src.invalid/debian bookworm main\n",
            ),
            (
                "sources.list.d/debian.sources",
                "Types: deb\nURIs: http://off.invalid/debian\nSuites: bookworm\nComponents: main\n"
                "Enabled: no\n\n"
                "Types: deb deb-src\nURIs: http://a.invalid/debian\n"
                "Suites: bookworm bookworm-updates\nComponents: main contrib\n",
            ),
            ("sources.list", "deb http://a.invalid/debian oldstable main\n"),
        ],
    )
    def test_the_archive_of_the_own_release_is_found_in_either_format(
        self, tmp_path: Path, name: str, text: str
    ) -> None:
        assert bootstrap.archive_mirrors(BOOKWORM, _etc_apt(tmp_path, {name: text})) == [
            "http://a.invalid/debian/"
        ]

    def test_third_party_archives_are_candidates_too_because_only_the_signature_tells(
        self, tmp_path: Path
    ) -> None:
        text = "deb http://{}.invalid/ubuntu jammy main\n"
        etc = _etc_apt(
            tmp_path,
            {
                "sources.list.d/a.list": text.format("ppa"),
                "sources.list.d/b.list": text.format("u"),
            },
        )
        host = dataclasses.replace(BOOKWORM, distribution="ubuntu", codename="jammy")
        assert bootstrap.archive_mirrors(host, etc) == [
            "http://ppa.invalid/ubuntu/",
            "http://u.invalid/ubuntu/",
        ]

    def test_none_is_an_error_that_says_where_it_was_looked_for(self, tmp_path: Path) -> None:
        etc = _etc_apt(tmp_path, {"sources.list": "deb http://a.invalid/x other main\n"})
        with pytest.raises(BootstrapError, match=rf"debian bookworm .*{etc}"):
            bootstrap.archive_mirrors(BOOKWORM, etc)


def _etc_apt(folder: Path, files: dict[str, str]) -> Path:
    (folder / "sources.list.d").mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


class TestUvEnvironment:
    CONFIG = (
        "global.index-url='https://mirror.invalid/simple'\n"
        "global.find-links='/opt/wheels'\n"
        ":env:.index-url='https://nearer.invalid/simple'\n"
        "global.cert='/etc/ca.pem'\n"
    )

    @pytest.fixture(autouse=True)
    def _clean(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("UV_DEFAULT_INDEX", "SSL_CERT_FILE", "ALL_PROXY", "UV_NO_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def test_pips_mirror_and_certificates_are_used_for_uv_too(self) -> None:
        assert bootstrap.uv_environment(self.CONFIG) == {
            "UV_DEFAULT_INDEX": "https://nearer.invalid/simple",
            "SSL_CERT_FILE": "/etc/ca.pem",
        }

    def test_what_uv_was_told_itself_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UV_DEFAULT_INDEX", "https://own.invalid/simple")
        assert "UV_DEFAULT_INDEX" not in bootstrap.uv_environment(self.CONFIG)

    def test_no_cache_is_used_where_none_can_be_written(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/1")
        assert bootstrap.uv_environment("") == {"UV_NO_CACHE": "1"}
