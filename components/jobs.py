"""Runs a component's tasks on any Beam runner, and collects the outcomes.

Only short strings pass through Beam: the path of each task's file, and the name of the attempt that
holds its outcome.
"""

from __future__ import annotations

import abc
import contextlib
import os
import pickle
import posixpath
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

import apache_beam as beam
import grpc
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability import portable_runner
from apache_beam.runners.runner import PipelineState

from components import attempts, launch, storage
from components.attempts import Attempt
from components.errors import JobError
from components.progress import report

Task = TypeVar("Task")

_NAMESPACE = "perennial"
_DONE, _CPU = "done", "cpu_ms"  # names of Beam counters
_POLL_S = 0.5
_REPORT_S = 2.0
_MESSAGES_S = 5.0  # to wait for the last messages of a job server
_CANCEL_S = 40.0  # to wait for a cancelled job; less than the grace period of a node


class Worker(abc.ABC, Generic[Task]):
    """The work on each task, in any process; can be pickled."""

    def prepare(self) -> None:
        """Load shared resources, once in each process."""

    @abc.abstractmethod
    def work(self, task: Task, attempt: Attempt) -> Any:
        """Write the files of a task to `attempt`. Returns a JSON-able outcome."""


class Job:
    """One component's use of Beam, for as long as its executor runs."""

    def __init__(self, what: str, unit: str, limit_s: float | None = None) -> None:
        """Create a job.

        Args:
          what: name of the work, for the progress shown.
          unit: of its counts, such as "images".
          limit_s: seconds after which a job on a job server is cancelled; None: never.
        """
        self._what, self._unit, self._limit_s = what, unit, limit_s
        self._done = 0

    def map(
        self,
        pipeline: beam.Pipeline,
        worker: Worker[Task],
        tasks: Iterable[Task],
        output: str,
        total: int | None,
    ) -> Iterator[Any]:
        """Run all tasks, then yield their outcomes in order.

        When an outcome is yielded, the files of its task have their final names. If Beam would run
        the job in this process, the tasks are run without it: planning a job takes 0.2 s.

        Args:
          pipeline: an empty one.
          worker: does the work.
          tasks: can be pickled.
          output: folder of an artifact.
          total: sum of the worker's counts, for the progress shown.
        """
        folder = posixpath.join(output, attempts.FOLDER)
        try:
            paths = _write_tasks(tasks, posixpath.join(folder, "tasks"))
            if not paths:
                return
            attempted = _Attempts(worker, output)
            if run_here(pipeline.options):
                attempted.setup()
                names = dict(each for path in paths for each in attempted.process(path))
            else:
                won = posixpath.join(folder, "won")
                _ = (
                    pipeline
                    | "Tasks" >> beam.Create(paths, reshuffle=True)
                    | "Work" >> beam.ParDo(attempted)
                    | "Won" >> beam.combiners.ToList()
                    | "Keep" >> beam.Map(_write, won)
                )
                self.run(pipeline, total)
                names = dict(_read(won))
            for path in paths:
                yield Attempt(output, name=names[path]).win()
        finally:
            attempts.clean_up(output)

    def run(self, pipeline: beam.Pipeline, total: int | None = None) -> None:
        """Run a pipeline to its end; cancel it if this process is interrupted.

        Raises JobError if the runner cannot be reached or the job fails.
        """
        self._done = 0
        try:
            result = pipeline.run()
            if isinstance(result, portable_runner.PipelineResult):
                self._follow(result, total)
            else:
                _or_cancel(result, result.wait_until_finish)
        except grpc.RpcError as error:
            raise JobError(f"Beam's job server does not answer ({_cause(error)})") from error
        except grpc.FutureTimeoutError as error:
            raise JobError("Beam's job server does not answer (nothing listens there)") from error

    def _follow(self, result: portable_runner.PipelineResult, total: int | None) -> None:
        """Wait for a job on a job server, whose progress has to be polled."""
        messages: list[str] = []
        reader = threading.Thread(target=_read_messages, args=(result, messages), daemon=True)
        reader.start()
        try:
            _or_cancel(result, lambda: self._wait(result, total))
        finally:
            result._cleanup()  # ends the LOOPBACK server; Beam does so only in wait_until_finish
        state = result.state
        if state != PipelineState.DONE:
            reader.join(_MESSAGES_S)
            why = _reason(messages[-1] if messages else "")
            raise JobError(f"the job ended as {state} on Beam's job server: {why}")
        self._report(result, total)
        launch.current().workers_cpu_s += _counters(result).get(_CPU, 0) / 1000

    def _wait(self, result: portable_runner.PipelineResult, total: int | None) -> None:
        started = reported = time.monotonic()
        while not PipelineState.is_terminal(result.state):
            time.sleep(_POLL_S)
            if self._limit_s is not None and time.monotonic() - started > self._limit_s:
                _cancel(result)
                raise JobError(
                    f"the job did not end within {self._limit_s:g} s; does the runner reach the "
                    "workers, at the address of --environment_config?"
                )
            if time.monotonic() - reported > _REPORT_S:
                self._report(result, total)
                reported = time.monotonic()

    def _report(self, result: portable_runner.PipelineResult, total: int | None) -> None:
        done = _counters(result).get(_DONE, 0)
        if done > self._done:
            advance, self._done = done - self._done, done
            report("step", what=self._what, advance=advance, total=total, unit=self._unit)


def run_here(options: PipelineOptions) -> bool:
    """Return whether Beam would run a job in this process, on one thread."""
    mode = options.view_as(DirectOptions).direct_running_mode
    runner = options.view_as(StandardOptions).runner
    return runner in (None, "FnApiRunner", "DirectRunner") and mode == "in_memory"


class Meter:
    """Beam counters of workers in other processes, whose events the driver does not receive."""

    _counting: ClassVar[threading.Lock] = threading.Lock()
    _counted_s: ClassVar[float] = 0.0  # CPU time of this process

    def __init__(self) -> None:
        """Remember this process as the driver."""
        self._driver = socket.gethostname(), os.getpid()

    @property
    def advance(self) -> Callable[[int], None] | None:
        """Function that counts finished work; None in the driver, which receives the events."""
        if self._driver == (socket.gethostname(), os.getpid()):
            return None
        return Metrics.counter(_NAMESPACE, _DONE).inc

    def pay(self) -> None:
        """Count the CPU time of this process since the last call."""
        host, driver = self._driver
        if host == socket.gethostname() and driver in (os.getpid(), os.getppid()):
            return
        with self._counting:
            spent = time.process_time() - self._counted_s
            Meter._counted_s += spent
        Metrics.counter(_NAMESPACE, _CPU).inc(round(spent * 1000))


class _Attempts(beam.DoFn):
    """Attempts at tasks; yields the path of each task and the name of the attempt."""

    def __init__(self, worker: Worker[Any], output: str) -> None:
        self._worker = worker
        self._output = output
        self._meter = Meter()

    def setup(self) -> None:
        self._worker.prepare()

    def process(self, path: str) -> Iterator[tuple[str, str]]:
        attempt = Attempt(self._output, self._meter.advance)
        try:
            attempt.finish(self._worker.work(_read(path), attempt))
        except BaseException:
            attempt.drop()
            raise
        self._meter.pay()
        yield path, attempt.name


def _or_cancel(result: Any, wait: Callable[[], object]) -> None:
    try:
        wait()
    except (KeyboardInterrupt, SystemExit):
        _cancel(result)
        raise


def _cancel(result: Any) -> None:
    """Cancel a job and wait until its runner reports an end."""
    try:
        result.cancel()
        deadline = time.monotonic() + _CANCEL_S
        while not PipelineState.is_terminal(result.state) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    except Exception as error:  # any runner's: must not hide the interrupt
        report("note", text=f"the job could not be cancelled: {_cause(error)}")


def _read_messages(result: portable_runner.PipelineResult, messages: list[str]) -> None:
    """Collect a job server's error messages until the job ends."""
    request = beam_job_api_pb2.JobMessagesRequest(job_id=result._job_id)
    with contextlib.suppress(grpc.RpcError):
        # Beam's own stream ends after job_server_timeout, even if the job runs longer.
        for message in result._job_service.GetMessageStream(request):
            found = message.message_response
            if found.importance == beam_job_api_pb2.JobMessage.JOB_MESSAGE_ERROR:
                messages.append(found.message_text)


def _reason(message: str) -> str:
    """Return the last exception of a traceback, else the first line."""
    lines = [line for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)]
    return [*lines[:1], *errors][-1] if lines else "no reason given"


def _counters(result: portable_runner.PipelineResult) -> dict[str, int]:
    """Return the counters so far, by name; empty if the job server provides none."""
    result._metrics = None  # Beam's cache of the first answer
    try:
        found = result.metrics().query(MetricsFilter().with_namespace(_NAMESPACE))["counters"]
    except Exception:
        return {}
    return {
        each.key.metric.name: each.committed if each.committed is not None else each.attempted
        for each in found
    }


def _cause(error: BaseException) -> str:
    """Return one line for an error; the text of gRPC's has many."""
    code = getattr(error, "code", None)
    if callable(code) and (status := code()) is not None:
        details = str(error.details() or "").splitlines()  # type: ignore[attr-defined]
        return f"{status.name.lower()}{': ' + details[0] if details else ''}"
    return str(error).partition("\n")[0] or type(error).__name__


def _write_tasks(tasks: Iterable[Any], folder: str) -> list[str]:
    """Write each task to a file, to keep the job small. Returns the paths."""
    paths = []
    for index, task in enumerate(tasks):
        paths.append(posixpath.join(folder, f"{index:06d}"))
        _write(task, paths[-1])
    return paths


def _write(value: Any, path: str) -> None:
    storage.write_bytes(path, pickle.dumps(value, pickle.HIGHEST_PROTOCOL), durable=False)


def _read(path: str) -> Any:
    return pickle.loads(storage.read_bytes(path))
