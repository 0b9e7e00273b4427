"""The command line: its commands, and the exit codes and messages of their failures.

Heavy imports are in the commands themselves, so that --help answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import importlib.metadata
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import typer

from components import environment, progress
from components.errors import DamagedFileError
from components.redaction import redact
from pipeline import notes, output
from pipeline.commands import help_texts, schema, traffic
from pipeline.commands.ask import ask, label
from pipeline.commands.data_check import check
from pipeline.commands.data_show import show as show_data
from pipeline.commands.doctor import doctor, version
from pipeline.commands.feedback import feedback
from pipeline.commands.gc import collect
from pipeline.commands.models import models, promote, rollback
from pipeline.commands.monitor import monitor
from pipeline.commands.options import LogFormat
from pipeline.commands.predict import classify, predict
from pipeline.commands.report import compare, report, runs
from pipeline.commands.report import show as show_run
from pipeline.commands.run import retrain, run
from pipeline.commands.serve import serve
from pipeline.commands.worker import worker
from pipeline.errors import INTERRUPTED, UNEXPECTED, UserError

Command = Callable[..., None]
PLUGINS = "perennial.commands"  # entry points: modules with COMMANDS and GROUPS


def main() -> None:
    """Run the console command `perennial`."""
    environment.prepare()
    try:
        app()
    finally:
        # The objects of TFX and TensorFlow would take seconds to collect, and the process ends.
        gc.freeze()


def _reported(command: Command) -> Command:
    """Turn an exception into a line on stderr and its exit code, never into a traceback."""

    @functools.wraps(command)
    def run_command(*args: Any, **kwargs: Any) -> None:
        as_json = kwargs.get("log_format") is LogFormat.JSON
        try:
            with notes.shown():
                command(*args, **kwargs)
        except UserError as error:
            text = None if as_json else _listed(error)
            _fail(as_json, type(error).__name__, str(error), error.exit_code, text)
        except DamagedFileError as error:
            _fail(as_json, "DamagedFile", str(error), UNEXPECTED)
        except KeyboardInterrupt:
            _fail(as_json, "Interrupted", "interrupted; run again to continue", INTERRUPTED)
        except (typer.Exit, BrokenPipeError):
            raise  # of the latter, the reader of our output is gone: Typer ends quietly
        except Exception as error:
            if output.blamed(error):
                _fail_to_print(output.failure())
            name = type(error).__name__
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                where = f"the disk that holds {error.filename}" if error.filename else "a disk"
                reason = f"no space left on {where}; free some and run again"
                _fail(as_json, name, reason, UNEXPECTED)
            log = _write_traceback(error)
            message = f"unexpected {name}: {error}; the traceback is in {log}"
            _fail(as_json, name, message, UNEXPECTED)
        if reason := output.failure():
            _fail_to_print(reason)

    return run_command


def _fail_to_print(reason: str) -> NoReturn:
    _fail(False, "OutputLost", f"standard output cannot be written: {reason}", UNEXPECTED)


def _listed(error: UserError) -> str:
    """Put each finding that ends the message on a line of its own, to be copied."""
    text = " ".join(str(error).splitlines())
    if error.findings and text.endswith(error.findings[-1]):
        for finding in error.findings:
            text = text.replace(f"; or {finding}", f"\n  {finding}")
            text = text.replace(f": {finding}", f":\n  {finding}")
    return text


def _fail(
    as_json: bool, kind: str, message: str, exit_code: int, text: str | None = None
) -> NoReturn:
    """Print one line, or `text` for a person, and end with the exit code."""
    line = redact(" ".join(message.splitlines()))
    if as_json:
        event = {"kind": kind, "message": line, "exit_code": exit_code}
        with contextlib.suppress(OSError):  # the failure counts, not that it cannot be shown
            print(progress.as_line("error", event), flush=True)
        output.failure()
    with contextlib.suppress(OSError):
        print(f"perennial: error: {redact(text or line)}", file=sys.stderr)
    raise typer.Exit(exit_code)


def _write_traceback(error: Exception) -> Path:
    handle, path = tempfile.mkstemp(prefix="perennial-", suffix=".log")
    with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(redact("".join(traceback.format_exception(error))))
    return Path(path)


def _group(help_text: str, commands: dict[str, Command], **settings: Any) -> typer.Typer:
    group = typer.Typer(help=help_text, no_args_is_help=True, **settings)
    for name, command in commands.items():
        group.command(name)(_reported(command))
    return group


app = _group(
    "Retrain image classifiers: from a folder of images to an evaluated, pushed model.",
    {
        "run": run,
        "retrain": retrain,
        "doctor": doctor,
        "version": version,
        "runs": runs,
        "show": show_run,
        "compare": compare,
        "report": report,
        "predict": predict,
        "serve": serve,
        "models": models,
        "promote": promote,
        "rollback": rollback,
        "monitor": monitor,
        "ask": ask,
        "label": label,
        "feedback": feedback,
        "worker": worker,
        "gc": collect,
    },
    name="perennial",
    epilog=help_texts.exit_codes(),
    pretty_exceptions_enable=False,
)
app.add_typer(
    _group("Check and view images before a run", {"show": show_data, "check": check}), name="data"
)
app.add_typer(
    _group(
        "Curate the schema of the data",
        {"infer": schema.infer, "review": schema.review, "accept": schema.accept},
    ),
    name="schema",
)
app.add_typer(
    _group(
        "Record the requests to a model server",
        {"record": traffic.record, "proxy": traffic.proxy, "forget": traffic.forget},
    ),
    name="traffic",
)
for _found in importlib.metadata.distribution("perennial").entry_points.select(group=PLUGINS):
    _plugin = _found.load()
    for _name, _command in _plugin.COMMANDS.items():
        app.command(_name)(_reported(_command))
    for _name, (_help, _commands) in _plugin.GROUPS.items():
        app.add_typer(_group(_help, _commands), name=_name)
app.command("classify", hidden=True)(_reported(classify))  # its earlier name
help_texts.attach(app)


if __name__ == "__main__":
    main()
