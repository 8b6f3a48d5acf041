"""The verbs of workers, orchestrators and definitions, and of saving dead letters."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa

from aiki import ids
from aiki.clock import SECOND, Clock
from aiki.errors import RunConflict
from aiki.lifecycle.effects import Audited
from aiki.messages import Heartbeat, RunKey
from aiki.model import DefinitionInfo
from aiki.states import State
from aiki.storage.auditing import AUDIT_COLUMNS, Auditing, Origin, audit_rows
from aiki.storage.engine import Database
from aiki.words import moment

ALIVE, STOPPED, LOST = "alive", "stopped", "lost"
_WORKER = (
    "namespace, id, state, name, host, pid, queues, concurrency, definitions, children, started_at, heard_at, version, memory, "
    "draining, paused, wanted, wanted_by"
)


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """An incarnation of a worker. `definitions` holds `(name, version)` pairs; `memory` is KiB, without the children."""

    namespace: str
    id: str
    state: str
    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    concurrency: int
    definitions: frozenset[tuple[str, str]]
    children: list[dict[str, Any]]
    started_at: int
    heard_at: int
    version: str = ""
    memory: int | None = None
    draining: bool = False
    paused: tuple[str, ...] = ()
    wanted: str | None = None
    wanted_by: str | None = None
    triples: tuple[tuple[str, str, str], ...] = ()
    """Its definitions with their kinds: name, version, kind."""


class Said(NamedTuple):
    """What a worker's last beat said: of its children, KiB of its own processes, whether it stops, queues it holds paused."""

    children: list[dict[str, Any]]
    memory: int | None = None
    draining: bool = False
    paused: Sequence[str] = ()


class WorkerEnd(NamedTuple):
    """A worker's state, its name, and whether it was stopping when it was last heard."""

    state: str
    name: str
    draining: bool


class Wanted(StrEnum):
    """What an operator wants of a worker, from least to most."""

    DRAIN = "drain"
    """Finish what runs, take nothing new, then exit."""
    STOP = "stop"
    """The same: what TERM does."""
    KILL = "kill"
    """Stop at once: what runs is killed and given back."""


class OrchestratorRow(NamedTuple):
    """An orchestrator, and when it was last heard."""

    id: str
    state: str
    host: str
    pid: int
    version: str
    started_at: int
    heard_at: int


class Roster(Auditing):
    """Who works here, and what they know."""

    db: Database
    namespace: str
    clock: Clock
    origin: Origin

    # ------------------------------------------------------------ definitions
    def register_definitions(
        self, definitions: Sequence[DefinitionInfo], namespace: str | None = None, *, actor: str = ""
    ) -> None:
        """Make definitions known; options of known ones are replaced. Of several new versions the last given is the newest.

        :param actor: who asks, to be audited if anything changes.
        """
        where = namespace or self.namespace
        order = {(item.name, item.version): position for position, item in enumerate(definitions)}

        def work(connection: sa.Connection) -> None:
            now = self.clock()
            changed: list[str] = []
            known = {
                (row[0], row[1]): (row[2], row[3])
                for row in self.db.execute(
                    connection, "SELECT name, version, kind, options FROM aiki_definitions WHERE namespace = ?", (where,)
                )
            }
            for item in sorted(definitions, key=lambda d: (d.name, d.version)):
                options = json.dumps(item.options, sort_keys=True)
                if known.get((item.name, item.version)) == (item.kind, options):
                    continue
                changed.append(f"{item.name}@{item.version}")
                if (item.name, item.version) not in known:
                    columns = ("namespace", "name", "version", "kind", "options", "registered_at")
                    registered_at = now + order[item.name, item.version]
                    row = (where, item.name, item.version, item.kind, options, registered_at)
                    if self.db.inserted(connection, "aiki_definitions", columns, [row]):
                        continue
                self.db.execute(
                    connection,
                    "UPDATE aiki_definitions SET kind = ?, options = ? WHERE namespace = ? AND name = ? AND version = ?",
                    (item.kind, options, where, item.name, item.version),
                )
            if actor and changed:
                entry = Audited(actor, "register", changed[0], ", ".join(changed)[:4000], affected=len(changed))
                self.db.insert(connection, "aiki_audit", AUDIT_COLUMNS, audit_rows(where, now, self.origin, [entry]))

        self.db.transaction(work, repeatable=True)

    def definitions(self) -> list[DefinitionInfo]:
        """All definitions of the namespace."""
        sql = "SELECT name, version, kind, options FROM aiki_definitions WHERE namespace = ? ORDER BY name, version"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, (self.namespace,)).fetchall())
        return [DefinitionInfo(name, version, kind, json.loads(options)) for name, version, kind, options in rows]

    def definition(self, name: str, version: str | None = None) -> DefinitionInfo | None:
        """The definition of a name in this version, by default in the one that was registered last; or None."""
        sql = "SELECT name, version, kind, options FROM aiki_definitions WHERE namespace = ? AND name = ? "
        key: tuple[str, ...] = (self.namespace, name)
        if version is not None:
            sql, key = f"{sql}AND version = ? ", (*key, version)
        sql += "ORDER BY registered_at DESC LIMIT 1"
        row = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchone())
        return DefinitionInfo(row[0], row[1], row[2], json.loads(row[3])) if row else None

    def versions_of(self, name: str) -> list[str]:
        """The registered versions of a name, the one that was registered last at the end."""
        sql = "SELECT version FROM aiki_definitions WHERE namespace = ? AND name = ? ORDER BY registered_at, version"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, (self.namespace, name)).fetchall())
        return [row[0] for row in rows]

    def closest_names(self, name: str) -> list[str]:
        """Registered names that look like `name`, best first."""
        return difflib.get_close_matches(name, sorted({item.name for item in self.definitions()}), n=3, cutoff=0.5)

    def save_durations(self, namespace: str, means: Mapping[str, float]) -> None:
        """Record mean durations (ms) by name."""

        def work(connection: sa.Connection) -> None:
            for name in sorted(means):
                self.db.execute(
                    connection,
                    "UPDATE aiki_definitions SET mean_ms = ? WHERE namespace = ? AND name = ?",
                    (means[name], namespace, name),
                )

        self.db.transaction(work, repeatable=True)

    # ------------------------------------------------------------ workers
    def save_worker(self, hello: Heartbeat) -> None:
        """A worker said hello: record it, alive, with its definitions."""
        f = hello.fields
        now = self.clock()
        definitions = [tuple(item) for item in f.get("definitions", [])]
        values = {
            "state": ALIVE,
            "name": str(f.get("name", ""))[:255],
            "host": str(f.get("host", ""))[:255],
            "pid": int(f.get("pid", 0)),
            "queues": json.dumps(f.get("queues", [])),
            "concurrency": int(f.get("concurrency", 0)),
            "definitions": json.dumps(definitions),
            "version": str(f.get("version", ""))[:32],
            "children": "[]",
            "heard_at": now,
        }
        raw = bytes.fromhex(hello.worker)

        def work(connection: sa.Connection) -> None:
            sets = ", ".join(f"{column} = ?" for column in values)
            updated = self.db.execute(
                connection,
                f"UPDATE aiki_workers SET {sets} WHERE namespace = ? AND id = ?",
                (*values.values(), hello.namespace, raw),
            )
            if updated.rowcount:
                return
            row = (hello.namespace, raw, now, *values.values())
            # If it is there by now, another orchestrator heard the same hello.
            self.db.inserted(connection, "aiki_workers", ("namespace", "id", "started_at", *values), [row])

        self.db.transaction(work, repeatable=True)
        self.register_definitions_if_new(hello.namespace, definitions)

    def register_definitions_if_new(self, namespace: str, definitions: Sequence[tuple[Any, ...]]) -> None:
        """Register `(name, version, kind)` triples that nobody has registered, without touching the options of known ones."""
        known = self.db.read(
            lambda connection: self.db.execute(
                connection, "SELECT name, version FROM aiki_definitions WHERE namespace = ?", (namespace,)
            ).fetchall()
        )
        there = {(row[0], row[1]) for row in known}
        new = [DefinitionInfo(*item[:3]) for item in definitions if (item[0], item[1]) not in there]
        if new:
            self.register_definitions(new, namespace)

    def heard(self, namespace: str, beats: Mapping[str, Said]) -> None:
        """Workers that were heard since the last call, with what they said."""
        now = self.clock()

        def work(connection: sa.Connection) -> None:
            for worker, said in sorted(beats.items()):
                values = (json.dumps(said.children), said.memory, int(said.draining), json.dumps(list(said.paused)))
                self.db.execute(
                    connection,
                    "UPDATE aiki_workers SET state = 'alive', heard_at = ?, children = ?, memory = ?, "
                    "draining = CASE WHEN ? = 1 THEN 1 ELSE draining END, paused = ? "  # none that stops ever goes on
                    "WHERE namespace = ? AND id = ? AND state <> 'stopped'",
                    (now, *values, namespace, bytes.fromhex(worker)),
                )

        self.db.transaction(work, repeatable=True)

    def set_worker_state(self, namespace: str, worker: str, state: str, *, draining: bool = False) -> None:
        """Record that a worker has stopped or is lost. `draining`: it was stopping when it was last heard."""
        sql = "UPDATE aiki_workers SET state = ?, children = '[]'" + (", draining = 1" if draining else "")
        sql += " WHERE namespace = ? AND id = ?"
        self.db.transaction(
            lambda connection: self.db.execute(connection, sql, (state, namespace, bytes.fromhex(worker))).rowcount,
            repeatable=True,
        )

    def note_draining(self, namespace: str, worker: str) -> None:
        """Record that a worker was about to stop when it last said anything."""
        sql = "UPDATE aiki_workers SET draining = 1 WHERE namespace = ? AND id = ? AND draining = 0"
        self.db.transaction(
            lambda connection: self.db.execute(connection, sql, (namespace, bytes.fromhex(worker))).rowcount, repeatable=True
        )

    def workers(self, state: str | None = None, *, all_namespaces: bool = False, limit: int | None = 1000) -> list[WorkerRow]:
        """Workers, newest first; at most `limit`."""
        conditions, parameters = ["1 = 1"], []  # type: list[str], list[Any]
        if state is not None:
            conditions.append("state = ?")
            parameters.append(state)
        if not all_namespaces:
            conditions.append("namespace = ?")
            parameters.append(self.namespace)
        sql = f"SELECT {_WORKER} FROM aiki_workers WHERE {' AND '.join(conditions)} ORDER BY started_at DESC"
        sql += "" if limit is None else f" LIMIT {int(limit)}"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, parameters).fetchall())
        return [_worker_row(row) for row in rows]

    def worker(self, worker_id: str) -> WorkerRow | None:
        """The worker of this id (32 hex digits) in the namespace, or None."""
        try:
            key = (self.namespace, bytes.fromhex(worker_id))
        except ValueError:
            return None
        sql = f"SELECT {_WORKER} FROM aiki_workers WHERE namespace = ? AND id = ?"
        row = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchone())
        return _worker_row(row) if row else None

    def want_worker(self, worker_id: str, wanted: Wanted, *, reason: str = "", actor: str = "") -> WorkerRow | None:
        """Ask a worker that lives to drain or stop; what was asked before and is more stays. None: there is no such worker.

        :raises RunConflict: it is gone.
        """
        found = self.worker(worker_id)
        if found is None:
            return None
        if found.state != ALIVE:
            raise RunConflict(
                f"worker {found.name} ({found.id}) is gone: it is {found.state}, last heard at "
                f"{moment(found.heard_at, self.clock())}"
            )
        order = list(Wanted)
        if found.wanted and order.index(Wanted(found.wanted)) >= order.index(wanted):
            return found

        def work(connection: sa.Connection) -> None:
            now = self.clock()
            self.db.execute(
                connection,
                "UPDATE aiki_workers SET wanted = ?, wanted_by = ?, wanted_at = ? WHERE namespace = ? AND id = ?",
                (wanted.value, actor[:255], now, self.namespace, bytes.fromhex(worker_id)),
            )
            entry = Audited(actor, f"{wanted}_worker", f"worker {found.name} {found.id}", reason=reason)
            self.write_audit(connection, [entry])

        self._do(work, f"{wanted}_worker", worker_id, lambda: None)
        return self.worker(worker_id)

    def wanted_workers(self) -> list[tuple[str, str, Wanted, bool]]:
        """Workers of all namespaces that live and are to stop: namespace, id, how, whether they stop already."""
        sql = "SELECT namespace, id, wanted, draining FROM aiki_workers WHERE state = 'alive' AND wanted IS NOT NULL"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql).fetchall())
        return [(row[0], bytes(row[1]).hex(), Wanted(row[2]), bool(row[3])) for row in rows]

    # ------------------------------------------------------------ orchestrators
    def save_orchestrator(self, orchestrator_id: str, state: str, host: str, pid: int, version: str) -> None:
        """An orchestrator says that it lives (or stops). Those not heard for a day are forgotten."""

        def work(connection: sa.Connection) -> None:
            now = self.clock()
            key = (self.namespace, bytes.fromhex(orchestrator_id))
            sql = "UPDATE aiki_orchestrators SET state = ?, heard_at = ? WHERE namespace = ? AND id = ?"
            if self.db.execute(connection, sql, (state, now, *key)).rowcount:
                return
            columns = ("namespace", "id", "state", "host", "pid", "version", "started_at", "heard_at")
            row = (*key, state, host[:255], pid, version[:32], now, now)
            self.db.insert_new(connection, "aiki_orchestrators", columns, [row])
            sql = "DELETE FROM aiki_orchestrators WHERE namespace = ? AND heard_at < ?"
            self.db.execute(connection, sql, (self.namespace, now - 86400 * SECOND))

        self.db.transaction(work, repeatable=True)

    def orchestrators(self) -> list[OrchestratorRow]:
        """The orchestrators of all namespaces, for each works for all, the one heard last first."""
        sql = (
            "SELECT id, state, host, pid, version, started_at, heard_at FROM aiki_orchestrators ORDER BY "
            "heard_at DESC LIMIT 100"
        )
        rows = self.db.read(lambda connection: self.db.execute(connection, sql).fetchall())
        return [OrchestratorRow(bytes(row[0]).hex(), *row[1:]) for row in rows]

    def runs_of_worker(self, namespace: str, worker: str) -> list[tuple[RunKey, int]]:
        """The runs that are recorded as running in a worker's hands, with their partitions."""
        sql = "SELECT id, epoch, partition_no FROM aiki_runs WHERE namespace = ? AND state = ? AND worker = ?"
        key = (namespace, State.RUNNING.value, bytes.fromhex(worker))
        rows = self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchall())
        return [(RunKey(bytes(raw).hex(), epoch), partition) for raw, epoch, partition in rows]

    def worker_ends(self, namespace: str, workers: Iterable[str]) -> dict[str, WorkerEnd]:
        """How each of these workers stands that is on record."""
        wanted = [bytes.fromhex(worker) for worker in sorted(set(workers))]
        sql = "SELECT id, state, name, draining FROM aiki_workers WHERE namespace = ? AND id"
        rows = self.db.read(lambda connection: self.db.where_in(connection, sql, (namespace,), wanted))
        return {bytes(raw).hex(): WorkerEnd(state, name, bool(draining)) for raw, state, name, draining in rows}

    # ------------------------------------------------------------ dead letters
    def save_dead_letter(
        self, namespace: str, source: str, reason: str, headers: Mapping[str, Any], body: bytes, key: bytes | None = None
    ) -> None:
        """Keep a message for people. `key` (16 bytes) makes repeating it harmless."""
        row = (
            namespace,
            key or ids.new_id().bytes,
            source[:255],
            reason[:255],
            json.dumps(headers, default=str)[:60000],
            body,
            self.clock(),
        )
        columns = ("namespace", "id", "source", "reason", "headers", "body", "created_at")

        def work(connection: sa.Connection) -> None:
            self.db.inserted(connection, "aiki_dead_letters", columns, [row])

        self.db.transaction(work, repeatable=True)

    def dead_letter_count(self) -> int:
        """How many dead letters the namespace has."""
        sql = "SELECT COUNT(*) FROM aiki_dead_letters WHERE namespace = ?"
        row = self.db.read(lambda connection: self.db.execute(connection, sql, (self.namespace,)).fetchone())
        return int(row[0]) if row else 0


def _worker_row(row: Any) -> WorkerRow:
    definitions = json.loads(row[8])
    return WorkerRow(
        row[0],
        bytes(row[1]).hex(),
        row[2],
        row[3],
        row[4],
        row[5],
        tuple(json.loads(row[6])),
        row[7],
        frozenset((item[0], item[1]) for item in definitions),
        json.loads(row[9]),
        row[10],
        row[11],
        row[12],
        row[13],
        bool(row[14]),
        tuple(json.loads(row[15] or "[]")),
        row[16],
        row[17],
        tuple((item[0], item[1], item[2] if len(item) > 2 else "task") for item in definitions),
    )
