"""Rules of pipeline/doctor.py, on facts made up so that every problem can be had on any machine."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import bootstrap, doctor
from pipeline.doctor import Fact
from pipeline.host import USE_CONTAINER, inspect_host
from tests.kit.hosts import BOOKWORM, TRIXIE

FINE = Fact("cpu", 2, "cores", note="EPYC [2]")
BROKEN = Fact("tfx", "1.0", problem="requirements.lock has 1.21.0", remedy="run: make clean doctor")


class TestShown:
    def test_plain_is_a_line_each_then_the_problems_and_the_verdict(self) -> None:
        assert _rendered([FINE, BROKEN], as_table=False).splitlines() == [
            "cpu: 2 cores (EPYC [2])",
            "tfx: 1.0",
            "problem: tfx: requirements.lock has 1.21.0; run: make clean doctor",
            "verdict: 1 problem",
        ]

    def test_a_terminal_gets_a_table_with_the_same(self) -> None:
        lines = [line.split() for line in _rendered([FINE, BROKEN], as_table=True).splitlines()]
        assert lines[0] == ["cpu", "2", "cores", "(EPYC", "[2])", "ok"]
        assert lines[1] == ["tfx", "1.0", "problem"]
        assert lines[-1] == ["verdict:", "1", "problem"]

    @pytest.mark.parametrize(("facts", "status"), [([FINE], 0), ([FINE, BROKEN], 1)])
    @pytest.mark.parametrize("shown_as", ["rich", "plain", "json"])
    def test_the_status_is_0_without_problems_and_1_with(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        facts: list[Fact],
        status: int,
        shown_as: str,
    ) -> None:
        monkeypatch.setattr(doctor, "collect", lambda workspace: facts)
        assert doctor.main_doctor(Path("workspace"), shown_as) == status
        output = capsys.readouterr().out
        if shown_as == "json":
            told = json.loads(output)
            assert told["ok"] == (status == 0)
            assert [Fact(**fact) for fact in told["facts"]] == facts
        else:
            assert output.endswith("verdict: 1 problem\n" if status else "verdict: ok\n")


def _rendered(facts: list[Fact], as_table: bool) -> str:
    file = io.StringIO()
    doctor.render(facts, Console(file=file, width=100), as_table)
    return file.getvalue()


class TestCollected:
    def test_it_answers_without_importing_what_may_not_start(self, tmp_path: Path) -> None:
        script = (
            "import sys; from pathlib import Path; from pipeline import doctor\n"
            f"print([fact.name for fact in doctor.collect(Path({str(tmp_path)!r}))])\n"
            "print(sorted({'tensorflow', 'tfx', 'apache_beam', 'keras'} & set(sys.modules)))"
        )
        command = [sys.executable, "-c", script]
        found = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=bootstrap.ROOT
        )
        names, heavy = found.stdout.splitlines()
        assert heavy == "[]"
        for name in ("python", "glibc", "libstdc++", "cpu", "memory", "gpu", "disk", "bytecode"):
            assert repr(name) in names

    def test_this_environment_has_no_problem_with_its_libraries(self) -> None:
        facts = list(doctor.runtime_facts(inspect_host()))
        assert [fact.problem for fact in facts] == [""] * 4
        assert facts[1].value == ".".join(map(str, sys.version_info[:3]))

    def test_every_problem_comes_with_a_remedy(self, tmp_path: Path) -> None:
        lock = tmp_path / "requirements.lock"
        lock.write_text("".join(f"{name}==0.0.1 \\\n" for name in doctor.PACKAGES))
        facts = [
            *doctor.runtime_facts(BOOKWORM),
            *doctor.runtime_facts(dataclasses.replace(BOOKWORM, distribution="rocky")),
            *doctor.runtime_facts(dataclasses.replace(TRIXIE, python=(3, 12))),
            doctor.cpu_fact("flags\t\t: sse\n", 1),
            doctor.memory_fact("MemTotal: 1000 kB\n", []),
            doctor.disk_fact(Path(__file__)),
            *doctor.package_facts(lock),
        ]
        problems = [fact for fact in facts if fact.problem]
        assert len(problems) == 3 + 3 + len(doctor.PACKAGES)
        assert all(fact.remedy for fact in problems)


class TestRuntime:
    def test_a_host_that_can_be_helped_is_told_how_once(self) -> None:
        facts = {fact.name: fact for fact in doctor.runtime_facts(BOOKWORM)}
        assert re.search(r"glibc 2\.38 .*2\.36", facts["glibc"].problem)
        assert [name for name, fact in facts.items() if fact.problem] == ["glibc"]

    def test_a_host_that_cannot_be_helped_is_told_the_way_out_once(self) -> None:
        host = dataclasses.replace(BOOKWORM, distribution="rocky")
        facts = {fact.name: fact for fact in doctor.runtime_facts(host)}
        assert facts["system"].remedy == USE_CONTAINER
        assert [name for name, fact in facts.items() if fact.problem] == ["system"]

    @pytest.mark.parametrize(
        ("library", "private"),
        [
            (f"{sys.prefix}/runtime/libstdc++.so.6", True),
            ("/usr/lib/x86_64-linux-gnu/libstdc++.so.6", False),
            (None, False),
        ],
    )
    def test_a_private_libstdcxx_is_told_from_the_hosts(
        self, library: str | None, private: bool
    ) -> None:
        *_, fact = doctor.runtime_facts(dataclasses.replace(TRIXIE, libstdcxx=library))
        assert (fact.value, "private" in fact.note) == (library, private)


class TestMachine:
    def test_the_cpu_is_named_with_the_usable_cores(self) -> None:
        fact = doctor.cpu_fact("model name\t: EPYC\nflags\t\t: sse avx avx2\n", 3)
        assert fact == Fact("cpu", 3, "cores", note="EPYC")

    def test_a_cpu_without_avx_is_a_problem(self) -> None:
        assert "AVX" in doctor.cpu_fact("flags\t\t: sse sse4_1 notavx\n", 3).problem

    @pytest.mark.parametrize(
        ("limits", "gigabytes", "low"),
        [
            (["", ""], 8.2, False),
            (["max\n", "9223372036854771712\n"], 8.2, False),
            (["2000000000\n"], 2.0, True),
        ],
    )
    def test_memory_is_what_the_container_leaves_of_the_machines(
        self, limits: list[str], gigabytes: float, low: bool
    ) -> None:
        fact = doctor.memory_fact("MemTotal:        8000000 kB\nMemFree: 1 kB\n", limits)
        assert (fact.value, bool(fact.problem)) == (gigabytes, low)

    def test_gpus_are_named_as_nvidias_tool_does(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\necho 'L4, 23034 MiB, 550.54'\necho 'T4, 15360 MiB, 550.54'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        assert doctor._gpu_fact().value == "L4, 23034 MiB, 550.54; T4, 15360 MiB, 550.54"

    def test_a_driver_without_its_tool_is_named_by_its_version(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path / "version")
        fact = doctor._gpu_fact()
        assert (fact.name, fact.value, fact.problem) == ("gpu", None, "")
        (tmp_path / "version").write_text("NVRM version: 550.54\nGCC version: 12\n")
        assert doctor._gpu_fact().value == "NVRM version: 550.54"


class TestDisk:
    def test_a_workspace_that_does_not_exist_yet_is_judged_by_the_folder_above(
        self, tmp_path: Path
    ) -> None:
        fact = doctor.disk_fact(tmp_path / "new" / "workspace")
        assert (fact.note, fact.problem) == (f"free at {tmp_path}", "")

    def test_a_file_in_the_way_is_a_problem(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert str(tmp_path / "file") in doctor.disk_fact(tmp_path / "file" / "workspace").problem

    def test_a_full_disk_is_a_problem(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(doctor, "NEEDED_DISK_GB", 1e9)
        assert "free" in doctor.disk_fact(tmp_path).problem


class TestPackages:
    def test_versions_other_than_the_locked_are_a_problem(self, tmp_path: Path) -> None:
        lock = tmp_path / "requirements.lock"
        numpy = importlib.metadata.version("numpy")
        lock.write_text(f"keras==0.0.1 \\\n    --hash=sha256:0\nnumpy=={numpy} \\\n")
        problems = {fact.name: fact.problem for fact in doctor.package_facts(lock) if fact.problem}
        assert problems == {"keras": "requirements.lock has 0.0.1"}

    def test_a_package_that_is_not_installed_is_a_problem(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
        (fact,) = doctor.package_facts(tmp_path / "absent.lock")
        assert fact.value is None
        assert fact.problem

    def test_uncompiled_packages_are_a_problem(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        assert doctor.bytecode_fact() == Fact("bytecode", "compiled")
        # Interpreters told to keep bytecode elsewhere do not look at the compiled one.
        monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
        assert doctor.bytecode_fact().value != "compiled"
        assert f"{sys.executable} -m compileall" in doctor.bytecode_fact().remedy
