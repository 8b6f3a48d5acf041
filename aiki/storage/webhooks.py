"""The verbs of webhooks: who is told of the ends of runs, and what they are still to be told.

What is to be told is written in the transaction that ends the run (`Announcing`), so it is lost by no crash, and read again by
whoever delivers it (`aiki.orchestrator.webhooks`). Which webhooks there are is remembered for `REMEMBERED` seconds: where there
are none, the end of a run costs nothing more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

import sqlalchemy as sa

from aiki import ids
from aiki.clock import SECOND, Clock
from aiki.errors import AikiError
from aiki.lifecycle.effects import Audited
from aiki.lifecycle.record import RunRow
from aiki.states import TERMINAL
from aiki.storage.auditing import Auditing
from aiki.storage.engine import Database

REMEMBERED: Final = 2.0
"""Seconds after which every process knows of a webhook that was made or changed."""
MAX_WEBHOOKS: Final = 50
"""Of a namespace: each is told of each run that it asked for."""
CLAIMED: Final = 120.0
"""Seconds for which deliveries belong to whoever claimed them."""
SWITCHED_OFF: Final = 60.0
"""Seconds after which it is looked again whether a webhook that is off is on."""

_COLUMNS: Final = "id, url, states, names, enabled, created_at, created_by, delivered_at, failed_at, error"
_DELIVERY_COLUMNS: Final = ("namespace", "id", "webhook_id", "run_id", "event", "attempts", "due_at", "created_at")


class WebhookNotFound(AikiError, LookupError):
    """There is no such webhook."""

    def __init__(self, webhook_id: str) -> None:
        super().__init__(f"there is no webhook {webhook_id}")


class TooManyWebhooks(AikiError, ValueError):
    """The namespace has as many webhooks as it may have."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is told. The secret is given when it is made, and never again.

    :ivar states: the states to tell of; `names`: patterns such as `shop.*`, none for all.
    :ivar delivered_at: when it last took something; `failed_at`, `error`: when and why it last did not.
    :ivar waiting: deliveries that it has not taken yet; `given_up`: those that are not tried any more.
    """

    id: str
    url: str
    states: tuple[str, ...]
    names: tuple[str, ...]
    enabled: bool
    created_at: int
    created_by: str
    delivered_at: int | None = None
    failed_at: int | None = None
    error: str | None = None
    waiting: int = 0
    given_up: int = 0

    def wants(self, name: str, state: str) -> bool:
        """Whether it is told of such an end."""
        return state in self.states and (not self.names or any(fnmatchcase(name, pattern) for pattern in self.names))


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """One thing to tell one webhook; `due_at` None: given up."""

    namespace: str
    id: str
    webhook_id: str
    run_id: str
    event: dict[str, Any]
    attempts: int
    due_at: int | None
    error: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery that belongs to the caller, with where it goes."""

    delivery: WebhookDelivery
    url: str
    secret: str


# ---------------------------------------------------------------- ends
class Announcing:
    """Writing down what webhooks are to be told, for `apply`."""

    db: Database
    clock: Clock
    _webhooks: dict[str, tuple[int, list[Webhook]]]

    def announce_ends(self, connection: sa.Connection, namespace: str, ended: Iterable[RunRow], now: int) -> None:
        """These runs end in this transaction."""
        hooks = self._webhooks_of(connection, namespace)
        if not hooks:
            return
        told = [row for row in ended if any(hook.wants(row.name, row.state) for hook in hooks)]
        sql = "SELECT id, created_at FROM aiki_runs WHERE namespace = ? AND id"
        created = {bytes(raw): at for raw, at in self.db.where_in(connection, sql, (namespace,), [row.id for row in told])}
        rows = [
            (*(namespace, _event_id(hook.id, row), ids.to_bytes(hook.id), row.id), _event(namespace, row, created), 0, now, now)
            for row in told
            for hook in hooks
            if hook.wants(row.name, row.state)
        ]
        if rows:
            self.db.insert_new(connection, "aiki_webhook_deliveries", _DELIVERY_COLUMNS, sorted(rows, key=lambda row: row[1]))

    def _webhooks_of(self, connection: sa.Connection, namespace: str) -> list[Webhook]:
        now = self.clock()
        until, hooks = self._webhooks.get(namespace, (0, []))
        if not now < until <= now + int(REMEMBERED * SECOND):
            sql = f"SELECT {_COLUMNS} FROM aiki_webhooks WHERE namespace = ? AND enabled = 1"
            hooks = [_webhook(row) for row in self.db.execute(connection, sql, (namespace,)).fetchall()]
            self._webhooks[namespace] = (now + int(REMEMBERED * SECOND), hooks)
        return hooks


def _event_id(webhook_id: str, row: RunRow) -> bytes:
    """The same however often it is written: an epoch ends once."""
    return hashlib.sha256(f"{webhook_id}:{row.run_id}:{row.epoch}:{row.state}".encode()).digest()[:16]


def _event(namespace: str, row: RunRow, created: Mapping[bytes, int]) -> str:
    told = {
        "namespace": namespace,
        "run_id": ids.to_text(row.id),
        "name": row.name,
        "version": row.version,
        "queue": row.queue,
        "state": row.state,
        "attempt": row.attempt,
        "reference_id": row.reference_id,
        "error_type": row.error_type,
        "created_at": created[row.id],
        "started_at": row.started_at,
        "finished_at": row.finished_at,
    }
    return json.dumps(told, separators=(",", ":"))


# ---------------------------------------------------------------- verbs
class Webhooks(Announcing, Auditing):
    """Webhooks of the store's namespace, and their deliveries."""

    namespace: str

    def create_webhook(self, url: str, *, states: Sequence[str], names: Sequence[str], secret: str, actor: str = "") -> Webhook:
        """Make one; it is told of what ends from now on (within `REMEMBERED` seconds).

        :raises TooManyWebhooks: the namespace has `MAX_WEBHOOKS`.
        """
        unknown = sorted(set(states) - {str(state) for state in TERMINAL})
        if unknown or not states:
            raise ValueError(f"states {unknown or states}: a webhook is told of {', '.join(sorted(TERMINAL))}")
        raw, now = self.operation("webhook.create", url) or ids.new_id().bytes, self.clock()
        values = (self.namespace, raw, url, json.dumps(list(states)), json.dumps(list(names)), secret, 1, now, actor[:255])
        columns = ("namespace", "id", "url", "states", "names", "secret", "enabled", "created_at", "created_by")

        def work(connection: sa.Connection) -> None:
            sql = "SELECT COUNT(*) FROM aiki_webhooks WHERE namespace = ?"
            if self.db.execute(connection, sql, (self.namespace,)).fetchone()[0] >= MAX_WEBHOOKS:
                raise TooManyWebhooks(f"there are {MAX_WEBHOOKS} webhooks already, as many as a namespace may have")
            self.db.insert(connection, "aiki_webhooks", columns, [values])
            self.write_audit(connection, [Audited(actor, "webhook.create", ids.to_text(raw), _shown(url))])

        self._do(work, "webhook.create", url, lambda: None)
        self._webhooks.pop(self.namespace, None)
        return Webhook(ids.to_text(raw), url, tuple(states), tuple(names), True, now, actor)

    def webhooks(self) -> list[Webhook]:
        """All of the namespace, the oldest first."""
        sql = f"SELECT {_COLUMNS} FROM aiki_webhooks WHERE namespace = ? ORDER BY id"

        def work(connection: sa.Connection) -> list[Webhook]:
            counts = self._counts(connection)
            rows = self.db.execute(connection, sql, (self.namespace,)).fetchall()
            return [_webhook(row, *counts.get(bytes(row[0]), (0, 0))) for row in rows]

        return self.db.read(work)

    def webhook(self, webhook_id: str) -> Webhook:
        """One; raises `WebhookNotFound`."""
        found = next((hook for hook in self.webhooks() if hook.id == webhook_id), None)
        if found is None:
            raise WebhookNotFound(webhook_id)
        return found

    def _counts(self, connection: sa.Connection) -> dict[bytes, tuple[int, int]]:
        # Bounded: an endpoint that has been away for long may have very many.
        sql = (
            "SELECT webhook_id, COUNT(due_at), COUNT(*) FROM (SELECT webhook_id, due_at FROM aiki_webhook_deliveries "
            "WHERE namespace = ? LIMIT 10000) d GROUP BY webhook_id"
        )
        rows = self.db.execute(connection, sql, (self.namespace,)).fetchall()
        return {bytes(raw): (int(due), int(all_ - due)) for raw, due, all_ in rows}

    def enable_webhook(self, webhook_id: str, enabled: bool, *, actor: str = "") -> Webhook:
        """Switch one on or off. What it is still to be told waits meanwhile; what ends meanwhile it is not told."""
        key = (int(enabled), self.namespace, _raw(webhook_id))

        def work(connection: sa.Connection) -> None:
            sql = "SELECT enabled FROM aiki_webhooks WHERE namespace = ? AND id = ?"
            found = self.db.execute(connection, sql, key[1:]).fetchone()
            if found is None:
                raise WebhookNotFound(webhook_id)
            if bool(found[0]) == enabled:
                return
            self.db.execute(connection, "UPDATE aiki_webhooks SET enabled = ? WHERE namespace = ? AND id = ?", key)
            self.write_audit(connection, [Audited(actor, "webhook.enable" if enabled else "webhook.disable", webhook_id, "")])

        self._do(work, "webhook.enable" if enabled else "webhook.disable", webhook_id, lambda: None)
        self._webhooks.pop(self.namespace, None)
        return self.webhook(webhook_id)

    def delete_webhook(self, webhook_id: str, *, actor: str = "") -> None:
        """Take one away, with what it was still to be told; raises `WebhookNotFound`."""
        key = (self.namespace, _raw(webhook_id))

        def work(connection: sa.Connection) -> None:
            if not self.db.execute(connection, "DELETE FROM aiki_webhooks WHERE namespace = ? AND id = ?", key).rowcount:
                raise WebhookNotFound(webhook_id)
            self.db.execute(connection, "DELETE FROM aiki_webhook_deliveries WHERE namespace = ? AND webhook_id = ?", key)
            self.write_audit(connection, [Audited(actor, "webhook.delete", webhook_id, "")])

        self._do(work, "webhook.delete", webhook_id, lambda: None)
        self._webhooks.pop(self.namespace, None)

    def webhook_deliveries(self, webhook_id: str, limit: int = 100) -> list[WebhookDelivery]:
        """What a webhook has not taken yet, the newest first."""
        sql = (
            "SELECT namespace, id, webhook_id, run_id, event, attempts, due_at, error, created_at FROM aiki_webhook_deliveries "
            f"WHERE namespace = ? AND webhook_id = ? ORDER BY created_at DESC, id DESC LIMIT {int(limit)}"
        )
        key = (self.namespace, _raw(webhook_id))
        return [_delivery(row) for row in self.db.read(lambda connection: self.db.execute(connection, sql, key).fetchall())]

    def redeliver(self, webhook_id: str, *, actor: str = "") -> int:
        """Try again, at once, what was given up or waits; how many. Raises `WebhookNotFound`."""
        now, key = self.clock(), (self.namespace, _raw(webhook_id))
        self.webhook(webhook_id)

        def work(connection: sa.Connection) -> int:
            sql = "UPDATE aiki_webhook_deliveries SET due_at = ?, attempts = 0 WHERE namespace = ? AND webhook_id = ?"
            count = int(self.db.execute(connection, sql, (now, *key)).rowcount)
            self.write_audit(connection, [Audited(actor, "webhook.redeliver", webhook_id, f"{count} deliveries")])
            return count

        return self._do(work, "webhook.redeliver", webhook_id, lambda: 0)

    # ------------------------------------------------------------ delivering, of all namespaces
    def claim_webhooks(self, limit: int = 100) -> list[ClaimedDelivery]:
        """Take deliveries that are due, of all namespaces, the oldest first; those of webhooks that are off wait on."""
        now = self.clock()
        sql = (
            "SELECT namespace, id, webhook_id, run_id, event, attempts, due_at, error, created_at FROM aiki_webhook_deliveries "
            f"WHERE due_at <= ? ORDER BY due_at, namespace, id LIMIT {int(limit)}"
        )

        def work(connection: sa.Connection) -> list[ClaimedDelivery]:
            found = self.db.execute(connection, f"{sql} {self.db.dialect.skip_locked}", (now,)).fetchall()
            hooks: dict[tuple[str, bytes], tuple[str, str, int] | None] = {}
            claimed = []
            for row in found:
                namespace, raw, hook = row[0], bytes(row[1]), bytes(row[2])
                if (namespace, hook) not in hooks:
                    of = "SELECT url, secret, enabled FROM aiki_webhooks WHERE namespace = ? AND id = ?"
                    hooks[namespace, hook] = self.db.execute(connection, of, (namespace, hook)).fetchone()
                there = hooks[namespace, hook]
                if there is None:
                    of = "DELETE FROM aiki_webhook_deliveries WHERE namespace = ? AND id = ?"
                    self.db.execute(connection, of, (namespace, raw))
                    continue
                url, secret, enabled = there
                later = now + int((CLAIMED if enabled else SWITCHED_OFF) * SECOND)
                of = "UPDATE aiki_webhook_deliveries SET due_at = ? WHERE namespace = ? AND id = ?"
                self.db.execute(connection, of, (later, namespace, raw))
                if enabled:
                    claimed.append(ClaimedDelivery(_delivery(row), url, secret))
            return claimed

        if self.db.read(lambda connection: self.db.execute(connection, sql, (now,)).fetchone()) is None:
            return []  # most of the time: without a transaction that writes
        return self.db.transaction(work)

    def webhook_taken(self, done: Sequence[WebhookDelivery]) -> None:
        """These were delivered."""
        now = self.clock()

        def work(connection: sa.Connection) -> None:
            for item in done:
                key = (item.namespace, bytes.fromhex(item.id.replace("-", "")))
                self.db.execute(connection, "DELETE FROM aiki_webhook_deliveries WHERE namespace = ? AND id = ?", key)
            for namespace, webhook_id in sorted({(item.namespace, item.webhook_id) for item in done}):
                sql = "UPDATE aiki_webhooks SET delivered_at = ?, error = NULL WHERE namespace = ? AND id = ?"
                self.db.execute(connection, sql, (now, namespace, ids.to_bytes(webhook_id)))

        if done:
            self.db.transaction(work, repeatable=True)

    def webhook_refused(self, item: WebhookDelivery, error: str, due_at: int | None, *, tried: bool = True) -> None:
        """It was not delivered; `due_at`: when to try again, None for never. `tried` False: it was only put off."""
        now = self.clock()
        key = (item.namespace, ids.to_bytes(item.id))

        def work(connection: sa.Connection) -> None:
            sql = (
                "UPDATE aiki_webhook_deliveries SET due_at = ?, attempts = attempts + ?, error = ? WHERE "
                "namespace = ? AND id = ?"
            )
            self.db.execute(connection, sql, (due_at, int(tried), error[:500], *key))
            if tried:
                sql = "UPDATE aiki_webhooks SET failed_at = ?, error = ? WHERE namespace = ? AND id = ?"
                self.db.execute(connection, sql, (now, error[:500], item.namespace, ids.to_bytes(item.webhook_id)))

        self.db.transaction(work)


def _raw(webhook_id: str) -> bytes:
    try:
        return ids.to_bytes(webhook_id)
    except ValueError:
        raise WebhookNotFound(webhook_id) from None


def _shown(url: str) -> str:
    """A URL as an audit record has it: without the query, which may hold a token."""
    return url.partition("?")[0]


def _webhook(row: Sequence[Any], waiting: int = 0, given_up: int = 0) -> Webhook:
    raw, url, states, names, enabled, created_at, created_by, delivered_at, failed_at, error = row
    what = (tuple(json.loads(states)), tuple(json.loads(names)))
    made = (bool(enabled), created_at, created_by, delivered_at, failed_at, error)
    return Webhook(ids.to_text(bytes(raw)), url, *what, *made, waiting, given_up)


def _delivery(row: Sequence[Any]) -> WebhookDelivery:
    namespace, raw, webhook, run, event, *rest = row
    named = (ids.to_text(bytes(raw)), ids.to_text(bytes(webhook)), ids.to_text(bytes(run)))
    return WebhookDelivery(namespace, *named, json.loads(event), *rest)
