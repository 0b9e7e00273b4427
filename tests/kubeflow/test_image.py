"""What the container image is made from."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kubeflow.image import requirements, smoke
from tests import REPO

DOCKERFILE = REPO / "kubeflow" / "Dockerfile"
TARGETS = ("cpu", "gpu")


class Stage(NamedTuple):
    name: str
    base: str
    steps: list[tuple[str, str]]  # instruction and arguments


@pytest.fixture(scope="module")
def arguments() -> dict[str, str]:
    """Defaults of the arguments before the first stage."""
    text = DOCKERFILE.read_text().partition("\nFROM ")[0]
    return dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    lines = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    steps: list[tuple[str, str]] = []
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            steps = []
            found[name] = Stage(name, base, steps)
        elif found and instruction:
            steps.append((instruction, rest))
    return found


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0


def test_every_base_is_pinned_by_digest(
    stages: dict[str, Stage], arguments: dict[str, str]
) -> None:
    assert stages.keys() > set(TARGETS)
    for stage in stages.values():
        base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], stage.base)
        assert base in stages or re.fullmatch(r"\S+:\S+@sha256:[0-9a-f]{64}", base), stage.name


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_ends_as_a_user_that_is_not_root(stages: dict[str, Stage], target: str) -> None:
    users = [rest for instruction, rest in stages[target].steps if instruction == "USER"]
    # Kubernetes can tell that a number is not root, but not a name.
    assert users == ["65532:65532"]
    kinds = [instruction for instruction, _ in stages[target].steps]
    assert "COPY" not in kinds[kinds.index("USER") :]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_tried_when_it_is_built(stages: dict[str, Stage], target: str) -> None:
    command = f'["python3", "-m", "kubeflow.image.smoke", "{target}"]'
    assert ("RUN", command) in stages[target].steps


def test_targets_differ_in_tensorflow_only(stages: dict[str, Stage]) -> None:
    cpu, gpu = (stages[target] for target in TARGETS)
    as_cpu = [(kind, re.sub(r'(?<=[-"])gpu', "cpu", rest)) for kind, rest in gpu.steps]
    assert as_cpu == cpu.steps


def test_no_secret_and_nothing_unchecked_goes_in(stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        for instruction, rest in stage.steps:
            assert instruction != "ADD"
            if instruction in ("ARG", "ENV"):
                assert not re.search(r"TOKEN|SECRET|PASSW|KEY|CREDENTIAL", rest, re.IGNORECASE)
            if instruction == "RUN" and " install " in rest and "-e ." not in rest:
                assert "--require-hashes" in rest
                assert "--no-deps" in rest


def test_only_what_is_copied_is_sent_to_the_builder(stages: dict[str, Stage]) -> None:
    rules = [
        line
        for line in (REPO / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source
        for stage in stages.values()
        for instruction, rest in stage.steps
        if instruction == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }
    assert {source.partition("/")[0] for source in copied} == allowed
    for source in copied:
        assert (REPO / source).exists()
    for secret in (".git", ".venv", "workspace", ".env"):
        assert not any(fnmatch(secret, rule) for rule in allowed)


class TestRequirements:
    @pytest.mark.parametrize("layer", ["build", "base", "cpu", "gpu"])
    def test_everything_is_pinned_with_hashes(self, layer: str) -> None:
        for entry in requirements.of_layer(layer).values():
            assert re.match(r"[a-z0-9-]+==\S+ \\\n( +--hash=sha256:[0-9a-f]{64})", entry)

    def test_what_runs_need_is_there(self) -> None:
        project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
        names = {re.match(r"[\w-]+", each)[0].lower() for each in project["dependencies"]}  # type: ignore[index]
        base = requirements.of_layer("base").keys()
        assert names - base == {"tensorflow"}
        assert {"model-signing", "absl-py", "ml-metadata", "grpcio"} <= base
        assert "tensorflow" in requirements.of_layer("gpu")

    def test_it_is_all_that_the_packages_themselves_require(self) -> None:
        """By the metadata of what is installed here, in place of the notes of uv."""
        project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]["signing"]
        due = [Requirement(each) for each in [*project["dependencies"], *extras]]
        seen: set[tuple[str, frozenset[str]]] = set()
        while due:
            each = due.pop()
            key = canonicalize_name(each.name), frozenset(each.extras)
            if key not in seen:
                seen.add(key)
                extras_of = [{"extra": extra} for extra in ("", *each.extras)]
                due += [
                    wanted
                    for wanted in map(Requirement, metadata.requires(each.name) or ())
                    if not wanted.marker or any(map(wanted.marker.evaluate, extras_of))
                ]
        required = {str(name) for name, _ in seen}
        assert required - requirements.of_layer("base").keys() == {"tensorflow", "libclang"}
        assert requirements.of_layer("base").keys() <= required

    def test_what_developers_need_is_not(self) -> None:
        groups = tomllib.loads((REPO / "pyproject.toml").read_text())["dependency-groups"]
        own = [each for name in ("lint", "test", "release") for each in groups[name]]
        names = {re.match(r"[\w-]+", each)[0] for each in own}  # type: ignore[index]
        assert len(names) > 10
        for layer in ("base", "cpu", "gpu"):
            assert not requirements.of_layer(layer).keys() & names

    def test_layers_do_not_overlap(self) -> None:
        base = requirements.of_layer("base").keys()
        assert not base & requirements.of_layer("gpu").keys()
        assert not base & requirements.of_layer("cpu").keys()

    def test_tensorflow_is_the_same_everywhere(self) -> None:
        locked = requirements.of_layer("gpu")["tensorflow"].split()[0]
        cpu = requirements.of_layer("cpu")["tensorflow-cpu"].split()[0]
        assert cpu == locked.replace("tensorflow", "tensorflow-cpu")


class TestSmoke:
    def test_this_environment_has_what_the_image_gets(self) -> None:
        base = requirements.versions(requirements.of_layer("base"))
        found = smoke.installed()
        assert smoke.differences(base, {name: found.get(name, "") for name in base}) == []

    @pytest.mark.parametrize(
        "found", [{}, {"cleanlab": "2.8.0"}, {"cleanlab": "2.9.0", "extra": "1"}]
    )
    def test_what_differs_is_named(self, found: dict[str, str]) -> None:
        (told,) = smoke.differences({"cleanlab": "2.9.0"}, found)
        assert told.partition(" ")[0] in {"cleanlab", "extra"}

    def test_another_environment_is_refused(self) -> None:
        """This one, which has tools of developers and the whole of TensorFlow."""
        done = subprocess.run(
            [sys.executable, "-m", "kubeflow.image.smoke", "cpu"],
            cwd=REPO, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 1
        assert "tensorflow-cpu " in done.stderr
        assert "pytest " in done.stderr


def test_the_smoke_command_passes_here() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kubeflow.image.smoke"], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    assert {"components.image_evaluator.executor", "trainer_module.run_fn"} <= set(modules)
