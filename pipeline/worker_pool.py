"""Processes that do Beam's work for a job server, on the same machine as `perennial worker`.

Beam's own pool leaves its processes behind when it is killed, never reads what they print, and
starts the first Python in PATH.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc
from apache_beam.runners.worker.sdk_worker import SdkHarness
from apache_beam.runners.worker.worker_pool_main import kill_process_gracefully

from components import environment

_LOG = logging.getLogger("perennial.worker")
_REQUESTS = 16  # threads: a request starts or ends one process


class _Pool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    def __init__(self) -> None:
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def StartWorker(self, request: Any, _context: Any) -> Any:
        command = [sys.executable, "-m", __name__, request.control_endpoint.url, request.worker_id]
        # The other end of its standard input is closed when this process ends, however it does.
        self._workers[request.worker_id] = subprocess.Popen(command, stdin=subprocess.PIPE)
        _LOG.info("worker %s for %s", request.worker_id, request.control_endpoint.url)
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, _context: Any) -> Any:
        if worker := self._workers.pop(request.worker_id, None):
            kill_process_gracefully(worker)
        return beam_fn_api_pb2.StopWorkerResponse()

    def stop(self) -> None:
        for worker in self._workers.values():
            kill_process_gracefully(worker)


def serve(port: int) -> None:
    """Start a worker process for every job that a runner sends here, until a signal ends this.

    Raises OSError where the port cannot be listened on.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    pool = _Pool()
    options = (("grpc.http2.max_pings_without_data", 0), ("grpc.so_reuseport", 0))
    server = grpc.server(ThreadPoolExecutor(_REQUESTS), options=options)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    try:
        bound = server.add_insecure_port(f"[::]:{port}")
    except RuntimeError as error:
        raise OSError(0, f"port {port} cannot be listened on") from error
    server.start()
    _LOG.info("workers are started for jobs that come to port %d", bound)
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    ended.wait()
    server.stop(0)
    pool.stop()


def _end_with_pool() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


def main(control: str, worker_id: str) -> None:
    """Work for the runner at `control` until it has no more to do."""
    environment.prepare()
    logging.basicConfig(level=logging.WARNING)
    threading.Thread(target=_end_with_pool, daemon=True).start()
    status = 1
    try:
        SdkHarness(control, worker_id=worker_id).run()
        status = 0
    except (grpc.RpcError, grpc.FutureTimeoutError) as error:
        _LOG.warning("the runner at %s is gone: %r", control, error)
    except Exception:
        _LOG.exception("the worker failed")
    finally:
        # Threads that wait for data of a runner that was killed would wait for ever.
        logging.shutdown()
        os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
