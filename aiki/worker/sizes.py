"""The size of reports, and what happens to those that no message can carry.

A report larger than the broker takes would end the sender's session, and be sent again for ever. A report of the failure goes
in its place: the run fails readably, and everything else goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from aiki import messages
from aiki.ceilings import REPORT_BYTES
from aiki.errors import MessageTooLarge
from aiki.history import Step
from aiki.messages import Report, ReportList

STEPS_A_REPORT: Final = 200
_REPORT: Final = 120
_STEP: Final = 120
_RUN_TEXT: Final = 6
"""Where the input of a run that a step starts stands in `NewRun.to_wire`."""


def weight_of(report: Report) -> int:
    """About how many bytes a report takes in a message."""
    body = report.body
    size = _REPORT
    if "r" in body:
        size += len(body["r"])
    if "tb" in body:
        size += len(body["tb"])
    if "a" in body:
        size += len(body["a"])
    if "s" in body:
        size += sum(map(step_weight, body["s"]))
    elif "l" in body:
        size += sum(100 + len(line[4]) for line in body["l"])
    return size


def step_weight(step: Step) -> int:
    """About how many bytes a step takes in a report."""
    more: Mapping[str, Any] = step.more
    size = _STEP + len(step.name)
    for key in ("r", "tb", "m", "i", "a"):
        if key in more:
            size += len(more[key])
    if "run" in more:
        size += 200 + len(more["run"][_RUN_TEXT])
    return size


def parts_of_steps(steps: list[Step]) -> Iterator[tuple[list[Step], int]]:
    """Steps in their order, in lists of bounded count and size, each with the size of a report that holds it.

    A step that is larger than that is alone in its list.
    """
    start = size = 0
    for at, step in enumerate(steps):
        weight = step_weight(step)
        if at > start and (at - start >= STEPS_A_REPORT or size + weight > REPORT_BYTES):
            yield steps[start:at], _REPORT + size
            start, size = at, 0
        size += weight
    if start < len(steps):
        yield steps[start:], _REPORT + size


def without_what_is_too_large(body: bytes, limit: int, room: int = 0) -> bytes | None:
    """A message of reports in which those that are the reason why it is over `limit` bytes say that their run fails.

    None if that does not help either.

    :param room: bytes of the limit that are left to what is added to the message later.
    """
    found = ReportList.decode(body)
    largest = sorted(found.reports, key=weight_of, reverse=True)
    ways = [_refused]
    if any("a" in report.body for report in largest):
        ways.insert(0, _without_arguments)  # a failure without them is told, at least
    for way in ways:
        for count in range(1, len(largest) + 1):
            bad = {id(report) for report in largest[:count]}
            kept = [way(found, report, limit) if id(report) in bad else report for report in found.reports]
            made = ReportList(found.namespace, found.worker, found.executor, kept).encode()
            if len(made) <= limit - room:
                return made
    return None


def _without_arguments(message: ReportList, report: Report, limit: int) -> Report:
    """A failure without the arguments of its error, if a message can carry that; else, and of all others, as `_refused`."""
    if "a" in report.body:
        less = {key: value for key, value in report.body.items() if key != "a"}
        made = Report(report.kind, report.run_id, report.epoch, less)
        if len(ReportList(message.namespace, message.worker, message.executor, [made]).encode()) <= limit:
            return made
    return _refused(message, report, limit)


def _refused(message: ReportList, report: Report, limit: int) -> Report:
    # As long as it would be alone in a message: its texts are escaped there, so that their own lengths say too little.
    size = len(ReportList(message.namespace, message.worker, message.executor, [report]).encode())
    what = {messages.COMPLETED: "its result", messages.STEPS: "the result or the input of a step"}.get(report.kind)
    text = f"{what or f'its {report.kind} report'} is too large to be sent: {MessageTooLarge(size, limit)}"
    body = {"ms": report.body.get("ms", 0), "type": "aiki.errors.MessageTooLarge", "message": text, "tb": ""}
    return Report(messages.FAILED, report.run_id, report.epoch, {**body, "outcome": "failed"})
