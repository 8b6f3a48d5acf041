"""Who may do what: every endpoint and every page, as nobody, as each role, and as the admin of another namespace."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from aiki import dashboard
from aiki.api import ApiOptions, create_app
from aiki.api.access import ACTIONS, OPEN, Principal, Role
from aiki.api.app import backend_of
from aiki.settings import Settings
from aiki.storage import Store, passwords
from aiki.storage.auditing import AuditFilter
from tests.api.people import CHEAP, PASSWORD, Browser
from tests.ready_made import sqlite_database

SECRET = "sk-live-0815"
NOBODY, OTHER = "nobody", "admin of another namespace"
ROLES = (NOBODY, "viewer", "operator", "admin", OTHER)


class World:
    """A server with two namespaces, a user and a key of each role in the first, and an admin of the second."""

    def __init__(self, folder: Path) -> None:
        settings = Settings.load(
            {}, database_url=sqlite_database(folder / "a.db"), broker_url=f"sqlite:///{folder / 'b.db'}", namespace="one"
        )
        self.app: Flask = create_app(settings, options=ApiOptions(local=False))
        dashboard.install(self.app)
        self.store: Store = backend_of(self.app).store
        self.keys: dict[str, str] = {}
        for name, role, namespace in (
            ("viewer", "viewer", "one"),
            ("operator", "operator", "one"),
            ("admin", "admin", "one"),
            (OTHER, "admin", "two"),
        ):
            self.keys[name] = self.store.add_key(name, role, [namespace])[0]
            self.store.add_user(name.replace(" ", "-"), PASSWORD, role, [namespace])
        root, _ = self.store.add_key("root", "admin")
        self.keys["root"] = root
        self.ask("root", "/api/v1/definitions", "POST", {"definitions": [{"name": "shop.charge"}]})
        arguments = {"order": "o-1", "card": {"number": SECRET}, "api_key": SECRET}
        answer = self.ask("root", "/api/v1/runs", "POST", {"name": "shop.charge", "kwargs": arguments})
        self.run = answer.json["id"]
        self.key_id = self.store.api_keys()[0].id

    def ask(self, who: str, path: str, method: str = "GET", body: Any = None, **headers: str) -> Any:
        if who != NOBODY:
            headers["Authorization"] = f"Bearer {self.keys[who]}"
        http: FlaskClient = self.app.test_client()
        options: dict[str, Any] = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        return http.open(path, method=method, headers=headers, **options)

    def browser(self, who: str) -> Browser:
        browser = Browser(self.app.test_client())
        if who != NOBODY:
            assert browser.sign_in(who.replace(" ", "-")).status_code == 303
        return browser


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    dear, passwords.COST = passwords.COST, CHEAP
    made = World(tmp_path_factory.mktemp("access"))
    yield made
    backend_of(made.app).close()
    passwords.COST = dear


def routes(app: Flask) -> list[tuple[str, str, str | None]]:
    """Every method of every rule, as `endpoint METHOD`, its address, and its action (None: open to all)."""
    out = []
    for rule in app.url_map.iter_rules():
        action = getattr(app.view_functions[rule.endpoint], "action", None)
        methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        out += [(f"{rule.endpoint} {method}", address(rule), action) for method in methods]
    return out


def address(rule: Rule) -> str:
    """An address that fits a rule; nothing need be there."""
    text = ""
    for dynamic, part in rule._trace:
        if not dynamic:
            text += part.lstrip("|")
        else:
            text += (
                "1" if type(rule._converters[part]).__name__ == "IntegerConverter" else "00000000-0000-0000-0000-000000000000"
            )
    return text


def test_every_endpoint_and_page_says_what_it_needs_or_is_listed_as_open(world: World) -> None:
    for endpoint, view in world.app.view_functions.items():
        action = getattr(view, "action", None)
        assert (action in ACTIONS) is not (endpoint in OPEN), f"{endpoint} has no @needs(...), and is not in access.OPEN"


def test_the_guide_has_the_table() -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/access.md").read_text()
    told = dict(re.findall(r"^\| `([a-z.]+)` \| (\w+) \|", guide, re.MULTILINE))
    assert told == {action: role.value for action, role in ACTIONS.items()}


@pytest.mark.parametrize("who", ROLES)
def test_the_table(world: World, who: str) -> None:
    """Whoever may not is told 401 or 403; whoever may gets anything else: there need not be what the address names."""
    wrong = []
    role = Role.ADMIN if who in ("admin", OTHER) else None if who == NOBODY else Role(who)
    streams = ("stream",)
    for name, path, action in routes(world.app):
        method = name.rpartition(" ")[2]
        if any(word in name for word in streams) and role is not None:
            method = "HEAD"  # the answer has no end
        answer = world.ask(who, path, method, {} if method in ("POST", "PUT", "PATCH") else None)
        answer.close()
        may = action is None or (role is not None and Principal("x", role, "key").may(action))
        told = answer.status_code
        if action is None:
            fits = told != 401 or name == "signin.sign_in POST"
        elif role is None:
            fits = told == 401
        else:
            # A form without its token is refused too, but that is told otherwise.
            refused = told == 403 and "needs the role" in answer.text
            fits = refused is not may and told not in (401, 500)
        if not fits:
            wrong.append(f"{name} {path}: {told}, {'may' if may else 'may not'}: {answer.text[:120]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("who", ROLES)
def test_the_table_of_pages_for_who_is_signed_in(world: World, who: str) -> None:
    browser = world.browser(who)
    role = Role.ADMIN if who in ("admin", OTHER) else None if who == NOBODY else Role(who)
    wrong = []
    for name, path, action in routes(world.app):
        if not name.endswith(" GET") or path.startswith("/api/") or action is None or "stream" in name:
            continue
        answer = browser.open(path)
        may = role is not None and Principal("x", role, "user").may(action)
        if role is None:
            fits = answer.status_code == 401 or (answer.status_code == 303 and "/sign-in?next=" in answer.headers["Location"])
        else:
            fits = (answer.status_code == 403) is not may and answer.status_code < 500
        if not fits:
            wrong.append(f"{name} {path}: {answer.status_code}")
    assert not wrong, "\n".join(wrong)


def test_changes_with_a_cookie_need_the_sessions_token(world: World) -> None:
    browser = world.browser("admin")
    right = browser.csrf()
    assert right
    wrong = []
    for name, path, action in routes(world.app):
        if name.endswith(" GET") or action is None:
            continue
        method = name.rpartition(" ")[2]
        for options in (
            {"json": {}},
            {"data": {"csrf_token": "x" * 32}},
            {"json": {}, "headers": {"X-CSRF-Token": right[:-1]}},
            {"json": {}, "headers": {"X-CSRF-Token": right, "Origin": "https://evil.example"}},
            {"json": {}, "headers": {"X-CSRF-Token": right, "Sec-Fetch-Site": "cross-site"}},
        ):
            if browser.open(path, method, **options).status_code != 403:
                wrong.append(f"{name} {options}")
    assert not wrong, wrong
    there = browser.open("/api/v1/definitions", "POST", json={"definitions": []}, headers={"X-CSRF-Token": right})
    assert there.status_code == 200


def test_another_namespaces_admin_sees_and_changes_nothing_here(world: World) -> None:
    def told(path: str, method: str = "GET", body: Any = None) -> Any:
        return world.ask(OTHER, f"/api/v1{path}", method, body)

    assert told("/runs").json["runs"] == []
    assert told("/definitions").json["definitions"] == []
    assert told("/audit").json["audit"] == [] or all("shop" not in json.dumps(item) for item in told("/audit").json["audit"])
    assert {key["name"] for key in told("/keys").json["keys"]} == {OTHER}
    assert [user["name"] for user in told("/users").json["users"]] == [OTHER.replace(" ", "-")]
    assert told(f"/keys/{world.key_id}/revoke", "POST", {}).status_code == 404
    assert told("/users/viewer", "PATCH", {"role": "admin"}).status_code == 404
    assert told("/users/viewer", "DELETE").status_code == 404
    for verb in ("cancel", "terminate", "pause", "resume", "wake", "retry", "rerun"):
        assert told(f"/runs/{world.run}/{verb}", "POST", {}).status_code == 404, verb
    assert told(f"/runs/{world.run}/events", "POST", {"name": "x"}).status_code == 404
    for part in ("", "/detail", "/history", "/why", "/stream"):
        assert told(f"/runs/{world.run}{part}").status_code == 404, part
    assert told("/runs", "POST", {"name": "shop.charge"}).status_code == 422, "it is not registered there"
    for namespace in ("one", "never-there"):
        answer = world.ask(OTHER, "/api/v1/runs", **{"X-Aiki-Namespace": namespace})
        assert (answer.status_code, answer.json["detail"]) == (404, "there is no such namespace, or it is not yours to see")
    assert world.ask("root", f"/api/v1/runs/{world.run}").json["state"] == "queued"


def test_one_server_keeps_two_namespaces_apart(world: World) -> None:
    two = {"X-Aiki-Namespace": "two"}
    body = {"definitions": [{"name": "shop.ship", "options": {"queue": "bulk"}}]}
    assert world.ask("root", "/api/v1/definitions", "POST", body, **two).status_code == 200
    made = world.ask("root", "/api/v1/runs?namespace=two", "POST", {"name": "shop.ship"})
    assert made.status_code == 201
    run = made.json["id"]
    assert world.ask("root", f"/api/v1/runs/{run}").status_code == 404
    assert world.ask("root", f"/api/v1/runs/{run}", **two).json["namespace"] == "two"
    assert world.ask("root", "/api/v1/runs", "POST", {"name": "shop.ship"}).status_code == 422, "definitions are by namespace"
    assert world.ask(OTHER, f"/api/v1/runs/{run}/cancel", "POST", {"reason": "mine"}).json["state"] == "cancelled"
    (cancel,) = world.store.of("two").audit_log(AuditFilter(action="cancel"))
    assert (cancel.actor.startswith(f"key:{OTHER}"), cancel.subject, cancel.reason) == (True, run, "mine")
    assert world.store.audit_log(AuditFilter(subject=run)) == []
    me = world.ask("root", "/api/v1/me").json
    assert (me["namespace"], set(me["known_namespaces"])) >= ("one", {"one", "two"})
    assert world.ask("root", "/api/v1/runs", **{"X-Aiki-Namespace": "a b"}).status_code == 400


def test_what_is_refused_is_recorded(world: World) -> None:
    world.ask("viewer", f"/api/v1/runs/{world.run}/cancel", "POST", {})
    newest = world.store.audit_log(AuditFilter(action="runs.operate"), limit=1)[0]
    assert (newest.outcome, newest.subject) == ("refused", f"/api/v1/runs/{world.run}/cancel")
    assert newest.actor.startswith("key:viewer")
    assert newest.request_id


def test_secrets_are_seen_by_admins_and_programs_alone(world: World) -> None:
    for who in ("viewer", "operator"):
        browser = world.browser(who)
        pages = [f"/runs/{world.run}", f"/runs/{world.run}/payload/input", f"/runs/{world.run}/payload/input?download=1"]
        pages += [f"/api/v1/runs/{world.run}{part}" for part in ("", "/detail", "/history")]
        pages += ["/", "/runs", "/api/v1/runs", "/api/v1/audit"]
        for path in pages:
            assert SECRET not in browser.open(path).text, f"{path} as {who}"
        detail = browser.open(f"/api/v1/runs/{world.run}/detail").json
        assert detail["values"]["kwargs"] == {"order": "o-1", "card": "[masked]", "api_key": "[masked]"}
        assert (detail["masked"], detail["withheld"], detail["input"]) == (2, True, None)
        for asked in ("args.api_key:sk-live-0815", "args.card.number:sk*", "-args.api_key:x"):
            answer = browser.open("/api/v1/runs", query_string={"q": asked})
            assert answer.status_code in (400, 403, 422), "who may not see it cannot find it by guessing"
        assert browser.open("/api/v1/runs?q=args.order:o-1").json["runs"]
    viewer = world.ask("viewer", f"/api/v1/runs/{world.run}/detail")
    assert SECRET not in viewer.text
    program = world.ask("operator", f"/api/v1/runs/{world.run}/detail").json
    assert SECRET in program["input"]["text"], "what a service asks for itself is never masked"
    assert SECRET not in json.dumps(program["values"])
    seen = world.browser("admin").open(f"/api/v1/runs/{world.run}/detail").json
    assert seen["values"]["kwargs"]["card"] == {"number": SECRET}
    assert (seen["masked"], "withheld" in seen) == (0, False)
