"""Checks of this machine for `perennial doctor`, each problem with its remedy.

TensorFlow is never imported, so that it also answers where TensorFlow cannot start.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components import environment
from pipeline import beam_runner, bootstrap
from pipeline.errors import ConfigError
from pipeline.host import (
    BootstrapError,
    Host,
    check_host,
    check_python,
    dotted,
    existing_parent,
    inspect_host,
)
from pipeline.installed import version_of
from pipeline.noise import redirect_output
from pipeline.settings.beam import BeamConfig

PACKAGES = (
    *("tfx", "tensorflow", "keras", "tensorflow-model-analysis", "tensorflow-transform"),
    *("tensorflow-data-validation", "ml-metadata", "apache-beam", "kfp", "kfp-kubernetes"),
    *("protobuf", "numpy"),
)
# Most of what a run waits for when its bytecode is not compiled.
SLOW_IMPORTS = ("tensorflow", "tfx", "apache_beam")
REBUILD = "run: make clean doctor"
NEEDED_MEMORY_GB = 3.0  # a run peaks at 2.3 GB on 3,670 photographs
NEEDED_DISK_GB = 1.0
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
# Where control groups, version 2 then 1, limit a container's memory.
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Fact:
    """One finding. `problem` is empty if all is well; otherwise `remedy` tells what to do.

    `unit` is that of `value`; `note` is for people.
    """

    name: str
    value: str | int | float | None
    unit: str = ""
    note: str = ""
    problem: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        value = "none" if self.value is None else f"{self.value} {self.unit}".rstrip()
        return f"{value} ({self.note})" if self.note else value


def main_doctor(workspace: Path, shown_as: str, beam: BeamConfig | None = None) -> int:
    """Print the facts and a verdict to standard output.

    Args:
        workspace: the folder that runs will write to; it need not exist.
        shown_as: "rich", "plain" (a line each) or "json" (one object).
        beam: runners to try out, too.

    Returns:
        0 if a run should work here, 1 if there are problems.
    """
    facts = [*collect(workspace), *(beam_facts(beam, workspace) if beam else ())]
    problems = [fact for fact in facts if fact.problem]
    if shown_as == "json":
        print(json.dumps({"ok": not problems, "facts": [dataclasses.asdict(f) for f in facts]}))
    else:
        render(facts, Console(soft_wrap=shown_as == "plain", highlight=False), shown_as == "rich")
    return 1 if problems else 0


def render(facts: list[Fact], console: Console, as_table: bool) -> None:
    """Show the facts, then each problem with its remedy, then the verdict in one line."""
    if as_table:
        table = Table.grid(padding=(0, 2))
        for fact in facts:
            mark = "[red]problem" if fact.problem else "[green]ok"
            table.add_row(fact.name, Text(str(fact)), mark)
        console.print(table)
    else:
        for fact in facts:
            console.print(f"{fact.name}: {fact}", markup=False)
    problems = [fact for fact in facts if fact.problem]
    for fact in problems:
        console.print(f"problem: {fact.name}: {fact.problem}; {fact.remedy}", markup=False)
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    console.print(f"verdict: {count if problems else 'ok'}", markup=False)


def collect(workspace: Path) -> list[Fact]:
    """Collect everything that decides whether, and how fast, a run works here."""
    return [
        *runtime_facts(inspect_host()),
        *_machine_facts(),
        disk_fact(workspace),
        *environment_facts(),
        *package_facts(bootstrap.LOCK_FILE),
        bytecode_fact(),
    ]


def runtime_facts(host: Host) -> Iterator[Fact]:
    """Describe operating system, interpreter and the libraries that native wheels are bound to."""
    problem, remedy = _failure(check_host, host)
    yield Fact("system", f"{_release()}, {host.machine}", problem=problem, remedy=remedy)
    # Where the check of the host passes, a new environment gets what this one lacks.
    lacking = f"the native wheels need {host.lacking}" if host.lacking and not problem else ""
    problem, remedy = _failure(check_python, host.python)
    version = platform.python_version()
    yield Fact("python", version, note=sys.executable, problem=problem, remedy=remedy)
    glibc = dotted(host.glibc) if host.glibc else None
    yield Fact("glibc", glibc, problem=lacking, remedy=REBUILD if lacking else "")
    private = host.libstdcxx is not None and Path(host.libstdcxx).is_relative_to(sys.prefix)
    yield Fact("libstdc++", host.libstdcxx, note="private copy of this environment" * private)


def _failure(check: Callable[[T], None], subject: T) -> tuple[str, str]:
    try:
        check(subject)
    except BootstrapError as error:
        return error.problem, error.remedy
    return "", ""


def _release() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return platform.system()


def _machine_facts() -> Iterator[Fact]:
    yield cpu_fact(_read("/proc/cpuinfo"), len(os.sched_getaffinity(0)))
    yield memory_fact(_read("/proc/meminfo"), [_read(path) for path in MEMORY_LIMITS])
    yield _gpu_fact()


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def cpu_fact(cpuinfo: str, cores: int) -> Fact:
    """Count the cores that this process may use, from `cpuinfo` in the format of /proc/cpuinfo."""
    model = re.search(r"^model name\s*: (.*)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)$", cpuinfo, re.MULTILINE)
    no_avx = flags is not None and "avx" not in flags[1].split()
    return Fact(
        "cpu",
        cores,
        "cores",
        note=model[1] if model else "",
        problem="TensorFlow's wheels need a CPU with AVX" if no_avx else "",
        remedy="use another machine" if no_avx else "",
    )


def memory_bytes() -> float | None:
    """Return the memory that a run can use, in bytes; None where it is not known."""
    found = memory_fact(_read("/proc/meminfo"), [_read(path) for path in MEMORY_LIMITS]).value
    return None if found is None else float(found) * 1e9


def memory_fact(meminfo: str, limits: list[str]) -> Fact:
    """Describe the memory that a run can use, in GB.

    Args:
        meminfo: text in the format of /proc/meminfo.
        limits: texts of control group limits: bytes, "max" or nothing.
    """
    kilobytes = re.search(r"^MemTotal:\s*(\d+) kB$", meminfo, re.MULTILINE)
    sizes = [int(kilobytes[1]) * 1024] if kilobytes else []
    sizes += [int(limit) for limit in limits if limit.strip().isdigit()]
    if not sizes:
        return Fact("memory", None)
    total = round(min(sizes) / 1e9, 1)
    low = total < NEEDED_MEMORY_GB
    return Fact(
        "memory",
        total,
        "GB",
        problem=f"less than {NEEDED_MEMORY_GB:.0f} GB, a run may be killed" if low else "",
        remedy="use a machine or a container limit with more memory" if low else "",
    )


def _gpu_fact() -> Fact:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        found = "; ".join(asked.stdout.splitlines())
    except (OSError, subprocess.SubprocessError):
        found = _read(NVIDIA_DRIVER).partition("\n")[0]  # a driver without its tools
    if not found:
        return Fact("gpu", None, note="TensorFlow uses the CPU")
    has_cuda = any(
        distribution.name.startswith("nvidia-cudnn")
        for distribution in importlib.metadata.distributions()
    )
    return Fact("gpu", found, note="" if has_cuda else "no CUDA libraries here: the CPU is used")


def disk_fact(workspace: Path) -> Fact:
    """Describe the space for `workspace` in GB, and whether this user may write there."""
    folder = existing_parent(workspace)
    free = round(shutil.disk_usage(folder).free / 1e9, 1)
    problem = ""
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        problem = f"{folder} is not a folder that this user can write to"
    elif free < NEEDED_DISK_GB:
        problem = f"less than {NEEDED_DISK_GB:.0f} GB free for {workspace}"
    remedy = "name another folder with --workspace" if problem else ""
    return Fact("disk", free, "GB", note=f"free at {folder}", problem=problem, remedy=remedy)


def environment_facts() -> Iterator[Fact]:
    """Describe the settings of Keras and TensorFlow in files and variables of this user."""
    try:
        overruled = environment.overruled()
        note = ", ".join(f"{name} = {value} is overruled" for name, value in overruled.items())
        yield Fact("keras backend", environment.BACKEND, note=note)
    except ValueError as error:
        problem, _, remedy = str(error).rpartition("; ")
        yield Fact("keras backend", None, problem=problem, remedy=remedy)
    for name in ("TF_CONFIG", "XLA_FLAGS", "TF_XLA_FLAGS", "CUDA_VISIBLE_DEVICES"):
        if name in os.environ:
            yield Fact(name, os.environ[name], note="is set, and counts")


def beam_facts(beam: BeamConfig, workspace: Path) -> Iterator[Fact]:
    """Check that Beam's runners answer and that their workers can do the work of the nodes."""
    for job in beam_runner.jobs(beam):
        problem = remedy = note = ""
        try:
            note = beam_runner.reach(job)
            if job.is_elsewhere:
                with tempfile.TemporaryDirectory() as folder, redirect_output(Path(folder, "log")):
                    trial = beam_runner.try_out(job, workspace)
                note = "; ".join(filter(None, (note, trial)))
        except ConfigError as error:
            problem, _, remedy = str(error).removeprefix(f"{job.key}: ").partition("; ")
        yield Fact(job.key, job.runner, note=note, problem=problem, remedy=remedy)


def package_facts(lock_file: Path) -> Iterator[Fact]:
    """Compare the versions of the packages that a run needs with `lock_file`, if there is one."""
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", _read(lock_file), re.MULTILINE))
    for package in PACKAGES:
        version = version_of(package)
        if version is None:
            yield Fact(package, None, problem="not installed", remedy=REBUILD)
            continue
        wanted = pinned.get(package, version)
        problem = "" if version == wanted else f"{lock_file.name} has {wanted}"
        remedy = REBUILD if problem else ""
        yield Fact(package, version, problem=problem, remedy=remedy)


def bytecode_fact() -> Fact:
    """Check that imports find compiled bytecode: without it each start takes 20 s of CPU more."""
    origins = [spec.origin for name in SLOW_IMPORTS if (spec := importlib.util.find_spec(name))]
    compiled = all(
        Path(importlib.util.cache_from_source(origin)).is_file() for origin in origins if origin
    )
    if compiled:
        return Fact("bytecode", "compiled")
    writes = "is not" if sys.dont_write_bytecode else "will be"
    return Fact(
        "bytecode",
        "not compiled",
        note=f"{writes} written by imports (PYTHONDONTWRITEBYTECODE)",
        problem="every start spends some 20 s of CPU on compiling",
        remedy=f"run: {sys.executable} -m compileall -q {Path(sys.prefix) / 'lib'}",
    )
