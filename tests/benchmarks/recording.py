"""What recording costs the callers of a model server.

    python -m tests.benchmarks.recording [--clients 1 4] [--rounds 5] [--requests 60] [--share 0.1]

A MobileNetV2 for 224 pixels (random weights, one JPEG a request) in the development server, over
REST and gRPC: through nginx that records nothing (a share of 0), and through nginx that records a
share with `perennial traffic record`, each in a process of its own. Each round does all after one
another, so that what else the machine does hits all alike; ratios are of the same round, and the
median of the rounds is shown. The server in front of which nginx stands is shown for comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from components.model_server.client import Client, strings
from components.model_server.launch import ServerProcess, Source, own_backend
from pipeline.monitoring.proxy import PATIENCE
from tests.benchmarks.serving import MODEL, Timing, export_mobilenet, measure, photo
from tests.kit.serving import Running
from tests.kit.traffic import nginx, recorder_process


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60, help="of each client in a round")
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
        ways: dict[str, Running] = {
            "direct": server,
            "nginx": stack.enter_context(nginx(server, port, 0.0, PATIENCE)),
            "recording": stack.enter_context(nginx(server, port, options.share, PATIENCE)),
        }
        print("clients  protocol  way         p50 ms   p99 ms   over nginx alone: p50, p99")
        for count in options.clients:
            for protocol in ("rest", "grpc"):
                compare(ways, protocol, count, options.rounds, options.requests)


def compare(
    ways: dict[str, Running], protocol: str, count: int, rounds: int, requests: int
) -> None:
    image = photo()
    with contextlib.ExitStack() as stack:

        def caller(server: Running) -> Callable[[], object]:
            client = stack.enter_context(Client(server.host, server.grpc_port, server.rest_port))
            if protocol == "rest":
                return lambda: client.predict_images(MODEL, [image])
            return lambda: client.predict(MODEL, {"image_bytes": strings([image])})

        calls = {way: [caller(server) for _ in range(count)] for way, server in ways.items()}
        timings: dict[str, list[Timing]] = {way: [] for way in ways}
        for way in ways:
            measure(calls[way], 5)
        for _ in range(rounds):
            for way in ways:
                timings[way].append(measure(calls[way], requests))
    for way, found in timings.items():
        pairs = list(zip(found, timings["nginx"], strict=True))
        ratios = [
            statistics.median(getattr(mine, name) / getattr(other, name) for mine, other in pairs)
            for name in ("p50", "p99")
        ]
        middle = [
            statistics.median(getattr(each, name) for each in found) for name in ("p50", "p99")
        ]
        print(
            f"{count:7}  {protocol:8}  {way:10}{middle[0]:8.1f} {middle[1]:8.1f}"
            f"   {ratios[0]:5.3f} {ratios[1]:5.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
