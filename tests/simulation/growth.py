"""What a world is told of its own messages and rows: whether a run is dispatched hot, and whether something grows.

| word | what it means |
|---|---|
| hot | a run is dispatched more often than anything that happened to it explains |
| grows | rows, messages or what an orchestrator remembers do not come back when all runs have ended and are purged |
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final

from aiki.broker import Kind
from aiki.clock import SECOND
from aiki.orchestrator.retention import Retention
from aiki.settings import Settings
from aiki.states import TERMINAL
from tests.simulation.bodies import runs_of
from tests.simulation.checks import wrong

if TYPE_CHECKING:
    from tests.simulation.world import World

WINDOW: Final = 20.0
"""Virtual seconds."""
OFTEN: Final = 30
"""Dispatches of a run within a window; whatever faults there are, its steps, crashes and redeliveries take fewer."""
MARKERS: Final = 1
"""In a queue."""
COPIES: Final = 4
"""Of a dispatch in its queue; lost answers and broken sessions make fewer."""
REMEMBERED: Final = 400
"""Entries in all that an orchestrator keeps for no run."""
QUIET: Final = 60.0
"""Virtual seconds for which the world goes on after the last run has been purged."""
STAYS: Final = frozenset(
    [
        "schema",
        "alembic_version",
        "installation",
        "partitions",
        "definitions",
        "queues",
        "workers",
        "orchestrators",
        "operations",
        "chores",
        "markers",
        "refusals",
    ]
)
"""Tables (without their prefix) whose rows belong to no run: they are few, whatever has happened."""
STATISTICS: Final = ("statistics", "tallies", "durations", "counts")


class Dispatched:
    """How often each run was dispatched."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._times: dict[str, list[float]] = defaultdict(list)

    def note(self, body: bytes) -> None:
        """A dispatch was sent."""
        try:
            _, kind, _, runs = json.loads(body)
        except ValueError:
            return
        now = self._world.scheduler.now
        for run in runs if kind == "dispatch" and isinstance(runs, list) else ():
            if not isinstance(run, list) or not run or not isinstance(run[0], str):
                continue
            times = self._times[run[0]]
            times.append(now)
            while times[0] < now - WINDOW:
                times.pop(0)
            if len(times) > OFTEN + self._explained(run[0]):
                self._times[run[0]] = []
                self._world.scheduler.failure = self._world.scheduler.failure or wrong(
                    f"run {run[0]} is hot: dispatched {len(times)} times within {WINDOW:g} s of virtual time"
                )

    def _explained(self, run_id: str) -> int:
        """By what it has recorded, what was sent to it and what was asked for."""
        run = self._world.runs.get(run_id)
        orders = len(run.actions) + len(run.events) if run is not None else 0
        try:
            raw = bytes.fromhex(run_id)
        except ValueError:
            return 0
        row = self._world.db.ask("SELECT history FROM aiki_runs WHERE id = ?", raw)
        return 2 * ((row[0][0] if row else 0) + orders)


# ---------------------------------------------------------------- queues
def check_queues(world: World) -> None:
    """At most one marker stands in a queue, and few copies of a dispatch."""
    for address, queue in world.broker.queues.items():
        if address.kind is not Kind.WORK:
            continue
        markers = [message for message in queue.ready if b'"marker"' in message.body[:200]]
        if len(markers) > MARKERS:
            raise wrong(f"{len(markers)} markers stand in queue {address.key}, where one is enough")
        copies = Counter(key for message in queue.ready for key in runs_of(message.body))
        for (run_id, epoch), count in copies.most_common(1):
            if count > COPIES:
                raise wrong(f"run {run_id} stands {count} times in queue {address.key}, under epoch {epoch}")


# ---------------------------------------------------------------- what does not come back
def purge_all(world: World) -> None:
    """Retention has run, long after everything has ended, and as often as it takes: each round deletes the runs that no run
    refers to any more, and so one generation at least."""
    kept = ",".join(f"{state}=1h" for state in (*sorted(TERMINAL), "audit", "dead_letters"))
    settings = Settings(database_url="sqlite://", broker_url="simulated://", retention=kept)
    world.jumped += 90 * 86400 * SECOND
    left, before = _run_count(world), -1
    while left != before:
        chore = Retention(world.store, settings, sleep=lambda _: None, monotonic=world.monotonic)
        while chore.run_once():
            pass
        left, before = _run_count(world), left


def _run_count(world: World) -> int:
    return int(world.db.ask("SELECT COUNT(*) FROM aiki_runs")[0][0])


def check_growth(world: World) -> None:
    """To be called when all was purged and some time has passed."""
    rows = {}
    for table in world.db.tables:
        name = table.removeprefix("aiki_")
        count = world.db.ask(f"SELECT COUNT(*) FROM {table}")[0][0]
        if count and name not in STAYS and not name.startswith(STATISTICS) and name != "watched":
            rows[name] = count
    if rows:
        raise wrong(f"everything has ended and was purged, and these rows are left: {rows}")
    left = {
        f"{address.kind}/{address.key}": len(queue.ready)
        for address, queue in world.broker.queues.items()
        if len(queue.ready) > (1 if address.kind is Kind.WORK else 0)
    }
    if left:
        raise wrong(f"everything has ended, and these queues have messages: {left}")
    for actor in world.orchestrators:
        found = remembered(actor.data)
        if sum(found.values()) > REMEMBERED:
            raise wrong(f"everything has ended, and {actor.name} still remembers {found}")


def remembered(what: Any) -> dict[str, int]:
    """How many entries the containers have that an object holds, directly or through objects of ours; by their path."""
    out: dict[str, int] = {}
    seen: set[int] = set()

    def look(value: Any, path: str, depth: int) -> None:
        if id(value) in seen or depth > 8:
            return
        seen.add(id(value))
        if isinstance(value, dict | set | list | frozenset) or type(value).__name__ == "deque":
            if len(value) > 3:
                out[path] = len(value)
            inner = list(value.values()) if isinstance(value, dict) else list(value)
            for item in inner[:100]:
                look(item, f"{path}[]", depth + 1)
        elif type(value).__module__.startswith("aiki.orchestrator"):
            for name, item in _attributes(value):
                look(item, f"{path}.{name}", depth + 1)

    look(what, type(what).__name__, 0)
    return out


def _attributes(value: Any) -> list[tuple[str, Any]]:
    found = dict(getattr(value, "__dict__", {}))
    if is_dataclass(value):
        found |= {field.name: getattr(value, field.name) for field in fields(value)}
    for name in getattr(type(value), "__slots__", ()):
        if hasattr(value, name):
            found[name] = getattr(value, name)
    return sorted(found.items())
