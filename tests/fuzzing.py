"""Messages as a careless or hostile sender makes them: real ones of every kind, changed at random places. Seeded."""

from __future__ import annotations

import copy
import json
import random
import uuid
from typing import Any

from aiki import messages as m
from aiki.codec import Payload
from aiki.history import CHILD, OPEN, Arrival, History, Step, Wait, Waits
from aiki.messages import Control, Dispatch, DispatchList, Heartbeat, Held, Report, ReportList, RunKey
from aiki.model import NewRun

WORKER = "ab" * 16
EXECUTOR = f"{WORKER}/0.1"
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**400, 1.5, -0.5, 1e14, 1e300, float("inf")),
    *(float("-inf"), float("nan"), "", "x", "é" * 70, "\ud800", "\0", "%s%(a)s{}", "x" * 70_000, "../..", "default\n"),
    *([], {}, [[]], [None], {"": None}, [[[[[[[[[[1]]]]]]]]]], ["a", 1], "ab" * 16, "AB" * 16, "  " * 16),
)


def samples(run_id: str, epoch: int = 1) -> dict[str, list[bytes]]:
    """Sound messages of each kind, which name the run: by where they are sent."""
    child = NewRun(str(uuid.UUID(int=7)), "c", Payload("json", "[[],{}]"), kind="workflow", options={"tl": 5, "mc": 2})
    more = {"c": "77" * 16, "run": child.to_wire(), "i": "{}", "s": 3.5, "e": "json", "r": "1", "ms": 5, "t": "E", "m": "no"}
    steps = [
        Step(0, "step", "s", "aa" * 16, "completed", 1, {"e": "json", "r": "7", "ms": 1}),
        Step(1, CHILD, "c", "", OPEN, 0, more),
    ]
    waits = Waits(True, [Wait("child", 1, 1, "c"), Wait("sleep", 2, 2, "s", None, 4.5), Wait("event", 3, 3, "e", 10**15)])
    raised = {"ms": 5, "type": "E", "message": "no", "tb": "trace", "outcome": "failed", "n": 0, "at": [0], "undone": 1}
    bodies: dict[str, dict[str, Any]] = {
        m.STARTED: {"ms": 300},
        m.COMPLETED: {"ms": 3, "e": "json", "r": "42", "n": 0},
        m.FAILED: raised,
        m.RETRY: {**raised, "delay": 2.5, "asked": 1},
        m.CRASHED: {"ms": 1, "signal": "SIGKILL", "exit": 3, "oom": 1},
        m.CANCELLED: {"ms": 1, "met": 1},
        m.RETURNED: {"ms": 1},
        m.INQUIRE: {"why": "again"},
        m.UNKNOWN: {"name": "a", "version": "1"},
        m.DROPPED: {},
        m.PROGRESS: {"p": 0.5, "m": "half"},
        m.LOGS: {"l": [[1, 10**15, "INFO", "app", "text", None]]},
        m.STEPS: {"s": steps},
        m.SUSPENDED: {"ms": 1, "n": 0, **waits.to_wire()},
        m.CONTINUED: {"ms": 1, "n": 0, "e": "json", "r": "[[],{}]"},
        m.CHANGED: {"ms": 1, "message": "changed"},
        m.REFUSED: {"q": "default", "why": "no", "b": "[]"},
        "of tomorrow": {"a": 1},
    }
    found = [
        Report(kind, "" if kind == m.REFUSED else run_id, 0 if kind == m.REFUSED else epoch, body)
        for kind, body in bodies.items()
    ]
    reports = [ReportList("default", WORKER, EXECUTOR, [item]).encode() for item in found]
    reports += [
        ReportList("default", WORKER, EXECUTOR, [found[0], found[10]]).encode(),
        ReportList("default", WORKER, EXECUTOR, [Report(m.MARKER, "", 10**15, {"q": "default"})]).encode(),
        ReportList("default", "", "", [Report(m.SYNC, "", 0, {"n": 5, "runs": [[run_id, epoch]], "again": []})]).encode(),
    ]
    hello = {
        **{"name": "w", "host": "h", "pid": 1, "queues": ["default"], "concurrency": 2, "version": "1", "nonce": 5},
        "definitions": [["a", "1", "task"], ["b", "1", "workflow"]],
    }
    child_row = {"slot": 0, "pid": 5, "run": run_id, "name": "a", "ms": 5, "rss": 1000}
    beat = {"children": [child_row], "digest": "abc", "draining": 0, "rss": 5, "paused": ["default"]}
    held = [Held(run_id, epoch, EXECUTOR, 500)]
    beats = [(m.HELLO, hello), (m.BEAT, beat), (m.ANSWER, {"nonce": 5}), (m.BYE, {}), ("of tomorrow", {"a": 1})]
    keys = [RunKey(run_id, epoch)]
    controls = [
        *((kind, keys, {"nonce": 5}) for kind in (m.ASK, m.REVOKE, m.CANCEL, m.ABORT, m.CANCEL_SOON, m.PAUSE_SOON)),
        (m.SNAPSHOT, keys, {"worker": WORKER, "nonce": 1, "now": 10**15, "more": 0, "paused": ["x"], "number": 3}),
        (m.RESEND_HELLO, [], {}),
        (m.QUEUES, [], {"paused": ["default"], "number": 5}),
    ]
    history = History(10**15, 0, 2, steps, [Arrival("cd" * 16, "event", "e", None, "", "json", "1", None, None)])
    options = {"tl": 5, "sl": 2.5, "rp": {"max_attempts": 3}, "bf": 1, "ref": "r-1", "h": history.to_wire(), "tp": "00-a-b-01"}
    dispatches = [
        Dispatch(run_id, epoch, "a", "1", 1, 2, "json", "[[1],{}]", {}),
        Dispatch(run_id, epoch, "b", "1", 1, 2, "json", "[[],{}]", {**options, "k": "workflow"}),
    ]
    return {
        "reports": reports,
        "heartbeat": [Heartbeat("default", kind, WORKER, held, fields).encode() for kind, fields in beats],
        "control": [Control("default", kind, list(runs), fields).encode() for kind, runs, fields in controls],
        "work": [DispatchList("default", "default", [item]).encode() for item in dispatches]
        + [DispatchList("default", "default", dispatches, again=True).encode()],
    }


def mutate(rng: random.Random, body: bytes) -> bytes:
    """A message that is broken in one to three places, or in its bytes."""
    if rng.random() < 0.08:
        return _spoilt(rng, body)
    message = json.loads(body)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _change(rng, message)
    text = json.dumps(message)
    if rng.random() < 0.05:
        text = text.replace("Infinity", "1e999")
    return text.encode("ascii")


def _spoilt(rng: random.Random, body: bytes) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        return body[: rng.randrange(len(body))]
    if kind == 1:
        at = rng.randrange(len(body))
        return body[:at] + bytes([rng.randrange(256)]) + body[at + 1 :]
    if kind == 2:
        return rng.randbytes(rng.randrange(60))
    if kind == 3:
        return b"[" * rng.randrange(1, 3000)
    return json.dumps(rng.choice(ODD)).encode("ascii")


def _change(rng: random.Random, message: Any) -> None:
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys = value if isinstance(value, dict) else range(len(value))
        for key in list(keys):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(message)
    if not places:
        return
    holder, key = rng.choice(places)
    action = rng.random()
    if action < 0.7:
        holder[key] = _odd(rng, holder[key])
    elif action < 0.85:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[f"{key}2"] = copy.deepcopy(rng.choice(ODD))


def _odd(rng: random.Random, value: Any) -> Any:
    if isinstance(value, int) and rng.random() < 0.3:
        return rng.choice((value + 1, -value, value * 2**40, float(value % 10**15), str(value)[:400]))
    if isinstance(value, str) and rng.random() < 0.3:
        return rng.choice((value * 2, value[:-1], value + "\ud800", value.upper(), f" {value}"))
    return copy.deepcopy(rng.choice(ODD))
