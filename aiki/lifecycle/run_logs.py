"""What a worker reports of a run's log lines, as storage keeps it. What cannot be read is left out: it is never worth a run."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from aiki.messages import Report
from aiki.text import storable

KEPT: Final = 200
"""Records of a run that are kept, the newest."""
MAX_MESSAGE: Final = 4000
_INT = 2**31 - 1


class LogRecord(NamedTuple):
    """A record as a worker reports it. `origin` rises with the run's epoch and, within it, with each record."""

    run_id: bytes
    origin: int
    logged_at: int
    attempt: int
    step: int | None
    level: str
    logger: str
    message: str


def log_records(run_id: bytes, attempt: int, report: Report) -> list[LogRecord]:
    """The records of a `LOGS` report."""
    lines = report.body.get("l")
    found = [_record(run_id, attempt, report.epoch, line) for line in lines[-KEPT:]] if isinstance(lines, list) else []
    return [record for record in found if record is not None]


def _record(run_id: bytes, attempt: int, epoch: int, line: Any) -> LogRecord | None:
    try:
        number, logged_at, level, logger, message, step = line
        numbers = (number, logged_at, 0 if step is None else step)
    except (TypeError, ValueError):
        return None
    if not all(type(item) is str for item in (level, logger, message)):
        return None
    if not all(type(item) is int and 0 <= item < 2**62 for item in numbers) or number > _INT or numbers[2] > _INT:
        return None
    name = storable(level, 16).encode("ascii", "replace").decode("ascii")
    origin = (epoch << 32) | number
    return LogRecord(run_id, origin, logged_at, attempt, step, name, storable(logger, 200), storable(message, MAX_MESSAGE))
