"""What ingest costs beside a bare loop, on one core and on all, and what memory it takes.

python -m tests.benchmarks.ingest DIR [--rounds 3] [--copies 10]

DIR is a folder of class folders. The bare loop reads and decodes each image once, in one thread,
and writes it to a TFRecord. Ingest hashes, decodes, measures, compares, accounts and writes. Each
is measured in turn, `rounds` times, and the best counts: other work on the machine only ever adds.
For memory, processes ingest the set once and `copies` times, each copy with other bytes.

With 500 flower photos of 67 KB and two cores, on which a dozen processes competed:

bare loop         0.844 CPU s per 1,000 images, CPU  1.00 x bare loop
ingest, 1 core    1.569 CPU s per 1,000 images, CPU  1.86 x bare loop
ingest, 2 cores   1.424 CPU s per 1,000 images, CPU  1.69 x bare loop
fingerprint       0.060 CPU s per 1,000 images, CPU  0.07 x bare loop
peak memory 741 MB, with 10 times the images 754 MB: 1.02 times
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tensorflow as tf

from components.attempts import Attempt
from components.image_example_gen import writing
from components.image_example_gen.dataset import DataSet, list_data
from components.image_example_gen.fingerprint import fingerprint, read_all
from components.image_example_gen.ingest import ingest
from components.image_example_gen.options import Options
from components.image_example_gen.pieces import Pieces
from components.image_example_gen.writing import Outcome, Work

SHARES = {"train": 4, "eval": 1}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--memory-of", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        run(arguments.folder)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
        return
    compare(arguments.folder, arguments.rounds)
    memory(arguments.folder, arguments.copies)


def compare(folder: Path, rounds: int) -> None:
    data = list_data(str(folder), Options())
    images = data.inputs or 0
    cores = sorted(os.sched_getaffinity(0))
    variants: dict[str, tuple[Callable[[], None], Sequence[int]]] = {
        "bare loop": (lambda: bare(data), cores[:1]),
        "ingest, 1 core": (lambda: run(folder), cores[:1]),
        f"ingest, {len(cores)} cores": (lambda: run(folder), cores),
        "fingerprint": (lambda: print(end=fingerprint(data, read_all(data))[:0]), cores),
    }
    best = {name: (float("inf"), float("inf")) for name in variants}
    for _ in range(rounds):
        for name, (function, allowed) in variants.items():
            os.sched_setaffinity(0, allowed)
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            cost = time.process_time() - cpu, time.perf_counter() - wall
            best[name] = min(best[name][0], cost[0]), min(best[name][1], cost[1])
            os.sched_setaffinity(0, cores)
    base, _ = best["bare loop"]
    for name, (cpu, wall) in best.items():
        print(
            f"{name:16} {1000 * cpu / images:6.3f} CPU s, {1000 * wall / images:6.3f} s "
            f"per 1,000 images, CPU {cpu / base:5.2f} x bare loop"
        )
    (_, one), (_, all_cores) = best["ingest, 1 core"], best[f"ingest, {len(cores)} cores"]
    print(f"{len(cores)} cores are {one / all_cores:.2f} times as fast as one on the wall clock")


def bare(data: DataSet) -> None:
    """Read, decode, write."""
    with tempfile.TemporaryDirectory() as folder, tf.io.TFRecordWriter(f"{folder}/x") as writer:
        for unit in data.units:
            for item in unit.items():
                image = item.load()
                tf.io.decode_image(image, channels=3, expand_animations=False)
                writer.write(image)


def run(folder: Path) -> None:
    """Ingest as the component does, without Beam around it."""
    options = Options()
    with tempfile.TemporaryDirectory() as output:

        def work(pieces: Pieces) -> Iterator[tuple[Work, list[Outcome]]]:
            for piece in pieces:
                attempt = Attempt(output)
                yield piece, writing.write(piece, options.max_pixels, pieces.images, attempt)
                attempt.finish(None)
                attempt.win()

        ingest(list_data(str(folder), options), SHARES, options, work, output)


def memory(folder: Path, copies: int) -> None:
    peaks = []
    with tempfile.TemporaryDirectory() as root:
        for count in (1, copies):
            target = Path(root, str(count))
            for copy in range(count):
                for file in folder.glob("*/*.*"):
                    path = target / file.parent.name / f"{copy}-{file.name}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    # Decoders stop at the end of the image: other bytes, the same work.
                    path.write_bytes(file.read_bytes() + b"%d" % copy)
            command = [sys.executable, "-m", __spec__.name, str(target), "--memory-of"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(float(done.stdout))
    print(
        f"peak memory {peaks[0]:.0f} MB, with {copies} times the images {peaks[1]:.0f} MB: "
        f"{peaks[1] / peaks[0]:.2f} times"
    )


if __name__ == "__main__":
    main()
