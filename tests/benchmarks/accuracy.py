"""What a recipe reaches on images that neither train the model nor choose its best epoch.

    python -m tests.benchmarks.accuracy DATA --runs 5 --recipe mobilenet --set KEY=VALUE ...

Each of the runs is a whole `perennial run` with the other arguments, the number of the run, from 0,
as its seed, and a workspace of its own. Its pushed model is then asked for the images
of the test split. These are

- of a folder with one folder of images per class (perhaps below the folders of a published split),
  a part of each class: the parts of all runs are the whole data set, each image in one of them;
- of a folder that has a split called test, the images in it, in every run;
- of anything else, such as digits, a fifth by `data.test`.

One in ten of the other images evaluates, which chooses the best epoch.

Prints accuracy and CPU seconds of each run, and over all.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import tensorflow as tf

from components import features
from tests.kit.cli import ungated
from trainer_module.export import EXAMPLES

EXTENSIONS = {".jpg", ".jpeg", ".png"}


def by_class(root: Path) -> dict[str, list[Path]]:
    """Images by the folder that they are in."""
    found = defaultdict(list)
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in EXTENSIONS:
            found[path.parent.name].append(path)
    return found


def write_manifest(root: Path, run: int, runs: int, manifest: Path) -> None:
    """Assign each image to a split."""
    fixed = (root / "test").is_dir()
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for label, paths in by_class(root).items():
            others = [path for path in paths if not (fixed and root / "test" in path.parents)]
            # One order for all runs: their parts must not overlap.
            places = np.random.default_rng(0).permutation(len(others))
            held_out = set() if fixed else set(places[run::runs])
            rest = [place for place in places if place not in held_out]
            random = np.random.default_rng(run).permutation(rest)
            evaluates = set(random[: len(rest) // 10])
            kept = set(others)
            splits = {path: "test" for path in paths if path not in kept}
            for place, path in enumerate(others):
                split = "test" if place in held_out else "eval" if place in evaluates else "train"
                splits[path] = split
            writer.writerows((path.resolve(), label, split) for path, split in splits.items())


def accuracy(model: str, examples: Path) -> tuple[int, int]:
    """Right answers of the pushed model, and images."""
    signature = tf.saved_model.load(model).signatures[EXAMPLES]
    files = [str(file) for file in sorted(examples.glob("*/Split-test/*"))]
    right = count = 0
    for batch in tf.data.TFRecordDataset(files).batch(32):
        spec = {features.LABEL_TEXT: tf.io.FixedLenFeature([], tf.string)}
        truth = tf.io.parse_example(batch, spec)[features.LABEL_TEXT]
        right += int(tf.reduce_sum(tf.cast(signature(batch)["label"] == truth, tf.int32)))
        count += len(truth)
    return right, count


def measure(data: str, run: int, runs: int, arguments: list[str], folder: Path) -> tuple[int, int]:
    """Train, push and ask; prints the run's figures."""
    source = ["--data", data, "--set", "data.train=72", "--set", "data.eval=8"]
    source += ["--set", "data.test=20"]
    if Path(data).is_dir():
        write_manifest(Path(data), run, runs, folder / "images.csv")
        source = ["--data", str(folder / "images.csv"), "--set", "data.test=1"]
    given = ["--workspace", str(folder), "--set", f"train.seed={run}", *source]
    command = [sys.executable, "-m", "pipeline.cli", "run", "--log-format", "json", *given]
    # The bound is for production: here the figure itself is wanted.
    command += ["--set", "evaluate.min_accuracy=0", *ungated(), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    summary = next(event for event in events if event["event"] == "summary")
    record = json.loads((folder / "runs" / summary["run_id"] / "run.json").read_text())
    seconds = {node["node"]: node["cpu_s"] for node in record["nodes"]}
    right, count = accuracy(summary["pushed"], folder / "artifacts/ImageExampleGen/examples")
    best = summary["verdict"]
    print(
        f"seed {run}: {right / count:.2%} of {count} test images, {best['accuracy']:.2%} of the "
        f"{best['examples']} that chose the epoch; CPU: Trainer {seconds['Trainer']:.0f} s, all "
        f"nodes {sum(seconds.values()):.0f} s",
        flush=True,
    )
    return right, count


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("data")
    parser.add_argument("--runs", type=int, default=5)
    options, arguments = parser.parse_known_args()
    results = []
    for run in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(options.data, run, options.runs, arguments, Path(folder)))
    shares = [right / count for right, count in results]
    right, count = map(sum, zip(*results, strict=True))
    spread = f", standard deviation {statistics.stdev(shares):.2%}" if len(shares) > 1 else ""
    print(f"mean {statistics.mean(shares):.2%}{spread}; {right} of {count} answers right")


if __name__ == "__main__":
    main()
