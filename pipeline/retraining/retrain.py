"""One scheduled retraining: observe, decide, run, label, notify; each step is in the journal."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from pipeline.config import check_paths
from pipeline.errors import ConfigError, DriftFound
from pipeline.noise import redirect_output
from pipeline.retraining import journal, notify
from pipeline.retraining.decision import RetrainContext, decide
from pipeline.retraining.journal import detail_of
from pipeline.retraining.observe import DecisionInputs, check_losses, observe, record, stopped
from pipeline.run import new_run_id, run_locked
from pipeline.settings import Config
from pipeline.workspace import Workspace

MEMO = "retraining-inventory.json"


def retrain(
    config: Config,
    origins: Mapping[str, str],
    log_format: str,
    *,
    force: bool = False,
    dry_run: bool = False,
    accept_loss: bool = False,
    notes: Sequence[str] = (),
    now: datetime.datetime | None = None,
) -> None:
    """Decide whether to retrain, print the reasons, and do it.

    Whatever else ends it (missing data, a fault, SIGTERM, SIGHUP, SIGINT) is added to the journal
    and sent to the webhook once.

    Args:
      config: all settings.
      origins: the layer that set each of them, as `config.load` returns it.
      log_format: "rich", "plain" or "json".
      force: retrain even where the policy gives no reason.
      dry_run: only decide: record nothing but measured drift, and do not call the webhook.
      accept_loss: retrain even where more data is missing than the limits allow.
      notes: lines to print before a retraining, such as the origin of settings.
      now: the current time, UTC; None: from the clock.

    Returns normally if a model is pushed or there is nothing to do.

    Raises:
        DataLost: too much data is missing.
        DriftFound: drift raised an alarm, and nothing is retrained.
        UserError: another failure.
    """
    workspace = Workspace(config.workspace)
    retraining = _Retraining(
        config, workspace, log_format, now or datetime.datetime.now(datetime.UTC)
    )
    with _interruptible(), contextlib.nullcontext() if dry_run else retraining.reporting_errors():
        check_paths(config)
        with workspace.lock():
            context = retraining.observe(force, accept_loss)
            decision = decide(context, config.retrain)
            retraining.print_line("decision", str(decision), **decision.as_json())
            if dry_run or decision.retrain:
                for note in notes:
                    retraining.print_line("note", note)
            if dry_run:
                return
            record(retraining.place, decision, context)
            if decision.alarm:
                retraining.notify("drift", str(decision))
            if decision.retrain:
                retraining.run(origins)
            elif decision.alarm:
                raise DriftFound("; ".join(decision.reasons))


class _Retraining:
    """The state of one retraining."""

    def __init__(
        self, config: Config, workspace: Workspace, log_format: str, now: datetime.datetime
    ) -> None:
        self._config = config
        self._workspace = workspace
        self._log_format = log_format
        self._now = now
        self._started = time.monotonic()
        self._is_notified = False
        self.place = DecisionInputs(
            workspace.connection() if workspace.metadata.exists() else None,
            str(workspace.root / journal.FILE),
            workspace.root / MEMO,
            redirect_output(workspace.log_path("drift")),
        )

    @contextlib.contextmanager
    def reporting_errors(self) -> Iterator[None]:
        """Record an error that ends the block, and notify the webhook, unless that was done."""
        try:
            yield
        except BaseException as error:
            if not self._is_notified:
                self._stop(error)
            raise

    def _stop(self, error: BaseException) -> None:
        # Where the configuration is wrong, the workspace may be too.
        with contextlib.suppress(OSError):
            if not isinstance(error, ConfigError):
                self._workspace.root.mkdir(parents=True, exist_ok=True)
            stopped(self.place, self._time(), error)
        self.notify(_event(error), detail_of(error))

    def observe(self, force: bool, accept_loss: bool) -> RetrainContext:
        """Gather the context. Raises DataLost if more data is missing than the limits allow."""
        context = observe(self._config, self.place, self._now, force)
        losses, policy = context.losses, self._config.retrain
        if accept_loss and (
            losses.exceed(policy.max_removed) or losses.contradict(policy.max_relabelled)
        ):
            return dataclasses.replace(context, accepted=True)
        check_losses(context, self._config)
        return context

    def run(self, origins: Mapping[str, str]) -> None:
        """Run the DAG, label the pushed version, and notify about the result."""
        run_id = new_run_id(self._workspace)
        self.record("started", run=run_id)
        try:
            policy, servers = self._config.retrain.promote, self._config.retrain.servers
            if policy != "none" and (held := self._config.registry.hold(servers)):
                self.print_line("note", held)
            found = run_locked(
                self._config, origins, self._log_format, self._workspace, run_id, "retrain"
            )
            labelled = self._config.registry.label(found["version"], policy, servers)
        except BaseException as error:
            result = journal.result_of(error)
            # A full disk must not keep the webhook from being notified.
            with contextlib.suppress(OSError):
                self.record("ended", run=run_id, result=result, detail=detail_of(error))
            self.notify(_event(error), f"run {run_id}: {detail_of(error)}")
            raise
        ended = [labelled]
        try:
            self.record(
                "ended", run=run_id, result="blessed", pushed=found["pushed"], detail=labelled
            )
        except OSError as error:  # the model is in force all the same
            reason = error.strerror or error
            ended.append(f"the end is not recorded: {self.place.log} cannot be written: {reason}")
        for text in ended:
            self.print_line("note", text)
        self.notify("blessed", f"run {run_id}: {'; '.join(ended)}")

    def record(self, event: str, **fields: Any) -> None:
        """Add to the journal."""
        journal.append(self.place.log, event, self._time(), **fields)

    def notify(self, event: str, text: str) -> None:
        """Notify the webhook, and print a line if that fails."""
        self._is_notified = True
        if failure := notify.send(self._config.notify, event, self._config.name, text):
            self.print_line("note", failure)

    def print_line(self, event: str, text: str, **fields: Any) -> None:
        """Print a line, or a JSON object that has it as `text`."""
        notify.print_line(self._log_format, event, text, **fields)

    def _time(self) -> datetime.datetime:
        return self._now + datetime.timedelta(seconds=time.monotonic() - self._started)


def _event(error: BaseException) -> str:
    """Return the event of `NotifyConfig.on`; an interrupted retraining counts as failed."""
    return "rejected" if journal.result_of(error) == "rejected" else "failed"


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Handle SIGTERM and SIGHUP as Ctrl-C, so that they are reported too."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            # Ignored signals stay so, as under nohup.
            if signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
