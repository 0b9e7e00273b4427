"""Generates docs/reference: the settings from their models, the commands from their --help.

Run `make docs` after a change of either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from pipeline.cli import app
from pipeline.config import config_class
from pipeline.settings import Config
from trainer_module import recipes

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_PLURALS = {each: f"{each}s" for each in ("string", "path", "integer", "number", "table")}
_MAKE = "`make docs` writes this page."
_LAYERS = """\
Give settings in a TOML file (`--config FILE`) or on the command line (`--set KEY=VALUE`). A setting
is taken from the last of these layers that has it:

1. The defaults on this page.
2. The presets of the recipe, of a built-in data set, of `kubeflow.environment` and of
   `train.preset`, which are files in [pipeline/presets](../../pipeline/presets).
3. For `perennial retrain`, the presets `retrain` and `retrain-spans`, and the settings of the
   baseline.
4. The TOML file.
5. The command line.

Relative paths in a file start at the file's folder, all others at the working directory. Settings
with an empty default have to be given; those of `transform` and `train` are given by the preset of
the recipe."""

Schema = Mapping[str, Any]


def main() -> None:
    """Write both pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "configuration.md").write_text(configuration(), encoding="utf-8")
    (FOLDER / "cli.md").write_text(command_line(), encoding="utf-8")


def configuration() -> str:
    """Describe all settings with their types, ranges and defaults, as Markdown."""
    page = [
        "# Settings",
        _MAKE,
        _LAYERS,
        *_tables(Config.model_json_schema(), "", ""),
    ]
    for name in recipes.names():
        schema = config_class(name).model_json_schema()
        train = schema["$defs"]["TrainConfig"]["properties"]["hyperparameters"]
        own = _resolved(train, schema["$defs"])
        own = {**own, "$defs": schema["$defs"]}
        page += _tables(own, "train.hyperparameters.", f" of the recipe {name}")
    return "\n\n".join(page) + "\n"


def command_line() -> str:
    """Describe all commands with their arguments, options, examples and exit codes, as Markdown."""
    command: Any = typer.main.get_command(app)
    for name in [name for name, each in command.commands.items() if each.hidden]:
        del command.commands[name]
    context = typer.Context(command, info_name="perennial")
    text = get_docs_for_click(obj=command, ctx=context, name="perennial", title="Commands")
    text = re.sub(r"^Example: (.*)$", r"Example: `\1`", text, flags=re.MULTILINE)
    return text.replace("# Commands\n", f"# Commands\n\n{_MAKE}\n", 1).rstrip() + "\n"


def _tables(schema: Schema, prefix: str, of: str) -> Iterator[str]:
    if prefix:
        yield f"## {prefix.rstrip('.')}{of}"
    yield from _section(schema, prefix)
    for name, field in schema["properties"].items():
        for suffix, inner in _inner(field, schema["$defs"]):
            yield from _tables({**inner, "$defs": schema["$defs"]}, f"{prefix}{name}{suffix}.", of)


def _section(schema: Schema, prefix: str) -> Iterator[str]:
    if prefix and (text := schema.get("description")):
        yield text
    required = schema.get("required", ())
    rows = []
    for name, field in schema["properties"].items():
        if any(suffix == "" for suffix, _ in _inner(field, schema["$defs"])):
            continue
        kind = _kind(field, schema["$defs"])
        default = "" if name in required else _default(field)
        cells = [f"`{prefix}{name}`", kind, default, field.get("description", "")]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if rows:
        yield "\n".join(
            ["| setting | value | default | description |", "| --- | --- | --- | --- |", *rows]
        )


def _inner(field: Schema, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """Yield the tables that a field is or holds, each after the text between its key and theirs."""
    for option in [field, *field.get("anyOf", ())]:
        # Of a table whose names must have a form, what they hold is by its pattern.
        named = [option.get("additionalProperties"), *option.get("patternProperties", {}).values()]
        places = [("", option), ("[]", option.get("items")), *((".NAME", each) for each in named)]
        for suffix, place in places:
            if isinstance(place, Mapping) and "$ref" in place:
                inner = _resolved(place, definitions)
                if inner.get("properties"):
                    yield suffix, inner


def _resolved(field: Schema, definitions: Schema) -> Schema:
    if "$ref" not in field:
        return field
    return definitions[field["$ref"].rpartition("/")[2]]


def _kind(field: Schema, definitions: Schema) -> str:
    field = {**field, **_resolved(field, definitions)}
    if options := field.get("anyOf"):
        kinds = [_kind(option, definitions) for option in options if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    bounds = ", ".join(f"{sign} {field[key]}" for key, sign in _BOUNDS.items() if key in field)
    match field.get("type"):
        case "array":
            items = field.get("items") or field.get("prefixItems", [{}])[0]
            kind, *rest = _kind(items, definitions).partition(" ")
            return f"list of {_PLURALS.get(kind, kind)}{''.join(rest)}"
        case "object":
            return "table"
        case "string":
            kind = "path" if field.get("format") == "path" else "string"
        case other:
            kind = {"boolean": "`true`, `false`"}.get(str(other), str(other or "value"))
    return f"{kind} {bounds}".strip()


def _default(field: Schema) -> str:
    default = field.get("default")
    return "unset" if default is None else f"`{json.dumps(default)}`"


if __name__ == "__main__":
    main()
