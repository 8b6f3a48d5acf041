"""Log lines as text or as JSON, with what they are about: the run, its attempt and step, the worker, the request, the trace.

What is known is added by the formatter, so nobody who logs has to hand it on: the run comes from `current_run()` of the thread
that logs, the request from `about(...)`, the process from `identify(...)`. Passwords in URLs and bearer tokens are masked in
whatever is logged.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from aiki.context import current_run_or_none
from aiki.errors import ConfigurationError

FORMAT_VARIABLE: Final = "AIKI_LOG_FORMAT"
FORMATS: Final = ("text", "json")
TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRETS: Final = (
    (re.compile(r"(://[^:/@\s]*):[^@/\s]+@"), r"\1:***@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), r"\1 ***"),
    (re.compile(r"(?i)(?<![a-z])((?:password|passwd|secret|token|api[_-]?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]+"), r"\1***"),
)

_about: ContextVar[Mapping[str, Any]] = ContextVar("aiki_log_about", default={})  # noqa: B039  (never changed in place)
_process: dict[str, Any] = {}


def set_up(level: str, *, format: str | None = None, text: str = TEXT) -> None:
    """Log lines of at least `level` on standard error, in place of what the process has set up already.

    :param format: `text` or `json`; by default what `AIKI_LOG_FORMAT` says.
    :param text: the format of text lines.
    :raises ConfigurationError: an unknown level or format.
    """
    logging.basicConfig(level=level_number(level), handlers=[handler(format=format, text=text)], force=True)


def level_number(level: str) -> int:
    """A level by its name, in whatever case; raises `ConfigurationError`."""
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise ConfigurationError(f"log level {level!r}: it must be debug, info, warning, error or critical")
    return number


def handler(*, format: str | None = None, text: str = TEXT) -> logging.Handler:
    """What writes lines to standard error, as `set_up` says."""
    chosen = (os.environ.get(FORMAT_VARIABLE) or "text") if format is None else format
    if chosen not in FORMATS:
        raise ConfigurationError(f"{FORMAT_VARIABLE}={chosen!r}: it must be text or json")
    made = logging.StreamHandler(sys.stderr)
    made.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter(text))
    return made


def revive() -> None:
    """Have loggers of ours speak again: `logging.config` silences all that are there and that it does not name, unless the
    application has said `disable_existing_loggers: False`."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "aiki":
            logger.disabled = False


def identify(**fields: Any) -> None:
    """Add fields to every JSON line of this process: who it is. None takes one away."""
    _process.update(fields)
    for name in [name for name, value in _process.items() if value is None]:
        del _process[name]


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Add fields to the JSON lines of this thread meanwhile."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def set_about(**fields: Any) -> None:
    """As `about`, where there is no block: until the next call in this thread."""
    _about.set(fields)


def masked(text: str) -> str:
    """A text without the passwords and tokens that can be told to be such."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def context_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record is about. To be called in the thread that logs."""
    out = {**_process, **_about.get()}
    run = current_run_or_none()
    if run is not None:
        out |= {"run_id": run.id, "task": run.name, "attempt": run.attempt}
        if run.step is not None:
            out["step"] = run.step
    out |= _trace()
    for name, value in vars(record).items():
        if name not in _STANDARD and not name.startswith("_"):
            out[name] = value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
    return out


def _trace() -> dict[str, str]:
    """The ids of the current span, in a process that traces."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    found = trace.get_current_span().get_span_context()
    return {"trace_id": f"{found.trace_id:032x}", "span_id": f"{found.span_id:016x}"} if found.is_valid else {}


class TextFormatter(logging.Formatter):
    """One line a record for people; the run's id is added where the message does not name it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        text = super().format(record)
        run = current_run_or_none()
        if run is not None and run.id not in text:
            head, newline, rest = text.partition("\n")
            text = f"{head} [run {run.id}]{newline}{rest}"
        return masked(text)


class JsonFormatter(logging.Formatter):
    """One JSON object a record: `time`, `level`, `logger`, `message`, `pid`, what it is about, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(record.getMessage()),
            "pid": record.process,
        }
        for name, value in context_of(record).items():
            line.setdefault(name, masked(value) if isinstance(value, str) else value)
        if record.exc_info:
            line["exception"] = masked(self.formatException(record.exc_info))
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, ensure_ascii=False, default=str)
