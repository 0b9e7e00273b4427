"""Cost of the data nodes in one process, on Prism, and in processes that Beam starts itself.

    python -m tests.benchmarks.beam_workers --cifar DIR --flowers DIR [--cases ...] [--before TREE]

CIFAR is the folder of the 3,000 images (train and test, with class folders), of which 60,000 are
made in six batches of Python: each is shifted, and has noise. FLOWERS is a folder of class folders
of JPEGs, which are copied with a comment until there are 3,670. Each case is a process of its own
that runs the nodes; CPU time and memory are those of all processes of the case, Prism and its
workers included, after the imports of this one. Prism must be in PATH.

TREE is a checkout of older code, to measure it in one process too.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

NODES = ("ImageExampleGen", "StatisticsGen", "Transform")
# Transform waits for these; they read no image.
BETWEEN = ("PreviousStatistics", "SchemaGen", "ExampleValidator")
CASES = (
    *("one process, 1 core", "one process, 2 cores", "Prism, 1 core", "Prism, 2 cores"),
    *("multi_processing, 1 worker", "multi_processing, 2 workers"),
)
BEFORE = "before"
PHOTOS = 3_670
BATCHES, ROWS = 6, 10_000
SIZES = {"cifar": 32, "photos": 160}
_SAMPLE_S = 0.1


class Watch(logging.Handler):
    """Sums the memory and CPU time of process trees between the events of nodes."""

    def __init__(self, roots: Sequence[int]) -> None:
        super().__init__()
        self._roots = [psutil.Process(pid) for pid in roots]
        self._peak = 0.0
        self._began = (0.0, 0.0)
        self.found: dict[str, dict[str, float]] = {}
        threading.Thread(target=self._sample, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        event, fields = record.getMessage(), getattr(record, "fields", {})
        if event == "node_start":
            self._peak = 0.0
            self._began = (time.monotonic(), self._cpu_s())
        elif event == "node_end":
            wall = time.monotonic() - self._began[0]
            for root in self._roots[1:]:  # workers of the node, which are about to end
                psutil.wait_procs(root.children(), timeout=60)
            self.found[fields["node"]] = {
                "wall_s": wall,
                "cpu_s": self._cpu_s() - self._began[1],
                "peak_mb": self._peak,
            }

    def _processes(self) -> Iterator[psutil.Process]:
        for root in self._roots:
            yield root
            with contextlib.suppress(psutil.NoSuchProcess):
                yield from root.children(recursive=True)

    def _cpu_s(self) -> float:
        # Those of ended children are the parent's.
        total = 0.0
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def _sample(self) -> None:
        while True:
            total = 0
            for process in self._processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            self._peak = max(self._peak, total / 1e6)
            time.sleep(_SAMPLE_S)


def run_nodes(source: str, size: int, folder: Path, others: Sequence[int], beam: Any) -> None:
    """Run the data nodes of the DAG, as a run would, and print the cost of each."""
    from pipeline import dag, local_runner  # noqa: F401 - imported before the clock starts

    try:
        from pipeline.execution import build_pipeline
    except ImportError:  # older code
        from pipeline.run import build_pipeline  # type: ignore[attr-defined,no-redef]
    from pipeline.config import load
    from pipeline.workspace import Workspace

    overrides = {
        "data.source": source,
        "workspace": str(folder),
        "transform.image_size": size,
        "train.hyperparameters.patch_size": 4,
        **beam,
    }
    config = load(None, overrides).config
    workspace = Workspace(config.workspace)
    watch = Watch([os.getpid(), *others])
    logger = logging.getLogger("perennial.progress")
    logger.addHandler(watch)
    logger.setLevel(logging.INFO)
    with workspace.lock():
        pipeline = build_pipeline(config, workspace, (*NODES, *BETWEEN))
        local_runner.run(pipeline, workspace, "benchmark")
    print(json.dumps({node: watch.found[node] for node in NODES}))


def measure(
    case: str, source: Path, size: int, folder: Path, tree: Path | None
) -> dict[str, dict[str, float]]:
    """Run a case in processes of its own."""
    cores = sorted(os.sched_getaffinity(0))
    few = cores[: 1 if "1 core" in case else len(cores)]
    with contextlib.ExitStack() as stack:
        others: list[int] = []
        beam: dict[str, Any] = {}
        if case.startswith("Prism"):
            job, pool = _free_ports(2)
            prism = ["prism", f"-job_port={job}", "-serve_http=false"]
            worker = [sys.executable, "-m", "pipeline.cli", "worker", "--port", str(pool)]
            others += [
                stack.enter_context(_started(prism, job, cores)),
                stack.enter_context(_started(worker, pool, few)),
            ]
            beam["beam.runner"] = "PortableRunner"
            beam["beam.args"] = [
                f"--job_endpoint=127.0.0.1:{job}",
                "--environment_type=EXTERNAL",
                f"--environment_config=127.0.0.1:{pool}",
            ]
        elif case.startswith("multi_processing"):
            workers = case.split(", ")[1].split()[0]
            beam["beam.args"] = [
                "--direct_running_mode=multi_processing",
                f"--direct_num_workers={workers}",
            ]
        command = [sys.executable, __file__, "--here", str(source), str(size), str(folder)]
        command += [json.dumps(others), json.dumps(beam)]
        here = cores if others else few
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree or Path.cwd())},
            preexec_fn=lambda: os.sched_setaffinity(0, here),
        )
    if done.returncode:
        raise SystemExit(f"{case}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in made]


@contextlib.contextmanager
def _started(command: Sequence[str], port: int, cores: Sequence[int]) -> Iterator[int]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    os.sched_setaffinity(process.pid, cores)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None
            time.sleep(0.2)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def cifar(source: Path, target: Path) -> Path:
    """Write 60,000 images in batches of Python: the real ones, then shifted copies with noise."""
    from PIL import Image

    names = sorted({path.parent.name for path in source.glob("*/*/*")})
    pixels, labels = [], []
    for path in sorted(source.glob("*/*/*")):
        pixels.append(np.asarray(Image.open(path).convert("RGB")))
        labels.append(names.index(path.parent.name))
    target.mkdir()
    (target / "batches.meta").write_bytes(
        pickle.dumps({b"label_names": [name.encode() for name in names]}, protocol=2)
    )
    random = np.random.default_rng(0)
    for batch in range(BATCHES):
        chosen = [(batch * ROWS + row) % len(pixels) for row in range(ROWS)]
        images = np.stack([pixels[each] for each in chosen])
        for row in range(ROWS):
            if batch * ROWS + row >= len(pixels):
                images[row] = np.roll(images[row], random.integers(-4, 5, 2), (0, 1))
                noise = random.integers(-12, 13, images[row].shape)
                images[row] = np.clip(images[row] + noise, 0, 255)
        content = {
            b"labels": [labels[each] for each in chosen],
            b"data": images.transpose(0, 3, 1, 2).reshape(ROWS, -1),
        }
        name = "test_batch" if batch == BATCHES - 1 else f"data_batch_{batch + 1}"
        (target / name).write_bytes(pickle.dumps(content, protocol=2))
    return target


def photos(source: Path, target: Path) -> Path:
    """Write 3,670 photos: each JPEG as it is, then copies with a comment."""
    from tests.benchmarks.data_path import commented

    files = sorted(source.glob("*/*.jpg"))
    for number, file in zip(range(PHOTOS), itertools.cycle(files), strict=False):
        folder = target / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        data, copy = file.read_bytes(), number // len(files)
        (folder / f"{file.stem}-{copy}.jpg").write_bytes(commented(data, copy) if copy else data)
    return target


def report(options: argparse.Namespace) -> None:
    """Measure and print, as rows of a table."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sources = {}
        if options.cifar:
            sources["cifar"] = cifar(options.cifar, root / "cifar")
        if options.flowers:
            sources["photos"] = photos(options.flowers, root / "photos")
        cases: list[tuple[str, Path | None]] = [(case, None) for case in options.cases]
        if options.before:
            cases.append((f"{BEFORE}, {CASES[1]}", options.before.resolve()))
        print(f"| case | {' | '.join(NODES)} | load |\n| --- | --- | --- | --- | --- |")
        for data, source in sources.items():
            for case, tree in cases:
                folder = root / "workspace"
                found = measure(case, source, SIZES[data], folder, tree)
                cells = [
                    f"{cost['cpu_s']:.1f} CPU s, {cost['wall_s']:.0f} s, {cost['peak_mb']:,.0f} MB"
                    for cost in found.values()
                ]
                load = f"{os.getloadavg()[0]:.0f}"
                print(f"| {data}: {case} | {' | '.join(cells)} | {load} |", flush=True)
                shutil.rmtree(folder)


def main() -> None:
    """Parse the command line."""
    if sys.argv[1:2] == ["--here"]:
        source, size, folder, others, beam = sys.argv[2:]
        run_nodes(source, int(size), Path(folder), json.loads(others), json.loads(beam))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--flowers", type=Path)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=CASES)
    parser.add_argument("--before", type=Path, metavar="TREE")
    report(parser.parse_args())


if __name__ == "__main__":
    main()
