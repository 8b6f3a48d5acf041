"""The store: every verb on the tables, put together. Nothing else writes them.

The verbs stand by topic: `creating` (new runs), `applying` (changes of runs), `delivering` (the outbox), `operating` (people),
`steering` (people and workflows), `reading`, `searching`, `outline` (histories for pages), `watching` (polling), `outside`
(inbox and attempts), `rerunning`, `queues`, `batches` and `batchwork` (bulk operations), `dead` (failures and dead letters),
`why`, `roster` (workers, orchestrators, definitions), `reconciling`, `marking` (markers and revocations), `gauging` (metrics),
`statistics` and `tallying`, `attention` (what is wrong), `webhooks`, `purging` (retention), `people` and `keys` (users and API
keys), `auditing`, `idempotency`, `refusals`, `installing` (the installation).
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Callable

from aiki.ceilings import MAX_MESSAGE
from aiki.clock import SECOND, Clock, now_us
from aiki.settings import Settings
from aiki.storage.attention import NeedsAttention
from aiki.storage.auditing import NOWHERE, Origin
from aiki.storage.batchwork import BatchWork
from aiki.storage.creating import Durations
from aiki.storage.dead import Dead
from aiki.storage.engine import Database
from aiki.storage.gauging import Gauging
from aiki.storage.idempotency import Idempotency
from aiki.storage.keys import Keys
from aiki.storage.outline import Outlining
from aiki.storage.outside import Outside
from aiki.storage.people import People
from aiki.storage.probing import Probing
from aiki.storage.purging import Purging
from aiki.storage.reconciling import Reconciling
from aiki.storage.refusals import Refusals
from aiki.storage.roster import Roster
from aiki.storage.schema import check_schema, check_server
from aiki.storage.statistics import Statistics
from aiki.storage.watching import Watching
from aiki.storage.webhooks import Webhook, Webhooks
from aiki.storage.why import Explaining


class Store(
    BatchWork,
    Dead,
    Roster,
    Reconciling,
    Explaining,
    Outlining,
    Outside,
    Gauging,
    Statistics,
    NeedsAttention,
    Watching,
    Idempotency,
    People,
    Keys,
    Webhooks,
    Purging,
    Probing,
    Refusals,
):
    """All verbs, for one namespace where a verb does not name one.

    Threads may share it, and it survives a fork. Every method raises `StorageUnavailable` when the database is away, and none
    takes much longer than `timeout` seconds.

    :param clock: microseconds since the Unix epoch; the default is the database server's, whatever this machine's says.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "default",
        partitions: int = 4,
        max_message: int = MAX_MESSAGE,
        clock: Clock | None = None,
        timeout: float = 5.0,
        idle_limit: int = 60,
        password_file: str = "",
        primary: bool = False,
    ) -> None:
        self.db = Database(url, timeout=timeout, idle_limit=idle_limit, password_file=password_file, primary=primary)
        self.namespace = namespace
        self.partitions = partitions
        self.max_message = max_message
        self.clock = clock or self.db.now
        self._own_clock = clock or now_us
        self.origin = NOWHERE
        self.hides: Callable[[str], bool] | None = None
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
        check_server(self.db)
        check_schema(self.db)

    def ping(self) -> None:
        """Ask the database anything; raises `StorageUnavailable`."""
        self.db.read(lambda connection: self.db.execute(connection, "SELECT 1").fetchone())

    def clock_difference(self) -> float | None:
        """How many seconds the database's clock is ahead of this process's, or None where they are one."""
        if not self.db.dialect.has_clock:
            return None
        before = self._own_clock()
        there = self.db.time_there()
        return float(there - (before + self._own_clock()) // 2) / SECOND

    def close(self) -> None:
        """Let go of all connections."""
        self.db.close()


def open_store(settings: Settings, **overrides: object) -> Store:
    """The store that the settings name, its schema checked. Raises `ConfigurationError` or `StorageUnavailable`."""
    settings.need("database_url", what="whoever reads or records runs")
    store = Store(
        settings.database_url,
        namespace=settings.namespace,
        partitions=settings.partitions,
        max_message=settings.max_message,
        timeout=settings.timeout,
        password_file=settings.database_password_file,
        **overrides,  # type: ignore[arg-type]
    )
    store.check_schema()
    store.agree_on_partitions()
    return store


_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def _after_fork() -> None:
    for store in list(_stores):
        store.db.after_fork()


os.register_at_fork(after_in_child=_after_fork)
