"""The command line: what is imported, what is passed on, and how it fails."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from pipeline import addresses, cli, errors
from pipeline.commands.options import LogFormat
from tests.kit.cli import perennial

HEAVY = {"apache_beam", "keras", "ml_metadata", "numpy", "tensorflow", "tfx"}


def only_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


@pytest.fixture
def run_as(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Put a function in the place of pipeline.run.run, which takes minutes."""

    def replace(function: Callable[..., None]) -> None:
        module = types.ModuleType("pipeline.run")
        module.run = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "pipeline.run", module)

    return replace


@pytest.fixture
def calls(run_as: Callable[[Callable[..., None]], None]) -> list[Any]:
    """Record the arguments of each call of a pipeline that does nothing."""
    made: list[Any] = []

    def succeed(*args: object) -> None:
        made.append(args)

    run_as(succeed)
    return made


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


class TestHelp:
    @pytest.mark.parametrize(
        "args", [["--help"], ["run", "--help"], ["serve", "--help"], ["doctor", "--help"]]
    )
    def test_help_imports_nothing_heavy(self, args: list[str]) -> None:
        code = (
            "import sys, contextlib\n"
            "from pipeline.cli import app\n"
            f"with contextlib.suppress(SystemExit): app({args})\n"
            f"print(*{HEAVY}.intersection(sys.modules), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert "Usage" in done.stdout
        assert done.stderr.split() == []

    @pytest.mark.parametrize("module", ["pipeline.retraining.retrain", "pipeline.monitoring.label"])
    def test_a_first_line_waits_for_nothing_heavy(self, module: str) -> None:
        code = f"import sys, {module}\nprint(*{HEAVY - {'numpy'}}.intersection(sys.modules))"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == []

    def test_a_configuration_is_checked_without_anything_heavy(self, tmp_path: Path) -> None:
        code = (
            "import sys\n"
            "from pipeline.config import check_paths, dump_toml, load\n"
            "loaded = load()\ncheck_paths(loaded.config)\ndump_toml(*loaded)\n"
            f"print(*{HEAVY}.intersection(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == []

    def test_help_lists_every_exit_code_and_each_command_its_own(self) -> None:
        everything = " ".join(perennial("--help").output.split())
        own = " ".join(perennial("compile", "--help").output.split()).partition("Exit codes:")[2]
        for code, meaning in errors.EXIT_CODES.items():
            assert f" {code} {meaning}" in everything
            assert (f" {code} {meaning}" in own) == (code in (0, 1, 2, 3, 130))

    def test_no_arguments_show_the_help(self) -> None:
        result = perennial()
        assert result.exit_code == 2
        assert "Usage" in result.output


class TestRun:
    def test_flags_and_settings_reach_the_pipeline(
        self, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photos").mkdir()
        (tmp_path / "run.toml").write_text("train.seed = 3\ntrain.epochs = 4\n", encoding="utf-8")
        result = perennial(
            *("run", "--config", "run.toml", "--data", "photos", "--recipe", "vit"),
            *("--workspace", "w", "--epochs", "5", "--set", "train.batch_size=6"),
            *("--set", "evaluate.min_accuracy=0.5", "--log-format", "json"),
        )
        assert result.exit_code == 0, result.output
        [(config, origins, log_format)] = calls
        assert config.data.folder == tmp_path / "photos"
        assert config.workspace == tmp_path / "w"
        assert (config.train.seed, config.train.epochs, config.train.batch_size) == (3, 5, 6)
        assert config.evaluate.min_accuracy == 0.5
        assert origins["train.seed"] == "file:run.toml"
        assert origins["train.epochs"] == "command line"
        assert log_format == "json"

    @pytest.mark.parametrize(
        "data", [["photos"], ["--data", "photos"], ["photos", "--data=photos"]]
    )
    def test_data_is_an_argument_or_an_option(
        self, calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: list[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert perennial("run", *data).exit_code == 0
        assert calls[0][0].data.folder == tmp_path / "photos"

    @pytest.mark.parametrize("command", [["run"], ["retrain"], ["data", "check"], ["data", "show"]])
    def test_two_different_data_are_refused(self, command: list[str]) -> None:
        result = perennial(*command, "photos", "--data", "others")
        assert result.exit_code == 2
        assert re.match(r"perennial: error: 'photos' .*--data 'others' ", only_line(result.stderr))

    def test_retrain_has_all_options_of_run(self) -> None:
        root: Any = typer.main.get_command(cli.app)
        options = {
            name: {option for each in root.commands[name].params for option in each.opts}
            for name in ("run", "retrain")
        }
        assert options["run"] < options["retrain"]

    def test_a_setting_wins_over_its_flag(self, calls: list[Any]) -> None:
        assert perennial("run", "--set", "train.epochs=7", "--epochs", "5").exit_code == 0
        assert calls[0][0].train.epochs == 7

    def test_without_a_terminal_lines_are_plain(self, calls: list[Any]) -> None:
        perennial("run")
        assert calls[0][2] == "plain"

    @pytest.mark.parametrize(("term", "expected"), [("xterm", "rich"), ("dumb", "plain")])
    def test_on_a_terminal_the_display_is_live_if_it_can_be(
        self, monkeypatch: pytest.MonkeyPatch, term: str, expected: str
    ) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("TERM", term)
        assert LogFormat.AUTO.resolved == expected


class TestFailures:
    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["--config", "none.toml"], "none.toml: "),
            (["--config", "."], "[.]: "),
            (["--config", "bad.toml"], "bad.toml: not TOML"),
            (["--set", "train.epoch=3"], "'train.epoch'.* 'train.epochs'"),
            (["--set", "train"], "--set 'train': .*KEY=VALUE"),
            (["--epochs", "0"], "train.epochs = 0: .* 1$"),
            (["--recipe", "vti"], "'vti': .* 'vit'"),
            (["--workspace", ""], "workspace = '': "),
        ],
    )
    def test_a_configuration_mistake_is_one_line_before_anything_runs(
        self,
        calls: list[Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        args: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "bad.toml").write_text("train =", encoding="utf-8")
        result = perennial("run", *args)
        assert result.exit_code == 2
        assert re.match(f"perennial: error: .*{message}", only_line(result.stderr))
        assert result.stdout == ""
        assert calls == []
        assert [path.name for path in tmp_path.iterdir()] == ["bad.toml"]

    @pytest.mark.parametrize(
        ("error", "exit_code"),
        [
            (errors.ConfigError, 2),
            (errors.DataError, 3),
            (errors.NotBlessed, 4),
            (errors.NodeFailed, 5),
            (errors.WorkspaceBusy, 6),
            (errors.DataLost, 12),
        ],
    )
    def test_each_failure_of_a_run_has_its_own_exit_code(
        self,
        run_as: Callable[[Callable[..., None]], None],
        error: type[errors.UserError],
        exit_code: int,
    ) -> None:
        run_as(raising(error("no\nluck")))
        result = perennial("run")
        assert result.exit_code == exit_code
        assert only_line(result.stderr) == "perennial: error: no luck"

    def test_exit_codes_are_distinct(self) -> None:
        kinds = [kind.exit_code for kind in errors.kinds()]
        codes = [0, errors.UNEXPECTED, errors.INTERRUPTED, *kinds]
        assert sorted(codes) == sorted(errors.EXIT_CODES)

    def test_an_interrupt_is_130(self, run_as: Callable[[Callable[..., None]], None]) -> None:
        run_as(raising(KeyboardInterrupt()))
        result = perennial("run")
        assert result.exit_code == 130
        assert "interrupted" in only_line(result.stderr)

    def test_an_unexpected_failure_is_one_line_and_a_file_with_the_traceback(
        self,
        run_as: Callable[[Callable[..., None]], None],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        run_as(raising(RuntimeError("two\nlines")))
        result = perennial("run")
        assert result.exit_code == 1
        line = only_line(result.stderr)
        [log] = tmp_path.iterdir()
        assert re.match(rf"perennial: error: .*RuntimeError: two lines; .*{log}$", line)
        assert "Traceback (most recent call last)" in log.read_text(encoding="utf-8")

    @pytest.mark.parametrize("file", ["", "/data/file"])
    def test_a_full_disk_is_no_riddle(
        self,
        run_as: Callable[[Callable[..., None]], None],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        file: str,
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        run_as(raising(OSError(errno.ENOSPC, "No space left on device", file or None)))
        result = perennial("run", "--log-format", "json")
        assert result.exit_code == 1
        event = json.loads(only_line(result.stdout))
        assert "space" in event["message"]
        assert file in event["message"]
        assert not list(tmp_path.iterdir())  # no traceback, as of what is unexpected

    def test_in_json_a_failure_is_also_one_object_on_standard_output(self) -> None:
        result = perennial("run", "--set", "train.epochs=é", "--log-format", "json")
        event = json.loads(only_line(result.stdout))
        assert (event["event"], event["kind"], event["exit_code"]) == ("error", "ConfigError", 2)
        assert only_line(result.stderr) == f"perennial: error: {event['message']}"
        assert event["ts"].endswith("+00:00")

    def test_the_installed_command_fails_the_same_way(self) -> None:
        command = Path(sys.executable).with_name("perennial")
        done = subprocess.run(
            [command, "run", "--data", "/no/such/folder"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 3
        assert only_line(done.stderr).startswith(
            "perennial: error: data.source = '/no/such/folder': "
        )

    def test_a_workspace_that_is_not_there_has_nothing_to_remove(self, tmp_path: Path) -> None:
        result = perennial("gc", "--workspace", tmp_path / "typo")
        assert result.exit_code == 2
        assert f"workspace {tmp_path / 'typo'}: " in result.output
        assert list(tmp_path.iterdir()) == []

    def test_an_unknown_flag_is_a_usage_error(self) -> None:
        result = perennial("run", "--epoch", "3")
        assert result.exit_code == 2
        assert "--epochs" in result.output


class TestDoctor:
    def test_workspace_and_format_are_passed_on_and_the_exit_code_back(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[object] = []

        def main_doctor(*args: object) -> int:
            seen.append(args)
            return 1

        monkeypatch.setattr("pipeline.commands.doctor.main_doctor", main_doctor)
        assert perennial("doctor").exit_code == 1
        assert perennial("doctor", "--workspace", "w", "--log-format", "json").exit_code == 1
        assert seen == [(Path("workspace"), "plain"), (Path("w"), "json")]


class TestVersion:
    def test_it_names_the_versions_of_what_a_model_depends_on(self) -> None:
        lines = perennial("version").stdout.splitlines()
        assert lines == [
            f"{package} {importlib.metadata.version(package)}"
            for package in ("perennial", "tfx", "tensorflow", "keras")
        ]

    def test_a_package_that_is_missing_is_said_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def version(package: str) -> str:
            raise importlib.metadata.PackageNotFoundError(package)

        monkeypatch.setattr(importlib.metadata, "version", version)
        result = perennial("version")
        assert result.exit_code == 0
        assert "keras not installed" in result.stdout.splitlines()


class TestAddresses:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["traffic", "record", "{folder}", "--server", "nowhere"],
            ["traffic", "proxy", "--print", "--rest", "nowhere"],
            ["traffic", "proxy", "--print", "--recorder", "host:"],
            ["traffic", "proxy", "--print", "--grpc-listen", "host:70000"],
            ["promote", "1", "--to", "canary", "--server", ":8500"],
        ],
    )
    def test_what_is_not_host_and_port_is_refused_with_the_option(
        self, tmp_path: Path, arguments: list[str]
    ) -> None:
        done = perennial(*(each.format(folder=tmp_path / "logs") for each in arguments))
        assert done.exit_code == 2
        assert re.search(rf"{arguments[-2]} {arguments[-1]}: .*HOST:PORT", only_line(done.stderr))
        assert not (tmp_path / "logs").exists()

    @pytest.mark.parametrize(
        ("address", "parts"),
        [
            ("localhost:8500", ("localhost", 8500)),
            ("[::1]:8500", ("[::1]", 8500)),
            ("localhost", ("", None)),
            ("localhost:0", ("localhost", None)),
            ("localhost:65536", ("localhost", None)),
            ("localhost:8a", ("localhost", None)),
            ("localhost:\u0663", ("localhost", None)),
        ],
    )
    def test_they_are_split(self, address: str, parts: tuple[str, int | None]) -> None:
        assert addresses.split(address) == parts


class TestPredict:
    def test_an_image_is_needed(self) -> None:
        done = perennial("predict", "latest")
        assert done.exit_code == 2
        assert "IMAGE" in done.stderr

    def test_weights_need_the_names_of_their_classes(self) -> None:
        done = perennial("predict", "cat.jpg", "--weights", "bit.npz")
        assert done.exit_code == 2
        assert "--labels" in only_line(done.stderr)
