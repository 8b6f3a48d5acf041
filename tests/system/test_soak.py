"""Everything at once, for long: work of all kinds while everything is killed, stopped and lied to at random.

At the end nothing is lost, stuck or done after it was recorded; once all is purged, tables and queues are as they were, and the
processes that lived through it take no more memory. `AIKI_TEST_FULL=1` soaks for half an hour; a failure names its seed.
"""

from __future__ import annotations

import os
import random
import time

from aiki import ids
from aiki.broker import broker_of, reports, work
from aiki.clock import SECOND
from aiki.errors import StorageUnavailable
from aiki.states import TERMINAL
from tests.scale import scaled
from tests.services import MariaServer, RabbitServer
from tests.system.soaking import MAX_CRASHES, Blows, Working
from tests.system.system import System
from tests.system.test_workflow_crashes import check_ledger
from tests.waiting import wait_until

SECONDS = float(os.environ.get("AIKI_TEST_SOAK", scaled(15.0, 1800.0)))
PAUSE = (0.3, 3.0)
"""Seconds between blows."""
AT_ONCE = 60
WARM = 0.35
"""The share of the time after which memory is looked at first."""
GROWTH = 40.0
"""MiB."""
OWN_TABLES = ("runs", "payloads", "attempts", "steps", "inbox", "deliveries", "links", "reference_ids", "run_logs")


def test_a_soak(own_system: System, own_rabbit: RabbitServer, own_maria: MariaServer) -> None:
    soak(own_system, own_rabbit, own_maria)


def test_a_soak_on_the_embedded_default(embedded_system: System) -> None:
    soak(embedded_system, None, None)


def soak(system: System, rabbit: RabbitServer | None, maria: MariaServer | None) -> None:
    seed = int(os.environ.get("AIKI_TEST_SEED", random.randrange(1 << 30)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    system.env["AIKI_MAX_CRASHES"] = str(MAX_CRASHES)
    blows = Blows(system, rng, rabbit, maria)
    working = Working(system.app("flows", "shop"), rng, AT_ONCE)
    memory = live(system, rng, blows, working)
    blows.go_on(all_=True)
    wait_until(working.repeat, 120, "the clients' last requests to be answered")
    wait_for_the_end(system, f"all runs to end; seed {seed}")
    print(f"{dict(blows.done)}; {dict(working.check())}; {working.refused} requests asked again")
    print(f"{check_ledger(system)} steps begun more than once; MiB before {memory}, after {blows.memory()}")
    for name, size in blows.memory().items():
        assert size < memory.get(name, size) + GROWTH, f"{name}: {memory[name]:.0f} MiB, and {size:.0f} MiB at the end"
    check_emptied(system)


def live(system: System, rng: random.Random, blows: Blows, working: Working) -> dict[str, float]:
    """The time of the blows; the memory of the processes that live on, early in it."""
    begin = time.monotonic()
    next_blow = begin + 2
    memory: dict[str, float] = {}
    while (now := time.monotonic()) < begin + SECONDS:
        blows.go_on()
        if now >= next_blow:
            blows.strike()
            next_blow = time.monotonic() + rng.uniform(*PAUSE)
        if not memory and now > begin + WARM * SECONDS:
            memory = blows.memory()
        working.turn(ended(system))
        time.sleep(0.05)  # the pace of the clients
    return memory


def ended(system: System) -> int:
    """How many runs have ended; 0 while the database is away."""
    try:
        return sum(count for state, count in system.states().items() if state in TERMINAL)
    except StorageUnavailable:
        return 0


def unended(system: System) -> int:
    return sum(count for state, count in system.states().items() if state not in TERMINAL)


def wait_for_the_end(system: System, what: str) -> None:
    """Until no run is under way; a failure tells all that is known of some of those that are."""
    try:
        wait_until(lambda: unended(system) == 0, scaled(180, 600), what)
    except AssertionError as error:
        ended = ", ".join(f"'{state}'" for state in TERMINAL)
        left = system.rows(f"SELECT id FROM aiki_runs WHERE state NOT IN ({ended}) ORDER BY id LIMIT 5")
        told = "\n".join(told_of(system, bytes(run)) for (run,) in left)
        raise AssertionError(f"{error}\n{told}\n{system.tails(600)}") from None


def told_of(system: System, run: bytes) -> str:
    """A run's rows, why it waits, and what the processes' logs say of it."""
    columns = "name, state, epoch, attempt, crashes, idle_dispatches, executor, waiting_on, dispatched_at, updated_at, options"
    rows = [
        *system.rows(f"SELECT {columns} FROM aiki_runs WHERE id = ?", run),
        *system.rows("SELECT HEX(id), due_at, again FROM aiki_deliveries WHERE id BETWEEN ? AND ?", run, run + b"\xff" * 4),
        *system.rows("SELECT number, epoch, outcome, error_message FROM aiki_attempts WHERE run_id = ?", run),
    ]
    name = ids.to_text(run)
    lines = [f"{process.name}: {line}" for process in system.processes for line in process.log.splitlines() if name in line]
    return "\n".join([f"=== {name} at {system.store.clock()}: {system.store.why(name)}", *map(str, rows), *lines])


def check_emptied(system: System) -> None:
    """Queues are empty; and once retention has run, so are the tables."""
    broker = broker_of(system.settings, what="a soak")
    session = broker.connect("soak")
    sources = [work("default", "default"), *(reports(number) for number in range(system.store.installation().partitions))]

    def depths() -> dict[str, int]:
        found = {f"{source.kind.value}/{source.key}": session.depth(source) for source in sources}
        return {name: depth.ready for name, depth in found.items() if depth is not None and depth.ready}

    wait_until(lambda: not depths(), 60, f"the queues to be empty: {depths()}")
    session.close()
    before = system.store.clock() + SECOND
    for _ in range(20):
        for state in TERMINAL:
            after: tuple[int, bytes] | None = (0, b"")
            while after is not None:
                page = system.store.purgeable("default", str(state), before, after, 200)
                system.store.purge_runs("default", page.runs, before)
                after = page.next
    while system.store.purge_leftovers():
        pass
    left = {table: system.rows(f"SELECT COUNT(*) FROM aiki_{table}")[0][0] for table in OWN_TABLES}
    assert not any(left.values()), f"rows are left when all runs are purged: {left}"
