"""Users, sessions, keys and the audit, on both databases; and at once from several connections."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiki.clock import SECOND
from aiki.errors import ConfigurationError, Conflict, NotThere
from aiki.storage import Store, passwords
from aiki.storage.auditing import AuditFilter, Origin
from aiki.storage.people import TooManyTries
from tests.api.people import CHEAP, PASSWORD
from tests.storage.conftest import SetClock


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "COST", CHEAP)


@pytest.fixture
def store(emptied_store: Store) -> Store:
    return emptied_store


def test_users_sessions_and_what_ends_them(store: Store, clock: SetClock) -> None:
    assert not store.has_people()
    store.add_user("Ann", PASSWORD, "admin", actor="cli:root")
    store.add_user("bob", PASSWORD, "operator", ["red", "blue"])
    assert store.has_people()
    with pytest.raises(Conflict):
        store.add_user("ANN", PASSWORD, "viewer")
    for name, password in (("a b", PASSWORD), ("", PASSWORD), ("x" * 65, PASSWORD), ("carl", "too short")):
        with pytest.raises(ConfigurationError):
            store.add_user(name, password, "viewer")
    assert [user.name for user in store.users()] == ["ann", "bob"]
    entered = store.sign_in("bob", PASSWORD, "10.0.0.1", 3600)
    assert entered is not None
    token, session = entered
    assert (session.user, session.role, session.namespaces) == ("bob", "operator", frozenset({"red", "blue"}))
    clock.move(100)
    assert store.session(token, 200) == session
    clock.move(150)
    assert store.session(token, 200) == session, "it was seen meanwhile"
    clock.move(201)
    assert store.session(token, 200) is None
    assert store.session(token, 10_000) is not None
    assert store.session(token + "x", 10_000) is None
    changed = store.change_user("bob", role="viewer", namespaces=None)
    assert (changed.role, changed.namespaces) == ("viewer", None)
    found = store.session(token, 10_000)
    assert found is not None
    assert found.role == "viewer", "at once, without signing in anew"
    store.change_user("bob", password="another long password")
    assert store.session(token, 10_000) is None
    store.remove_user("bob")
    with pytest.raises(NotThere):
        store.change_user("bob", role="admin")


def test_the_last_admin_stays_even_if_two_go_at_once(store: Store) -> None:
    for name in ("ann", "bea"):
        store.add_user(name, PASSWORD, "admin")
    store.add_user("red", PASSWORD, "admin", ["red"])

    def remove(name: str) -> str:
        try:
            store.remove_user(name)
        except Conflict:
            return "stays"
        return "gone"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(remove, ("ann", "bea"))) == ["gone", "stays"]
    (last,) = (user.name for user in store.users() if user.namespaces is None)
    for change in ({"role": "viewer"}, {"disabled": True}, {"namespaces": ["red"]}):
        with pytest.raises(Conflict):
            store.change_user(last, **change)  # type: ignore[arg-type]
    store.change_user(last, password="another long password")
    store.remove_user(last, even_last=True)


def test_many_guesses_at_once_are_no_more_than_one_after_another(store: Store, clock: SetClock) -> None:
    store.add_user("ann", PASSWORD, "admin")

    def guess(number: int) -> str:
        try:
            return "right" if store.sign_in("ann", f"guess {number}", "10.0.0.1", 60) else "wrong"
        except TooManyTries:
            return "refused"

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(guess, range(24)))
    assert (told.count("wrong"), told.count("refused")) == (5, 19)
    assert store.sign_in("ann", PASSWORD, "10.0.1.1", 60) is not None, "who guesses locks nobody else out"
    clock.move(1000)
    assert store.sign_in("ann", PASSWORD, "10.0.0.1", 60) is not None, "after a while all is forgiven"


def test_an_address_is_what_one_customer_has(store: Store) -> None:
    def tries(*sources: str) -> list[bool]:
        told = []
        for number, source in enumerate(sources):
            try:
                store.sign_in(f"{source}-{number}", "x", source, 60)
                told.append(True)
            except TooManyTries:
                told.append(False)
        return told

    assert tries(*(f"2001:db8:0:1::{number:x}" for number in range(22))) == [True] * 20 + [False] * 2
    assert tries("2001:db8:0:2::1", "10.0.0.1", "no address") == [True] * 3
    assert tries(*["::ffff:10.0.0.2"] * 11, *["10.0.0.2"] * 11) == [True] * 20 + [False] * 2


def test_keys(store: Store, clock: SetClock) -> None:
    secret, key = store.add_key("ci", "operator", ["red"], expires_at=clock.now + 100 * SECOND, actor="ann")
    found = store.key_of(secret)
    assert found is not None
    assert (found.id, found.namespaces, found.used_at) == (key.id, frozenset({"red"}), None)
    clock.move(10)
    again = store.key_of(secret)
    assert again is not None
    assert again.used_at == clock.now - 10 * SECOND, "written once a minute at most"
    clock.move(90)
    assert store.key_of(secret) is None
    second, key = store.add_key("other", "viewer")
    for wrong in (
        "",
        "aiki_",
        f"aiki_{key.id}_",
        second[:-1],
        second + "x",
        second.replace(key.id, "x" * 12),
        "é" * 40,
        "aiki_\0_x",
    ):
        assert store.key_of(wrong) is None, wrong
    store.revoke_key(key.id, actor="ann")
    store.revoke_key(key.id, actor="ann")
    assert store.key_of(second) is None
    assert [item.action for item in store.audit_log(AuditFilter())] == ["key.revoke", "key.add", "key.add"]
    with pytest.raises(NotThere):
        store.revoke_key("nothere")


def test_the_audit_by_namespace_and_filter(open_store: Callable[..., Store], clock: SetClock) -> None:
    store = open_store()
    for number in range(5):
        store.of("red", Origin(f"r-{number}", "10.0.0.1")).audit("ann", "cancel", f"run-{number}", affected=number)
        store.of("blue").audit("ann", "cancel", f"run-{number}")
        clock.move(1)
    red = store.of("red")
    newest = red.audit_log(AuditFilter(actor="ann", action="cancel"), limit=2)
    assert [(item.subject, item.request_id) for item in newest] == [("run-4", "r-4"), ("run-3", "r-3")]
    rest = red.audit_log(AuditFilter(action="cancel"), limit=10, after=newest[-1].id)
    assert [item.subject for item in rest] == ["run-2", "run-1", "run-0"]
    between = AuditFilter(since=newest[-1].created_at - SECOND, until=newest[0].created_at)
    assert [item.subject for item in red.audit_log(between)] == ["run-3", "run-2"]
    assert red.audit_log(AuditFilter(subject="run-3"))[0].affected == 3
    assert red.audit_log(AuditFilter(actor="bob")) == []


def test_an_old_database_with_an_audit_is_upgraded(database_url: str) -> None:
    from alembic import command

    from aiki.storage.engine import Database
    from aiki.storage.schema import _config, upgrade

    db = Database(database_url)
    with db.engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        connection.commit()
    columns = ("namespace", "id", "created_at", "actor", "action", "subject", "detail")
    row = ("default", b"\x01" * 16, 5, "ann", "cancel", "run", "why")
    db.transaction(lambda connection: db.insert(connection, "aiki_audit", columns, [row]), repeatable=True)
    db.close()
    upgrade(database_url)
    store = Store(database_url)
    (found,) = store.audit_log(AuditFilter())
    assert (found.actor, found.detail, found.outcome, found.affected, found.reason) == ("ann", "why", "done", 1, "")
    store.close()
