"""What the development server adds to a bare call of TensorFlow's session, and its memory.

    python -m tests.benchmarks.serving [--clients 1 4 16] [--rounds 5] [--requests 60]
    python -m tests.benchmarks.serving --soak 10000

The first times a MobileNetV2 for 224 pixels (random weights, JPEG in, one image a request) with
that many clients at once: calling the session in this process, and over gRPC and REST to a server
in another one. Each round does all three after one another, so that what else the machine does
hits all alike; the ratios are of the same round, and the median of the rounds is shown.

The second sends that many requests over both protocols to a small model, of which a new version is
pushed ten times meanwhile, and shows the memory of the server.

On 2 cores with little other work (load 2; 3 rounds of 40 requests), p50 over the call in process,
which takes 19 ms for one client:

    clients    gRPC    REST
          1    1.12    1.28
          4    1.17    1.34

With other work (load 11 to 16) it was 1.05 and 1.14 for one client, and 1.22 and 1.24 for 16. The
memory was 767 MB at first, 777 MB after 1,000 requests and 781 MB after 10,000 and ten new
versions.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from components.model_server.client import Client, strings
from components.model_server.launch import ServerProcess, Source, own_backend
from components.model_server.model import Session
from tests.kit.serving import picture, push
from tests.kit.tiny_export import export_colour_model

MODEL = "model"
SIZE = 224
WARM_UP = 10  # requests before the first that counts
PUSHES = 10


class Timing(NamedTuple):
    """Latencies in ms, throughput in requests/s."""

    p50: float
    p99: float
    throughput: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=60, help="of each client in a round")
    parser.add_argument("--soak", type=int, metavar="REQUESTS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.soak:
            soak(Path(folder), options.soak)
        else:
            compare(Path(folder), options.clients, options.rounds, options.requests)


def compare(base: Path, counts: Sequence[int], rounds: int, requests: int) -> None:
    export_mobilenet(base / "1")
    image = photo()
    session = Session(base / "1")
    signature = session.signatures["serving_default"]
    source = signature.inputs["image_bytes"].name
    fetches = [output.name for output in signature.outputs.values()]

    def in_process() -> Callable[[], object]:
        return lambda: session.run({source: strings([image])}, fetches)

    with ServerProcess(own_backend(), Source.of_model(base, MODEL)) as server:
        server.wait_ready()
        clients: list[Client] = []

        def over_grpc() -> Callable[[], object]:
            client = Client(server.host, server.grpc_port, server.rest_port)
            clients.append(client)
            return lambda: client.predict(MODEL, {"image_bytes": strings([image])})

        def over_rest() -> Callable[[], object]:
            client = Client(server.host, server.grpc_port, server.rest_port)
            clients.append(client)
            return lambda: client.predict_images(MODEL, [image])

        ways = {"in process": in_process, "gRPC": over_grpc, "REST": over_rest}
        print(
            "clients  way          p50 ms   p99 ms   requests/s"
            "   over the call in process: p50, p99, requests/s"
        )
        for count in counts:
            calls = {way: [make() for _ in range(count)] for way, make in ways.items()}
            for way in ways:
                measure(calls[way], max(1, WARM_UP // count))
            timings = {way: list[Timing]() for way in ways}
            for _ in range(rounds):
                for way in ways:
                    timings[way].append(measure(calls[way], requests))
            for way, found in timings.items():
                show(count, way, found, timings["in process"])
        for client in clients:
            client.close()
    session.close()


def show(count: int, way: str, found: list[Timing], baseline: list[Timing]) -> None:
    middle = [statistics.median(column) for column in zip(*found, strict=True)]
    ratios = [
        statistics.median(mine / base for mine, base in zip(*columns, strict=True))
        for columns in zip(zip(*found, strict=True), zip(*baseline, strict=True), strict=True)
    ]
    print(
        f"{count:7}  {way:11}{middle[0]:8.1f} {middle[1]:8.1f} {middle[2]:12.1f}"
        f"   {ratios[0]:5.2f} {ratios[1]:5.2f} {ratios[2]:5.2f}",
        flush=True,
    )


def measure(calls: Sequence[Callable[[], object]], requests: int) -> Timing:
    """Have each of `calls` made `requests` times by a thread of its own."""
    barrier = threading.Barrier(len(calls) + 1)

    def client(call: Callable[[], object]) -> list[float]:
        latencies = []
        barrier.wait()
        for _ in range(requests):
            start = time.perf_counter()
            call()
            latencies.append(time.perf_counter() - start)
        return latencies

    with ThreadPoolExecutor(len(calls)) as threads:
        running = [threads.submit(client, call) for call in calls]
        barrier.wait()
        start = time.perf_counter()
        latencies = [latency for future in running for latency in future.result()]
        seconds = time.perf_counter() - start
    p50, p99 = np.percentile(latencies, (50, 99)) * 1000
    return Timing(float(p50), float(p99), len(latencies) / seconds)


def soak(folder: Path, requests: int) -> None:
    import psutil

    base = folder / "served"
    base.mkdir()
    export_colour_model(folder / "export")
    push(folder / "export", base, 1)
    image = picture()
    with ServerProcess(own_backend(), Source.of_model(base, MODEL)) as server:
        server.wait_ready()
        process = psutil.Process(server.pid)
        with Client(server.host, server.grpc_port, server.rest_port) as client:
            print("requests  version  server's memory in MB")
            for number in range(requests + 1):
                if number % max(1, requests // PUSHES) == 0:
                    memory = process.memory_info().rss / 1e6
                    version, _ = client.predict(MODEL, {"image_bytes": strings([image])})
                    print(f"{number:8}  {version:7}  {memory:8.1f}", flush=True)
                    push(folder / "export", base, version + 1)
                if number % 2:
                    client.predict_images(MODEL, [image])
                else:
                    client.predict(MODEL, {"image_bytes": strings([image])})


def export_mobilenet(directory: Path) -> None:
    import keras
    import tensorflow as tf

    model = keras.applications.MobileNetV2((SIZE, SIZE, 3), weights=None)

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
        return tf.image.resize(image, (SIZE, SIZE))

    def classify(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images = tf.map_fn(decode, image_bytes, fn_output_signature=tf.float32)
        pixels = tf.reshape(images, (-1, SIZE, SIZE, 3)) / 127.5 - 1
        probabilities = model(pixels, training=False)
        label = tf.strings.as_string(tf.argmax(probabilities, -1))
        return {"probabilities": probabilities, "label": label}

    archive = keras.export.ExportArchive()
    archive.track(model)
    spec = tf.TensorSpec([None], tf.string, name="image_bytes")
    archive.add_endpoint("serving_default", classify, [spec])
    archive.write_out(str(directory), verbose=False)


def photo() -> bytes:
    """Make a JPEG of the model's size with as much detail as a photograph has."""
    noise = np.random.default_rng(0).integers(0, 256, (SIZE // 8, SIZE // 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(buffer, "JPEG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
