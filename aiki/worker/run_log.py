"""Log records of the run that executes, kept for its page: a handler on the root logger, beside those that write lines.

Runs that do not log pay nothing for it. The last 200 records and 64 kB are kept until they are reported, about once a second
while the run executes and before its end, so that what a process said before it was killed is there.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from typing import Any, Final

from aiki.clock import Clock, now_us
from aiki.context import current_run_or_none
from aiki.logs import masked

MAX_RECORDS: Final = 200
MAX_BYTES: Final = 64 * 1024
MAX_MESSAGE: Final = 4000

Line = list[Any]


class RunLog(logging.Handler):
    """See the module. `waiting`: something is to be reported; to be looked at without a lock.

    :param clock: the server's: records stand beside what the database tells, whatever this machine's clock says.
    """

    def __init__(self, level: int = logging.INFO, clock: Clock = now_us) -> None:
        super().__init__(level)
        self._clock = clock
        self._lines: deque[tuple[str, Line]] = deque()
        self._bytes = 0
        self._numbers = itertools.count(1)
        self.waiting = False

    def install(self) -> None:
        """Install the handler; again, if logging has been set up anew meanwhile."""
        if self not in _ROOT.handlers:
            _ROOT.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, if a run executes in the thread that logs."""
        run = current_run_or_none()
        if run is None:
            return
        try:
            message = record.getMessage()
            if record.exc_info:
                message = f"{message}\n{(self.formatter or _PLAIN).formatException(record.exc_info)}"
            message = masked(message[:MAX_MESSAGE])
        except Exception:  # noqa: BLE001  what is logged is the user's: its texts may do anything
            self.handleError(record)
            return
        # Between the record and now this machine's clock has counted, a moment as a rule; handlers may come late.
        logged_at = self._clock() - max(0, now_us() - int(record.created * 1e6))
        line = [next(self._numbers), logged_at, record.levelname.lower(), record.name, message, run.step]
        self._lines.append((run.id.replace("-", ""), line))
        self._bytes += len(message) + 100
        while len(self._lines) > MAX_RECORDS or self._bytes > MAX_BYTES:
            self._bytes -= len(self._lines.popleft()[1][4]) + 100
        self.waiting = True

    def take(self, run_id: str) -> list[Line]:
        """The records of this run (hex) since the last call; those that another run has left are dropped."""
        self.acquire()
        try:
            lines, self._lines = self._lines, deque()
            self._bytes = 0
            self.waiting = False
        finally:
            self.release()
        return [line for run, line in lines if run == run_id]


_ROOT: Final = logging.getLogger()
_PLAIN: Final = logging.Formatter()
