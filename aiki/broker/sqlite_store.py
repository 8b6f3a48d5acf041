"""The embedded broker's file: its tables, and the statements on them. Every function runs inside its caller's transaction.

A message is ready while it has no owner. The order of a queue is the order of ids; a message that comes back keeps its
id and so its place. A private queue (`session` set) is a subscriber's own on a fanout and goes with it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from aiki.broker.base import Address, BrokerMisconfigured, Kind

VERSION: Final = 1
FANOUTS: Final = frozenset({Kind.CONTROL, Kind.HEARTBEAT, Kind.ANSWERS})
FANOUT_LIMIT: Final = 10_000
"""A subscriber that does not read loses its oldest messages beyond this many."""

_SCHEMA: Final = (
    """CREATE TABLE sessions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        lock TEXT NOT NULL
    )""",
    """CREATE TABLE queues (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        fanout TEXT,
        session INTEGER
    )""",
    "CREATE INDEX queues_fanout ON queues (fanout) WHERE fanout IS NOT NULL",
    """CREATE TABLE subscriptions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue INTEGER NOT NULL,
        session INTEGER NOT NULL,
        UNIQUE (queue, session)
    )""",
    """CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue INTEGER NOT NULL,
        owner INTEGER,
        redelivered INTEGER NOT NULL DEFAULT 0,
        headers TEXT,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX messages_ready ON messages (queue, id) WHERE owner IS NULL",
    "CREATE INDEX messages_owned ON messages (owner) WHERE owner IS NOT NULL",
    f"PRAGMA user_version = {VERSION}",
)


class Row(NamedTuple):
    """A message taken."""

    id: int
    redelivered: int
    headers: str | None
    body: bytes


def create(db: sqlite3.Connection) -> None:
    """Make the tables unless they are there; raises `BrokerMisconfigured` for a file of another version."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == VERSION:
        return
    if version or db.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise BrokerMisconfigured(f"the file is not a broker of this version of Aiki (its version is {version}, not {VERSION})")
    for statement in _SCHEMA:
        db.execute(statement)


# ---------------------------------------------------------------- whose it is
def owner(db: sqlite3.Connection) -> str | None:
    """The installation that the file belongs to, or None."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'owner'").fetchone() is None:
        return None  # made by a release that did not ask
    row = db.execute("SELECT installation FROM owner").fetchone()
    return None if row is None else str(row[0])


def claim(db: sqlite3.Connection, installation: str, anew: bool) -> str:
    """Whose the file is from here on: the installation's, unless it was another's and is not claimed anew."""
    db.execute("CREATE TABLE IF NOT EXISTS owner (one INTEGER PRIMARY KEY CHECK (one = 1), installation TEXT NOT NULL)")
    if anew:
        db.execute("DELETE FROM owner")
    db.execute("INSERT OR IGNORE INTO owner VALUES (1, ?)", (installation,))
    return str(owner(db))


# ---------------------------------------------------------------- queues
def queue_name(address: Address) -> str:
    """How an address is called in the file, and to people: `work/default/payments`, `reports/3`, `dead`."""
    return f"{address.kind.value}/{address.key}" if address.key else address.kind.value


def declare(db: sqlite3.Connection, address: Address) -> int:
    """The id of the queue, which is made if need be."""
    db.execute("INSERT OR IGNORE INTO queues (name) VALUES (?)", (queue_name(address),))
    found = find(db, address)
    assert found is not None
    return found


def find(db: sqlite3.Connection, address: Address) -> int | None:
    """The id of the queue, or None."""
    row = db.execute("SELECT id FROM queues WHERE name = ?", (queue_name(address),)).fetchone()
    return None if row is None else int(row[0])


def exists(db: sqlite3.Connection, queue: int) -> bool:
    """Whether there still is a queue of that id."""
    return db.execute("SELECT 1 FROM queues WHERE id = ?", (queue,)).fetchone() is not None


def _fanout(address: Address) -> str:
    return f"{address.kind.value}/{address.key}" if address.key else address.kind.value


def declare_private(db: sqlite3.Connection, address: Address, session: int) -> int:
    """A subscriber's own queue on a fanout."""
    name = f"{_fanout(address)}#{session}"
    cursor = db.execute("INSERT INTO queues (name, fanout, session) VALUES (?, ?, ?)", (name, _fanout(address), session))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def drop(db: sqlite3.Connection, queue: int) -> None:
    """Delete a queue with all that is in it."""
    db.execute("DELETE FROM messages WHERE queue = ?", (queue,))
    db.execute("DELETE FROM subscriptions WHERE queue = ?", (queue,))
    db.execute("DELETE FROM queues WHERE id = ?", (queue,))


def depth(db: sqlite3.Connection, queue: int) -> tuple[int, int]:
    """Messages ready, and subscribers."""
    ready = db.execute("SELECT COUNT(*) FROM messages WHERE queue = ? AND owner IS NULL", (queue,)).fetchone()[0]
    return int(ready), consumers(db, queue)


def consumers(db: sqlite3.Connection, queue: int) -> int:
    """How many subscribe to a queue."""
    return int(db.execute("SELECT COUNT(*) FROM subscriptions WHERE queue = ?", (queue,)).fetchone()[0])


def purge(db: sqlite3.Connection, queue: int) -> int:
    """Delete what is ready."""
    return db.execute("DELETE FROM messages WHERE queue = ? AND owner IS NULL", (queue,)).rowcount


# ---------------------------------------------------------------- messages
def put(db: sqlite3.Connection, queue: int, bodies: Iterable[bytes]) -> None:
    """Append messages to a queue."""
    db.executemany("INSERT INTO messages (queue, body) VALUES (?, ?)", [(queue, body) for body in bodies])


def put_fanout(db: sqlite3.Connection, address: Address, bodies: list[bytes]) -> None:
    """Append messages to the queue of every subscriber, and let those who do not read lose the oldest."""
    for (queue,) in db.execute("SELECT id FROM queues WHERE fanout = ?", (_fanout(address),)).fetchall():
        put(db, queue, bodies)
        db.execute(
            "DELETE FROM messages WHERE queue = ?1 AND owner IS NULL AND id <= "
            "(SELECT id FROM messages WHERE queue = ?1 AND owner IS NULL ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            (queue, FANOUT_LIMIT),
        )


def ready(db: sqlite3.Connection, queue: int) -> bool:
    """Whether there is something to take."""
    return db.execute("SELECT 1 FROM messages WHERE queue = ? AND owner IS NULL LIMIT 1", (queue,)).fetchone() is not None


def is_active(db: sqlite3.Connection, queue: int, session: int) -> bool:
    """Whether the session is the one that has subscribed longest."""
    row = db.execute("SELECT session FROM subscriptions WHERE queue = ? ORDER BY id LIMIT 1", (queue,)).fetchone()
    return row is not None and row[0] == session


def take(db: sqlite3.Connection, queue: int, session: int, limit: int, most: int) -> list[Row]:
    """The next messages, of about `most` bytes together, which belong to the session from here on."""
    rows = _next(db, queue, limit, most)
    db.executemany("UPDATE messages SET owner = ? WHERE id = ?", [(session, row.id) for row in rows])
    return rows


def take_away(db: sqlite3.Connection, queue: int, limit: int, most: int) -> list[Row]:
    """The next messages, of about `most` bytes together, which are deleted: they need no ack."""
    rows = _next(db, queue, limit, most)
    db.executemany("DELETE FROM messages WHERE id = ?", [(row.id,) for row in rows])
    return rows


def share(db: sqlite3.Connection, queue: int, capacity: int) -> int:
    """How many of up to `capacity` messages a subscriber takes at once, so that as much is left for each of the others."""
    others = consumers(db, queue)
    if others <= 1 or capacity <= 1:
        return capacity
    counted = db.execute(
        "SELECT COUNT(*) FROM (SELECT 1 FROM messages WHERE queue = ? AND owner IS NULL LIMIT ?)", (queue, capacity * others)
    ).fetchone()[0]
    return min(capacity, -(-int(counted) // others))


def _next(db: sqlite3.Connection, queue: int, limit: int, most: int) -> list[Row]:
    rows = db.execute(
        "SELECT id, redelivered, headers, body FROM messages WHERE queue = ? AND owner IS NULL ORDER BY id LIMIT ?",
        (queue, limit),
    )
    out: list[Row] = []
    size = 0
    for found in rows:
        row = Row._make(found)
        size += len(row.body)
        if out and size > most:
            break
        out.append(row)
    rows.close()
    return out


def ack(db: sqlite3.Connection, session: int, ids: Iterable[int]) -> None:
    """Delete messages that the session owns."""
    db.executemany("DELETE FROM messages WHERE id = ? AND owner = ?", [(message, session) for message in ids])


def give_back(db: sqlite3.Connection, session: int, ids: Iterable[int]) -> None:
    """Make messages that the session owns ready again, flagged."""
    db.executemany(
        "UPDATE messages SET owner = NULL, redelivered = 1 WHERE id = ? AND owner = ?", [(message, session) for message in ids]
    )


def bury(db: sqlite3.Connection, session: int, message: int, headers: dict[str, Any]) -> None:
    """Move a message that the session owns to the dead letters."""
    dead = declare(db, Address(Kind.DEAD))
    db.execute(
        "INSERT INTO messages (queue, headers, body) SELECT ?, ?, body FROM messages WHERE id = ? AND owner = ?",
        (dead, json.dumps(headers), message, session),
    )
    ack(db, session, [message])


# ---------------------------------------------------------------- sessions
def enter(db: sqlite3.Connection, name: str, lock: str) -> int:
    """A new session; its number is never used again."""
    cursor = db.execute("INSERT INTO sessions (name, lock) VALUES (?, ?)", (name, lock))
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def is_known(db: sqlite3.Connection, session: int) -> bool:
    """Whether the session is still there, that is, nobody took it for dead."""
    return db.execute("SELECT 1 FROM sessions WHERE id = ?", (session,)).fetchone() is not None


def others(db: sqlite3.Connection, session: int) -> list[tuple[int, str]]:
    """All other sessions: number and lock file."""
    return db.execute("SELECT id, lock FROM sessions WHERE id <> ?", (session,)).fetchall()


def subscribe(db: sqlite3.Connection, queue: int, session: int) -> None:
    """Note a subscription, at the end of the line unless it is there."""
    db.execute("INSERT OR IGNORE INTO subscriptions (queue, session) VALUES (?, ?)", (queue, session))


def unsubscribe(db: sqlite3.Connection, queue: int, session: int) -> None:
    """Forget a subscription."""
    db.execute("DELETE FROM subscriptions WHERE queue = ? AND session = ?", (queue, session))


def leave(db: sqlite3.Connection, session: int) -> None:
    """Remove a session: what it took goes back, flagged, and what was its own goes."""
    db.execute("UPDATE messages SET owner = NULL, redelivered = 1 WHERE owner = ?", (session,))
    for (queue,) in db.execute("SELECT id FROM queues WHERE session = ?", (session,)).fetchall():
        drop(db, queue)
    db.execute("DELETE FROM subscriptions WHERE session = ?", (session,))
    db.execute("DELETE FROM sessions WHERE id = ?", (session,))
