"""The verbs of people: users, their sessions, and how often somebody may try a password.

Users belong to the server, not to one namespace: each has a list of those that it may see (None: all), so these tables are the
conscious exception to the rule that a namespace begins every key.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from aiki.clock import SECOND, Clock
from aiki.errors import ConfigurationError, Conflict, NotThere
from aiki.lifecycle.effects import REFUSED, Audited
from aiki.settings import check_name
from aiki.storage import passwords
from aiki.storage.auditing import Auditing
from aiki.storage.engine import Database

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}")
_USER_COLUMNS: Final = "name, role, namespaces, disabled, created_at, created_by, signed_in_at"
_ADMINS: Final = "SELECT name FROM aiki_users WHERE role = 'admin' AND disabled = 0 AND namespaces IS NULL"
SEEN_EVERY: Final = 60 * SECOND
"""How exactly it is recorded when a session or a key was last used."""


@dataclass(frozen=True, slots=True)
class UserView:
    """A user. `namespaces`: those that it may see, None for all."""

    name: str
    role: str
    namespaces: frozenset[str] | None
    disabled: bool
    created_at: int
    created_by: str
    signed_in_at: int | None


@dataclass(frozen=True, slots=True)
class Session:
    """A session that holds, and whose it is. `csrf` is what its forms must say."""

    id: bytes
    user: str
    role: str
    namespaces: frozenset[str] | None
    csrf: str


class TooManyTries(Exception):
    """No password is looked at for now.

    :ivar seconds: until one is.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many failed sign-ins; try again in {seconds:.0f} s")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Throttle:
    """How many failures are free, and how long the wait after one more grows at most (seconds)."""

    free: int
    longest: float


ACCOUNT: Final = Throttle(free=5, longest=300)
ADDRESS: Final = Throttle(free=20, longest=900)
_FORGET: Final = 900 * SECOND
"""Failures older than this are forgiven."""


class People(Auditing):
    """Users and sessions."""

    db: Database
    clock: Clock

    # ------------------------------------------------------------ users
    def add_user(
        self, name: str, password: str, role: str, namespaces: Iterable[str] | None = None, *, actor: str = ""
    ) -> UserView:
        """A new user.

        :raises ConfigurationError: the name or the password will not do.
        :raises Conflict: the name is taken.
        """
        name = user_name(name)
        now = self.clock()
        kept = passwords.hashed(passwords.check_password(password))
        columns = ("name", "password", "role", "namespaces", "disabled", "generation", "created_at", "created_by")
        row = (name, kept, role, namespaces_text(namespaces), 0, _generation(), now, actor[:255])

        def work(connection: sa.Connection) -> None:
            self.db.insert(connection, "aiki_users", columns, [row])
            self.write_audit(connection, [Audited(actor, "user.add", name, _scope(role, namespaces))])

        try:
            self._do(work, "user.add", name, lambda: None)
        except IntegrityError as error:
            if self.db.dialect.is_duplicate(error):
                raise Conflict(f"there is a user {name} already") from None
            raise
        return self._must_user(name)

    def users(self) -> list[UserView]:
        """All users, by name."""
        sql = f"SELECT {_USER_COLUMNS} FROM aiki_users ORDER BY name"
        return [_user(row) for row in self.db.read(lambda connection: self.db.execute(connection, sql).fetchall())]

    def user(self, name: str) -> UserView | None:
        """A user, or None."""
        if not name.isascii():  # MariaDB compares no other text with an ASCII column
            return None
        sql = f"SELECT {_USER_COLUMNS} FROM aiki_users WHERE name = ?"
        row = self.db.read(lambda connection: self.db.execute(connection, sql, (name.lower()[:64],)).fetchone())
        return None if row is None else _user(row)

    def change_user(
        self,
        name: str,
        *,
        role: str | None = None,
        namespaces: Iterable[str] | EllipsisType | None = ...,
        password: str | None = None,
        disabled: bool | None = None,
        actor: str = "",
    ) -> UserView:
        """Change what is given. A new password and `disabled` end the user's sessions.

        :raises NotThere: there is no such user.
        :raises Conflict: nobody could manage all users any more.
        """
        changes: dict[str, Any] = {}
        told = []
        if role is not None:
            changes["role"] = role
            told.append(f"role {role}")
        if not isinstance(namespaces, EllipsisType):
            changes["namespaces"] = namespaces_text(namespaces)
            told.append(f"namespaces {changes['namespaces'] or 'all'}")
        if password is not None:
            changes["password"] = passwords.hashed(passwords.check_password(password))
            told.append("password")
        if disabled is not None:
            changes["disabled"] = int(disabled)
            told.append("disabled" if disabled else "enabled")
        if password is not None or disabled:
            changes["generation"] = _generation()
        if changes:
            self._write_user(changes, Audited(actor, "user.change", name.lower(), ", ".join(told)))
        return self._must_user(name)

    def remove_user(self, name: str, *, actor: str = "", even_last: bool = False) -> None:
        """Remove a user and end its sessions; raises as `change_user`, unless `even_last`."""
        self._write_user(None, Audited(actor, "user.remove", name.lower()), even_last=even_last)

    def _write_user(self, changes: dict[str, Any] | None, audited: Audited, *, even_last: bool = False) -> None:
        name = audited.subject

        def work(connection: sa.Connection) -> None:
            had_admin = self._lock_admins(connection, name)
            if changes is None:
                self.db.execute(connection, "DELETE FROM aiki_users WHERE name = ?", (name,))
                self.db.execute(connection, "DELETE FROM aiki_sessions WHERE user_name = ?", (name,))
            else:
                sets = ", ".join(f"{column} = ?" for column in changes)
                self.db.execute(connection, f"UPDATE aiki_users SET {sets} WHERE name = ?", (*changes.values(), name))
            if had_admin and not even_last and not self.db.execute(connection, f"{_ADMINS} LIMIT 1").fetchone():
                raise Conflict(f"{name} is the last admin of all namespaces; make another one first")
            self.write_audit(connection, [audited])

        self._do(work, audited.action, name, lambda: None)

    def _lock_admins(self, connection: sa.Connection, name: str) -> bool:
        """Lock this user and all admins, so that two of them cannot remove each other at once; whether there are any."""
        sql = f"SELECT name FROM aiki_users WHERE name = ? {self.db.dialect.for_update}"
        if not name.isascii() or self.db.execute(connection, sql, (name,)).fetchone() is None:
            raise NotThere(f"there is no user {name}")
        return bool(self.db.execute(connection, f"{_ADMINS} ORDER BY name {self.db.dialect.for_update}").fetchall())

    def _must_user(self, name: str) -> UserView:
        found = self.user(name)
        if found is None:
            raise NotThere(f"there is no user {name}")
        return found

    def namespaces(self) -> list[str]:
        """The namespaces in which anything is defined."""
        sql = "SELECT DISTINCT namespace FROM aiki_definitions ORDER BY namespace"
        return [row[0] for row in self.db.read(lambda connection: self.db.execute(connection, sql).fetchall())]

    def has_people(self) -> bool:
        """Whether anybody has been given access: a server with users or keys, even revoked ones, is never open to all."""
        sql = "SELECT EXISTS (SELECT 1 FROM aiki_users), EXISTS (SELECT 1 FROM aiki_api_keys)"
        row = self.db.read(lambda connection: self.db.execute(connection, sql).fetchone())
        return any(row)

    # ------------------------------------------------------------ signing in
    def sign_in(self, name: str, password: str, source: str, lifetime: float) -> tuple[str, Session] | None:
        """A new session's token and the session, or None for a wrong name or password: which of the two nobody can tell.

        :param lifetime: seconds after which it ends, whatever happens.
        :raises TooManyTries: of this account from this address, or from this address.
        """
        name = name.strip().lower()[:64]
        # Of an account by address: so that nobody keeps its owner, who comes from elsewhere, from signing in.
        network = network_of(source)
        keys = [(_key("account", f"{name}\n{network}"), ACCOUNT), (_key("address", network), ADDRESS)]
        self._count_try(keys)
        sql = "SELECT password, disabled, generation FROM aiki_users WHERE name = ?"
        known = name if name.isascii() else ""
        row = self.db.read(lambda connection: self.db.execute(connection, sql, (known,)).fetchone())
        try:
            right = passwords.verify_nothing(password) if row is None else passwords.verified(password, row[0])
        except passwords.Busy:
            raise TooManyTries(passwords.PATIENCE) from None
        if row is None or not right or row[1]:
            # Who mistakes the fields types a password where the name belongs: only names that there are get into the record.
            self.audit("", "sign-in", name if row is not None else "", outcome=REFUSED)
            return None
        return self._open_session(name, row[2], source, lifetime, keys)

    def _open_session(
        self, name: str, generation: int, source: str, lifetime: float, keys: list[tuple[bytes, Throttle]]
    ) -> tuple[str, Session]:
        token, csrf, now = secrets.token_urlsafe(32), secrets.token_urlsafe(24), self.clock()
        columns = ("id", "user_name", "generation", "csrf", "created_at", "seen_at", "expires_at", "source")
        row = (session_id(token), name, generation, csrf, now, now, now + int(lifetime * SECOND), source[:64])

        def work(connection: sa.Connection) -> None:
            self.db.execute(connection, "DELETE FROM aiki_sessions WHERE expires_at < ?", (now,))
            self.db.insert(connection, "aiki_sessions", columns, [row])
            self.db.execute(connection, "UPDATE aiki_users SET signed_in_at = ? WHERE name = ?", (now, name))
            # What was counted before the password was known to be right.
            self.db.execute(connection, "DELETE FROM aiki_sign_in_failures WHERE id = ?", (keys[0][0],))
            sql = "UPDATE aiki_sign_in_failures SET failures = failures - 1 WHERE id = ? AND failures > 0"
            self.db.execute(connection, sql, (keys[1][0],))
            self.write_audit(connection, [Audited(name, "sign-in", name)])

        self.db.transaction(work)
        found = self.session(token, lifetime)
        if found is None:  # the password was changed, or the user disabled, this moment
            raise NotThere(f"there is no user {name}")
        return token, found

    def _count_try(self, keys: list[tuple[bytes, Throttle]]) -> None:
        """Count a try as failed before the password is looked at, so that many at once are not more than one after another."""
        now = self.clock()

        def work(connection: sa.Connection) -> None:
            self.db.execute(connection, "DELETE FROM aiki_sign_in_failures WHERE last_at < ?", (now - _FORGET,))
            self.db.insert_new(
                connection,
                "aiki_sign_in_failures",
                ("id", "failures", "last_at", "until"),
                sorted((raw, 0, now, 0) for raw, _ in keys),
            )
            sql = f"SELECT failures, until FROM aiki_sign_in_failures WHERE id = ? {self.db.dialect.for_update}"
            rows = {raw: self.db.execute(connection, sql, (raw,)).fetchone() for raw, _ in sorted(keys, key=lambda k: k[0])}
            until = max(rows[raw][1] for raw, _ in keys)
            if until > now:
                raise TooManyTries((until - now) / SECOND)
            for raw, throttle in keys:
                failures = rows[raw][0] + 1
                over = failures - throttle.free
                wait = min(2.0 ** min(over, 30), throttle.longest) if over >= 0 else 0.0
                self.db.execute(
                    connection,
                    "UPDATE aiki_sign_in_failures SET failures = ?, last_at = ?, until = ? WHERE id = ?",
                    (failures, now, now + int(wait * SECOND), raw),
                )

        self.db.transaction(work)

    # ------------------------------------------------------------ sessions
    def session(self, token: str, idle: float) -> Session | None:
        """The session of a token, if it holds; that it was used is recorded, once a minute at most.

        :param idle: seconds without a request after which a session has ended.
        """
        raw, now = session_id(token), self.clock()
        sql = (
            "SELECT s.user_name, u.role, u.namespaces, s.csrf, s.seen_at FROM aiki_sessions s JOIN "
            "aiki_users u ON u.name = s.user_name "
            "AND u.generation = s.generation AND u.disabled = 0 WHERE s.id = ? AND s.expires_at > ? AND s.seen_at > ?"
        )
        row = self.db.read(lambda c: self.db.execute(c, sql, (raw, now, now - int(idle * SECOND))).fetchone())
        if row is None:
            return None
        if row[4] < now - SEEN_EVERY:
            touch = "UPDATE aiki_sessions SET seen_at = ? WHERE id = ? AND seen_at < ?"
            self.db.transaction(lambda c: self.db.execute(c, touch, (now, raw, now - SEEN_EVERY)).rowcount, repeatable=True)
        return Session(raw, row[0], row[1], namespaces_of(row[2]), row[3])

    def sign_out(self, session: Session) -> None:
        """End a session."""

        def work(connection: sa.Connection) -> None:
            self.db.execute(connection, "DELETE FROM aiki_sessions WHERE id = ?", (session.id,))
            self.write_audit(connection, [Audited(session.user, "sign-out", session.user)])

        self.db.transaction(work)


def user_name(name: str) -> str:
    """The name as it is kept: in small letters; raises `ConfigurationError`."""
    lower = name.strip().lower()
    if not _NAME.fullmatch(lower):
        raise ConfigurationError(f"user name {name[:80]!r}: use 1 to 64 letters, digits and . _ @ + -, a letter or digit first")
    return lower


def session_id(token: str) -> bytes:
    """What is kept of a session's token. It is random and long, so a fast hash will do."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def namespaces_text(namespaces: Iterable[str] | None) -> str | None:
    """A list of namespaces as it is kept; None is all of them."""
    if namespaces is None:
        return None
    names = sorted({check_name("namespace", name) for name in namespaces})
    if not names:
        raise ConfigurationError("namespaces: name at least one, or leave them out for all")
    return json.dumps(names)


def namespaces_of(text: str | None) -> frozenset[str] | None:
    """What `namespaces_text` wrote."""
    return None if text is None else frozenset(json.loads(text))


def _scope(role: str, namespaces: Iterable[str] | None) -> str:
    return f"{role} of {namespaces_text(namespaces) or 'all namespaces'}"


def _user(row: Any) -> UserView:
    return UserView(row[0], row[1], namespaces_of(row[2]), bool(row[3]), row[4], row[5], row[6])


def _generation() -> int:
    """Sessions hold while their user's is the same. Random, so that a user who comes back is another."""
    return secrets.randbits(62)


def network_of(source: str) -> str:
    """What counts as one address: of IPv6 the half that a provider gives to one customer."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return source
    if address.version == 4:
        return source
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def _key(kind: str, value: str) -> bytes:
    return hashlib.sha256(f"{kind}\n{value}".encode("utf-8", "surrogatepass")).digest()
