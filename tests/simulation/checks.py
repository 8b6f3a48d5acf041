"""What must always be true of a simulated world, and what must be true at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aiki import codec
from aiki.codec import Payload
from aiki.history import Waits
from aiki.storage.history import select_arrivals
from tests.simulation import app as simulated

if TYPE_CHECKING:
    from tests.simulation.world import World

REFUSED = ("CannotGoOn", "ReportRefused")
"""How runs fail about which something was raised."""
TERMINAL = ("completed", "failed", "cancelled", "dead")


def wrong(text: str) -> AssertionError:
    """The error that ends a simulation."""
    from tests.simulation.world import Wrong

    return Wrong(text)


# ---------------------------------------------------------------- at any time
def check_causes(world: World) -> None:
    """Every run that has not ended has a cause to move."""
    hands: set[tuple[str, int]] | None = None
    now = world.clock()
    sql = f"SELECT id, state, epoch, waits FROM aiki_runs WHERE state NOT IN {TERMINAL}"
    for raw, state, epoch, waits in world.db.ask(sql):
        if world.db.ask("SELECT 1 FROM aiki_deliveries WHERE id = ?", raw + epoch.to_bytes(4, "big")):
            continue
        run_id = raw.hex()
        if state == "scheduled":
            raise wrong(f"run {run_id} is scheduled and has no delivery")
        if state == "waiting":
            _check_wait(world, raw, waits, now)
        elif state == "queued":
            hands = world.in_hands() if hands is None else hands
            if (run_id, epoch) not in hands and run_id not in world.purged:
                raise wrong(f"run {run_id} is queued under epoch {epoch}: no delivery, no dispatch, and nobody has it")


def _check_wait(world: World, raw: bytes, waits: str | None, now: int) -> None:
    if world.db.ask("SELECT 1 FROM aiki_inbox WHERE run_id = ? AND taken = 0", raw):
        return
    if waits is None:
        raise wrong(f"run {raw.hex()} waits for its retry and has no delivery")
    found = Waits.from_wire(json.loads(waits))
    arrivals = select_arrivals(world.db, world.db.connection, "default", [raw]).get(raw, [])  # type: ignore[arg-type]
    if found.satisfied(arrivals, now) or found.due(arrivals) is not None:
        raise wrong(f"run {raw.hex()} waits for what has come or has its time ({waits}), and nothing brings it on")
    there = {arrival.ordinal for arrival in arrivals}
    for wait in found.items:
        for ordinal in range(wait.first, wait.last + 1) if wait.kind == "child" else ():
            sql = "SELECT r.state FROM aiki_steps s JOIN aiki_runs r ON r.id = s.child_id WHERE s.run_id = ? AND s.ordinal = ?"
            state = [row[0] for row in world.db.ask(sql, raw, ordinal)]
            if ordinal not in there and (not state or state[0] in TERMINAL):
                raise wrong(f"run {raw.hex()} waits for its step {ordinal}, whose run is {state}")


# ---------------------------------------------------------------- at the end
def check_end(world: World) -> None:
    """All has come to its end: was everything right?"""
    columns = "id, name, state, history, crashes, parent_id, parent_ordinal, error_type, error_message"
    rows = {row[0]: row for row in world.db.ask(f"SELECT {columns} FROM aiki_runs")}
    for key in world.runs:
        if bytes.fromhex(key) not in rows and key not in world.gone:
            raise wrong(f"run {key} was enqueued and does not exist")
    for row in rows.values():
        if row[0].hex() in world.unserved:
            continue
        _check_run(world, row, rows)
        _check_steps(world, row)
        _check_parent(world, row, rows)
    _check_watched(world)
    _check_events(world)
    _check_refused(world)
    _check_plain_end(world)


def _check_refused(world: World) -> None:
    """Nothing of these runs was refused, unless something was raised."""
    if world.raising.happened:
        return
    for source, reason, body in world.db.ask("SELECT source, reason, body FROM aiki_dead_letters"):
        if not world.oddities and not world.gone:
            raise wrong(f"a dead letter of {source}, {reason}: {bytes(body)[:300]!r}")
        text = bytes(body).decode("ascii", "replace")
        for key in world.runs:
            if key in text and key not in world.gone:
                raise wrong(f"a dead letter of {source} speaks of run {key}, {reason}: {text[:300]}")
    if found := world.db.ask("SELECT * FROM aiki_attempts WHERE error_type = 'ReportRefused'"):
        raise wrong(f"reports were refused: {found}")


def _check_plain_end(world: World) -> None:
    """At last nobody may hold anything."""
    for worker in world.living:
        if held := worker.holds():
            raise wrong(f"{worker.name} still holds {held}")


def _lineage(row: Any, rows: dict[bytes, Any]) -> Iterator[str]:
    """The run and all its ancestors, by hex id."""
    while row is not None:
        yield row[0].hex()
        row = rows.get(row[5])


def _actions(world: World, key: str) -> list[str]:
    return world.runs[key].actions if key in world.runs else []


def _check_run(world: World, row: Any, rows: dict[bytes, Any]) -> None:
    raw, name, state, _, crashes, _, _, kind, message = row
    key = raw.hex()
    said = f"run {key} ({name}) is {state}"
    text = world.db.ask("SELECT encoding, data FROM aiki_payloads WHERE run_id = ? AND role = 'input'", raw)
    arguments = codec.decode(Payload(text[0][0], text[0][1].decode()), what="input")[0]
    result = world.db.ask("SELECT encoding, data FROM aiki_payloads WHERE run_id = ? AND role = 'result'", raw)
    orders = [action for one in _lineage(row, rows) for action in _actions(world, one)]
    if state == "completed":
        value = codec.decode(Payload(result[0][0], result[0][1].decode()), what="result") if result else None
        if not simulated.right(name, arguments, value):
            raise wrong(f"{said} with {value!r} for {arguments}")
        return
    if result:
        raise wrong(f"{said} and has a result")
    if state == "cancelled":
        if not {"cancel", "terminate"}.intersection(orders):
            raise wrong(f"{said}, and nobody cancelled it")
        _check_undone(world, raw, name, said, orders)
    elif state == "dead":
        if kind not in ("WorkerCrashed", "WorkerLost") or crashes < world.settings.max_crashes:
            raise wrong(f"{said} after {crashes} crashes: {kind} {message}")
    elif state == "failed" and kind in REFUSED and world.raising.happened:
        if not message:
            raise wrong(f"{said}, {kind}, and nobody can read why")
    elif state == "failed" and name.endswith("flaky") and (_crashed(world, raw) or "retry" in orders):
        return  # these take its attempts, too
    elif state == "failed" and not simulated.may_fail(name) and not _fell(world, raw):
        raise wrong(f"{said}: {kind} {message}")


def _crashed(world: World, raw: bytes) -> bool:
    return bool(world.db.ask("SELECT 1 FROM aiki_attempts WHERE run_id = ? AND outcome IN ('crashed', 'lost')", raw))


def _fell(world: World, raw: bytes) -> bool:
    """Whether the run was told that one of its children had not completed."""
    sql = "SELECT 1 FROM aiki_inbox WHERE run_id = ? AND kind = 'child' AND outcome <> 'completed'"
    return bool(world.db.ask(sql, raw))


def _check_undone(world: World, raw: bytes, name: str, said: str, orders: list[str]) -> None:
    """A cancel that the function met has run its compensations."""
    if "terminate" in orders or orders.count("cancel") > 1 or "retry" in orders:
        return
    for workflow, label, after in (("undoing", "reserve", "release"), ("tidy", "do 0", "tidy up")):
        if name.endswith(workflow) and _done(world, raw, label) and not _done(world, raw, after):
            raise wrong(f"{said}: {label!r} was done, and {after!r} was not")


def _done(world: World, raw: bytes, label: str) -> bool:
    sql = "SELECT 1 FROM aiki_steps WHERE run_id = ? AND state = 'completed' AND input LIKE ?"
    return bool(world.db.ask(sql, raw, f'%"label":{json.dumps(label)}%'))


def _check_steps(world: World, row: Any) -> None:
    """Ordinals without gaps, each label recorded once."""
    raw, history = row[0], row[3]
    steps = world.db.ask("SELECT ordinal, kind, name, state, input FROM aiki_steps WHERE run_id = ? ORDER BY ordinal", raw)
    issued = [step[0] for step in steps]
    chosen = len([number for number in range(history) if number not in issued])
    if not set(issued) <= set(range(history)):
        raise wrong(f"run {raw.hex()} has {history} steps, and these: {issued}")
    again = world.db.ask("SELECT 1 FROM watched WHERE run_id = ? AND what = 'left a terminal state'", raw)
    if chosen and not again and row[1] not in _RETRYING:  # a retry drops the choice that it failed at
        raise wrong(f"run {raw.hex()} has {history} steps, and only these: {issued}")
    labels = [(kind, name, text) for _, kind, name, state, text in steps if kind in ("step", "undo") and state == "completed"]
    if len(set(labels)) != len(labels):
        raise wrong(f"run {raw.hex()}: a step is recorded twice: {labels}")
    open_ = [step for step in steps if step[3] == "open" and step[1] in ("step", "undo")]
    if row[2] == "completed" and open_ and not world.disorder:
        raise wrong(f"run {raw.hex()} has completed, and has open steps: {open_}")


_RETRYING = frozenset(task.name for task in simulated.app.definitions.values() if task.retry.max_attempts > 1)


def _check_parent(world: World, row: Any, rows: dict[bytes, Any]) -> None:
    """Its parent was told once, and how it ended."""
    raw, _, state, _, _, parent, ordinal, _, _ = row
    if parent is None or parent not in rows:
        return
    told = world.db.ask("SELECT outcome FROM aiki_inbox WHERE run_id = ? AND kind = 'child' AND ordinal = ?", parent, ordinal)
    if len(told) != 1:
        raise wrong(f"run {raw.hex()}, step {ordinal} of {parent.hex()}, has ended, and its parent was told {len(told)} times")
    retried = "retry" in _actions(world, raw.hex())
    if told[0][0] != state and not retried:
        raise wrong(f"run {raw.hex()} is {state}, and its parent was told {told[0][0]}")


def _check_watched(world: World) -> None:
    """What the triggers saw."""
    ends: dict[bytes, int] = {}
    for what, raw, ordinal, before, after in world.db.ask("SELECT what, run_id, ordinal, before, after FROM watched"):
        if what == "ended":
            ends[raw] = ends.get(raw, 0) + 1
        elif what == "left a terminal state":
            ends[raw] = ends.get(raw, 0) - 1
            if "retry" not in _actions(world, raw.hex()) and not _retried_above(world, raw):
                raise wrong(f"run {raw.hex()} went from {before} to {after}, and no operator asked")
        elif what == "recorded step changed":
            retried = after == "open" and before == "failed"
            if not retried:
                raise wrong(f"run {raw.hex()}: its recorded step {ordinal} was changed from {before} to {after}")
        elif what == "recorded step deleted" and raw.hex() in world.gone:
            continue
        elif what != "worker lost":
            raise wrong(f"run {raw.hex()}: {what}, ordinal {ordinal}: {before} -> {after}")
    for raw, count in ends.items():
        if count != 1:
            raise wrong(f"run {raw.hex()} ended {count} times")


def _retried_above(world: World, raw: bytes) -> bool:
    """Whether an ancestor was retried, or retries by itself: its failed children are retried with it."""
    rows = world.db.ask(
        "SELECT p.id, p.parent_id, p.name FROM aiki_runs r JOIN aiki_runs p ON p.id = r.parent_id WHERE r.id = ?", raw
    )
    return any("retry" in _actions(world, row[0].hex()) or _retried_above(world, row[0]) for row in rows)


def _check_events(world: World) -> None:
    """No event is lost, none is taken twice."""
    # Whoever asked for a rerun may not have heard that it was made.
    copies = {bytes(row[0]).hex() for row in world.db.ask("SELECT run_id FROM aiki_reruns")}
    for key, run in world.runs.items():
        raw = bytes.fromhex(key)
        if key in world.gone:
            continue
        sql = "SELECT id, data, ordinal, created_at FROM aiki_inbox WHERE run_id = ? AND kind = 'event'"
        rows = world.db.ask(sql, raw)
        found = {json.loads(row[1]): row for row in rows}
        if len(found) != len(rows):
            raise wrong(f"run {key} was sent an event once and has it twice: {[row[1] for row in rows]}")
        if key not in copies:
            missing = [data for data, answered in run.events.items() if answered and data not in found]
            if missing or not set(found) <= set(run.events):
                raise wrong(f"run {key} was sent {run.events} and has {sorted(found)}")
        steps = world.db.ask(
            "SELECT ordinal, bound, state, created_at, data FROM aiki_steps WHERE run_id = ? AND kind = 'event'", raw
        )
        taken = [step[1] for step in steps if step[1] is not None]
        if len(set(taken)) != len(taken):
            raise wrong(f"run {key} took an event twice: {[step[:3] for step in steps]}")
        for data, row in found.items():
            by = [step[0] for step in steps if step[1] == row[0]]
            if by != ([] if row[2] is None else [row[2]]):
                raise wrong(f"run {key}: {data} was taken by step {row[2]}, and the steps that say so are {by}")
            for step in steps:
                if row[2] is None and step[2] == "timed_out" and row[3] < step[3]:
                    raise wrong(f"run {key}: its wait {step[0]} timed out although {data} had come before it began")
