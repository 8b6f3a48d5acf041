"""Health checks, for `aiki doctor` and a page: whether all that a run needs is there, and what to do where something is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from aiki.clock import SECOND
from aiki.errors import AikiError, Unavailable
from aiki.settings import DEFAULT_PARTITIONS, Settings, hidden
from aiki.signing import REQUIRE, Installation

if TYPE_CHECKING:
    from aiki.broker import Broker, Session
    from aiki.storage import Store

Verdict = Literal["ok", "note", "fail"]

MAX_CLOCK_DIFFERENCE: Final = 2.0
"""Seconds."""
MAX_LATE: Final = 30.0
"""Seconds that a delivery may be overdue: more than a claim takes to run out."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: `note` is no error, `todo` says what to do."""

    what: str
    verdict: Verdict
    found: str
    todo: str = ""


def checks(settings: Settings) -> Iterator[Check]:
    """All checks, in the order in which one would mend things."""
    yield Check("namespace", "ok", settings.namespace)
    if settings.server_url:
        yield _server(settings)
    absent = [url for url in (settings.database_url, settings.broker_url) if url and _is_absent_file(url)]
    if len(absent) == 2:
        todo = "start `aiki dev -A yourmodule`, or set AIKI_DATABASE_URL and AIKI_BROKER_URL"
        yield Check("embedded files", "note", f"{hidden(absent[0])} is not there; nothing was started here yet", todo)
        return
    if absent:
        todo = "start the processes here, or set AIKI_DATABASE_URL and AIKI_BROKER_URL both"
        yield Check("embedded files", "fail", f"{hidden(absent[0])} is not there, but its companion is named", todo)
        return
    known: list[Installation] = []
    if settings.database_url:
        yield from _database(settings, known)
    if settings.broker_url:
        yield from _broker(settings, known[0] if known else None)
    if not settings.server_url:
        for url, name in ((settings.database_url, "AIKI_DATABASE_URL"), (settings.broker_url, "AIKI_BROKER_URL")):
            if not url:
                todo = f"set {name} too; a worker whose tasks do not enqueue needs AIKI_BROKER_URL alone"
                yield Check("settings", "fail", f"{name} is not set, and the other URL is", todo)


def _server(settings: Settings) -> Check:
    from aiki.client import open_client
    from aiki.model import RunFilter

    client = open_client(settings, "aiki doctor")
    try:
        client.list(RunFilter(), limit=1)
    except AikiError as error:
        return Check("server", "fail", f"{settings.server_url}: {error}", "start it with aiki-server, or mend AIKI_SERVER_URL")
    finally:
        client.close()
    return Check("server", "ok", f"{settings.server_url} answers")


def _database(settings: Settings, known: list[Installation]) -> Iterator[Check]:
    """The database; what it says of itself goes into `known`."""
    from aiki.storage import Store, schema

    try:
        status = schema.status(settings.database_url, settings.timeout, settings.database_password_file)
    except AikiError as error:
        todo = "see that it runs, that the database exists, and that AIKI_DATABASE_URL names user, password, host and database"
        yield Check("database", "fail", str(error), todo)
        return
    yield Check("database", "ok", f"{status.url} answers")
    if not status.current:
        found = f"{status.version or 'no tables'}; {status.needed} is needed"
        newer = status.version is not None and status.version > status.needed
        yield Check("schema", "fail", found, "upgrade Aiki here" if newer else "run: aiki db upgrade")
        return
    yield Check("schema", "ok", status.needed)
    if status.views:
        found = (
            f"{len(status.views)} views of the tables' former names are left, for processes of the release before the upgrade"
        )
        yield Check("former names", "note", found, "once no process of that release runs: aiki db upgrade --finish")
    store = Store(
        settings.database_url,
        namespace=settings.namespace,
        timeout=settings.timeout,
        password_file=settings.database_password_file,
        partitions=settings.partitions,
    )
    try:
        yield from _contents(store, settings)
        known.append(store.installation())
        yield from _installation(known[0], settings)
    except Unavailable as error:
        yield Check("database", "fail", str(error))
    finally:
        store.close()


def _contents(store: Store, settings: Settings) -> Iterator[Check]:
    from aiki.storage.roster import ALIVE

    counts = {state: count.number for state, count in store.state_counts(100_000).items() if count.number}
    yield Check("runs", "ok", ", ".join(f"{count:,} {state}" for state, count in sorted(counts.items())) or "none yet")
    oldest = store.clock() - int(2 * settings.lease * 1e6)
    alive = [row for row in store.workers(ALIVE) if row.heard_at > oldest]
    if alive:
        queues = sorted({queue for row in alive for queue in row.queues})
        names = ", ".join(f"{row.name} (pid {row.pid}, {row.concurrency} children)" for row in alive[:5])
        yield Check("workers", "ok", f"{len(alive)}: {names}; queues: {', '.join(queues)}")
    else:
        yield Check("workers", "note", "none was heard of lately", "start one: aiki-worker -A yourmodule")
    yield from _versions(store, [row.version for row in alive])
    yield _clock(store)
    yield _outbox(store)
    paused = store.pauses().queues.values()
    if paused:
        todo = "aiki queues resume QUEUE, once what it was paused for is over"
        yield Check("paused queues", "note", "; ".join(pause.told(store.clock()) for pause in paused), todo)
    dead = store.dead_letter_count()
    yield Check(
        "dead letters", "note" if dead else "ok", str(dead), "see the page Dead letters, unreadable messages" if dead else ""
    )


def _installation(found: Installation, settings: Settings) -> Iterator[Check]:
    yield Check("installation", "ok", found.id)
    if settings.partitions not in (0, found.partitions):
        todo = f"unset AIKI_PARTITIONS, or change the record: aiki installation partitions {settings.partitions}"
        yield Check("partitions", "fail", f"{found.partitions} on record, AIKI_PARTITIONS is {settings.partitions}", todo)
    else:
        more = f", {found.reading} are read" if found.reading > found.partitions else ""
        yield Check("partitions", "ok", f"{found.partitions}{more}")
    if found.signatures != REQUIRE:
        todo = "once all processes are of this release: aiki installation require-signatures"
        yield Check("signatures", "note", "messages without a signature are believed", todo)
    elif found.other is not None:
        todo = "once every AIKI_WORKER_KEY is replaced: aiki installation finish-rotation"
        yield Check("signatures", "note", "required; the secret is being changed, and two count", todo)
    else:
        yield Check("signatures", "ok", "required")


def _versions(store: Store, workers: list[str]) -> Iterator[Check]:
    from aiki.storage.gauging import LISTENING

    here = version("aiki")
    oldest = store.clock() - int(LISTENING * SECOND)
    others = sorted({row.version for row in store.orchestrators() if row.heard_at > oldest} - {here})
    if others:
        todo = "upgrade orchestrators and servers together: aiki db upgrade, then both"
        yield Check("versions", "note", f"{here} here, orchestrators of {', '.join(others)}", todo)
    elif set(workers) - {here, ""}:
        found = f"{here} here, workers of {', '.join(sorted(set(workers) - {here, ''}))}"
        yield Check("versions", "note", found, "upgrade the workers, too; meanwhile both are served")
    else:
        yield Check("versions", "ok", here)


def _clock(store: Store) -> Check:
    """The clock of the server's processes decides; the database's is the one that all of them can be compared with."""
    ahead = store.clock_difference()
    if ahead is None:
        return Check("clock", "ok", "the database is a file of this machine")
    words = f"{abs(ahead):.1f} s {'behind' if ahead > 0 else 'ahead of'} the database's"
    if abs(ahead) < MAX_CLOCK_DIFFERENCE:
        return Check("clock", "ok", f"this machine's is {words}")
    return Check("clock", "fail", f"this machine's is {words}", "have both machines keep time, with chrony or the like")


def _outbox(store: Store) -> Check:
    """What is due should leave within seconds; what a process has claimed is due again when its claim runs out."""
    gauged = store.gauge()
    late = 0.0 if gauged.oldest_due is None else (store.clock() - gauged.oldest_due) / SECOND
    if late < MAX_LATE:
        return Check("outbox", "ok", f"{gauged.outbox:,} deliveries, none overdue")
    todo = "see that an orchestrator runs and reaches the broker: its log says what hinders it"
    return Check("outbox", "fail", f"{gauged.due:,} deliveries are due, the oldest since {late:.0f} s", todo)


def _broker(settings: Settings, installation: Installation | None) -> Iterator[Check]:
    from aiki.broker import BrokerForeign, broker_of

    where = hidden(settings.broker_url)
    try:
        broker = broker_of(settings)
        session = broker.connect("aiki doctor", settings.timeout)
    except AikiError as error:
        yield Check(
            "broker", "fail", f"{where}: {error}", "see that it runs, and that AIKI_BROKER_URL names user, password and vhost"
        )
        return
    try:
        yield Check("broker", "ok", f"{where} answers")
        if not settings.broker_url.startswith("sqlite"):
            yield _message_size(broker, settings)
        if installation is not None and session.is_claimed():
            session.claim(installation.id)
        yield from _queues(
            session, settings, installation.reading if installation else settings.partitions or DEFAULT_PARTITIONS
        )
    except BrokerForeign as error:
        todo = (
            "give one of the two another AIKI_PREFIX, virtual host or database; or, if the other's database is gone for good: "
        )
        yield Check("broker", "fail", f"it is that of installation {error.owner}", f"{todo}aiki installation take-broker")
    except AikiError as error:
        yield Check("queues", "fail", str(error))
    finally:
        session.close()


def _message_size(broker: Broker, settings: Settings) -> Check:
    """RabbitMQ does not tell its limit: a message of the size that we allow is sent to nobody, on a connection of its own."""
    from aiki.broker import answers

    size = broker.limit.bytes
    words = f"messages of up to {size:,} bytes (AIKI_MAX_MESSAGE)"
    session = broker.connect("aiki doctor", settings.timeout)
    try:
        # An executor that there is not: nobody has a queue for it.
        session.send(answers(f"doctor-{size}"), bytes(size))
        deadline = time.monotonic() + settings.timeout
        while not session.settled() and time.monotonic() < deadline:
            session.receive(0.1)
    except AikiError as error:
        if broker.limit.bytes < size:
            todo = f"set AIKI_MAX_MESSAGE={broker.limit.bytes} everywhere, or raise max_message_size of RabbitMQ"
            return Check("messages", "fail", f"the broker takes {broker.limit.bytes:,} bytes at most, and {words}", todo)
        return Check("messages", "note", f"{words}: {error}", "see that the broker takes messages of that size")
    finally:
        session.close()
    return Check("messages", "ok", words)


def _queues(session: Session, settings: Settings, partitions: int) -> Iterator[Check]:
    from aiki.broker import DEAD, reports, work

    session.receive(0.0)
    if session.blocked:
        yield Check("broker", "fail", f"takes no messages: {session.blocked}", "free memory or disk on the broker")
    depths = [session.depth(reports(partition)) for partition in range(partitions)]
    missing = depths.count(None)
    if missing == len(depths):
        todo = "start one: aiki orchestrator"
        yield Check("orchestrator", "fail", "the report queues are not there: none has ever run here", todo)
    elif missing:
        todo = "see that orchestrators run: they declare them within seconds"
        yield Check("orchestrator", "fail", f"{missing} of {len(depths)} report queues are not there", todo)
    elif not any(depth.consumers for depth in depths if depth):
        waiting = sum(depth.ready for depth in depths if depth)
        todo = "start one: aiki orchestrator; until then runs are accepted and none is recorded as ended"
        yield Check("orchestrator", "fail", f"none is listening; {waiting:,} messages of reports wait", todo)
    else:
        yield Check("orchestrator", "ok", "listening")
    if session.depth(DEAD) is None and missing < len(depths):
        yield Check("dead-letter queue", "fail", "is not there", "start an orchestrator: it declares it")
    depth = session.depth(work(settings.namespace, "default"))
    if depth is None:
        yield Check("queue default", "note", "is not there yet; the first run or worker makes it")
    elif depth.ready and not depth.consumers:
        todo = "start a worker: aiki-worker -A yourmodule"
        yield Check("queue default", "fail", f"{depth.ready:,} messages and no consumer", todo)
    else:
        yield Check("queue default", "ok", f"{depth.ready:,} messages, {depth.consumers} consumers")


def _is_absent_file(url: str) -> bool:
    path = url.removeprefix("sqlite:///")
    return path != url and not Path(path).exists()
