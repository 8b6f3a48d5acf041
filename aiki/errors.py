"""Every error that Aiki raises on purpose, grouped by who meets it.

Messages say what is wrong, with which value, and what to do.
"""

from __future__ import annotations


class AikiError(Exception):
    """The base of all errors below: `except AikiError` catches whatever Aiki itself reports."""


# ---------------------------------------------------------------- met by the code that enqueues
class ConfigurationError(AikiError):
    """A setting, an option or a definition is wrong; nothing was started."""


class FilterError(AikiError):
    """A filter cannot be read.

    :ivar position: where in its text, in characters from 0, and `length` how many characters it is about.
    :ivar suggestions: what could stand there instead.
    """

    def __init__(self, message: str, position: int, length: int, suggestions: list[str] | None = None) -> None:
        self.position = position
        self.length = length
        self.suggestions = suggestions or []
        super().__init__(message)


class PayloadError(AikiError):
    """A value cannot be carried."""


class EncodeError(PayloadError):
    """A value cannot be encoded; the message names the place inside the value (`$.items[3]`)."""


class DecodeError(PayloadError):
    """Stored bytes cannot be turned back into values here."""


class ShapeMismatch(DecodeError):
    """A stored value is sound, and this code cannot read it: a class has other fields than when it was stored, another name,
    or is not known here. The message names the difference."""


class PayloadTooLarge(PayloadError):
    """An encoded value is larger than the limit (`AIKI_MAX_PAYLOAD`)."""


class MessageTooLarge(PayloadError):
    """A message is larger than the broker takes (`AIKI_MAX_MESSAGE`, or what the broker itself said). Nothing was sent.

    :ivar size, limit: bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"a message of {size:,} bytes is more than the broker takes ({limit:,}); pass a reference to large data, or raise "
            "the broker's limit (max_message_size of RabbitMQ) and AIKI_MAX_MESSAGE"
        )


class UnknownTask(AikiError):
    """Nobody has registered this name, or not in this version.

    `closest` holds similar names that are registered; `versions` those of the name, where the version is what is unknown.
    """

    def __init__(
        self, name: str, closest: list[str] | None = None, *, version: str | None = None, versions: list[str] | None = None
    ) -> None:
        self.name = name
        self.closest = closest or []
        self.version = version
        self.versions = versions or []
        if self.versions:
            super().__init__(f"{name!r} is not registered in version {version!r}; there are: {', '.join(self.versions)}")
            return
        hint = f"; did you mean {', '.join(self.closest)}?" if self.closest else ""
        super().__init__(f"no task or workflow is registered as {name!r}{hint}")


class ReferenceConflict(AikiError):
    """The reference id is taken by a run with another input. `run_id` names that run."""

    def __init__(self, name: str, reference_id: str, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"reference id {reference_id!r} of {name!r} already belongs to run {run_id}, and not with an input that is known "
            "to be the same; use another reference id, or on_conflict='return_existing' to take that run"
        )


class Conflict(AikiError):
    """What is there forbids what was asked, for example a name that is taken."""


class RunConflict(Conflict):
    """The run's state forbids what was asked, for example to retry a run that completed."""


class RunNotFound(AikiError):
    """There is no run with this id in this namespace."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"there is no run {run_id}")


class NotThere(AikiError):
    """There is nothing of that name."""


class Unavailable(AikiError):
    """A part that is needed now cannot be reached (server, database); asking again later is safe.

    `retry_after` is a hint in seconds.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class StorageUnavailable(Unavailable):
    """The database cannot be reached or did not answer in time."""


class BrokerUnavailable(Unavailable):
    """The broker cannot be reached, or this connection to it is of no more use."""


class Unauthorized(AikiError):
    """The server refused the API key."""


class ServerError(AikiError):
    """The server answered with something the client does not understand."""


# ---------------------------------------------------------------- met by the code that waits for a result
class ResultTimeout(AikiError, TimeoutError):
    """The run had not ended within the time given; it goes on, and can be waited for again."""


class RunEnded(AikiError):
    """The run ended without a result. `state` is its final state."""

    state = ""

    def __init__(self, run_id: str, message: str) -> None:
        self.run_id = run_id
        super().__init__(message)


class RunFailed(RunEnded):
    """The run failed or is dead: the original error's type, message and traceback text."""

    def __init__(self, run_id: str, error_type: str, error_message: str, traceback: str = "", state: str = "failed"):
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = traceback
        self.state = state
        super().__init__(run_id, f"run {run_id} is {state}: {error_type}: {error_message}")

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}\n\nThe worker's traceback:\n{self.traceback}" if self.traceback else text


class RunCancelled(RunEnded):
    """The run was cancelled."""

    state = "cancelled"

    def __init__(self, run_id: str, reason: str = "") -> None:
        self.reason = reason
        super().__init__(run_id, f"run {run_id} was cancelled" + (f": {reason}" if reason else ""))


# ---------------------------------------------------------------- met by task code, inside a worker
class RetryLater(AikiError):
    """A task raises this to run again in `seconds`, whatever its retry policy says of other errors.

    It counts as an attempt; the policy's `max_attempts` does not limit it. More than 30 days are taken for 30 days.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        if not seconds >= 0:
            raise ValueError(f"RetryLater(seconds={seconds!r}): seconds must be 0 or more")
        self.seconds = float(seconds)
        super().__init__(reason or f"asked to run again in {seconds:g} s")


class SoftTimeLimitExceeded(BaseException):
    """Raised inside a task that ran into its soft time limit, so that it can clean up; raised again every 10 s until it ends.

    Not an `Exception`, so that `except Exception` in user code does not swallow it.
    """


class TimeLimitExceeded(AikiError):
    """Recorded on a run whose child was killed at the hard time limit (never raised inside the task)."""


class TaskCancelled(BaseException):
    """Raised inside a task whose run is cancelled while it runs.

    Not an `Exception`, so that `except Exception` in user code does not swallow it.
    """


# ---------------------------------------------------------------- met by workflow code, inside a worker
class StepFailed(AikiError):
    """A step, a submitted task or a child workflow failed, and its own exception cannot be raised here.

    :ivar step: the name of the step.
    :ivar error_type, error_message, traceback: the original error's, as text.
    :ivar state: what became of it: failed, cancelled, dead or timed_out.
    """

    def __init__(self, step: str, error_type: str, error_message: str, traceback: str = "", state: str = "failed") -> None:
        self.step = step
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = traceback
        self.state = state
        super().__init__(f"{step} is {state}: {error_type}: {error_message}")


class StepTimedOut(StepFailed, SoftTimeLimitExceeded):
    """A step or a submitted task ran into its own soft time limit. The workflow, which met none, may go on: an `Exception`."""


class EventTimeout(AikiError, TimeoutError):
    """The event that a workflow waited for was not sent in time."""


class WorkflowCancelled(TaskCancelled):
    """Raised at the next durable point of a workflow that was cancelled, once: its `finally` blocks run durably."""


class WorkflowChanged(AikiError):
    """The code no longer fits the run's history: something new was to start while recorded steps were left over.

    Nothing was started. The run goes on once the code is mended, or a retry is asked for.
    """


class HistoryLimitExceeded(AikiError):
    """The run's history has grown to its limit; end it with `run.continue_as_new(...)` before that."""


class WorkflowStuck(AikiError):
    """Recorded on a run whose function could not be left when it was to wait: it caught what leaves it again and again."""


class NotDurable(AikiError):
    """A workflow's code asked for something that would not be recorded: in another thread, outside of the call of its function,
    in a finalizer; or for what acts or reads outside of the history, such as `enqueue` or `handle.result()`."""


# ---------------------------------------------------------------- met inside Aiki
class MessageError(AikiError):
    """A message from the broker cannot be read; it goes to the dead letters."""
