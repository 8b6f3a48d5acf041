"""The consequences of a child's death for the runs that it held: the reports that the link sends in its place."""

from __future__ import annotations

from typing import Any

from aiki import messages
from aiki.history import FAILED, OPEN, RETRY, STEP, Step, Wait, Waits
from aiki.messages import Report
from aiki.worker import notices
from aiki.worker.notices import LeftRun, Notice


def death_reports(notice: Notice, run: LeftRun) -> list[Report]:
    """What a child's death means for a run that it held."""
    if run.ordinal < 0 or not run.executing or notice.reason != notices.TIME_LIMIT:
        return [death_report(notice, run)]
    # A workflow's step ran into its own limit: that step has failed, or is retried, and the workflow goes on.
    told = death_report(notice, run).body
    more = {"ms": run.ms, "t": told["type"], "m": told["message"], "tb": ""}
    again = run.retry_delay >= 0
    if again:
        more["s"] = run.retry_delay
    step = Step(run.ordinal, STEP, "", "", OPEN if again else FAILED, run.attempt, more)
    wait = Wait(RETRY, run.ordinal, run.ordinal, "a step that ran into its time limit", None, run.retry_delay)
    waits = Waits(False, [wait] if again and run.retry_delay > 0 else [])
    body = {"ms": run.ms, **waits.to_wire()}
    return [
        Report(messages.STEPS, run.run_id, run.epoch, {"s": [step]}),
        Report(messages.SUSPENDED, run.run_id, run.epoch, body),
    ]


def death_report(notice: Notice, run: LeftRun) -> Report:
    """The report for a run that a dead child held: it is charged only if its own code was executing."""
    body: dict[str, Any] = {"ms": run.ms}
    kind = messages.RETURNED
    if not run.executing or notice.reason == notices.COLD:
        pass
    elif notice.reason == notices.CANCELLED:
        kind = messages.CANCELLED
    elif notice.reason == notices.TIME_LIMIT:
        body |= {
            "type": "aiki.errors.TimeLimitExceeded",
            "message": f"the task ran longer than its time limit of {run.hard:g} s, and its process was killed",
            "tb": "",
            "outcome": "timed_out",
            "signal": notice.signal,
        }
        kind = messages.FAILED
        if run.retry_delay >= 0:
            kind = messages.RETRY
            body["delay"] = run.retry_delay
    else:
        kind = messages.CRASHED
        how = f"killed by {notice.signal}" if notice.signal else f"gone with exit code {notice.exit}"
        body["message"] = f"process {notice.pid} was {how}" + (" (out of memory)" if notice.oom else "")
        if notice.signal:
            body["signal"] = notice.signal
        else:
            body["exit"] = notice.exit
        if notice.oom:
            body["oom"] = 1
    return Report(kind, run.run_id, run.epoch, body)
