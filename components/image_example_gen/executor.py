"""Runs the ingest as a Beam pipeline. Image bytes cross no stage: a unit is read, decoded and
written in one, and only what is known of its images leaves it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import tensorflow as tf
from tfx import types
from tfx.components.example_gen import utils
from tfx.dsl.components.base import base_beam_executor
from tfx.types import artifact_utils, standard_component_specs

from components import redaction, reuse
from components.errors import BadDataError
from components.image_example_gen import assignments, writing
from components.image_example_gen.dataset import fingerprint, list_data
from components.image_example_gen.ingest import ingest, split_names
from components.image_example_gen.options import Options
from components.image_example_gen.spans import Span
from components.image_example_gen.units import Units, decode, encode
from components.image_example_gen.writing import Outcome, Work
from components.progress import report

SPLITS_KEY = "splits"
OPTIONS_KEY = "options"
SPANS_KEY = "resolved_spans"  # added by the driver

_OUTCOMES = "outcomes.json"


class _Write(beam.DoFn):
    """Yields a unit's index and its outcomes."""

    def __init__(self, max_pixels: int, images: int, output: str) -> None:
        self._max_pixels = max_pixels
        self._images = images
        self._output = output

    def process(self, work: Work) -> Iterator[tuple[int, list[Outcome]]]:
        yield work.index, writing.write(work, self._max_pixels, self._images, self._output)


class Executor(base_beam_executor.BaseBeamExecutor):
    """Executor of ImageExampleGen."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Write `Split-<name>/data_tfrecord-*`, `accounting.json` and the lists that go with it.

        Raises BadDataError where the data cannot be trained on.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        source = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        shares: dict[str, int] = json.loads(exec_properties[SPLITS_KEY])
        options = Options.from_json(exec_properties[OPTIONS_KEY])
        examples = artifact_utils.get_single_instance(
            output_dict[standard_component_specs.EXAMPLES_KEY]
        )

        units = Units(examples.uri)

        def work(pieces: Sequence[Work], images: int) -> Mapping[int, list[Outcome]]:
            targets = [target for piece in pieces for target in piece.targets if target]
            for split in {*shares, *(target.split for target in targets)}:
                tf.io.gfile.makedirs(os.path.join(examples.uri, f"Split-{split}"))
            known = {piece.index: units.take_over(piece) for piece in pieces}
            rest = [left for _, left in known.values() if left.images]
            fresh = self._write(rest, options.max_pixels, examples.uri)
            units.keep(rest, fresh)
            done = sum(piece.images for piece in rest)
            reuse.account(examples, done, images - done)
            return {index: [*found, *fresh.get(index, [])] for index, (found, _) in known.items()}

        spans = _resolved(exec_properties)
        data = list_data(source, options, spans)
        for line in data.read_as:
            report("note", text=line)
        code = exec_properties.get("code", "")
        earlier = assignments.read(examples.uri, shares, options.group_near_duplicates)
        result = ingest(data, shares, options, work, examples.uri, code, earlier)
        result.write(examples.uri)
        names = split_names(shares, result.accounting)
        examples.split_names = artifact_utils.encode_split_names(names)
        report("note", text=result.accounting.balance)
        for finding in result.accounting.findings:
            report("note", text=finding)
        result.check(names, source, options)
        # Else the cache would give what was read for what was to be read, also in later runs.
        expected = exec_properties.get(utils.FINGERPRINT_PROPERTY_NAME)
        if expected and fingerprint(list_data(source, options, spans)) != expected:
            raise BadDataError(
                f"{source}: its files changed while they were read; run again when nothing is "
                "written to it, and all of its disks are there"
            )

    def _write(
        self, pieces: Sequence[Work], max_pixels: int, output: str
    ) -> dict[int, list[Outcome]]:
        """Decode and write units."""
        images = sum(piece.images for piece in pieces)
        path = os.path.join(output, _OUTCOMES)
        if not pieces:
            return {}
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Units" >> beam.Create(pieces, reshuffle=True)
                | "Write" >> beam.ParDo(_Write(max_pixels, images, output))
                | "Collect" >> beam.combiners.ToList()
                | "Keep" >> beam.Map(_save, path)
            )
        return _load(path)


def _resolved(exec_properties: Mapping[str, Any]) -> list[Span] | None:
    text = exec_properties.get(SPANS_KEY)
    if not text:
        return None
    return [
        Span(number, version, redaction.reveal(location))
        for number, version, location in json.loads(text)
    ]


def _save(outcomes: list[tuple[int, list[Outcome]]], path: str) -> None:
    """Write the outcomes to a file, which is how they get out of Beam."""
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps([[index, encode(found)] for index, found in outcomes]))


def _load(path: str) -> dict[int, list[Outcome]]:
    """Undo `_save`."""
    with tf.io.gfile.GFile(path) as file:
        rows = json.loads(file.read())
    tf.io.gfile.remove(path)
    return {index: decode(found) for index, found in rows}
