"""The embedded broker: the contract, and what a file brings with it."""

from __future__ import annotations

import resource
import shutil
import signal
import sqlite3
import stat
import time
from pathlib import Path

import pytest

from aiki.broker import CONTROL, BrokerMisconfigured, Settled, reports, sqlite, sqlite_store, work
from aiki.broker.sqlite import SqliteBroker
from aiki.errors import BrokerUnavailable, ConfigurationError
from tests.broker.contract import BrokerContract, numbered
from tests.broker.kits import SqliteKit, bodies, nothing, publish, settle, take
from tests.waiting import wait_until

A = work("ns", "a")


class TestSqliteBroker(BrokerContract):
    @pytest.fixture
    def kit(self, sqlite_kit: SqliteKit) -> SqliteKit:
        return sqlite_kit


# ---------------------------------------------------------------- the file
@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_the_url_must_name_a_file(url: str) -> None:
    with pytest.raises(ConfigurationError, match="file that processes can share"):
        SqliteBroker(url)


def test_a_relative_path_is_fixed_when_the_broker_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SqliteBroker("sqlite:///x/b.db").path == tmp_path / "x/b.db"
    assert SqliteBroker("sqlite:////abs/b.db").path == Path("/abs/b.db")


def test_its_directories_are_private(sqlite_kit: SqliteKit) -> None:
    sqlite_kit.connect()
    for directory in (sqlite_kit.broker.path.parent, sqlite_kit.broker.path.parent / "broker.db.sessions"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_path_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerUnavailable, match=r"file/b\.db cannot be used: File exists \(.*/file\)"):
        SqliteBroker(f"sqlite:///{tmp_path}/file/b.db").connect("x")


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "b.db").write_bytes(b"something else entirely " * 100)
    with pytest.raises(BrokerUnavailable, match="not a database"):
        SqliteBroker(f"sqlite:///{tmp_path}/b.db").connect("x")


def test_a_database_of_something_else_is_told(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "b.db")
    db.execute("CREATE TABLE t (x)")
    db.close()
    with pytest.raises(BrokerMisconfigured, match="not a broker of this version"):
        SqliteBroker(f"sqlite:///{tmp_path}/b.db").connect("x")


def test_a_file_damaged_under_a_session_is_told(sqlite_kit: SqliteKit) -> None:
    session = sqlite_kit.connect()
    publish(session, A, *[b"x" * 5000 for _ in range(100)])
    session.close()
    size = sqlite_kit.broker.path.stat().st_size
    with sqlite_kit.broker.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(BrokerUnavailable, match="malformed"):  # noqa: PT012
        session = sqlite_kit.connect()
        session.subscribe(A, 100)
        session.receive(1.0)
    shutil.rmtree(sqlite_kit.broker.path.parent)


def test_a_removed_file_is_noticed(sqlite_kit: SqliteKit) -> None:
    session = sqlite_kit.connect()
    shutil.rmtree(sqlite_kit.broker.path.parent)
    with pytest.raises(BrokerUnavailable, match="removed or replaced"):
        wait_until(lambda: session.receive(0.5))
    session.close()
    publish(sqlite_kit.connect(), A, b"x")


def test_a_file_locked_for_long_is_unavailable_and_never_hangs(sqlite_kit: SqliteKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "WRITE_TIMEOUT", 0.5)
    session, bulk = sqlite_kit.connect(), sqlite_kit.connect()
    publish(session, A, b"x")
    blocker = sqlite3.connect(sqlite_kit.broker.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        session.send(A, b"pending")
        begun = time.monotonic()
        assert session.receive(0) == []
        assert time.monotonic() - begun < 0.3
        with pytest.raises(BrokerUnavailable, match="another process has been writing"):
            wait_until(lambda: session.receive(0.1))
        with pytest.raises(BrokerUnavailable, match="another process has been writing"):
            wait_until(lambda: [bulk.send(A, b"x") for _ in range(1000)] == [])
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="another process"):
            sqlite_kit.broker.connect("late", timeout=0.3)
        session.close()
        bulk.close()
        assert time.monotonic() - begun < 3
    finally:
        blocker.close()
    publish(sqlite_kit.connect(), A, b"x")


def test_a_short_lock_delays_and_loses_nothing(sqlite_kit: SqliteKit) -> None:
    session = sqlite_kit.connect()
    publish(session, A, b"x")
    blocker = sqlite3.connect(sqlite_kit.broker.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    number = session.send(A, b"pending")
    assert session.settled() == []
    session.receive(0)
    assert session.settled() == []
    blocker.execute("COMMIT")
    blocker.close()
    assert settle(session, 1) == [Settled(number, True)]


# ---------------------------------------------------------------- batches
def test_what_is_sent_is_written_together(sqlite_kit: SqliteKit) -> None:
    session = sqlite_kit.connect()
    looker = sqlite3.connect(sqlite_kit.broker.path)
    for body in numbered(50):
        session.send(A, body)

    def stored() -> int:
        return int(looker.execute("SELECT COUNT(*) FROM messages").fetchone()[0])

    assert stored() == 0
    assert len(session.settled()) == 50
    assert stored() == 50
    for body in numbered(300):
        session.send(A, body)
    assert stored() == 250, "beyond 200 they are not held back"
    looker.close()


def test_subscribers_share_a_backlog(sqlite_kit: SqliteKit) -> None:
    one, two = sqlite_kit.connect(), sqlite_kit.connect()
    publish(one, A, *numbered(40))
    one.subscribe(A, 40)
    two.subscribe(A, 40)
    assert len(one.receive(1.0)) == 20, "as many are left for the other"
    assert len(two.receive(1.0)) == 10


# ---------------------------------------------------------------- who is alive
def test_a_session_taken_for_dead_changes_nothing_more(sqlite_kit: SqliteKit) -> None:
    session, other = sqlite_kit.connect("lost"), sqlite_kit.connect()
    publish(session, A, b"x")
    session.subscribe(A, 1)
    taken = take(session, 1)
    for lock in (sqlite_kit.broker.path.parent / "broker.db.sessions").iterdir():
        if lock.name == session._lock.name:  # type: ignore[attr-defined]
            lock.unlink()
    other.subscribe(A, 1)
    (again,) = take(other, 1)
    assert again.redelivered
    session.ack(taken)
    with pytest.raises(BrokerUnavailable, match="took it for dead"):
        session.receive(0)
    other.requeue([again])
    assert bodies(take(other, 1)) == [b"x"]


def test_a_dead_session_s_subscriptions_and_queues_go_with_it(sqlite_kit: SqliteKit) -> None:
    session = sqlite_kit.connect()
    publish(session, A, b"x")
    process = sqlite_kit.process("hold", "1")
    assert process.line() == "holds 1"
    assert session.depth(A) == (0, 1)
    process.signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: (session.receive(0.2), session.depth(A))[1] == (1, 0))


def test_a_beat_looks_for_the_dead_too(sqlite_kit: SqliteKit) -> None:
    session = sqlite_kit.connect()
    publish(session, A, b"x")
    process = sqlite_kit.process("hold", "1")
    assert process.line() == "holds 1"
    process.kill9()
    wait_until(lambda: (session.beat(), session.depth(A))[1] == (1, 0))


# ---------------------------------------------------------------- limits and costs
def test_a_fanout_subscriber_that_does_not_read_loses_the_oldest(
    sqlite_kit: SqliteKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "FANOUT_LIMIT", 10)
    session, sender = sqlite_kit.connect(), sqlite_kit.connect()
    session.subscribe(CONTROL, 100)
    for start in (0, 7, 14):
        publish(sender, CONTROL, *numbered(7, start))
    assert bodies(take(session, 10)) == numbered(10, start=11)


def test_waiting_costs_next_to_nothing(sqlite_kit: SqliteKit) -> None:
    session = sqlite_kit.connect()
    session.subscribe(A, 10)
    session.subscribe(reports(0), 10)
    session.receive(0.5)
    before = resource.getrusage(resource.RUSAGE_SELF)
    nothing(session, 2.0)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.05, f"{used * 50:.1f} % of a core"
