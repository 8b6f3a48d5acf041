"""Progress and logs of a run while it executes, as reports that are limited in their rate."""

from __future__ import annotations

from typing import Final

from aiki import messages
from aiki.messages import Dispatch, Report
from aiki.worker.executor import Executor
from aiki.worker.ledger import Ledger
from aiki.worker.run_log import RunLog

PROGRESS_SECONDS: Final = 0.25
LOG_SECONDS: Final = 1.0


class LiveReports:
    """Of the run that a child executes.

    :param log: keeps what runs log; None where that is not wanted.
    """

    def __init__(self, executor: Executor, log: RunLog | None, ledger: Ledger) -> None:
        self._executor = executor
        self._log = log
        self._ledger = ledger
        self._next_progress = 0.0
        self._next_logs = 0.0

    def add_due(self, dispatch: Dispatch, now: float) -> None:
        """Put what is new into the ledger where it is time for it again; `now` in monotonic seconds."""
        if self._executor.last_progress is not None and now >= self._next_progress:
            self._next_progress = now + PROGRESS_SECONDS
            self._add_progress(dispatch)
        if self._log is not None and self._log.waiting and now >= self._next_logs:
            self._next_logs = now + LOG_SECONDS
            self._add_logs(dispatch)

    def add_all(self, dispatch: Dispatch) -> None:
        """Put all that is new into the ledger: the run is over."""
        if self._executor.last_progress is not None:
            self._add_progress(dispatch)
        if self._log is not None and self._log.waiting:
            self._add_logs(dispatch)

    def _add_logs(self, dispatch: Dispatch) -> None:
        lines = [] if self._log is None else self._log.take(dispatch.run_id)
        if lines:
            self._ledger.add(dispatch.partition, Report(messages.LOGS, dispatch.run_id, dispatch.epoch, {"l": lines}), None)

    def _add_progress(self, dispatch: Dispatch) -> None:
        shown, self._executor.last_progress = self._executor.last_progress, None
        if shown is not None:
            body = {"p": shown[0], "m": shown[1]}
            self._ledger.add(dispatch.partition, Report(messages.PROGRESS, dispatch.run_id, dispatch.epoch, body), None)
