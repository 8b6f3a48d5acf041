"""The answer to a commit is lost: what was done is done once, and the verb answers as if nothing had been lost.

Every verb of the store that writes is called with the answer lost at each of its commits, one after the other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pymysql
import pytest

from aiki import codec, ids
from aiki import messages as m
from aiki.history import SLEEP, Wait
from aiki.model import NewRun
from aiki.storage import Store
from aiki.storage.batches import Operation, Target
from aiki.storage.roster import Wanted
from aiki.storage.tables import metadata
from tests.storage.bench import Bench, step
from tests.storage.conftest import SetClock

Call = Callable[[], Any]


class Losing:
    """Commits as ever, and at the `at`th commit from now raises what a lost connection raises."""

    def __init__(self, store: Store) -> None:
        self.commits = 0
        self.at = 0
        dialect, script = store.db.engine.dialect, store.db.dialect.script
        commit = dialect.do_commit

        def do_commit(connection: Any) -> None:
            commit(connection)
            if self._loses():
                raise lost(connection)

        def scripted(connection: Any, statements: Any, *, commit: bool = False) -> None:
            script(connection, statements, commit=commit)
            if commit and self._loses():
                raw = connection.connection.dbapi_connection
                connection.invalidate()
                raise _wrapped(lost(raw))

        def lost(connection: Any) -> Exception:
            """What SQLAlchemy takes for a lost connection."""
            if store.db.dialect.name == "sqlite":
                return sqlite3.ProgrammingError("Cannot operate on a closed database.")
            if store.db.dialect.name == "postgresql":
                getattr(connection, "dbapi_connection", connection).close()
                return psycopg.OperationalError("the connection is lost")
            return pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")

        dialect.do_commit = do_commit  # type: ignore[method-assign]
        store.db.dialect.script = scripted  # type: ignore[method-assign]

    def _loses(self) -> bool:
        self.commits += 1
        return self.commits == self.at

    @contextmanager
    def losing(self, at: int) -> Iterator[None]:
        self.commits, self.at = 0, at
        yield
        self.at = 0


def _wrapped(error: Exception) -> Exception:
    from sqlalchemy.exc import OperationalError

    wrapped = OperationalError("script", None, error)
    wrapped.connection_invalidated = True
    return wrapped


class World:
    """A store with a run in each state, made anew for each call that is tried."""

    def __init__(self, store: Store, clock: SetClock) -> None:
        self.store = store
        self.bench = Bench(store, clock)
        self.clock = clock

    def task(self) -> str:
        return self.bench.text(self.bench.start("shop.task", kind="task"))

    def running(self) -> str:
        run = self.bench.start()
        self.bench.steps(run, step(0, "step", "a", "completed", 1))
        return self.bench.text(run)

    def sleeping(self) -> str:
        run = self.bench.start()
        self.bench.suspend(run, Wait(SLEEP, 0, 0, "nap", None, 3600.0), steps=(step(0, "sleep", "nap"),))
        return self.bench.text(run)

    def failed(self) -> str:
        run = self.bench.start("shop.task", kind="task")
        self.bench.fail(run)
        return self.bench.text(run)

    def paused(self) -> str:
        run = self.sleeping()
        self.store.pause_run(run)
        return run

    def worker(self) -> str:
        worker = ids.new_id().hex
        self.store.save_worker(m.Heartbeat("default", m.HELLO, worker, [], {"name": "w", "queues": ["default"]}))
        return worker

    def letter(self) -> str:
        key = ids.new_id().bytes
        self.store.save_dead_letter("default", "reports", "unknown", {}, b"x", key)
        return key.hex()

    def report(self, run: str, kind: str, **body: Any) -> Any:
        return self.bench.report(ids.to_bytes(run).hex(), (kind, body))


def new_run(**options: Any) -> NewRun:
    return NewRun(str(ids.new_id()), "shop.task", codec.encode([[], {}]), **options)


def calls(world: World, name: str) -> dict[str, Call]:
    """Each verb with what it is called for; made before anything is lost."""
    store = world.store
    hook = store.create_webhook("https://example.org/a", states=["failed"], names=[], secret="s")
    off = store.create_webhook("https://example.org/b", states=["failed"], names=[], secret="s")
    if "user" in name:  # to hash a password takes long, and is meant to
        store.add_user("ann", "a long enough password", "admin")
        store.add_user("bob", "a long enough password", "viewer")
    store.pause_queue("resumed")
    key_id = store.add_key("k", "viewer")[1].id
    batch, stopped = str(ids.new_id()), str(ids.new_id())
    store.create_batch(stopped, Operation.CANCEL, Target(ids=(world.task(),)), expected=1)
    one, many, named = new_run(), [new_run(), new_run()], new_run(reference_id="r")
    task, running, failed, sleeping, paused = world.task(), world.running(), world.failed(), world.sleeping(), world.paused()
    again, source = str(ids.new_id()), world.failed()
    world_running, sleeping_too, event_taker, reported = world.running(), world.sleeping(), world.sleeping(), world.task()
    store.create_runs([new_run() for _ in range(3)])  # for the sweeper
    worker, letter = world.worker(), world.letter()
    return {
        "create_runs one": lambda: _made(store.create_runs([one], claim=5)),
        "create_runs many": lambda: _made(store.create_runs(many, claim=5)),
        "create_runs reference id": lambda: _made(store.create_runs([named], claim=5)),
        "cancel task": lambda: _cancelled(store.cancel_run(task, actor="ann")),
        "cancel workflow": lambda: _cancelled(store.cancel_run(running, actor="ann")),
        "terminate": lambda: _cancelled(store.cancel_run(world_running, actor="ann", at_once=True)),
        "retry": lambda: _state(store.retry_run(failed, actor="ann")),
        "pause": lambda: _state(store.pause_run(sleeping_too, actor="ann")),
        "resume": lambda: _state(store.resume_run(paused, actor="ann")),
        "wake": lambda: _state(store.wake_run(sleeping, actor="ann")),
        "send_event": lambda: _state(store.send_event(event_taker, "paid", codec.encode(1), actor="ann")),
        "rerun": lambda: _made(store.rerun(source, new_id=again, claim=5, actor="ann")),
        "pause_queue": lambda: sorted(store.pause_queue("slow", actor="ann").queues),
        "resume_queue": lambda: sorted(store.resume_queue("resumed", actor="ann").queues),
        "want_worker": lambda: _wanted(store.want_worker(worker, Wanted.DRAIN, actor="ann")),
        "forget_dead_letters": lambda: store.forget_dead_letters([letter], requeued=False, actor="ann"),
        "create_webhook": lambda: store.create_webhook("https://e.org/", states=["failed"], names=[], secret="s").url,
        "enable_webhook": lambda: store.enable_webhook(off.id, False, actor="ann").enabled,
        "redeliver": lambda: store.redeliver(hook.id, actor="ann"),
        "delete_webhook": lambda: store.delete_webhook(off.id, actor="ann"),
        "add_user": lambda: store.add_user("eve", "a long enough password", "viewer", actor="ann").name,
        "change_user": lambda: store.change_user("bob", role="operator", actor="ann").role,
        "remove_user": lambda: store.remove_user("bob", actor="ann"),
        "add_key": lambda: store.add_key("new", "viewer", actor="ann")[1].name,
        "revoke_key": lambda: store.revoke_key(key_id, actor="ann").revoked_at is not None,
        "create_batch": lambda: store.create_batch(batch, Operation.CANCEL, Target(ids=(task,)), expected=1)[1],
        "stop_batch": lambda: getattr(store.stop_batch(stopped, actor="ann"), "state", None),
        "audit": lambda: store.audit("ann", "look", "run"),
        "register_definitions": lambda: store.register_definitions([], actor="ann"),
        "claim_due": lambda: sorted(item.dispatch.run_id for item in store.claim_due().outgoing),
        "report": lambda: world.report(reported, m.COMPLETED, ms=1),
        "fold_tallies": lambda: bool(store.fold_tallies() + 1),
    }


def _made(created: Any) -> Any:
    return [(item.id, item.created) for item in created.accepted], sorted(out.dispatch.run_id for out in created.outgoing)


def _cancelled(cancelled: Any) -> Any:
    return cancelled.run.id, cancelled.run.state, cancelled.revoke, cancelled.interrupt, cancelled.soon


def _state(done: Any) -> Any:
    return done.run.id, done.run.state, len(done.outgoing)


def _wanted(row: Any) -> Any:
    return row.wanted


NAMES = [
    *("create_runs one", "create_runs many", "create_runs reference id", "cancel task", "cancel workflow", "terminate"),
    *("retry", "pause", "resume", "wake", "send_event", "rerun", "pause_queue", "resume_queue", "want_worker"),
    *("forget_dead_letters", "create_webhook", "enable_webhook", "redeliver", "delete_webhook", "add_user", "change_user"),
    *("remove_user", "add_key", "revoke_key", "create_batch", "stop_batch", "audit", "register_definitions", "claim_due"),
    *("report", "fold_tallies"),
]
TABLES = [
    f"aiki_{name}"
    for name in "runs deliveries revocations inbox steps audit queues batches webhooks users api_keys".split()  # noqa: SIM905
]


def counts(store: Store) -> dict[str, Any]:
    """What there is: how many rows of each table, runs by what they are in, and the audit's verbs."""

    def read(connection: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for table in TABLES:
            found[table] = store.db.execute(connection, f"SELECT COUNT(*) FROM {table}").fetchone()[0]
        columns = "state, epoch, attempt, cancel_requested"
        sql = f"SELECT {columns}, COUNT(*) FROM aiki_runs GROUP BY {columns}"
        found["states"] = sorted(map(tuple, store.db.execute(connection, sql).fetchall()))
        return found

    return store.db.read(read)


def shape(answer: Any) -> Any:
    """An answer without what is random in it: ids are told apart, not compared."""
    known: dict[str, int] = {}

    def of(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [of(item) for item in value]
        if isinstance(value, str) and len(value) in (32, 36):
            return known.setdefault(value.replace("-", ""), len(known))
        return value

    return of(answer)


@pytest.fixture
def world(emptied_store: Store, clock: SetClock) -> World:
    return World(emptied_store, clock)


@pytest.fixture(scope="module")
def losing(shared_store: Store) -> Losing:
    return Losing(shared_store)


@pytest.mark.parametrize("name", NAMES)
def test_a_lost_answer_changes_nothing(name: str, world: World, losing: Losing) -> None:
    tables = [table.name for table in metadata.sorted_tables]
    call = calls(world, name)[name]
    with losing.losing(0):
        answer = shape(call())
        commits = losing.commits
    after = counts(world.store)
    assert commits >= 1 or name == "register_definitions"
    for at in range(1, commits + 1):
        world.store.db.transaction(lambda c: [world.store.db.execute(c, f"DELETE FROM {table}") for table in tables])
        call = calls(world, name)[name]
        with losing.losing(at):
            assert shape(call()) == answer, f"the answer after commit {at} was lost"
        assert counts(world.store) == after, f"what is there after the answer to commit {at} was lost"
