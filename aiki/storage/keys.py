"""The verbs of API keys: what programs ask with. Keys belong to the server, as users do (see `people`)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from aiki.clock import Clock
from aiki.errors import ConfigurationError, NotThere
from aiki.lifecycle.effects import Audited
from aiki.storage.auditing import Auditing
from aiki.storage.engine import Database
from aiki.storage.people import SEEN_EVERY, namespaces_of, namespaces_text

PREFIX: Final = "aiki_"
_COLUMNS: Final = "id, name, role, namespaces, created_at, created_by, expires_at, used_at, revoked_at"
_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"


@dataclass(frozen=True, slots=True)
class KeyView:
    """An API key, without its secret. `namespaces`: those that it may see, None for all."""

    id: str
    name: str
    role: str
    namespaces: frozenset[str] | None
    created_at: int
    created_by: str
    expires_at: int | None
    used_at: int | None
    revoked_at: int | None


class Keys(Auditing):
    """API keys."""

    db: Database
    clock: Clock

    def add_key(
        self,
        name: str,
        role: str,
        namespaces: Iterable[str] | None = None,
        *,
        expires_at: int | None = None,
        actor: str = "",
    ) -> tuple[str, KeyView]:
        """A new key: what programs send, which is told this once and never kept, and the key.

        :raises ConfigurationError: the name will not do, or it would have expired already.
        """
        if not 1 <= len(name) <= 100 or not name.isprintable() or name != name.strip():
            raise ConfigurationError(f"key name {name[:100]!r}: use 1 to 100 printable characters")
        now = self.clock()
        if expires_at is not None and expires_at <= now:
            raise ConfigurationError("expires_at: it is over already")
        key_id = "".join(secrets.choice(_LETTERS) for _ in range(12))
        secret = f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"
        columns = ("id", "hash", "name", "role", "namespaces", "created_at", "created_by", "expires_at")
        row = (key_id, _hash(secret), name, role, namespaces_text(namespaces), now, actor[:255], expires_at)

        def work(connection: sa.Connection) -> None:
            self.db.insert(connection, "aiki_api_keys", columns, [row])
            detail = f"{name}: {role} of {namespaces_text(namespaces) or 'all namespaces'}"
            self.write_audit(connection, [Audited(actor, "key.add", key_id, detail)])

        self.db.transaction(work)
        return secret, KeyView(key_id, name, role, namespaces_of(row[4]), now, actor[:255], expires_at, None, None)

    def api_keys(self) -> list[KeyView]:
        """All keys, newest first."""
        sql = f"SELECT {_COLUMNS} FROM aiki_api_keys ORDER BY created_at DESC, id"
        return [_key(row) for row in self.db.read(lambda connection: self.db.execute(connection, sql).fetchall())]

    def key(self, key_id: str) -> KeyView | None:
        """A key, or None."""
        if not key_id.isascii():  # MariaDB compares no other text with an ASCII column
            return None
        sql = f"SELECT {_COLUMNS} FROM aiki_api_keys WHERE id = ?"
        row = self.db.read(lambda connection: self.db.execute(connection, sql, (key_id[:16],)).fetchone())
        return None if row is None else _key(row)

    def key_of(self, secret: str) -> KeyView | None:
        """The key that a program sent, if it holds; that it was used is recorded, once a minute at most."""
        key_id = secret.removeprefix(PREFIX).partition("_")[0]
        if not secret.startswith(PREFIX) or not key_id.isascii() or len(key_id) > 16:
            return None
        sql = f"SELECT {_COLUMNS}, hash FROM aiki_api_keys WHERE id = ?"
        row = self.db.read(lambda connection: self.db.execute(connection, sql, (key_id,)).fetchone())
        if not hmac.compare_digest(bytes(row[-1]) if row is not None else bytes(32), _hash(secret)) or row is None:
            return None
        found, now = _key(row), self.clock()
        if found.revoked_at is not None or (found.expires_at is not None and found.expires_at <= now):
            return None
        if found.used_at is None or found.used_at < now - SEEN_EVERY:
            touch = "UPDATE aiki_api_keys SET used_at = ? WHERE id = ? AND (used_at IS NULL OR used_at < ?)"
            self.db.transaction(lambda c: self.db.execute(c, touch, (now, key_id, now - SEEN_EVERY)).rowcount, repeatable=True)
        return found

    def revoke_key(self, key_id: str, *, actor: str = "") -> KeyView:
        """Have a key open nothing any more; harmless to repeat. Raises `NotThere`."""
        if not key_id.isascii():
            raise NotThere(f"there is no key {key_id}")
        now = self.clock()

        def work(connection: sa.Connection) -> None:
            sql = "UPDATE aiki_api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL"
            if self.db.execute(connection, sql, (now, key_id)).rowcount:
                self.write_audit(connection, [Audited(actor, "key.revoke", key_id)])

        self._do(work, "key.revoke", key_id, lambda: None)
        found = self.key(key_id)
        if found is None:
            raise NotThere(f"there is no key {key_id}")
        return found


def _hash(secret: str) -> bytes:
    """A key is random and long, so a fast hash will do."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _key(row: Any) -> KeyView:
    return KeyView(row[0], row[1], row[2], namespaces_of(row[3]), *row[4:9])
