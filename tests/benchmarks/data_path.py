"""What it costs to get from image files to tensors, against a bare loop over the same files.

    python -m tests.benchmarks.data_path DIR [--copies 9] [--rounds 3]

DIR holds class folders of JPEGs. The set is measured as it is and with so many copies of each image
added (a JPEG comment makes each a file of its own). The difference is the cost of an image; what is
left of the smaller run is fixed cost: Beam, graphs, late imports. Every measurement is a process of
its own, with TensorFlow and TFX imported before the clock starts. The fastest of all rounds counts,
as the speed of a virtual machine varies. The bare loop is one process that reads, decodes, resizes
and writes each image once, by the same TensorFlow kernels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIZE = 160
NODES = ("ImageExampleGen", "StatisticsGen", "Transform")
# Transform waits for these; they read no image.
BETWEEN = ("PreviousStatistics", "SchemaGen", "ExampleValidator")

Measured = dict[str, Any]


def nodes(root: Path, folder: Path) -> Measured:
    """Run the data nodes of the DAG, as a run would."""
    from pipeline import dag, local_runner  # noqa: F401 - imported before the clock starts
    from pipeline.config import load
    from pipeline.execution import build_pipeline
    from pipeline.workspace import Workspace

    overrides = {
        "data.source": str(root),
        "workspace": str(folder),
        "transform.image_size": SIZE,
        "transform.interpolation": "area",
        "train.hyperparameters.patch_size": 16,
    }
    config = load(None, overrides).config
    workspace = Workspace(config.workspace)
    with workspace.lock():
        pipeline = build_pipeline(config, workspace, (*NODES, *BETWEEN))
        result = local_runner.run(pipeline, workspace, "benchmark")
    return {
        node.node: {"cpu_s": node.cpu_s, "wall_s": node.wall_s, "peak_mb": node.peak_mb}
        for node in result.nodes
        if node.node in NODES
    }


def bare(root: Path, folder: Path) -> Measured:
    """Read, decode, resize and write each image, one after the other."""
    import tensorflow as tf

    from trainer_module.transform import load_image

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def prepare(encoded: tf.Tensor) -> tf.Tensor:
        return load_image(encoded, SIZE, "area")

    files = sorted(root.glob("*/*.jpg"))
    folder.mkdir()
    cpu, wall = time.process_time(), time.monotonic()
    with tf.io.TFRecordWriter(str(folder / "images")) as writer:
        for file in files:
            writer.write(prepare(tf.constant(file.read_bytes())).numpy().tobytes())
    return {
        "loop": {
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.monotonic() - wall,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    }


CASES = {"nodes": nodes, "bare": bare}


def commented(data: bytes, index: int) -> bytes:
    """Add a comment to a JPEG: another file with the same pixels."""
    comment = b"copy %d" % index
    return data[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + data[2:]


def grown(source: Path, target: Path, copies: int) -> int:
    """Write each JPEG of `source` once as it is and `copies` times with a comment added."""
    written = 0
    for file in sorted(source.glob("*/*.jpg")):
        data = file.read_bytes()
        folder = target / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(data)
        for index in range(copies):
            (folder / f"{file.stem}-{index}.jpg").write_bytes(commented(data, index))
        written += 1 + copies
    return written


def measure(case: str, root: Path, folder: Path, cpus: int) -> Measured:
    """Run a case in a process of its own that may use `cpus` CPUs."""
    command = [sys.executable, "-m", "tests.benchmarks.data_path", str(root), "--case", case]
    command += ["--folder", str(folder), "--cpus", str(cpus)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def wall(measured: Measured) -> float:
    """Return the seconds that all steps took."""
    return sum(step["wall_s"] for step in measured.values())


def report(source: Path, copies: int, rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        scratch, cpus = Path(name), len(os.sched_getaffinity(0))
        sets = {"small": scratch / "small", "large": scratch / "large"}
        counts = {
            "small": grown(source, sets["small"], 0),
            "large": grown(source, sets["large"], copies),
        }
        runs: dict[tuple[str, str, int], Measured] = {}
        for number in range(rounds):
            for case, size, count in itertools.product(CASES, sets, (cpus, 1)):
                folder = scratch / f"{case}-{size}-{count}-{number}"
                found = measure(case, sets[size], folder, count)
                shutil.rmtree(folder)
                best = runs.setdefault((case, size, count), found)
                runs[case, size, count] = min(best, found, key=wall)
    more = counts["large"] - counts["small"]
    print(f"{counts['small']:,} and {counts['large']:,} images")
    for count in (cpus, 1):
        print(f"{count} CPUs".ljust(16), end="")
        print(f" {'CPU s / 1,000':>14} {'fixed CPU s':>12} {'peak MB':>8} {'growth':>7}")
        per_image = {}
        for case in CASES:
            for step, small in runs[case, "small", count].items():
                large = runs[case, "large", count][step]
                per_image[step] = (large["cpu_s"] - small["cpu_s"]) / more
                fixed = small["cpu_s"] - per_image[step] * counts["small"]
                growth = large["peak_mb"] / small["peak_mb"]
                print(
                    f"{step:16} {1000 * per_image[step]:14.2f} {fixed:12.2f} "
                    f"{large['peak_mb']:8.0f} {growth:6.2f}x"
                )
        total = sum(per_image[step] for step in NODES)
        print(f"CPU, data nodes to bare loop, an image: {total / per_image['loop']:.2f}x")
    walls = {
        (size, count): wall(measured)
        for (case, size, count), measured in runs.items()
        if case == "nodes"
    }
    one, all_ = walls["large", 1], walls["large", cpus]
    print(f"Wall clock, 1 CPU to {cpus}: {one:.1f} s to {all_:.1f} s = {one / all_:.2f}x")
    gain = (one - walls["small", 1]) / (all_ - walls["small", cpus])
    print(f"Wall clock of an image, 1 CPU to {cpus}: {gain:.2f}x; load {os.getloadavg()[0]:.1f}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--copies", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cpus", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is None:
        report(options.root, options.copies, options.rounds)
    else:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cpus])
        print(json.dumps(CASES[options.case](options.root, options.folder)))


if __name__ == "__main__":
    main()
