"""What to type: the examples at the end of each command's --help and in docs/reference/cli.md."""

from __future__ import annotations

import inspect

import typer

# By command. Each line is tried by the tests as far as its options go.
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
        "perennial serve perennial --workspace work --own --public-key signing.pub",
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
    "classify": (
        "perennial classify cat.jpg --weights BiT-M-R50x1-ILSVRC2012.npz --labels names.txt",
    ),
}


def attach(group: typer.Typer, exit_codes: str, parents: tuple[str, ...] = ()) -> None:
    """Let every command's --help end with its examples and the exit codes."""
    for command in group.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        # Each paragraph as one line, which is then broken where the terminal is.
        paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")
        command.help = "\n\n".join(" ".join(each.split()) for each in paragraphs)
        lines = EXAMPLES.get(" ".join((*parents, name)), ())
        command.epilog = "\n\n".join([*(f"Example: {line}" for line in lines), exit_codes])
    for each in group.registered_groups:
        assert each.typer_instance is not None
        attach(each.typer_instance, exit_codes, (*parents, str(each.name)))
