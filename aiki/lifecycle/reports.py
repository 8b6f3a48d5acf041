"""What a report does to a run: plain code, no I/O. A locked row and a report in; a changed row and effects out.

The rules, from the design's "What must always be true":

* Reports of a stale epoch or of a second executor change nothing; whoever is still at it is told to stop (`abort`).
* Applying a report twice changes nothing: the first one moves the run on, so the second finds another epoch or an end.
* A crash is charged to the run that was executing, once per (run, epoch), whatever the epoch is by then.
* A redelivered or repeated dispatch is an inquiry, never an execution: it is answered by `settle_inquiry`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aiki import messages as m
from aiki.clock import SECOND
from aiki.codec import JSON, Payload
from aiki.lifecycle import workflows
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.operations import conclude_cancel
from aiki.lifecycle.record import CANCEL_ASKED, CHANGED_ERRORS, RunRow, delivery_id, is_out
from aiki.lifecycle.run_logs import log_records
from aiki.lifecycle.skills import Skills
from aiki.lifecycle.waits import bring_on, pause
from aiki.messages import Report, RunKey
from aiki.states import State
from aiki.text import storable

AT_ONCE: Final = 8
"""Dispatches in a row after which nothing was heard of the run, before it waits for its next one, ever longer."""
LONGEST_WAIT: Final = 60
"""Seconds."""
BACKSTOP: Final = 60
"""Dispatches in a row after which nothing was heard of the run, before it is declared dead: some 45 minutes. A run may have
lost all of them to neighbours that ended the children which had taken it too, or to a broker that restarts over and over."""
MAX_MESSAGE: Final = 4000
MAX_TRACEBACK: Final = 64 * 1024
UNKNOWN_RETRY: Final = SECOND
"""How long a run waits when this worker lacks its definition and another live one has it."""


class Source(NamedTuple):
    """Who sent a report: the worker's id (32 hex digits, empty for an orchestrator) and the executor."""

    worker: str
    executor: str


@dataclass(slots=True)
class Outcome:
    """What applying reports asks for beside writes: gathered per transaction, acted on after its commit."""

    abort: list[RunKey] = field(default_factory=list)
    inquire: list[tuple[RunKey, bool]] = field(default_factory=list)
    """In question; True: another copy of the dispatch may come out of a queue."""
    durations: dict[str, list[int]] = field(default_factory=dict)
    parked: set[tuple[str, str]] = field(default_factory=set)


class Rules(NamedTuple):
    """What decisions need to know of the world.

    :ivar now: the time; `max_crashes`: the default of it.
    :ivar known: what the live workers can execute.
    """

    now: int
    max_crashes: int
    known: Skills


def apply_report(row: RunRow, report: Report, source: Source, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    """Apply one report to its locked run."""
    if report.kind == m.LOGS:
        if report.epoch == row.epoch and row.executor in (None, source.executor):
            effects.logs += log_records(row.id, row.attempt, report)
        return
    key = RunKey(report.run_id, report.epoch)
    if report.kind == m.DROPPED or (row.ended and row.cancel_requested and report.kind in _GONE):
        effects.unrevoke.append((row.id, report.epoch))  # the dispatch is out no more
    if report.epoch != row.epoch or row.ended:
        _stale(row, report, source, rules, effects, outcome)
        return
    if report.kind in (m.INQUIRE, m.DROPPED):
        if row.state in (State.QUEUED, State.RUNNING):
            outcome.inquire.append((key, report.body.get("why") == "again"))
        return
    if report.kind == m.UNKNOWN:
        _park(row, rules, effects, outcome)
        return
    if row.executor is not None and row.executor != source.executor:
        if report.kind in _STILL_AT_IT:
            outcome.abort.append(key)
        return
    if row.state != State.RUNNING and not is_out(row):
        effects.was_out.add(row.id)
    row.executor = source.executor
    row.worker = bytes.fromhex(source.worker) if source.worker else None
    effects.forget.add(delivery_id(row.id, row.epoch))
    if row.cancel_requested and report.kind in m.ENDS_DISPATCH:
        effects.unrevoke.append((row.id, report.epoch))  # the dispatch is out no more
    if row.is_workflow and workflows.missing(row, report):
        if report.kind in _STILL_AT_IT:
            outcome.abort.append(key)
        _go_again(row, effects, rules.now, 0.0, "")
        return
    _HANDLERS[report.kind](row, report, rules, effects, outcome)


def _stale(row: RunRow, report: Report, source: Source, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    if report.kind == m.CRASHED and report.epoch < row.epoch:
        _late_crash(row, report, source, rules, effects)
    elif report.kind in _STILL_AT_IT and (report.epoch < row.epoch or row.executor != source.executor):
        outcome.abort.append(RunKey(report.run_id, report.epoch))


def _late_crash(row: RunRow, report: Report, source: Source, rules: Rules, effects: Effects) -> None:
    """The crash of an execution that was given up already: counted, but the run is where its newer epoch is."""
    if (row.id, report.epoch) in effects.attempts_there:
        return
    effects.attempts_there.add((row.id, report.epoch))
    text = crash_text(report)
    effects.attempts.append(
        _attempt(row, report, rules.now, "crashed", "WorkerCrashed", text, epoch=report.epoch, worker=source.worker)
    )
    if not row.ended:
        row.crashes += 1


# ---------------------------------------------------------------- reports of an executor
def _started(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    row.state = State.RUNNING.value
    row.waiting_on = None
    row.idle_dispatches = 0
    row.started_at = rules.now - _ms(report) * 1000
    if row.cancel_requested and not row.is_workflow:
        effects.revoke.append((RunKey(row.run_id, row.epoch), True))
    elif row.cancel_requested == CANCEL_ASKED:
        effects.soon.append(RunKey(row.run_id, row.epoch))


def _progress(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    fraction = report.body.get("p")
    row.state = State.RUNNING.value
    row.started_at = row.started_at or rules.now
    row.progress = min(1.0, max(0.0, float(fraction))) if isinstance(fraction, (int, float)) else None
    row.progress_message = _text(report, "m", 255) or None


def _completed(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    body = report.body
    millis = _ms(report)
    row.state = State.COMPLETED.value
    row.finished_at = rules.now
    row.started_at = rules.now - millis * 1000
    row.waiting_on = row.error_type = row.error_message = None
    text = body.get("r")
    if text is not None:
        effects.results.append((row.id, Payload(body.get("e", JSON), text)))
    outcome.durations.setdefault(row.name, []).append(millis)


def _failed(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    kind, text = _error(report)
    effects.attempts.append(_attempt(row, report, rules.now, report.body.get("outcome", "failed"), kind, text))
    arguments = report.body.get("a")
    if arguments is not None:
        effects.error_arguments[row.id] = arguments
    _fail(row, rules.now, kind, text)
    row.started_at = rules.now - _ms(report) * 1000
    if row.is_workflow:
        workflows.remember_failure(row, report)


def _retry(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    kind, text = _error(report)
    effects.attempts.append(_attempt(row, report, rules.now, report.body.get("outcome", "retried"), kind, text))
    if _cancelled_meanwhile(row, rules.now):
        return
    if row.is_workflow:
        workflows.reset_failed(row, report, effects)
    delay = float(report.body.get("delay", 0))
    row.attempt += 1
    row.error_type, row.error_message = kind[:255], text
    _go_again(row, effects, rules.now, delay, f"retry: attempt {row.attempt} after {kind}")


def _crashed(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    _charge_crash(row, report, rules, effects, "crashed", crash_text(report))


def _cancelled(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    if not report.body.get("met") and (row.is_workflow or not row.cancel_requested):
        # It was interrupted because its dispatch is revoked, and not at an end: paused, or to meet its cancel in its code.
        _go_again(row, effects, rules.now, 0.0, "")
        return
    effects.attempts.append(_attempt(row, report, rules.now, "cancelled", "TaskCancelled", "interrupted by a cancel"))
    conclude_cancel(row, rules.now)


def _steps(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    workflows.steps(row, report, rules.now, effects)


def _suspended(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    workflows.suspended(row, report, rules.now, effects)


def _continued(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    workflows.continued(row, report, rules.now, effects)


def _changed(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    if row.pause_requested:
        pause(row, effects)
    elif not _cancelled_meanwhile(row, rules.now):
        workflows.changed(row, report, effects)


def _returned(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    if not _cancelled_meanwhile(row, rules.now):
        _go_again(row, effects, rules.now, 0.0, "")


_HANDLERS = {
    m.STARTED: _started,
    m.PROGRESS: _progress,
    m.COMPLETED: _completed,
    m.FAILED: _failed,
    m.RETRY: _retry,
    m.CRASHED: _crashed,
    m.CANCELLED: _cancelled,
    m.RETURNED: _returned,
    m.STEPS: _steps,
    m.SUSPENDED: _suspended,
    m.CONTINUED: _continued,
    m.CHANGED: _changed,
}
_GONE: Final = m.ENDS_DISPATCH - {m.INQUIRE, m.UNKNOWN}
"""After one of these no copy of a dispatch that was revoked can come out of a queue."""
_STILL_AT_IT: Final = frozenset({m.STARTED, m.PROGRESS, m.STEPS})
RUN_REPORTS: Final = frozenset(_HANDLERS) | {m.INQUIRE, m.DROPPED, m.UNKNOWN, m.LOGS}
"""The kinds that `apply_report` knows."""


# ---------------------------------------------------------------- recovery
def bind_holder(row: RunRow, epoch: int, source: Source, millis: int, rules: Rules, effects: Effects) -> None:
    """An inquiry found who executes the run: record it, so that its worker's end would be noticed."""
    if row.ended or row.epoch != epoch or row.executor is not None:
        return
    if not is_out(row):
        effects.was_out.add(row.id)
    row.executor = source.executor
    row.worker = bytes.fromhex(source.worker)
    row.state = State.RUNNING.value
    row.started_at = rules.now - millis * 1000
    effects.forget.add(delivery_id(row.id, row.epoch))


def settle_inquiry(row: RunRow, epoch: int, rules: Rules, effects: Effects, *, lost: str | None, copy_may_be_out: bool) -> None:
    """Nobody is at the run, and all live workers promised never to begin this epoch: have it go on under the next.

    :param lost: what became of the worker that had bound the run, if that worker was lost: then it is a crash.
    :param copy_may_be_out: another copy of the dispatch may still come out of a queue; it must not begin.
    """
    if row.ended or row.epoch != epoch or row.state not in (State.QUEUED, State.RUNNING):
        return
    if copy_may_be_out:
        effects.revoke.append((RunKey(row.run_id, row.epoch), False))
    if row.state == State.RUNNING and lost is not None:
        _charge_crash(row, Report(m.CRASHED, row.run_id, epoch, {}), rules, effects, "lost", lost)
        return
    if _cancelled_meanwhile(row, rules.now):
        return
    row.idle_dispatches += 1
    if row.idle_dispatches > BACKSTOP:
        _die(row, rules.now, f"dispatched {row.idle_dispatches} times without any word from a worker")
        return
    further = row.idle_dispatches - AT_ONCE
    delay = _apart(row) * min(2 ** min(further, 10), LONGEST_WAIT) if further >= 0 else 0.0
    _go_again(row, effects, rules.now, delay, f"next dispatch: no word from a worker after {row.idle_dispatches}")


def _apart(row: RunRow) -> float:
    """A factor of 0.5 to 1.5, another one for each run and each time.

    Runs that were lost together shall not be dispatched, taken and lost together again.
    """
    return 0.5 + ((row.id[-1] + 97 * row.idle_dispatches) % 256) / 256


def _charge_crash(row: RunRow, report: Report, rules: Rules, effects: Effects, outcome: str, text: str) -> None:
    kind = "WorkerCrashed" if outcome == "crashed" else "WorkerLost"
    if (row.id, row.epoch) not in effects.attempts_there:
        effects.attempts.append(_attempt(row, report, rules.now, outcome, kind, text))
    row.crashes += 1
    row.error_type, row.error_message = kind, text
    if _cancelled_meanwhile(row, rules.now):
        return
    limit = int(row.option("mc", rules.max_crashes))
    if row.crashes >= limit:
        _die(row, rules.now, f"executing it killed its process {row.crashes} times; the last time: {text}", kind)
        return
    row.attempt += 1
    row.skip_attempt()
    # At once after the first crash (most are the machine's fault), then ever later.
    delay = 0.0 if row.crashes == 1 else float(min(2 ** (row.crashes - 1) - 1, 60))
    _go_again(row, effects, rules.now, delay, f"retry: attempt {row.attempt} after a crash")


def _go_again(row: RunRow, effects: Effects, now: int, delay: float, waiting_on: str) -> None:
    """Dispatch the run anew, now or after `delay` seconds."""
    if row.pause_requested:
        pause(row, effects)
        return
    if delay > 0:
        row.state = State.WAITING.value
        row.waiting_on = waiting_on[:255]
    else:
        row.state = State.QUEUED.value
        row.waiting_on = None
    row.started_at = None
    effects.deliver(row, now + int(delay * SECOND))


def _park(row: RunRow, rules: Rules, effects: Effects, outcome: Outcome) -> None:
    """This worker lacks the definition: wait for one that has it, or try again if one lives already."""
    if row.executor is not None or row.state not in (State.QUEUED, State.STALLED) or _cancelled_meanwhile(row, rules.now):
        return
    if able(row, rules.known):
        effects.deliver(row, rules.now + UNKNOWN_RETRY)
        return
    row.state = State.STALLED.value
    row.waiting_on = _unfit(row, rules.known)[:255]
    effects.forget.add(delivery_id(row.id, row.epoch))
    outcome.parked.add((row.name, row.version))


def unpark(row: RunRow, rules: Rules, effects: Effects) -> None:
    """A worker with the definition is here: dispatch the run; if its code did not fit, to one that has not tried."""
    if row.state != State.STALLED:
        return
    there = able(row, rules.known)
    if there:
        if row.error_type not in CHANGED_ERRORS or not there <= workflows.tried_by(row):
            bring_on(row, effects, rules.now)
    elif row.error_type not in CHANGED_ERRORS:
        row.waiting_on = _unfit(row, rules.known)[:255]  # it may be something else by now


def able(row: RunRow, known: Skills) -> frozenset[str]:
    """The live workers that take from the run's queue and have its definition, as what it is."""
    there = known.get((row.name, row.version), {})
    return frozenset(worker for worker, skill in there.items() if skill.kind == row.kind and row.queue in skill.queues)


def _unfit(row: RunRow, known: Skills) -> str:
    """Why no live worker can execute the run, in words."""
    what = f"{row.name}@{row.version}"
    there = known.get((row.name, row.version), {})
    if not there:
        return f"no worker has {what}"
    alike = [skill for skill in there.values() if skill.kind == row.kind]
    if not alike:
        kinds = " or ".join(sorted({skill.kind for skill in there.values()}))
        return f"this run of {what} is a {row.kind}, and the workers that are here have it as a {kinds}"
    queues = sorted({queue for skill in alike for queue in skill.queues})
    return f"no worker that has {what} takes from queue {row.queue}, only from {', '.join(queues[:10]) or 'none'}"


def fail_unwritable(
    row: RunRow, report: Report, rules: Rules, effects: Effects, why: str, source: Source | None = None
) -> None:
    """A report that cannot be applied: the run fails with the reason, and the others go on.

    Where another executor has the run, or it is at another epoch, the report would have changed nothing either.
    """
    if row.ended or row.epoch != report.epoch:
        return
    if source is not None and row.executor not in (None, source.executor):
        return
    if report.kind == m.LOGS:
        return  # a log is never worth a run
    text = f"its {report.kind} report cannot be recorded: {why}"
    if (row.id, row.epoch) not in effects.attempts_there:
        bare = Report(report.kind, report.run_id, report.epoch, {})
        effects.attempts.append(_attempt(row, bare, rules.now, "failed", "ReportRefused", text, traceback=""))
    _fail(row, rules.now, "ReportRefused", text[:MAX_MESSAGE])


def cannot_go_on(row: RunRow, now: int, why: str) -> None:
    """Whatever is done to the run raises: it fails, so that nobody tries for ever."""
    if not row.ended:
        _fail(row, now, "CannotGoOn", f"it cannot go on: {why}"[:MAX_MESSAGE])


def fail_unsendable(row: RunRow, now: int, why: str) -> None:
    """Its dispatch, with its input and what it has to know, is larger than the broker takes."""
    if not row.ended:
        _fail(row, now, "MessageTooLarge", f"it cannot be dispatched: {why}"[:MAX_MESSAGE])


# ---------------------------------------------------------------- helpers
def _cancelled_meanwhile(row: RunRow, now: int) -> bool:
    """Whether a cancel ends the run here; a workflow that has begun goes on, to meet it in its code."""
    if not row.cancel_requested or (row.is_workflow and (row.history or row.executor is not None)):
        return False
    conclude_cancel(row, now)
    return True


def _fail(row: RunRow, now: int, kind: str, text: str) -> None:
    row.state = State.FAILED.value
    row.waiting_on = None
    row.error_type, row.error_message = kind[:255], text
    row.finished_at = now


def _die(row: RunRow, now: int, text: str, kind: str = "NoProgress") -> None:
    row.state = State.DEAD.value
    row.waiting_on = None
    row.error_type, row.error_message = kind, text
    row.finished_at = now


def _ms(report: Report) -> int:
    value = report.body.get("ms", 0)
    return max(0, int(value)) if isinstance(value, (int, float)) else 0


def _error(report: Report) -> tuple[str, str]:
    return _text(report, "type", 255) or "Error", _text(report, "message", MAX_MESSAGE)


def _text(report: Report, key: str, limit: int) -> str:
    """A text of a report's body, such that every database takes it: lone surrogates cannot be stored."""
    return storable(str(report.body.get(key) or ""), limit)


def crash_text(report: Report) -> str:
    """A crash report in words: which signal or exit code ended the process."""
    body = report.body
    if body.get("message"):
        return _text(report, "message", MAX_MESSAGE)
    if body.get("signal"):
        return f"the process that executed it was killed by {body['signal']}" + (" (out of memory)" if body.get("oom") else "")
    if body.get("exit") is not None:
        return f"the process that executed it ended with exit code {body['exit']}"
    return "the process that executed it died"


def _attempt(
    row: RunRow,
    report: Report,
    now: int,
    outcome: str,
    kind: str,
    text: str,
    *,
    epoch: int | None = None,
    worker: str = "",
    traceback: str | None = None,
) -> tuple[object, ...]:
    body = report.body
    name = worker or (row.worker.hex() if row.worker else "")
    exit_code = body.get("exit")
    return (
        row.id,
        row.epoch if epoch is None else epoch,
        row.attempt,
        str(outcome)[:16],
        kind[:255],
        text[:MAX_MESSAGE],
        _text(report, "tb", MAX_TRACEBACK) if traceback is None else traceback,
        name,
        str(body["signal"])[:16] if body.get("signal") else None,
        exit_code if isinstance(exit_code, int) else None,
        now - _ms(report) * 1000 if "ms" in body else row.started_at,
        now,
    )
