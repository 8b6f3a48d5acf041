"""Signing in, sessions, keys that end, and whom a server lets in at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aiki import dashboard
from aiki.api import ApiOptions, create_app, guard, hub
from aiki.api.app import backend_of
from aiki.settings import Settings
from aiki.storage import Store, passwords
from aiki.storage.auditing import AuditFilter
from tests.api.conftest import problem
from tests.api.people import CHEAP, PASSWORD, Browser
from tests.storage.conftest import SetClock

MakeSite = Callable[..., "Site"]


class Site:
    """A server with pages and a clock that is set."""

    def __init__(self, settings: Settings, options: ApiOptions | None = None) -> None:
        self.app = create_app(settings, options=options or ApiOptions(local=False))
        dashboard.install(self.app)
        self.store: Store = backend_of(self.app).store
        self.clock = SetClock(self.store.clock())
        self.store.clock = self.clock

    def later(self, seconds: float) -> None:
        self.clock.move(seconds)
        self.app.extensions[guard.EXTENSION].forget()

    def browser(self, base: str = "http://localhost") -> Browser:
        return Browser(self.app.test_client(), base)

    def ask(self, key: str, path: str = "/api/v1/runs", **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}", **options.pop("headers", {})}
        return self.app.test_client().open(path, headers=headers, **options)


@pytest.fixture
def make_site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeSite]:
    monkeypatch.setattr(passwords, "COST", CHEAP)
    made: list[Site] = []

    def make(options: ApiOptions | None = None, **changed: Any) -> Site:
        made.append(Site(replace(settings, **changed), options))
        return made[-1]

    yield make
    for site in made:
        backend_of(site.app).close()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """Where Ann is an admin and Bob an operator."""
    made = make_site()
    made.store.add_user("Ann", PASSWORD, "admin")
    made.store.add_user("bob", PASSWORD, "operator")
    return made


# ---------------------------------------------------------------- signing in
def test_signing_in_leads_where_one_wanted_to_go(site: Site) -> None:
    browser = site.browser()
    away = browser.open("/runs?q=status:failed")
    assert (away.status_code, away.headers["Location"]) == (303, "/sign-in?next=/runs?q%3Dstatus:failed")
    there = browser.sign_in("ANN ", next="/runs?q=status:failed")
    assert (there.status_code, there.headers["Location"]) == (303, "/runs?q=status:failed")
    cookie = next(value for value in there.headers.getlist("Set-Cookie") if value.startswith("aiki_session="))
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie, "plain http on this machine"
    assert browser.open("/api/v1/me").json["name"] == "ann"


@pytest.mark.parametrize(
    "wanted", ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil", "javascript:alert(1)", "/a\r\nX: y", ""]
)
def test_it_leads_nowhere_else(site: Site, wanted: str) -> None:
    assert site.browser().sign_in("ann", next=wanted).headers["Location"] == "/"


def test_over_tls_the_cookie_is_bound_to_the_host(site: Site) -> None:
    browser = site.browser("https://aiki.example.com")
    answer = browser.sign_in("ann")
    cookie = next(value for value in answer.headers.getlist("Set-Cookie") if value.startswith("__Host-aiki="))
    assert all(part in cookie for part in ("Secure", "HttpOnly", "Path=/", "SameSite=Lax"))
    assert "Domain" not in cookie
    assert answer.headers["Strict-Transport-Security"]
    assert browser.open("/api/v1/me").status_code == 200


def test_a_password_never_goes_over_plain_http_to_another_machine(site: Site) -> None:
    answer = site.browser("http://aiki.example.com").sign_in("ann")
    assert (answer.status_code, "https" in answer.text) == (400, True)


def test_who_is_wrong_learns_nothing(site: Site) -> None:
    unknown, wrong = (site.browser().sign_in(name, "not the password").text for name in ("nobody", "ann"))
    site.store.change_user("bob", disabled=True)
    disabled = site.browser().sign_in("bob").text

    def told(text: str) -> str:
        return text[text.index("<main") : text.index("</main")].partition("csrf_token")[0]

    assert told(unknown) == told(wrong) == told(disabled)
    records = site.store.audit_log(AuditFilter(action="sign-in"))
    assert [(item.subject, item.outcome) for item in records] == [("bob", "refused"), ("ann", "refused"), ("", "refused")]


def test_whether_there_is_such_a_user_takes_as_long_to_find_out(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    derived = []
    derive = passwords._derive
    monkeypatch.setattr(passwords, "_derive", lambda *given: derived.append(given) or derive(*given))  # type: ignore[func-returns-value]
    site.browser().sign_in("nobody", "x")
    site.browser().sign_in("ann", "x")
    assert len(derived) == 2


def test_an_account_is_guarded_and_recovers(site: Site) -> None:
    browser = site.browser()
    codes = [browser.sign_in("bob", "wrong").status_code for _ in range(5)]
    assert codes == [401] * 5
    refused = browser.sign_in("bob")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert site.browser().sign_in("ann").status_code == 303, "others may"
    site.later(2)
    assert browser.sign_in("bob", "wrong").status_code == 401
    assert browser.sign_in("bob").status_code == 429
    site.later(1.5)
    assert browser.sign_in("bob").status_code == 429, "the wait grows"
    site.later(1)
    assert browser.sign_in("bob").status_code == 303
    assert browser.sign_in("bob", "wrong").status_code == 401, "and begins anew after a success"


def test_an_address_is_guarded_whatever_names_it_tries(site: Site) -> None:
    browser = site.browser()
    browser.base = "https://localhost"
    token = browser.token()
    codes = []
    for number in range(21):
        data = {"name": f"user-{number}", "password": "x", "csrf_token": token}
        codes.append(browser.open("/sign-in", "POST", data=data).status_code)
    assert codes == [401] * 20 + [429]
    elsewhere = {"name": "ann", "password": PASSWORD, "csrf_token": token}
    answer = browser.open("/sign-in", "POST", data=elsewhere, environ_base={"REMOTE_ADDR": "10.1.2.3"})
    assert answer.status_code == 303


def test_the_form_must_be_ours(site: Site) -> None:
    browser = site.browser()
    data = {"name": "ann", "password": PASSWORD}
    assert browser.open("/sign-in", "POST", data=data).status_code == 403
    data["csrf_token"] = browser.token()
    assert browser.open("/sign-in", "POST", data=data, headers={"Origin": "https://evil.example"}).status_code == 403
    assert browser.open("/sign-in", "POST", data=data, headers={"Origin": "http://localhost"}).status_code == 303


# ---------------------------------------------------------------- sessions
def test_a_session_ends(site: Site) -> None:
    browser = site.browser()
    browser.sign_in("ann")
    site.later(11 * 3600)
    assert browser.open("/api/v1/me").status_code == 200
    site.later(11 * 3600)
    assert browser.open("/api/v1/me").status_code == 200, "it was used meanwhile"
    site.later(12 * 3600 + 1)
    assert browser.open("/api/v1/me").status_code == 401, "half a day without a request"
    browser.sign_in("ann")
    for _ in range(15):
        site.later(11 * 3600)
        assert browser.open("/api/v1/me").status_code == 200
    site.later(4 * 3600)
    assert browser.open("/api/v1/me").status_code == 401, "a week, however often it was used"


@pytest.mark.parametrize("change", [{"password": "another long password"}, {"disabled": True}])
def test_a_session_ends_with_the_password_and_with_the_user(site: Site, change: dict[str, Any]) -> None:
    browser, other = site.browser(), site.browser()
    browser.sign_in("bob")
    other.sign_in("ann")
    site.store.change_user("bob", **change)
    site.later(0)
    assert browser.open("/api/v1/me").status_code == 401
    assert other.open("/api/v1/me").status_code == 200
    if "disabled" in change:
        site.store.change_user("bob", disabled=False)
        site.later(0)
        assert browser.open("/api/v1/me").status_code == 401, "it stays so"


def test_a_user_who_comes_back_is_another(site: Site) -> None:
    browser = site.browser()
    browser.sign_in("bob")
    site.store.remove_user("bob")
    site.store.add_user("bob", PASSWORD, "admin")
    site.later(0)
    assert browser.open("/api/v1/me").status_code == 401


def test_signing_out_ends_it_for_good(site: Site) -> None:
    browser = site.browser()
    browser.sign_in("ann")
    stolen = browser.http.get_cookie("aiki_session")
    assert stolen is not None
    answer = browser.open("/sign-out", "POST", data={"csrf_token": browser.csrf()})
    assert answer.headers["Location"] == "/sign-in"
    assert browser.open("/api/v1/me").status_code == 401
    browser.http.set_cookie("aiki_session", stolen.value)
    assert browser.open("/api/v1/me").status_code == 401


def test_only_a_hash_of_a_token_is_kept(site: Site) -> None:
    browser = site.browser()
    browser.sign_in("ann")
    secret, _ = site.store.add_key("ci", "viewer")
    cookie = browser.http.get_cookie("aiki_session")
    assert cookie is not None
    path = Path(str(site.store.db.url.database))
    kept = b"".join(file.read_bytes() for file in path.parent.glob(path.name + "*"))
    for text in (cookie.value, secret, secret.rpartition("_")[2], PASSWORD):
        assert text.encode() not in kept


def test_a_part_of_a_page_leads_the_whole_to_the_form(site: Site) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://localhost/runs?q=a"}
    answer = site.browser().open("/runs?part=rows", headers=headers)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/sign-in?next=/runs?q%3Da")


def test_who_sees_several_namespaces_chooses(site: Site) -> None:
    site.store.add_user("eve", PASSWORD, "operator", ["red", "blue"])
    browser = site.browser()
    browser.sign_in("eve")
    assert browser.open("/api/v1/me").json["namespace"] == "blue"
    token = browser.csrf()
    assert browser.open("/namespace", "POST", data={"name": "red", "csrf_token": token}).status_code == 303
    assert browser.open("/api/v1/me").json["namespace"] == "red"
    assert browser.open("/api/v1/me?namespace=blue").json["namespace"] == "blue"
    assert browser.open("/namespace", "POST", data={"name": "default", "csrf_token": token}).status_code == 404
    key, _ = site.store.add_key("both", "operator", ["red", "blue"])
    problem(site.ask(key), 400, "invalid")
    assert site.ask(key, headers={"X-Aiki-Namespace": "red"}).status_code == 200


# ---------------------------------------------------------------- keys and users over the API
def test_keys_are_made_used_and_revoked(site: Site) -> None:
    admin, _ = site.store.add_key("admin", "admin")
    body = {"name": "ci", "role": "viewer", "expires_in": 3600}
    made = site.ask(admin, "/api/v1/keys", method="POST", json=body)
    assert made.status_code == 201
    secret, key = made.json["secret"], made.json["key"]
    assert key["created_by"].startswith("key:admin")
    assert secret not in site.ask(admin, "/api/v1/keys").text
    assert site.ask(secret).status_code == 200
    listed = {item["id"]: item for item in site.ask(admin, "/api/v1/keys").json["keys"]}
    assert listed[key["id"]]["used_at"]
    site.later(3601)
    problem(site.ask(secret), 401, "unauthorized")
    second = site.ask(admin, "/api/v1/keys", method="POST", json={"name": "b", "role": "viewer"}).json
    assert site.ask(second["secret"]).status_code == 200
    revoked = site.ask(admin, f"/api/v1/keys/{second['key']['id']}/revoke", method="POST")
    assert revoked.json["revoked_at"]
    problem(site.ask(second["secret"]), 401, "unauthorized")
    problem(site.ask(second["secret"][:-1]), 401, "unauthorized")
    problem(site.ask(admin, "/api/v1/keys/nothere/revoke", method="POST"), 404, "not_found")
    actions = [(item.action, item.subject) for item in site.store.audit_log(AuditFilter(), limit=3)]
    assert actions[0] == ("key.revoke", second["key"]["id"])


def test_users_are_managed_and_one_admin_stays(site: Site) -> None:
    admin, _ = site.store.add_key("admin", "admin")

    def ask(method: str, path: str = "", body: Any = None) -> Any:
        return site.ask(admin, f"/api/v1/users{path}", method=method, **({} if body is None else {"json": body}))

    new = {"name": "Carl", "password": PASSWORD, "role": "viewer", "namespaces": ["red"]}
    assert ask("POST", body=new).json["name"] == "carl"
    assert PASSWORD not in ask("GET").text
    problem(ask("POST", body=new), 409, "conflict")
    told = problem(ask("POST", body={**new, "name": "dora", "password": "short-secret"[:8]}), 400, "invalid")
    assert "short" not in json.dumps(told)
    assert ask("PATCH", "/carl", {"role": "operator", "namespaces": None}).json["namespaces"] is None
    for method, body in (
        ("DELETE", None),
        ("PATCH", {"role": "viewer"}),
        ("PATCH", {"disabled": True}),
        ("PATCH", {"namespaces": ["a"]}),
    ):
        problem(ask(method, "/ann", body), 409, "conflict")
    assert ask("PATCH", "/carl", {"role": "admin"}).status_code == 200
    assert ask("DELETE", "/ann").status_code == 204
    problem(ask("DELETE", "/ann"), 404, "not_found")


def test_an_admin_gives_no_more_than_it_has(site: Site) -> None:
    red, _ = site.store.add_key("red", "admin", ["red"])
    for path, body in (
        ("/api/v1/keys", {"name": "x", "role": "admin"}),
        ("/api/v1/users", {"name": "x", "role": "admin", "password": PASSWORD}),
    ):
        problem(site.ask(red, path, method="POST", json={**body, "namespaces": ["blue"]}), 403, "forbidden")
        answer = site.ask(red, path, method="POST", json=body)
        found = answer.json.get("key", answer.json)
        assert (answer.status_code, found["namespaces"]) == (201, ["red"])


def test_the_audit_is_read_in_pages_and_by_what_is_asked(site: Site) -> None:
    admin, _ = site.store.add_key("admin", "admin")
    for number in range(7):
        site.later(10)
        site.store.audit("ann", "cancel" if number % 2 else "retry", f"run-{number}", reason="why", affected=number)
    seen, after = [], ""
    while True:
        page = site.ask(admin, f"/api/v1/audit?actor=ann&limit=3{after}").json
        seen += [item["subject"] for item in page["audit"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == [f"run-{number}" for number in range(6, -1, -1)]
    assert [item["subject"] for item in site.ask(admin, "/api/v1/audit?action=cancel").json["audit"]] == [
        "run-5",
        "run-3",
        "run-1",
    ]
    (one,) = site.ask(admin, "/api/v1/audit?subject=run-3").json["audit"]
    assert (one["affected"], one["reason"], one["outcome"]) == (3, "why", "done")
    since = one["created_at"]
    later = site.ask(admin, "/api/v1/audit", query_string={"since": since, "actor": "ann"}).json["audit"]
    assert [item["subject"] for item in later] == ["run-6", "run-5", "run-4", "run-3"]
    before = site.ask(admin, "/api/v1/audit", query_string={"until": since, "actor": "ann"}).json["audit"]
    assert [item["subject"] for item in before] == ["run-2", "run-1", "run-0"]
    wrong = site.ask(admin, f"/api/v1/audit?action=retry{after}")
    problem(wrong, 400, "invalid")


def test_a_stream_ends_with_the_key_that_opened_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ASK_AGAIN", 0.0)
    key, made = site.store.add_key("tv", "viewer")
    other, _ = site.store.add_key("other", "viewer")
    answer, stays = site.ask(key, "/api/v1/stream"), site.ask(other, "/api/v1/stream")
    pieces = iter(answer.response)
    assert b"retry" in next(pieces)
    site.store.revoke_key(made.id)
    site.later(0)
    for _ in pieces:  # until it ends
        pass
    answer.close()
    assert len(backend_of(site.app).hub) == 1, "the other goes on"
    stays.close()


# ---------------------------------------------------------------- whom a server lets in
def test_a_server_of_this_machine_lets_all_in_until_it_knows_somebody(make_site: MakeSite) -> None:
    site = make_site(ApiOptions(local=True))
    assert site.browser().open("/api/v1/me").json["kind"] == "local"
    for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP"):
        assert site.browser().open("/api/v1/me", headers={header: "10.0.0.1"}).status_code == 403, "behind a proxy"
    key, made = site.store.add_key("ci", "viewer")
    site.later(0)
    assert site.browser().open("/api/v1/me").status_code == 401
    assert site.ask(key).status_code == 200
    site.store.revoke_key(made.id)
    site.later(0)
    assert site.browser().open("/api/v1/me").status_code == 401, "it does not open again"


def test_another_server_lets_nobody_in_who_is_not_known(make_site: MakeSite) -> None:
    site = make_site(ApiOptions(local=False))
    problem(site.app.test_client().get("/api/v1/me"), 401, "unauthorized")
    behind = make_site(ApiOptions(local=True), trusted_proxies="127.0.0.1")
    problem(behind.app.test_client().get("/api/v1/me"), 401, "unauthorized")


def test_only_trusted_proxies_are_believed(make_site: MakeSite) -> None:
    site = make_site(trusted_proxies="127.0.0.1, 10.0.0.0/8")
    site.store.add_user("ann", PASSWORD, "admin")
    headers = {
        "X-Forwarded-For": "6.6.6.6, 203.0.113.9, 10.0.0.7",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "a.example",
    }

    def signed_in(address: str) -> Any:
        browser = site.browser("http://inside:8470")
        page = browser.open("/sign-in", headers=headers, environ_base={"REMOTE_ADDR": address})
        token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
        data = {"name": "ann", "password": PASSWORD, "csrf_token": token}
        return browser.open(
            "/sign-in", "POST", data=data, headers={**headers, "Cookie": _cookies(page)}, environ_base={"REMOTE_ADDR": address}
        )

    assert signed_in("127.0.0.1").status_code == 303
    assert site.store.audit_log(AuditFilter(action="sign-in"))[0].source == "203.0.113.9"
    assert signed_in("192.0.2.1").status_code == 400, "whoever it is says that this is https"


def _cookies(answer: Any) -> str:
    return "; ".join(value.partition(";")[0] for value in answer.headers.getlist("Set-Cookie"))
