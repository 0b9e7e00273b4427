"""The ingest and its checks alone, without a workspace."""

from __future__ import annotations

import dataclasses
import gc
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.errors import BadDataError
from components.image_example_gen import assignments
from components.image_example_gen.accounting import Accounting, varied
from components.image_example_gen.dataset import list_data
from components.progress import report
from components.wording import counted
from pipeline.commands.files import write
from pipeline.config import check_data
from pipeline.console import Console
from pipeline.errors import data_error
from pipeline.noise import redirect_output
from pipeline.settings import Config
from pipeline.workspace import Workspace

MAX_SHOWN = 20


def check(config: Config, log_format: str, quarantine: Path | None = None) -> None:
    """Read every image as a run would, and print what became of each.

    log_format: "rich", "plain" or "json". quarantine: file for all inputs that cannot be used.
    Raises ConfigError, DataError.
    """
    data = config.data
    check_data(data)
    with (
        tempfile.TemporaryDirectory(prefix="perennial-") as folder,
        redirect_output(Path(folder, "log")) as terminal,
        Console.create(log_format, terminal.stdout) as console,
    ):
        report("note", text=f"reading {data.source}")
        try:
            listed = list_data(data.source, data.options)
            for line in listed.read_as:
                report("note", text=line)
            # Only from here on is it needed; its import takes seconds.
            report("note", text="loading TensorFlow")
            from components.image_example_gen.ingest import ingest, split_names, work_here

            # Imported libraries never go: the garbage collector would go through them again and
            # again.
            gc.freeze()
            # Where a run's would be, which has the splits that earlier ones decided on.
            examples = Workspace(config.workspace).artifacts / "ImageExampleGen" / "examples" / "-"
            known = assignments.read(str(examples), data.splits, data.options.group_near_duplicates)
            result = ingest(
                listed, data.splits, data.options, work_here(data.options), earlier=known
            )
            bad = list(result.quarantine)
            if quarantine is not None:
                write(quarantine, "".join(f"{json.dumps(row)}\n" for row in bad))
            record = dataclasses.asdict(result.accounting)
            console.summary(_rows(result.accounting, bad), {**record, "quarantine": bad})
            result.check(split_names(data.splits, result.accounting), data.source, data.options)
        except BadDataError as error:
            raise data_error(error) from error


def _rows(record: Accounting, bad: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    rows = [("Accounting", record.balance)]
    for split, counts in record.splits.items():
        shown = ", ".join(f"{count:,} {label}" for label, count in _most(counts))
        if (more := len(counts) - MAX_SHOWN) > 0:
            shown += f" and {counted(more, 'more class', 'more classes')}"
        rows.append((f"In {split}", f"{record.examples(split):,}: {shown}"))
    for name, counts in (
        ("Normalised", record.normalized),
        ("Ignored", record.ignored),
        ("Quarantined", record.quarantined),
    ):
        if counts:
            rows.append((name, ", ".join(f"{count:,} {kind}" for kind, count in counts.items())))
    rows += [("", f"{line['path']}: {line['reason']}") for line in varied(bad, MAX_SHOWN)]
    if (more := len(bad) - MAX_SHOWN) > 0:
        rows.append(("", f"... and {more:,} more; --quarantine FILE writes them all"))
    rows += [("Look at", finding) for finding in record.findings]
    return rows


def _most(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Return the largest counts, no more than fit a few lines."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_SHOWN]
