"""Makes attempts at the tasks of a node, one after the other, until it is killed.

As Spark's speculation does, and workers that a runner has given up and that do not know it.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
from pathlib import Path

from components.attempts import Attempt
from components.jobs import Worker


def main(work: str, output: str) -> None:
    worker, tasks = pickle.loads(Path(work).read_bytes())
    assert isinstance(worker, Worker)
    worker.prepare()
    print("ready", flush=True)
    sys.stdin.readline()
    while True:
        for task in tasks:
            attempt = Attempt(output)
            # Its folder goes with what else has lost, when the job ends.
            with contextlib.suppress(Exception):
                attempt.finish(worker.work(task, attempt))


if __name__ == "__main__":
    main(*sys.argv[1:])
