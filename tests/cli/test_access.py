"""`aiki users` and `aiki keys`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aiki.cli.main import aiki
from aiki.errors import AikiError
from aiki.storage import Store, passwords
from aiki.storage.auditing import AuditFilter
from tests.api.people import CHEAP, PASSWORD


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(passwords, "COST", CHEAP)
    return f"sqlite:///{tmp_path / 'aiki.db'}"


def do(url: str, *arguments: str, says: str | None = None) -> Result:
    return CliRunner().invoke(aiki, [*arguments, "--database", url], input=says)


def test_users(url: str) -> None:
    made = do(url, "users", "add", "Ann", "--role", "admin", says=f"{PASSWORD}\n")
    assert (made.exit_code, made.output) == (0, "user ann: admin of all namespaces\n")
    assert do(url, "users", "add", "bob", "--namespace", "red", "--namespace", "blue", says=PASSWORD).exit_code == 0
    short = do(url, "users", "add", "eve", says="short\n")
    assert isinstance(short.exception, AikiError)
    assert "short" not in str(short.exception)
    assert do(url, "users", "passwd", "bob", says="another long password").exit_code == 0
    assert "operator of blue, red" in do(url, "users", "role", "bob", "--role", "operator").output
    assert "disabled" in do(url, "users", "disable", "bob").output
    listed = json.loads(do(url, "users", "list", "-o", "json").output)
    assert [(user["name"], user["role"], user["disabled"]) for user in listed] == [
        ("ann", "admin", False),
        ("bob", "operator", True),
    ]
    assert "disabled" in do(url, "users", "list").output
    assert "last admin" in str(do(url, "users", "remove", "ann").exception)
    assert do(url, "users", "remove", "ann", "--even-last").exit_code == 0
    assert "no user ann" in str(do(url, "users", "passwd", "ann", says=PASSWORD).exception)
    store = Store(url)
    records = store.audit_log(AuditFilter(action="user.change"))
    assert [record.detail for record in records] == ["disabled", "role operator", "password"]
    assert all(record.actor.startswith("cli") for record in records)
    assert store.sign_in("bob", "another long password", "::1", 60) is None, "disabled"
    store.close()


def test_no_password_is_taken_from_the_command_line(url: str) -> None:
    for option in ("--password", "-p"):
        assert do(url, "users", "add", "ann", option, PASSWORD).exit_code == 2


def test_keys(url: str) -> None:
    made = CliRunner().invoke(aiki, ["keys", "add", "ci", "--role", "operator", "--expires", "90d", "--database", url])
    secret = made.stdout.strip()
    assert secret.startswith("aiki_")
    store = Store(url)
    found = store.key_of(secret)
    assert found is not None
    assert (found.name, found.role, found.namespaces) == ("ci", "operator", None)
    (listed,) = json.loads(do(url, "keys", "list", "-o", "json").output)
    assert "secret" not in listed
    assert listed["id"] == found.id
    assert "valid" in do(url, "keys", "list").output
    assert do(url, "keys", "revoke", found.id).exit_code == 0
    assert store.key_of(secret) is None
    assert "revoked" in do(url, "keys", "list").output
    assert "no key" in str(do(url, "keys", "revoke", "nothere").exception)
    assert do(url, "keys", "add", "x", "--expires", "soon").exit_code == 2
    store.close()
