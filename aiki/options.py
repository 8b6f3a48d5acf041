"""What can be said of a task where it is defined, and of a run where it is enqueued.

Everything wrong is told where it is written.
"""

from __future__ import annotations

import datetime as dt
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, get_args

from aiki.errors import ConfigurationError
from aiki.ids import parse_id
from aiki.messages import OPT_RETRY, OPT_SOFT_TIME_LIMIT, OPT_TIME_LIMIT
from aiki.model import OnConflict
from aiki.retry import RetryPolicy
from aiki.settings import check_name

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

Seconds = float | dt.timedelta
OnParentCancel = Literal["cancel", "abandon"]
OPT_MAX_CRASHES: Final = "mc"
MAX_SECONDS: Final = 100 * 366 * 86400
MAX_NAME: Final = 200
MAX_REFERENCE: Final = 255
MAX_VERSION: Final = 64
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_RETRY_HINT = "use retry=RetryPolicy.exponential(...), or raise RetryLater(seconds) in the task"
CELERY_HINTS: Final[Mapping[str, str]] = {
    "acks_late": "nothing is needed: a run is acked once its result is recorded",
    "acks_on_failure_or_timeout": "nothing is needed: a run is acked once its outcome is recorded",
    "add_to_parent": "what a workflow submits is recorded with it",
    "autoretry_for": "use retry=RetryPolicy.exponential(..., retry_on=(SomeError,))",
    "base": "task classes do not exist here; write a decorator of your own around the function",
    "bind": "call aiki.current_run() in the task",
    "compression": "use the setting AIKI_COMPRESS_ABOVE",
    "connection": "connection= takes a SQLAlchemy connection, in options()",
    "default_retry_delay": _RETRY_HINT,
    "dont_autoretry_for": "use retry=RetryPolicy.exponential(..., give_up_on=(SomeError,))",
    "exchange": "name the queue with queue=",
    "expires_in": "use expires=",
    "headers": "pass what the task needs as arguments",
    "ignore_result": "results are always recorded; return None to store nothing",
    "link": "call the one after the other in a workflow (@app.workflow)",
    "link_error": "catch the error in a workflow (@app.workflow), or in the task",
    "max_retries": "use retry=RetryPolicy.exponential(max_attempts=...), which counts the first attempt too",
    "on_commit": "use options(session=...), or your ORM's on_commit hook",
    "priority": "use a queue of its own: queue=",
    "producer": "publishing is done by Aiki's own thread",
    "publisher": "publishing is done by Aiki's own thread",
    "pydantic": "annotate and check the arguments in the task",
    "rate_limit": "there are no rate limits; use a queue of its own with few worker processes",
    "reject_on_worker_lost": "nothing is needed: a run whose process dies is executed again, up to max_crashes times",
    "reply_to": "use handle.result()",
    "retry_backoff": _RETRY_HINT,
    "retry_backoff_max": _RETRY_HINT,
    "retry_jitter": _RETRY_HINT,
    "retry_kwargs": _RETRY_HINT,
    "retry_policy": "publishing needs no retry policy; for the task itself, use retry=RetryPolicy.exponential(...)",
    "root_id": "run ids are the SDK's",
    "routing_key": "name the queue with queue=",
    "send_events": "nothing is needed: every run is recorded",
    "serializer": "payloads are tagged JSON, never pickle",
    "shadow": "name the task with name=",
    "shared": "give the app to other modules by import",
    "store_errors_even_if_ignored": "errors are always recorded",
    "store_result": "results are always recorded; return None to store nothing",
    "throws": "use retry=RetryPolicy.exponential(..., give_up_on=(SomeError,))",
    "time_to_run": "use time_limit=",
    "track_started": "nothing is needed: handle.status() tells it",
    "typing": "arguments are always checked against the signature",
}
"""Options of Celery's (and a few of others) that do not exist here, and what to do instead."""


def refuse(where: str, name: str, known: Iterable[str]) -> NoReturn:
    """Raise for an option that does not exist."""
    choices = sorted(known)
    if name in CELERY_HINTS:
        raise ConfigurationError(f"{where}: there is no option {name!r}; {CELERY_HINTS[name]}")
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(choices)}"
    raise ConfigurationError(f"{where}: unknown option {name!r}; {hint}")


def seconds(where: str, name: str, value: Any, *, least: float = 0.0) -> float | None:
    """A span of time in seconds, None if it is None; raises `ConfigurationError`."""
    if value is None:
        return None
    number = value.total_seconds() if isinstance(value, dt.timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) < math.inf:
        raise ConfigurationError(f"{where}: {name}={value!r}: it must be a number of seconds or a timedelta")
    if not least <= number <= MAX_SECONDS:
        bound = "0 or more" if least == 0 else f"{least:g} or more"
        raise ConfigurationError(f"{where}: {name}={value!r}: it must be {bound} seconds, and no more than 100 years")
    return float(number)


def moment(where: str, name: str, value: dt.datetime) -> int:
    """A datetime with a zone as microseconds since the Unix epoch; raises `ConfigurationError`."""
    if not isinstance(value, dt.datetime):
        raise ConfigurationError(f"{where}: {name}={value!r}: it must be a datetime with a time zone")
    if value.utcoffset() is None:
        raise ConfigurationError(
            f"{where}: {name}={value!r} has no time zone; write for example datetime.now(UTC) + timedelta(hours=1)"
        )
    return (value - _EPOCH) // dt.timedelta(microseconds=1)


def check_policy(where: str, value: Any) -> RetryPolicy:
    """A retry policy; raises `ConfigurationError` for anything else."""
    if not isinstance(value, RetryPolicy):
        raise ConfigurationError(
            f"{where}: retry={value!r}: it must be a RetryPolicy, for example RetryPolicy.exponential(max_attempts=3)"
        )
    return value


def check_limits(where: str, soft: float | None, hard: float | None) -> None:
    """The soft limit must come before the hard one; raises `ConfigurationError`."""
    if soft is not None and hard is not None and soft >= hard:
        raise ConfigurationError(f"{where}: soft_time_limit={soft:g} must be below time_limit={hard:g}, or it never fires")


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a definition says for all its runs. Spans are seconds."""

    queue: str = "default"
    retry: RetryPolicy = field(default_factory=RetryPolicy.never)
    time_limit: float | None = None
    soft_time_limit: float | None = None
    expires: float | None = None
    max_crashes: int | None = None

    @classmethod
    def check(
        cls,
        where: str,
        *,
        queue: str | None,
        retry: RetryPolicy | None,
        time_limit: Seconds | None,
        soft_time_limit: Seconds | None,
        expires: Seconds | None,
        max_crashes: int | None,
    ) -> TaskOptions:
        """Options as given; raises `ConfigurationError` that begins with `where`."""
        if max_crashes is not None and (isinstance(max_crashes, bool) or not isinstance(max_crashes, int) or max_crashes < 1):
            raise ConfigurationError(f"{where}: max_crashes={max_crashes!r}: it must be a whole number, 1 or more")
        soft = seconds(where, "soft_time_limit", soft_time_limit, least=0.001)
        hard = seconds(where, "time_limit", time_limit, least=0.001)
        check_limits(where, soft, hard)
        return cls(
            queue=check_name(f"{where}: queue", queue) if queue is not None else "default",
            retry=check_policy(where, retry) if retry is not None else RetryPolicy.never(),
            time_limit=hard,
            soft_time_limit=soft,
            expires=seconds(where, "expires", expires, least=0.001),
            max_crashes=max_crashes,
        )

    def to_wire(self) -> dict[str, Any]:
        """As `DefinitionInfo.options`: what the definition leaves open is absent."""
        out: dict[str, Any] = {"queue": self.queue, "retry": self.retry.to_wire()}
        for name in ("time_limit", "soft_time_limit", "expires", "max_crashes"):
            if getattr(self, name) is not None:
                out[name] = getattr(self, name)
        return out


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What is said of a run where it is enqueued, over what its definition says.

    :ivar delay: seconds until it is dispatched; `due_at`: the time of it (microseconds since the Unix epoch).
    :ivar expires_in: seconds until it is cancelled if it has not started; `expires_at`: the time of it.
    :ivar wire: `NewRun.options`.
    """

    delay: float | None = None
    due_at: int | None = None
    queue: str | None = None
    expires_in: float | None = None
    expires_at: int | None = None
    reference_id: str | None = None
    on_conflict: OnConflict = "error"
    wire: Mapping[str, Any] = field(default_factory=dict)
    session: Session | None = None
    connection: Connection | None = None
    run_id: str | None = None
    batch: int | None = None
    on_parent_cancel: OnParentCancel = "cancel"

    @classmethod
    def check(
        cls,
        where: str,
        *,
        countdown: Seconds | None = None,
        eta: dt.datetime | None = None,
        queue: str | None = None,
        expires: Seconds | dt.datetime | None = None,
        reference_id: str | None = None,
        on_conflict: OnConflict = "error",
        retry: RetryPolicy | None = None,
        time_limit: Seconds | None = None,
        soft_time_limit: Seconds | None = None,
        max_crashes: int | None = None,
        session: Session | None = None,
        connection: Connection | None = None,
        run_id: str | None = None,
        batch: int | None = None,
        on_parent_cancel: OnParentCancel = "cancel",
    ) -> RunOptions:
        """Options as given; raises `ConfigurationError` that begins with `where`."""
        if countdown is not None and eta is not None:
            raise ConfigurationError(f"{where}: give countdown= or eta=, not both")
        if on_conflict not in get_args(OnConflict):
            raise ConfigurationError(
                f"{where}: on_conflict={on_conflict!r}: it must be 'error', 'return_existing' or 'retry_failed'"
            )
        if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
            raise ConfigurationError(f"{where}: batch={batch!r}: it must be a whole number, 1 or more")
        if on_parent_cancel not in get_args(OnParentCancel):
            raise ConfigurationError(f"{where}: on_parent_cancel={on_parent_cancel!r}: it must be 'cancel' or 'abandon'")
        at = moment(where, "expires", expires) if isinstance(expires, dt.datetime) else None
        return cls(
            delay=seconds(where, "countdown", countdown),
            due_at=None if eta is None else moment(where, "eta", eta),
            queue=None if queue is None else check_name(f"{where}: queue", queue),
            expires_in=None if isinstance(expires, dt.datetime) else seconds(where, "expires", expires, least=0.001),
            expires_at=at,
            reference_id=check_reference(where, reference_id),
            on_conflict=on_conflict,
            wire=_wire(where, retry, time_limit, soft_time_limit, max_crashes),
            session=session,
            connection=connection,
            run_id=_run_id(where, run_id),
            batch=batch,
            on_parent_cancel=on_parent_cancel,
        )


def _wire(
    where: str, retry: RetryPolicy | None, hard: Seconds | None, soft: Seconds | None, max_crashes: int | None
) -> dict[str, Any]:
    options = TaskOptions.check(
        where, queue=None, retry=retry, time_limit=hard, soft_time_limit=soft, expires=None, max_crashes=max_crashes
    )
    found = {
        OPT_TIME_LIMIT: options.time_limit,
        OPT_SOFT_TIME_LIMIT: options.soft_time_limit,
        OPT_RETRY: None if retry is None else retry.to_wire(),
        OPT_MAX_CRASHES: options.max_crashes,
    }
    return {key: value for key, value in found.items() if value is not None}


def is_plain(text: Any, longest: int) -> bool:
    """Whether this is text of 1 to `longest` printable characters without spaces around them.

    MySQL takes no notice of spaces at the end when it compares text: `"job"` and `"job "` would be one key there.
    """
    return isinstance(text, str) and 1 <= len(text) <= longest and text.isprintable() and text == text.strip()


def check_reference(where: str, value: Any) -> str | None:
    """A reference id or None; raises `ConfigurationError`."""
    if value is None:
        return None
    if not is_plain(value, MAX_REFERENCE):
        raise ConfigurationError(
            f"{where}: reference_id={value!r}: it must be 1 to {MAX_REFERENCE} printable characters, without spaces around them"
        )
    return str(value)


def _run_id(where: str, value: Any) -> str | None:
    if value is None:
        return None
    parsed = parse_id(str(value))
    if parsed is None:
        raise ConfigurationError(
            f"{where}: {value!r} is not a run id; run ids are UUIDs (a name of your own is a reference_id)"
        )
    return str(parsed)


def check_task_name(where: str, name: str) -> str:
    """A task's name; raises `ConfigurationError`."""
    if not is_plain(name, MAX_NAME):
        raise ConfigurationError(
            f"{where}: name={name!r}: it must be 1 to {MAX_NAME} printable characters, without spaces around them"
        )
    return name


def check_step_name(name: str) -> str:
    """A step's name; raises `ConfigurationError`."""
    if not is_plain(name, MAX_NAME):
        raise ConfigurationError(
            f"step name {name!r}: it must be 1 to {MAX_NAME} printable characters, without spaces around them"
        )
    return name
