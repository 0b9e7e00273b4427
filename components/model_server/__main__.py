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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from components import environment
from components.errors import ConfigError
from components.model_server.errors import ServingError
from components.model_server.launch import LOOPBACK

BANNER = (
    "Perennial's development server: for trying and testing models on this machine.\n"
    "It has no batching, authentication or encryption; in production run TensorFlow Serving."
)


# Flags, the parameters of ModelServer that they set, and defaults. A port 0 is any free one.
_NUMBERS: Sequence[tuple[str, str, Callable[[str], float], float]] = (
    ("--port", "grpc_port", int, 8500),
    ("--rest_api_port", "rest_port", int, 8501),
    ("--file_system_poll_wait_seconds", "poll_seconds", float, 1.0),
    ("--model_config_file_poll_wait_seconds", "config_poll_seconds", float, 0.0),
    ("--max_num_load_retries", "load_retries", int, 1),
    ("--load_retry_interval_micros", "retry_seconds", lambda text: int(text) / 1e6, 1.0),
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
        server = ModelServer(**vars(options))
        server.start()
    except (ServingError, ConfigError, OSError) as error:
        print(f"perennial: error: {error}", file=sys.stderr)
        return 2
    host = server.host
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
    served.add_argument(
        "--model_base_path", dest="base_path", metavar="DIR", help="folder of numbered versions"
    )
    served.add_argument(
        "--model_config_file", dest="config_file", metavar="FILE", help="text-proto configuration"
    )
    parser.add_argument("--model_name", default="perennial", help="not for --model_config_file")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on")
    parser.add_argument(
        "--public_key", type=Path, metavar="FILE", help="serve signed versions only"
    )
    for flag, parameter, kind, default in _NUMBERS:
        parser.add_argument(flag, dest=parameter, type=kind, default=default)
    return parser


if __name__ == "__main__":
    sys.exit(main())
