"""The store: every verb on the tables, put together. Nothing else writes them.

The verbs stand by topic: `creating` (new runs), `applying` (changes of runs), `delivering` (the outbox), `operating` (people),
`steering` (people and workflows), `reading`, `searching`, `outline` (histories as people look at them), `watching` (again and
again), `queues`, `why`, `roster` (workers, orchestrators, definitions, revocations, dead letters), `reconciling`, `gauging`
(metrics), `webhooks`, `purging` (retention), `idempotency`.
"""

from __future__ import annotations

import copy
import json
import os
import weakref

from aiki import ids
from aiki.clock import Clock, now_us
from aiki.codec import Payload
from aiki.errors import DecodeError, RunNotFound
from aiki.model import Created, NewRun, RunView
from aiki.settings import Settings
from aiki.storage.auditing import NOWHERE, Origin
from aiki.storage.creating import Durations
from aiki.storage.database import Database
from aiki.storage.gauging import Gauging
from aiki.storage.idempotency import Idempotency
from aiki.storage.keys import Keys
from aiki.storage.outline import Outlining
from aiki.storage.people import People
from aiki.storage.purging import Purging
from aiki.storage.reconciling import Reconciling
from aiki.storage.roster import Roster
from aiki.storage.schema import check_schema
from aiki.storage.searching import Searching
from aiki.storage.steering import Steering
from aiki.storage.watching import Watching
from aiki.storage.webhooks import Webhook, Webhooks
from aiki.storage.why import Explaining


class Store(
    Searching,
    Steering,
    Roster,
    Reconciling,
    Explaining,
    Outlining,
    Gauging,
    Watching,
    Idempotency,
    People,
    Keys,
    Webhooks,
    Purging,
):
    """All verbs, for one namespace where a verb does not name one.

    Threads may share it, and it survives a fork. Every method raises `StorageUnavailable` when the database is away, and none
    takes much longer than `timeout` seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "default",
        partitions: int = 4,
        clock: Clock = now_us,
        timeout: float = 5.0,
        idle_limit: int = 60,
    ) -> None:
        self.db = Database(url, timeout=timeout, idle_limit=idle_limit)
        self.namespace = namespace
        self.partitions = partitions
        self.clock = clock
        self.origin = NOWHERE
        self._webhooks: dict[str, tuple[int, list[Webhook]]] = {}
        self._durations = Durations(self.db, namespace)
        _stores.add(self)

    def of(self, namespace: str, origin: Origin = NOWHERE) -> Store:
        """This store for another namespace: the same connections, clock and tables, so that it costs next to nothing.

        :param origin: the request that it is for, as audit records tell it.
        """
        view = copy.copy(self)
        view.origin = origin
        if namespace != self.namespace:
            view.namespace = namespace
            view._durations = Durations(self.db, namespace)
        return view

    def check_schema(self) -> None:
        """See that the tables are there and of this version; SQLite's are made. Raises `ConfigurationError`."""
        check_schema(self.db)

    def ping(self) -> None:
        """Ask the database anything; raises `StorageUnavailable`."""
        self.db.read(lambda connection: self.db.execute(connection, "SELECT 1").fetchone())

    def close(self) -> None:
        """Let go of all connections."""
        self.db.close()

    def rerun(
        self,
        run_id: str,
        *,
        claim: float | None = None,
        from_step: int | None = None,
        new_id: str | None = None,
        actor: str = "",
    ) -> Created:
        """A new run of the same name, version, queue, options and input.

        :param new_id: its id, so that asking again is the same run.
        :param from_step: an ordinal of a workflow's step: those before it, and what came for them, are copied.
        :raises RunNotFound: there is no such run.
        :raises RunConflict: it has no such step, or one before it has no result yet.
        """
        detail = self.detail(run_id)
        if detail is None:
            raise RunNotFound(run_id)
        if detail.input is None:
            raise DecodeError(f"run {run_id} has no recorded input")
        copy = self._copy(detail.run, detail.input, new_id or str(ids.new_id()))
        if from_step is None:
            return self.create_runs([copy], claim=claim, actor=actor)
        return self.create_from(run_id, copy, from_step, actor=actor)

    def _copy(self, run: RunView, payload: Payload, new_id: str) -> NewRun:
        options = self.options_of(run.id)
        return NewRun(new_id, run.name, payload, queue=run.queue, version=run.version, kind=run.kind, options=options)

    def options_of(self, run_id: str) -> dict[str, object]:
        """The options that a run was recorded with, sparse."""

        sql = "SELECT options FROM runs WHERE namespace = ? AND id = ?"
        row = self.db.read(
            lambda connection: self.db.execute(connection, sql, (self.namespace, ids.to_bytes(run_id))).fetchone()
        )
        return dict(json.loads(row[0])) if row and row[0] else {}


def open_store(settings: Settings, **overrides: object) -> Store:
    """The store that the settings name, its schema checked. Raises `ConfigurationError` or `StorageUnavailable`."""
    store = Store(
        settings.database_url,
        namespace=settings.namespace,
        partitions=settings.partitions,
        timeout=settings.timeout,
        **overrides,  # type: ignore[arg-type]
    )
    store.check_schema()
    return store


_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store.db.after_fork()


os.register_at_fork(after_in_child=_after_fork)
