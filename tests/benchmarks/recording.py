"""What recording costs the callers of a model server.

    python -m tests.benchmarks.recording [--clients 1 4] [--pairs 60] [--requests 10] [--share 0.1]

A MobileNetV2 for 224 pixels (random weights, one JPEG a request) in the development server, over
REST and gRPC: through nginx that records nothing (a share of 0), and through nginx that records a
share with `perennial traffic record`, in a process of its own. Blocks of a few requests alternate,
in changing order, so that what else the machine does hits both alike. Each pair of blocks gives a
ratio of medians; the median of all ratios is shown, with its 95 % interval by order statistics.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from components.model_server.client import Client, strings
from components.model_server.launch import ServerProcess, Source, own_backend
from pipeline.monitoring.proxy import PATIENCE
from tests.benchmarks.serving import MODEL, export_mobilenet, measure, photo
from tests.kit.serving import Running
from tests.kit.traffic import counted, nginx, recorder_process

BOUND = 1.05  # of p50


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--protocols", nargs="+", default=["rest", "grpc"])
    parser.add_argument("--pairs", type=int, default=60, help="of blocks")
    parser.add_argument("--requests", type=int, default=10, help="of each client in a block")
    parser.add_argument("--share", type=float, default=0.1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        base = Path(folder, MODEL)
        export_mobilenet(base / "1")
        server = stack.enter_context(ServerProcess(own_backend(), Source.of_model(base, MODEL)))
        server.wait_ready()
        recorder = stack.enter_context(recorder_process(Path(folder, "logs"), server))
        assert isinstance(recorder.args, list)
        port = int(recorder.args[-1])
        fronts = [
            stack.enter_context(nginx(server, port, share, PATIENCE))
            for share in (0.0, options.share)
        ]
        print("clients  protocol  p50 ms without, with   ratio  95 % interval   p99 ratio")
        for count in options.clients:
            for protocol in options.protocols:
                compare(fronts, protocol, count, options.pairs, options.requests)
        print(counted(port))


def compare(
    fronts: Sequence[Running], protocol: str, count: int, pairs: int, requests: int
) -> None:
    """Alternate blocks through both fronts, and print the ratios of the second to the first."""
    image = photo()
    with contextlib.ExitStack() as stack:

        def caller(server: Running) -> Callable[[], object]:
            client = stack.enter_context(Client(server.host, server.grpc_port, server.rest_port))
            if protocol == "rest":
                return lambda: client.predict_images(MODEL, [image])
            return lambda: client.predict(MODEL, {"image_bytes": strings([image])})

        calls = [[caller(front) for _ in range(count)] for front in fronts]
        for each in calls:
            measure(each, 5)
        found: list[tuple[list[float], list[float]]] = [([], []), ([], [])]
        for number in range(pairs):
            for side in (0, 1) if number % 2 else (1, 0):
                timing = measure(calls[side], requests)
                found[side][0].append(timing.p50)
                found[side][1].append(timing.p99)
    ratios, p99 = (
        [b / a for a, b in zip(*column, strict=True)] for column in zip(*found, strict=True)
    )
    middle = statistics.median(ratios)
    low, high = interval(ratios)
    print(
        f"{count:7}  {protocol:8}  {statistics.median(found[0][0]):14.2f} "
        f"{statistics.median(found[1][0]):6.2f}  {middle:6.3f}  {low:5.3f} to {high:5.3f}   "
        f"{statistics.median(p99):5.3f}   "
        f"{'within' if middle <= BOUND else 'beyond'} the bound of {BOUND:g}",
        flush=True,
    )


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, by order statistics."""
    place = max(0, int(stats.binom.ppf(0.025, len(values), 0.5)) - 1)
    ordered = np.sort(values)
    return float(ordered[place]), float(ordered[-1 - place])


if __name__ == "__main__":
    main()
