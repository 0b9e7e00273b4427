"""The end of each command's --help: examples and exit codes. docs/reference/cli.md has them too."""

from __future__ import annotations

import inspect
import re

import typer

from pipeline.errors import EXIT_CODES

# By command. The tests parse each line.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": (
        "perennial run",
        "perennial run --data photos --recipe auto --workspace work",
        "perennial run --config perennial.toml --set train.epochs=20 --log-format json",
    ),
    "retrain": (
        "perennial retrain --data 'photos/{SPAN}' --workspace work --dry-run",
        "perennial retrain --config perennial.toml --force",
    ),
    "monitor": (
        "perennial monitor logs --workspace work",
        "perennial monitor logs --days 7 --json --dry-run",
    ),
    "monitor-pipeline": ("perennial monitor-pipeline logs --config flowers.toml",),
    "ask": ("perennial ask logs to-label --number 50 --days 7",),
    "label": ("perennial label to-label",),
    "feedback": ("perennial feedback labels.csv --data 'photos/{SPAN}'",),
    "gc": ("perennial gc --workspace work --keep 5 --apply",),
    "doctor": (
        "perennial doctor --workspace work",
        "perennial doctor --config perennial.toml",
    ),
    "worker": ("perennial worker --port 50000",),
    "version": ("perennial version",),
    "data check": ("perennial data check photos --quarantine bad.jsonl",),
    "data show": ("perennial data show photos --recipe bit --output samples.html",),
    "schema infer": ("perennial schema infer --data photos --schema schema.pbtxt",),
    "schema review": ("perennial schema review --schema schema.pbtxt",),
    "schema accept": ("perennial schema accept --schema schema.pbtxt",),
    "serve": (
        "perennial serve",
        "perennial serve perennial --workspace work --dev-server --public-key signing.pub",
    ),
    "models": ("perennial models --workspace work --json",),
    "promote": (
        "perennial promote 3 --to canary --server localhost:8500",
        "perennial promote 3 --to stable --public-key signing.pub",
        "perennial promote 3 --to canary --configmap perennial-serving/model-versions",
    ),
    "rollback": ("perennial rollback --server localhost:8500",),
    "runs": ("perennial runs --workspace work",),
    "show": ("perennial show latest", "perennial show latest --json"),
    "compare": ("perennial compare 20261122-031038-ca8f latest",),
    "report": ("perennial report latest --output page",),
    "predict": (
        "perennial predict latest cat.jpg --top 5",
        "perennial predict localhost:8500 photos --json",
        "perennial predict cat.jpg --weights BiT-M-R50x1-ILSVRC2012.npz --labels names.txt",
    ),
    "traffic record": (
        "perennial traffic record logs --shadow canary",
        "perennial traffic record logs --no-images --days 7",
    ),
    "traffic proxy": (
        "perennial traffic proxy --share 0.1",
        "perennial traffic proxy --print",
    ),
    "traffic forget": ("perennial traffic forget logs 3f2c9a51d0e84b7c8f6a1e2d3c4b5a69",),
    "compile": ("perennial compile --config flowers.toml --output flowers.yaml",),
    "submit": ("perennial submit flowers.yaml --param epochs=5 --wait",),
    "watch": (
        "perennial watch --host http://localhost:8080",
        "perennial watch --in-cluster --namespace perennial --every 30",
    ),
    "schedule create": (
        "perennial schedule create flowers.yaml --name nightly --cron '0 0 3 * * *'",
    ),
    "schedule list": ("perennial schedule list --host http://localhost:8080",),
    "schedule pause": ("perennial schedule pause nightly",),
    "schedule resume": ("perennial schedule resume nightly",),
    "schedule delete": ("perennial schedule delete nightly",),
}


_TRAINING = (0, 1, 2, 3, 4, 5, 6, 7, 12, 130)
_PARTIAL = (0, 1, 2, 3, 5, 6, 12, 130)
_READING = (0, 1, 2)
_PROMOTION = (0, 1, 2, 7, 13, 130)
_KUBEFLOW = (0, 1, 2, 10, 11, 130)
# By command, of those in pipeline/errors.py. Of a test that calls a command the code must be here.
CODES: dict[str, tuple[int, ...]] = {
    "run": _TRAINING,
    "retrain": (0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 130),
    "feedback": (0, 1, 2, 3, 130),
    "monitor": (0, 1, 2, 3, 9, 12, 130),
    "monitor-pipeline": (0, 1, 2, 3, 9, 12, 130),
    "ask": (0, 1, 2, 3, 130),
    "label": (0, 1, 2, 3, 130),
    "traffic record": (0, 1, 2),
    "traffic proxy": (0, 1, 2),
    "traffic forget": (0, 1, 2, 3, 130),
    "gc": (0, 1, 2, 6, 130),
    "doctor": (0, 1, 2, 130),
    "version": (0,),
    "data check": (0, 1, 2, 3, 12, 130),
    "data show": _PARTIAL,
    "schema infer": _PARTIAL,
    "schema review": (0, 1, 2, 3, 8),
    "schema accept": (0, 1, 2, 3),
    "serve": (0, 1, 2, 7, 13, 130),
    "models": _PROMOTION,
    "promote": _PROMOTION,
    "rollback": _PROMOTION,
    "runs": _READING,
    "show": _READING,
    "compare": _READING,
    "report": (0, 1, 2, 130),
    "predict": (0, 1, 2, 3, 130),
    "compile": (0, 1, 2, 3, 130),
    "submit": (0, 1, 2, 5, 10, 11, 13, 130),
    "watch": _KUBEFLOW,
    "schedule create": (*_KUBEFLOW, 13),
    "schedule list": _KUBEFLOW,
    "schedule pause": _KUBEFLOW,
    "schedule resume": _KUBEFLOW,
    "schedule delete": _KUBEFLOW,
    "worker": (0, 1, 2, 130),
}
# By command and code, where the general meaning is not the one that counts.
MEANINGS: dict[tuple[str, int], str] = {
    ("run", 0): "pushed, or nothing to do",
    ("retrain", 0): "pushed, or nothing to do",
    ("doctor", 0): "a run should work here",
    ("doctor", 1): "at least one problem",
    ("predict", 3): "a file is not a usable image",
    ("feedback", 3): "no row can be used",
    ("monitor", 0): "nothing found",
    ("monitor", 9): "the traffic has drifted",
    ("monitor", 12): "too little traffic to compare",
    ("monitor-pipeline", 0): "nothing found",
    ("monitor-pipeline", 9): "the traffic has drifted",
    ("monitor-pipeline", 12): "too little traffic to compare",
    ("ask", 3): "no recorded image can be used",
    ("traffic forget", 3): "a request has no records",
    ("submit", 0): "submitted; with --wait, succeeded",
    ("submit", 5): "with --wait, the run failed",
    ("schema review", 0): "no changes",
    ("schema review", 8): "the candidate would change the schema",
}


def exit_codes(command: str = "") -> str:
    """Write the exit codes of a command, or all that there are, as a sentence."""
    codes = sorted(CODES[command]) if command else EXIT_CODES
    meanings = (MEANINGS.get((command, code), EXIT_CODES[code]) for code in codes)
    pairs = (f"{code} {meaning}" for code, meaning in zip(codes, meanings, strict=True))
    return f"Exit codes: {'; '.join(pairs)}."


def attach(group: typer.Typer, parents: tuple[str, ...] = ()) -> None:
    """Let every command's --help end with its examples and exit codes."""
    for command in group.registered_commands:
        assert command.callback is not None
        if command.hidden:
            continue  # the earlier name of another
        name = " ".join((*parents, command.name or command.callback.__name__.replace("_", "-")))
        # Each paragraph as one line, which is then broken where the terminal is.
        paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")
        command.help = "\n\n".join(" ".join(each.split()) for each in paragraphs)
        # Whole in lists of commands, where Click would cut it after some words.
        command.short_help = re.sub(r"\.$", "", command.help.partition("\n\n")[0])
        lines = EXAMPLES.get(name, ())
        command.epilog = "\n\n".join([*(f"Example: {line}" for line in lines), exit_codes(name)])
    for each in group.registered_groups:
        assert each.typer_instance is not None
        attach(each.typer_instance, (*parents, str(each.name)))
