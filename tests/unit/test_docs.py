"""What the documents say exists: links, commands, options, settings, targets and tests."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline import cli, config, reference
from pipeline.commands import help_texts
from pipeline.errors import EXIT_CODES, DatabaseLost
from pipeline.settings.cluster import Pool
from tests import REPO
from tests.kit.cli import perennial
from trainer_module import recipes

PAGES = sorted([REPO / "README.md", *REPO.glob("docs/**/*.md"), *REPO.glob("kubeflow/**/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"`(tests/\w+/\w+\.py)::(?:\w+::)?(\w+)`")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
ROOT: Any = typer.main.get_command(cli.app)


def commands(command: Any = ROOT, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All commands that do something, by name."""
    for name, each in getattr(command, "commands", {}).items():
        if not each.hidden:
            yield from commands(each, (*names, name))
    if not hasattr(command, "commands"):
        yield " ".join(names), command


COMMANDS = dict(commands())
SETTINGS = {key for name in recipes.names() for key in config.load(None, {"train.recipe": name})[1]}


def shown(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every `perennial ...` in blocks and in the text."""
    blocks = [body for kind, body in BLOCK.findall(text) if kind in ("sh", "console")]
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    for line in "\n".join([*blocks, *spans]).replace("\\\n", " ").splitlines():
        found = re.match(r"(?:\$ )?(?:\.venv/bin/)?perennial +(.*)", line)
        if found:
            words = re.split(r" [|>&]|&$", found[1])[0]
            yield shlex.split(words.partition(" #")[0])


def wrong(arguments: list[str]) -> str:
    """Describe the error in a command line; empty if there is none."""
    command, names = ROOT, []
    while arguments and arguments[0] in getattr(command, "commands", {}):
        names.append(arguments[0])
        command = command.commands[arguments.pop(0)]
    is_placeholder = not arguments or arguments[0].startswith(("-", "["))
    if hasattr(command, "commands") and not is_placeholder:
        return f"there is no command {' '.join([*names, arguments[0]])}"
    options = {"--help"}
    for each in command.params:
        options |= {*each.opts, *each.secondary_opts}
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if word.startswith("--") and word.partition("=")[0] not in options:
            return f"{' '.join(names)} has no {word}"
        key = following.partition("=")[0]
        if word == "--set" and key not in SETTINGS | {"KEY"}:
            return f"{key} is no setting"
    return ""


@pages
class TestPage:
    def test_links_lead_somewhere(self, page: Path) -> None:
        text = BLOCK.sub("", page.read_text())
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
        local = [link for link in links if link and "://" not in link]
        assert [link for link in local if not (page.parent / link).exists()] == []

    def test_commands_options_and_settings_exist(self, page: Path) -> None:
        assert list(filter(None, map(wrong, shown(page.read_text())))) == []

    def test_targets_exist(self, page: Path) -> None:
        targets = re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
        named = re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
        assert set(named) <= set(targets)

    def test_configurations_load(self, page: Path, tmp_path: Path) -> None:
        for kind, body in BLOCK.findall(page.read_text()):
            if kind == "toml":
                (tmp_path / "shown.toml").write_text(body)
                config.load(tmp_path / "shown.toml")


def test_a_mistake_would_be_found() -> None:
    assert wrong(["rnu"]) == "there is no command rnu"
    assert wrong(["data", "chekc"]) == "there is no command data chekc"
    assert wrong(["run", "--epoch", "3"]) == "run has no --epoch"
    assert wrong(["run", "--set", "train.epoch=3"]) == "train.epoch is no setting"


def test_the_readme_has_every_exit_code() -> None:
    text = (REPO / "README.md").read_text()
    table = text.partition("| exit code | meaning |")[2].partition("\n\n")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [
        *sorted(EXIT_CODES)
    ]


class TestReliability:
    TEXT = (REPO / "docs" / "reliability.md").read_text()

    def test_every_row_has_a_test(self) -> None:
        rows = [line for line in self.TEXT.splitlines() if line.startswith("| ")]
        facts = [row for row in rows if not re.match(r"\| (-|fault|who|case \|)", row)]
        assert len(facts) > 50
        assert [row for row in facts if not ROW.search(row)] == []

    def test_every_test_that_is_named_exists(self) -> None:
        for file, name in ROW.findall(self.TEXT):
            text = (REPO / file).read_text()
            assert re.search(rf"^ *def {name}\(", text, re.MULTILINE), f"{file}::{name}"


class TestReference:
    @pytest.mark.parametrize("name", ["configuration", "command_line"])
    def test_is_current(self, name: str) -> None:
        file = {"configuration": "configuration.md", "command_line": "cli.md"}[name]
        written = (reference.FOLDER / file).read_text()
        assert written == getattr(reference, name)(), "run make docs"

    def test_has_every_setting(self) -> None:
        text = (reference.FOLDER / "configuration.md").read_text()
        assert [
            key for key in sorted(SETTINGS) if f"`{key}`" not in text and f"## {key}\n" not in text
        ] == []

    def test_has_every_setting_of_a_pool(self) -> None:
        text = (reference.FOLDER / "configuration.md").read_text()
        assert [
            name for name in Pool.model_fields if f"`kubeflow.pools.NAME.{name}`" not in text
        ] == []


class TestHelp:
    def test_every_command_has_examples(self) -> None:
        assert set(help_texts.EXAMPLES) == set(COMMANDS)

    def test_every_command_lists_its_own_exit_codes(self) -> None:
        listed = set(itertools.chain(*help_texts.CODES.values()))
        assert set(help_texts.CODES) == set(COMMANDS)
        assert set(EXIT_CODES) - listed == {DatabaseLost.exit_code}  # of pods only
        assert {code in help_texts.CODES[name] for name, code in help_texts.MEANINGS} == {True}
        assert {0, 10} <= set(help_texts.CODES["submit"])
        assert 10 not in help_texts.CODES["run"]

    def test_lists_of_commands_are_whole(self) -> None:
        lists = re.findall(r"^\* `[a-z][a-z-]*`: (.*)$", reference.command_line(), re.MULTILINE)
        shown = {name for name, each in ROOT.commands.items() if not each.hidden}
        assert len(lists) == len(COMMANDS | dict.fromkeys(shown))
        assert [line for line in lists if line.endswith("...")] == []

    @pytest.mark.parametrize("name", COMMANDS)
    def test_its_examples_are_of_it_and_parse(self, name: str) -> None:
        for line in help_texts.EXAMPLES[name]:
            program, *arguments = shlex.split(line)
            assert program == "perennial"
            assert arguments[: len(name.split())] == name.split()
            assert wrong(list(arguments)) == ""
            COMMANDS[name].make_context(name, arguments[len(name.split()) :]).close()

    @pytest.mark.parametrize("name", COMMANDS)
    def test_ends_with_examples_and_exit_codes(self, name: str) -> None:
        done = perennial(*name.split(), "--help")
        text = " ".join(done.output.split())
        assert text.index("Example: perennial") < text.index("Exit codes: 0 ")


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    program = tmp_path / "perennial"
    program.write_text(
        f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(REPO)!r})\n"
        "from pipeline.cli import main\nmain()\n"
    )
    program.chmod(0o755)
    script = """
        eval "$(_PERENNIAL_COMPLETE=source_bash perennial)"
        complete -p perennial | grep -q _perennial_completion || exit 1
        for words in "perennial pro" "perennial promote --ser" "perennial data che"; do
            COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _perennial_completion perennial; echo "${COMPREPLY[@]}"
        done
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["promote", "--server", "check"]
