"""What a run costs that has nothing new to do, in few pods and in one a node.

`python -m tests.benchmarks.cached_run`: the compiled pipeline in the stand-in for a cluster
(tests/kit/kubeflow_cluster.py), twice to fill the cache, then in both groupings. Processes only:
on a cluster each pod also costs a driver's pod and Argo's pauses.
"""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from pathlib import Path

from components.image_example_gen.sources import digits
from tests.kit.cli import UNGATED, process, sets
from tests.kit.kubeflow_cluster import Cluster
from tests.kit.runs import TINY

SETTINGS = {
    "data.source": "digits",
    "kubeflow.image": "registry.example/perennial:1",
    "kubeflow.pipeline_root": "/nowhere",
    "evaluate.min_accuracy": "0.0",
    "train.epochs": "1",
    **{f"evaluate.{name}": str(value) for name, value in UNGATED.items()},
    **{key: str(value) for key, value in TINY.items()},
}


def main() -> None:
    """Print pods, wall and CPU seconds of a cached run in each grouping, and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digits.write_folder(folder / "digits")
        for label in "014":
            for file in sorted((folder / "digits" / label).iterdir())[:40]:
                (folder / "data" / label).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / "data" / label)
        database = str(folder / "metadata.sqlite")
        env = {"PERENNIAL_METADATA_KIND": "sqlite", "PERENNIAL_METADATA_PATH": database}
        cluster = Cluster(folder / "kfp", env)
        given = {"data_root": str(folder / "data"), "pipeline_root": str(folder / "root")}
        cost = {}
        # The second run is the first with a baseline.
        runs = {"first": "stages", "second": "stages", "few": "stages", "many": "nodes"}
        for label, grouping in runs.items():
            file = folder / f"{grouping}.yaml"
            settings = SETTINGS | {"kubeflow.grouping": grouping}
            done = process("compile", "--output", str(file), *sets(settings))
            assert done.returncode == 0, done.stderr
            started, before = time.perf_counter(), _cpu_seconds()
            assert cluster.run(file, given), cluster.pods[-1].stderr[-2000:]
            cost[label] = time.perf_counter() - started, _cpu_seconds() - before
            states = [state for pod in cluster.pods for state in pod.ended().values()]
            wall, cpu = cost[label]
            print(
                f"{label:<7}{len(cluster.pods):>3} pods {wall:6.1f} s {cpu:6.1f} s of CPU,"
                f" {states.count('cached')} of {len(states)} nodes cached",
                flush=True,
            )
        (few, few_cpu), (many, many_cpu) = cost["few"], cost["many"]
        print(
            f"one pod a node costs {many / few:.1f} x the time and {many_cpu / few_cpu:.1f} x CPU"
        )


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
