"""What memory an ingest takes in the process that gives work to Beam, however many images.

python -m tests.benchmarks.driver_memory [--images 10000 100000 1000000]

Names and sizes are made up, and so is what workers find: hashes, sizes in pixels, thumbnails. All
else is the component's own, from the listing of a folder on: its executor with Beam's runner in
the process, which has the memory of the workers' part too, a unit at a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

CLASSES = 100
BYTES = 100_000  # of an image; it has some of them more or fewer
# In this process, but through Beam. Without an image TFX packs itself up for workers.
MODE = "--direct_running_mode=multi_threading"
BEAM_ARGS = ["--runner=FnApiRunner", MODE, "--sdk_container_image=none"]


class Cost(NamedTuple):
    """MB of memory after the imports and at most, s of CPU, bytes of the largest Beam pipeline."""

    imports_mb: float
    peak_mb: float
    cpu_s: float
    pipeline_bytes: int


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(ingest(arguments.here)))
        return
    print("   images  imports MB  peak MB    CPU s  pipeline bytes")
    for images in arguments.images:
        cost = measure(images)
        print(
            f"{images:9,}  {cost.imports_mb:10.0f}  {cost.peak_mb:7.0f}  {cost.cpu_s:7.0f}  "
            f"{cost.pipeline_bytes:14,}",
            flush=True,
        )


def measure(images: int) -> Cost:
    """Measure the cost of an ingest in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.driver_memory", "--here", str(images)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def ingest(images: int) -> Cost:
    """Ingest so many images that there are not."""
    import apache_beam as beam
    from tfx.types import standard_artifacts

    from components.image_example_gen import executor, writing
    from components.image_example_gen.dataset import SpanUnit
    from components.image_example_gen.inputs import Row
    from components.image_example_gen.options import Options
    from components.image_example_gen.sources import folder
    from components.image_example_gen.sources.file_table import SourceFile
    from components.image_example_gen.writing import Facts, Outcome

    def walk(_: object) -> Iterator[SourceFile]:
        for number in range(images):
            digest = _digest(number.to_bytes(8))
            name = f"class {number % CLASSES:03d}/IMG_{digest[0]:03d}_{number:09d}.jpg"
            yield SourceFile(name, size=BYTES + digest[1] * 100)

    def read(unit: SpanUnit, counter: object) -> list[Row]:
        del counter
        return [
            (
                item.name,
                item.label,
                item.split,
                hashlib.sha256(item.name.encode()).hexdigest(),
                None,
            )
            for item in unit.items()
        ]

    def write(work: writing.Work, *_: object) -> list[Outcome]:
        return [
            (position, Facts(640, 480, "none", _thumb(target.sha256)))
            for position, target in enumerate(work.targets)
            if target
        ]

    sizes = []

    def run(pipeline: beam.Pipeline, *arguments: object) -> object:
        sizes.append(pipeline.to_runner_api().ByteSize())
        return run_as_ever(pipeline, *arguments)

    run_as_ever = beam.Pipeline.run
    options = Options()
    imported = _peak_mb()
    started = time.process_time()
    with (
        tempfile.TemporaryDirectory() as root,
        mock.patch.object(folder._Walk, "__iter__", walk),
        mock.patch.object(executor, "read_unit", read),
        mock.patch.object(writing, "write", write),
        mock.patch.object(beam.Pipeline, "run", run),
    ):
        examples = standard_artifacts.Examples()
        examples.uri = str(Path(root, "examples", "1"))
        properties = {
            "input_base": root,
            "splits": json.dumps({"train": 4, "eval": 1}),
            "options": options.to_json(),
        }
        context = executor.Executor.Context(beam_pipeline_args=BEAM_ARGS, tmp_dir=root)
        executor.Executor(context).Do({}, {"examples": [examples]}, properties)
    return Cost(imported, _peak_mb(), time.process_time() - started, max(sizes))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _thumb(sha256: str) -> bytes:
    return hashlib.shake_128(sha256.encode()).digest(243)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
