"""The development server as a process, with the flags of tensorflow_model_server.

Prints one line once both ports are open, and finishes what runs on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from components import environment
from components.errors import ConfigError
from components.model_server.errors import ServingError
from components.model_server.launch import LOOPBACK

BANNER = (
    "Perennial's development server: for trying and testing models on this machine.\n"
    "It has no batching, authentication or encryption; in production run TensorFlow Serving."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; return the exit code."""
    environment.prepare()
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Its advice on deprecated functions is for those who write programs.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # It would log a traceback for each message that is none.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    print(BANNER, flush=True)
    # Its errors come back as status codes and are logged here.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _stderr_closed():
        from components.model_server.server import ModelServer

    # Connections of gRPC, which does not limit them, must not take all files from REST.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    finished = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: finished.set())
    try:
        server = ModelServer(
            options.model_base_path,
            options.model_name,
            config_file=options.model_config_file,
            host=options.host,
            grpc_port=options.port,
            rest_port=options.rest_api_port,
            poll_seconds=options.file_system_poll_wait_seconds,
            config_poll_seconds=options.model_config_file_poll_wait_seconds,
            load_retries=options.max_num_load_retries,
            retry_seconds=options.load_retry_interval_micros / 1e6,
            public_key=options.public_key,
        )
        server.start()
    except (ServingError, ConfigError, OSError) as error:
        print(f"perennial: error: {error}", file=sys.stderr)
        return 2
    host = options.host
    print(
        f"Open http://{host}:{server.rest_port}/ to try it. "
        f"REST is at {host}:{server.rest_port}, gRPC at {host}:{server.grpc_port}",
        flush=True,
    )
    finished.wait()
    server.stop()
    return 0


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Discard what TensorFlow writes while it is loaded, before any log level is in force."""
    saved = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m components.model_server", description=BANNER)
    served = parser.add_mutually_exclusive_group(required=True)
    served.add_argument("--model_base_path", metavar="DIR", help="folder of numbered versions")
    served.add_argument("--model_config_file", metavar="FILE", help="text-proto ModelServerConfig")
    parser.add_argument("--model_name", default="perennial", help="not for --model_config_file")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on")
    parser.add_argument("--port", type=int, default=8500, help="for gRPC; 0 for a free one")
    parser.add_argument("--rest_api_port", type=int, default=8501, help="0 for a free one")
    parser.add_argument("--file_system_poll_wait_seconds", type=float, default=1.0)
    parser.add_argument("--model_config_file_poll_wait_seconds", type=float, default=0.0)
    parser.add_argument(
        "--public_key", type=Path, metavar="FILE", help="serve signed versions only"
    )
    parser.add_argument("--max_num_load_retries", type=int, default=1)
    parser.add_argument("--load_retry_interval_micros", type=int, default=1_000_000)
    return parser


if __name__ == "__main__":
    sys.exit(main())
