"""Runs the ingest as Beam pipelines.

Image bytes pass no stage: a unit is read, decoded and written in one step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tfx import types
from tfx.components.example_gen import utils
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_component_specs

from components import launch, redaction, reuse, storage
from components.attempts import Attempt
from components.errors import BadDataError
from components.image_example_gen import assignments, writing
from components.image_example_gen.dataset import DataSet, SpanUnit, list_data
from components.image_example_gen.fingerprint import fingerprint, read_all
from components.image_example_gen.ingest import ingest, split_names
from components.image_example_gen.inputs import Row, read_unit
from components.image_example_gen.ledger import Ledger
from components.image_example_gen.options import Options
from components.image_example_gen.pieces import Pieces, Units, decode, encode, keep
from components.image_example_gen.spans import Span
from components.image_example_gen.writing import Outcome, Work
from components.jobs import Job, Worker
from components.progress import Counter, report

SPLITS_KEY = "splits"
OPTIONS_KEY = "options"
SPANS_KEY = "resolved_spans"  # added by the driver


class Found(NamedTuple):
    """What the driver has found: the data, its inputs if they were read, and their digest."""

    data: DataSet
    ledger: Ledger | None = None
    digest: str = ""


class _Read(Worker[SpanUnit]):
    """Reads and hashes the inputs of a unit."""

    def __init__(self, inputs: int | None) -> None:
        self._inputs = inputs

    def work(self, task: SpanUnit, attempt: Attempt) -> list[Row]:
        with Counter("read", self._inputs, "inputs", attempt.advance) as counter:
            return read_unit(task, counter)


class _Write(Worker[Work]):
    """Decodes and writes a unit."""

    def __init__(self, max_pixels: int, images: int) -> None:
        self._max_pixels = max_pixels
        self._images = images

    def work(self, task: Work, attempt: Attempt) -> list[Any]:
        outcomes = writing.write(task, self._max_pixels, self._images, attempt)
        keep(task, outcomes, attempt)
        return encode(outcomes)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of ImageExampleGen."""

    def read(self, data: DataSet, output: str) -> Ledger:
        """Read and hash every input in a Beam job.

        output: folder of the Examples artifact, in which workers and this process exchange files.
        """
        job = Job("read", "inputs")

        def read(units: Iterable[SpanUnit], inputs: int | None) -> Iterator[list[Row]]:
            return job.map(self._make_beam_pipeline(), _Read(inputs), units, output, inputs)

        return read_all(data, read)

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write `Split-<name>/data_tfrecord-*`, `accounting.json` and its lists.

        Raises BadDataError if the data cannot be trained on.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        source = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        shares: dict[str, int] = json.loads(exec_properties[SPLITS_KEY])
        options = Options.from_json(exec_properties[OPTIONS_KEY])
        examples = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.EXAMPLES_KEY]
        )

        units = Units(examples.uri)

        def work(pieces: Pieces) -> Iterator[tuple[Work, list[Outcome]]]:
            for split in {*shares, *pieces.splits}:
                storage.make_folder(storage.join(examples.uri, f"Split-{split}"))
            images = pieces.images
            for piece in pieces if units.are_known else ():
                if found := units.take_over(piece):
                    yield piece, found
            left = pieces.images
            worker = _Write(options.max_pixels, left)
            pipeline = self._make_beam_pipeline()
            job = Job("ingest", "images")
            written = job.map(pipeline, worker, pieces, examples.uri, total=left)
            for piece, rows in zip(pieces, written, strict=True):
                yield piece, decode(rows)
            reuse.account(examples, left, images - left)

        found: Found = launch.current().found or Found(
            list_data(source, options, _resolved(exec_properties))
        )
        data = found.data
        for line in data.read_as:
            report("note", text=line)
        ledger = self.read(data, examples.uri) if found.ledger is None else found.ledger
        digest = found.digest or fingerprint(data, ledger)
        code = exec_properties.get("code", "")
        earlier = assignments.read(examples.uri, shares, options.group_near_duplicates)
        result = ingest(data, shares, options, work, examples.uri, code, earlier, ledger)
        result.write(examples.uri)
        names = split_names(shares, result.accounting)
        examples.split_names = artifact_utils.encode_split_names(names)
        report("note", text=result.accounting.balance)
        for finding in result.accounting.findings:
            report("note", text=finding)
        result.check(names, source, options)
        # Otherwise the cache would return examples of other data, also in later runs. No local file
        # is read again: workers hash what they decode, and write only what has the same hash.
        now = fingerprint(data) if data.is_remote else digest
        expected = exec_properties.get(utils.FINGERPRINT_PROPERTY_NAME) or digest
        if {digest, now} != {expected} or (not data.is_remote and result.ledger.has_changed()):
            raise BadDataError(
                f"{source}: its files changed while they were read; run again when nothing is "
                "written to it, and all of its disks are there"
            )


def _resolved(exec_properties: Mapping[str, Any]) -> list[Span] | None:
    text = exec_properties.get(SPANS_KEY)
    if not text:
        return None
    return [
        Span(number, version, redaction.reveal(location))
        for number, version, location in json.loads(text)
    ]
