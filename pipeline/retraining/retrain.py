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

    Every other end than a pushed model or a decision against it is sent to the webhook once, and is
    in the journal: missing data, a fault, SIGTERM, SIGHUP and SIGINT.

    Args:
      config: all settings.
      origins: the layer that set each of them, as `config.load` returns it.
      log_format: "rich", "plain" or "json".
      force: retrain whatever the policy is.
      dry_run: decide only; nothing but measured drift is recorded, and no webhook is called.
      accept_loss: retrain although data is gone.
      notes: lines to print where there is a retraining, such as where settings come from.
      now: the time that ages are measured by, UTC; the clock's if None.

    Returns where a model is pushed or was already, and where there was nothing to do. Raises
    UserError otherwise: DataLost where too much data is gone, DriftFound where drift is an alarm
    and nothing is retrained.
    """
    workspace = Workspace(config.workspace)
    night = _Night(config, workspace, log_format, now or datetime.datetime.now(datetime.UTC))
    with _interruptible(), contextlib.nullcontext() if dry_run else night.told():
        check_paths(config)
        with workspace.lock():
            context = night.observe(force, accept_loss)
            decision = decide(context, config.retrain)
            night.say("decision", str(decision), **decision.as_json())
            if dry_run or decision.retrain:
                for note in notes:
                    night.say("note", note)
            if dry_run:
                return
            record(night.place, decision, context)
            if decision.alarm:
                night.notify("drift", str(decision))
            if decision.retrain:
                night.run(origins)
            elif decision.alarm:
                raise DriftFound("; ".join(decision.reasons))


class _Night:
    """The state of one retraining."""

    def __init__(
        self, config: Config, workspace: Workspace, log_format: str, now: datetime.datetime
    ) -> None:
        self._config = config
        self._workspace = workspace
        self._log_format = log_format
        self._now = now
        self._started = time.monotonic()
        self._is_told = False
        self.place = DecisionInputs(
            workspace.connection() if workspace.metadata.exists() else None,
            str(workspace.root / journal.FILE),
            workspace.root / MEMO,
            redirect_output(workspace.log_path("drift")),
        )

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Add an error that ends the block to the journal and notify, unless that is done."""
        try:
            yield
        except BaseException as error:
            if not self._is_told:
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
        """Gather the context. Raises DataLost where more is gone than is accepted."""
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
                self.say("note", held)
            found = run_locked(
                self._config, origins, self._log_format, self._workspace, run_id, "retrain"
            )
            labelled = self._config.registry.label(found["version"], policy, servers)
        except BaseException as error:
            result = journal.result_of(error)
            # The webhook is called even where the disk is full.
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
            ended.append(f"{self.place.log} has no end of it, as it cannot be written: {reason}")
        for text in ended:
            self.say("note", text)
        self.notify("blessed", f"run {run_id}: {'; '.join(ended)}")

    def record(self, event: str, **fields: Any) -> None:
        """Add to the journal."""
        journal.append(self.place.log, event, self._time(), **fields)

    def notify(self, event: str, text: str) -> None:
        """Send to the webhook, and print a failure of that."""
        self._is_told = True
        if failure := notify.send(self._config.notify, event, self._config.name, text):
            self.say("note", failure)

    def say(self, event: str, text: str, **fields: Any) -> None:
        """Print a line, or a JSON object that has it as `text`."""
        notify.say(self._log_format, event, text, **fields)

    def _time(self) -> datetime.datetime:
        return self._now + datetime.timedelta(seconds=time.monotonic() - self._started)


def _event(error: BaseException) -> str:
    """Return the event of `NotifyConfig.on`; an interrupted retraining counts as failed."""
    return "rejected" if journal.result_of(error) == "rejected" else "failed"


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt as Ctrl-C does, so that their end is reported too."""

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
