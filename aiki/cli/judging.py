"""What a process says of itself, judged: is it started, is it stuck, is it ready. Plain code; `now` is monotonic nanoseconds.

**Live** asks whether starting the process anew could help: it fails only where something in the process itself does not move.
What it waits for outside (the broker, the database, an orchestrator) is no reason. **Ready** asks whether it does its work now.
**Started** asks whether all its parts are there for the first time, whatever is away outside.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from aiki import vitals
from aiki.vitals import Reading

WELL: Final = 0
ILL: Final = 1
"""It is not there, or something in it does not work."""
WAITS: Final = 4
"""It waits for what is outside of it."""

STUCK_SECONDS: Final = 180.0
"""A loop that has not turned for so long never will. Looking up a name, or a row that others lock, may take a minute."""
TURNS_SECONDS: Final = 15.0
"""Within so long a loop turns that has all that it needs."""
HEARD_SECONDS: Final = 40.0
"""A worker asks every ten seconds; orchestrators answer within two."""
DATABASE_SECONDS: Final = 20.0
"""An orchestrator writes every two seconds that it lives."""


class Probe(StrEnum):
    """A probe."""

    LIVE = "live"
    READY = "ready"
    STARTED = "started"


class Verdict(NamedTuple):
    """An exit code, and a line with the reason."""

    code: int
    line: str


def judge(reading: Reading, probe: Probe, now: int) -> Verdict:
    """How a worker or an orchestrator is. (A server is asked by a request, too.)"""
    who = f"{reading.kind} {reading.name} (pid {reading.pid})".replace("  ", " ")
    parts = _WORKER if reading.kind == "worker" else _ORCHESTRATOR if reading.kind == "orchestrator" else ()
    wrong = _stopped(reading)
    for part in (_stuck, *parts) if probe is Probe.READY else (_stuck,):
        wrong = wrong or part(reading, now)
    if wrong is None and probe is Probe.STARTED and not reading.words[vitals.STARTED]:
        wrong = Verdict(ILL, reading.texts[vitals.INSIDE] or "it is starting")
    if wrong is not None:
        return Verdict(wrong.code, f"{who}: {wrong.line}")
    return Verdict(WELL, f"{who} is {probe}{_details(reading, now) if probe is Probe.READY else ''}")


# ---------------------------------------------------------------- what may be wrong
def _stopped(reading: Reading) -> Verdict | None:
    for what, state in (("it", reading.state), ("its link", reading.link_state)):
        if state in "Tt":
            return Verdict(ILL, f"{what} is stopped by a signal (SIGSTOP)")
        if state in "ZX" and what == "it":
            return Verdict(ILL, "it has ended")
    return None


def _stuck(reading: Reading, now: int) -> Verdict | None:
    for what, word in (("it", vitals.TURNED), ("its link", vitals.LINK_TURNED)):
        age = _age(reading, word, now)
        if age is not None and age > STUCK_SECONDS:
            return Verdict(ILL, f"{what} has not moved for {age:.0f} s")
    age = _age(reading, vitals.STUCK, now)
    if age is not None and age > STUCK_SECONDS:
        return Verdict(ILL, f"none of its children has moved for {age:.0f} s: {reading.texts[vitals.INSIDE]}")
    return None


def _turns(reading: Reading, now: int) -> Verdict | None:
    if not reading.words[vitals.STARTED]:
        return Verdict(ILL, reading.texts[vitals.INSIDE] or "it is starting")
    for what, word in (("it", vitals.TURNED), ("its link", vitals.LINK_TURNED)):
        age = _age(reading, word, now)
        if age is not None and age > TURNS_SECONDS:
            return Verdict(ILL, f"{what} has not moved for {age:.0f} s")
    return None


def _session(reading: Reading, _now: int) -> Verdict | None:
    if reading.words[vitals.SESSION]:
        return None
    return Verdict(WAITS, f"it has no session with the broker: {reading.texts[vitals.BROKER] or 'it is connecting'}")


def _answered(reading: Reading, now: int) -> Verdict | None:
    age = _age(reading, vitals.HEARD, now)
    if age is None:
        return Verdict(WAITS, "no orchestrator has answered it yet")
    if reading.words[vitals.ANSWERS] and age > HEARD_SECONDS:
        return Verdict(WAITS, f"no orchestrator has answered it for {age:.0f} s")
    return None


def _children(reading: Reading, _now: int) -> Verdict | None:
    taking, wanted = reading.words[vitals.TAKING], reading.words[vitals.CHILDREN]
    if taking >= wanted:
        return None
    return Verdict(ILL, f"{wanted - taking} of {wanted} children take no work: {reading.texts[vitals.INSIDE]}")


def _drains(reading: Reading, _now: int) -> Verdict | None:
    return Verdict(ILL, "it drains, and is about to end") if reading.words[vitals.DRAINING] else None


def _database(reading: Reading, now: int) -> Verdict | None:
    age = _age(reading, vitals.DATABASE, now)
    if age is not None and age <= DATABASE_SECONDS:
        return None
    since = "yet" if age is None else f"for {age:.0f} s"
    return Verdict(WAITS, f"its database has not done what it was asked {since}: {reading.texts[vitals.BROKER] or 'no error'}")


def _duties(reading: Reading, _now: int) -> Verdict | None:
    return Verdict(ILL, reading.texts[vitals.INSIDE]) if reading.texts[vitals.INSIDE] else None


_WORKER: Final = (_drains, _turns, _session, _answered, _children)
_ORCHESTRATOR: Final = (_drains, _turns, _session, _database, _duties)


def _details(reading: Reading, now: int) -> str:
    session = _age(reading, vitals.SESSION, now)
    if session is None:
        return ""
    parts = [f"a session for {session:.0f} s"]
    if (heard := _age(reading, vitals.HEARD, now)) is not None:
        parts.append(f"an orchestrator heard {heard:.0f} s ago")
    if wanted := reading.words[vitals.CHILDREN]:
        parts.append(f"{reading.words[vitals.TAKING]} of {wanted} children take work")
    return ": " + ", ".join(parts)


def _age(reading: Reading, word: int, now: int) -> float | None:
    """Seconds since; None: it has never been."""
    value = reading.words[word]
    return max(0, now - value) / 1e9 if value else None
