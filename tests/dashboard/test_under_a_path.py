"""The dashboard and the API under a path of a name that is not theirs alone, whether or not the proxy cuts the path off."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from werkzeug.test import TestResponse

from aiki import dashboard
from aiki.api import ApiOptions, create_app, mounting
from aiki.api.app import backend_of
from aiki.client.remote import RemoteClient
from aiki.errors import ConfigurationError
from aiki.settings import Settings, public_path
from aiki.storage import passwords
from tests.api.people import CHEAP, PASSWORD
from tests.dashboard.test_pages import save_worker
from tests.ready_made import sqlite_database
from tests.storage.bench import Bench, step
from tests.storage.conftest import SetClock

PREFIX = "/tools/aiki"
PUBLIC = f"https://example.com{PREFIX}/"
OF_EACH = 5
"""How many addresses that one endpoint answers are looked at."""


class Proxied:
    """A site behind a proxy, asked as a browser does: everything that is asked for must be under the path."""

    def __init__(self, folder: Path, *, strips: bool, public_url: str = PUBLIC, path: str = PREFIX, **changed: Any) -> None:
        self.path, self.strips = path, strips
        places = {"database_url": sqlite_database(folder / "aiki.db"), "broker_url": f"sqlite:///{folder / 'broker.db'}"}
        self.settings = Settings.load({}, public_url=public_url, **places, **changed)
        self.app = create_app(self.settings, options=ApiOptions(local=False, rate_limit=0))
        dashboard.install(self.app)
        self.backend = backend_of(self.app)
        self.pages = self
        self.http = self.app.test_client()
        self.store = self.backend.store

    def open(self, address: str, method: str = "GET", base: str = "https://example.com", **options: Any) -> TestResponse:
        """Ask for what a browser has in its address bar."""
        parts = urlsplit(address)
        assert parts.path == self.path or parts.path.startswith(self.path + "/"), f"{address} is not ours"
        given = (parts.path[len(self.path) :] or "/") if self.strips else parts.path
        headers = {"Accept": "text/html", **options.pop("headers", {})}
        asked = given + (f"?{parts.query}" if parts.query else "")
        # What the browser keeps is looked at under the path that it knows, whatever the proxy makes of it.
        answer = self.app.test_client(use_cookies=False).open(
            asked, method=method, base_url=base, headers={**headers, "Cookie": self._cookies(parts.path)}, **options
        )
        for line in answer.headers.getlist("Set-Cookie"):
            self._keep(line)
        return answer

    def ok(self, address: str, method: str = "GET", status: int = 200, **options: Any) -> TestResponse:
        answer = self.open(address, method, **options)
        assert answer.status_code == status, (address, answer.status_code, answer.text[:500])
        return answer

    def post(self, address: str, fields: dict[str, Any], page: str = "/keys", **options: Any) -> TestResponse:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.open(self.path + page).text)
        assert found, "no form"
        return self.open(address, "POST", data={"csrf_token": found[1], **fields}, **options)

    jar: dict[str, tuple[str, str]]

    def _keep(self, line: str) -> None:
        self.__dict__.setdefault("jar", {})
        name, _, rest = line.partition("=")
        path = re.search(r"Path=([^;]+)", line)
        assert path, line
        self.jar[name] = (rest.partition(";")[0], path[1])

    def _cookies(self, path: str) -> str:
        kept = self.__dict__.get("jar", {})
        return "; ".join(
            f"{name}={value}" for name, (value, of) in kept.items() if path == of or path.startswith(of.rstrip("/") + "/")
        )

    def close(self) -> None:
        self.backend.close()


@pytest.fixture
def proxied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Proxied]]:
    monkeypatch.setattr(passwords, "COST", CHEAP)
    made: list[Proxied] = []

    def make(**changed: Any) -> Proxied:
        made.append(Proxied(tmp_path, **changed))
        return made[-1]

    yield make
    for site in made:
        site.close()


both_kinds = pytest.mark.parametrize("strips", [True, False], ids=["cut off", "kept"])


class Links(HTMLParser):
    """All that a page points at: addresses to get, and forms to post to."""

    GET = frozenset({"href", "src", "hx-get", "data-stream", "data-copy-from", "data-home"})

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[str] = []
        self.forms: list[tuple[str, str]] = []
        self.places: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.gets += [value for name, value in given.items() if name in self.GET and not value.startswith("#")]
        if tag == "form":
            self.forms.append((given.get("method", "get").upper(), given["action"]))
        if given.get("name") == "next":
            self.places.append(given["value"])

    @classmethod
    def of(cls, text: str) -> Links:
        found = cls()
        found.feed(text)
        return found


def fill(site: Proxied) -> str:
    """Something of all that there are pages of; the id of a workflow's run."""
    store = site.store
    clock = SetClock(store.clock())
    bench = Bench(store, clock)
    done = step(0, "step", "pack", "completed", 1, e="json", r='{"a":1}')
    flow = bench.start("shop.flow", "x")
    bench.steps(flow, done, step(1, "event", "paid"))
    failed = bench.start("shop.charge", "o-1", kind="task")
    bench.fail(failed)
    for number in range(60):
        bench.start("shop.mail", number, kind="task")
        store.audit("ann", "test", f"queue q{number}")
    save_worker(site)  # type: ignore[arg-type]
    store.save_dead_letter("default", "nowhere/x", "no JSON", {"h": 1}, b"\xff")
    store.create_webhook("https://hooks.example.com/x", states=["failed"], names=[], secret="s" * 32)
    return bench.text(flow)


@both_kinds
def test_every_page_and_all_that_it_points_at_stays_under_the_path(proxied: Callable[..., Proxied], strips: bool) -> None:
    site = proxied(strips=strips)
    flow = fill(site)
    site.store.add_user("ann", PASSWORD, "admin", actor="a test")
    site.store.add_key("k", "admin", actor="a test")
    first = site.open(f"{PREFIX}/runs?q=name:shop.mail")
    assert (first.status_code, first.location) == (303, f"{PREFIX}/sign-in?next={PREFIX}/runs?q%3Dname:shop.mail")
    token = Links.of(site.ok(first.location).text)
    assert token.places[-1] == f"{PREFIX}/runs?q=name:shop.mail"
    fields = {"name": "ann", "password": PASSWORD, "next": token.places[-1]}
    signed_in = site.post(f"{PREFIX}/sign-in", fields, page="/sign-in")
    assert signed_in.location == f"{PREFIX}/runs?q=name:shop.mail"
    made = site.post(f"{PREFIX}/runs/bulk", {"verb": "cancel", "all": "1", "q": "name:none", "number": 0})
    assert made.status_code < 500

    routes = site.app.url_map.bind("example.com")
    seen: dict[str, set[str]] = {}
    asked = [f"{PREFIX}/", f"{PREFIX}/api/v1/docs", f"{PREFIX}/find?q=shop", f"{PREFIX}/names", f"{PREFIX}/nowhere"]
    asked += [
        f"{PREFIX}/runs/bulk?verb=cancel&all=1",
        f"{PREFIX}/batches",
        f"{PREFIX}",
        f"{PREFIX}/sign-in",
        f"{PREFIX}/runs/{flow}",
    ]
    while asked:
        address = asked.pop()
        assert address.startswith(PREFIX + "/") or address == PREFIX, address
        path = urlsplit(address).path.removeprefix(PREFIX) or "/"
        endpoint = "" if path == "/nowhere" else str(routes.match(path, "GET")[0])
        known = seen.setdefault(endpoint, set())
        if address in known or len(known) >= OF_EACH or endpoint == "streams.stream":
            known.add(address)
            continue
        known.add(address)
        if endpoint == "streams.run_stream":
            site.ok(address, "HEAD")
            continue
        answer = site.open(address)
        missing = endpoint == "dashboard.run" and site.store.get_run(path.split("/")[2]) is None  # a worker's, made up
        expected = 302 if endpoint == "dashboard.find" else 404 if missing or not endpoint else 200
        assert answer.status_code == expected, (address, answer.text)
        if answer.location:
            asked.append(answer.location)
        if answer.mimetype != "text/html":
            for found in re.findall(r'"url":"([^"]+)"', answer.text) if endpoint == "dashboard.names" else ():
                asked.append(found)
            continue
        links = Links.of(answer.text)
        for place in links.places:
            assert place.startswith(f"{PREFIX}/"), (address, place)
        for method, form in links.forms:
            assert form.startswith(f"{PREFIX}/"), (address, form)
            assert routes.match(urlsplit(form).path.removeprefix(PREFIX), method)
        asked += [urljoin(address, found) for found in links.gets]

    pages = {rule.endpoint for rule in site.app.url_map.iter_rules() if "GET" in (rule.methods or ())}
    pages = {name for name in pages if name.startswith(("dashboard.", "assets.", "signin.", "documents."))}
    never = pages - set(seen) - {"dashboard.batch", "dashboard.ask_stop_batch"}  # there is none: those are asked for below
    assert not never


@both_kinds
def test_forms_redirects_and_cookies_stay_under_the_path(proxied: Callable[..., Proxied], strips: bool) -> None:
    site = proxied(strips=strips)
    fill(site)
    site.store.add_user("ann", PASSWORD, "admin", actor="a test")
    for secure in (True, False):
        site.jar = {}
        base = "https://example.com" if secure else "http://localhost"
        token = re.search(r'csrf_token" value="([^"]+)"', site.ok(f"{PREFIX}/sign-in", base=base).text)
        assert token
        data = {"csrf_token": token[1], "name": "ann", "password": PASSWORD, "next": "/elsewhere"}
        answer = site.ok(f"{PREFIX}/sign-in", "POST", 303, base=base, data=data)
        assert answer.location == f"{PREFIX}/"
        assert set(site.jar) == {"aiki_form", "__Secure-aiki" if secure else "aiki_session"}
        assert {path for _, path in site.jar.values()} == {PREFIX}
    site.jar = {}
    fields = {"name": "ann", "password": PASSWORD}
    assert site.post(f"{PREFIX}/sign-in", fields, page="/sign-in").location == f"{PREFIX}/"
    themed = site.post(f"{PREFIX}/theme", {"theme": "dark", "next": f"{PREFIX}/queues"})
    assert themed.location == f"{PREFIX}/queues"
    chosen = site.post(f"{PREFIX}/namespace", {"name": "default", "next": f"{PREFIX}/"})
    assert chosen.location == f"{PREFIX}/"
    site.ok(f"{PREFIX}/runs?cols=run&cols=queue")
    paths = {name: path for name, (_, path) in site.jar.items()}
    assert paths.pop("aiki_columns") == f"{PREFIX}/runs"
    assert set(paths.values()) == {PREFIX}
    paused = site.post(f"{PREFIX}/queues/default/pause", {"reason": "x"})
    assert paused.location == f"{PREFIX}/queues/default?did=queue-pause"
    batch = site.post(f"{PREFIX}/queues/default/purge", {"typed": "default", "reason": "x"}).location
    assert batch.startswith(f"{PREFIX}/batches/")
    for address in (batch, batch.partition("?")[0] + "/stop"):
        links = Links.of(site.ok(address).text)
        assert all(place.startswith(f"{PREFIX}/") for place in links.gets + links.places + [form for _, form in links.forms])
    over = site.open(f"{PREFIX}/runs?part=rows", headers={"HX-Request": "true", "HX-Current-URL": f"{PUBLIC}runs?q=a"})
    assert over.status_code == 200
    assert site.post(f"{PREFIX}/sign-out", {}).location == f"{PREFIX}/sign-in"
    gone = site.open(f"{PREFIX}/runs?part=rows", headers={"HX-Request": "true", "HX-Current-URL": f"{PUBLIC}runs?q=a"})
    assert (gone.status_code, gone.headers["HX-Redirect"]) == (401, f"{PREFIX}/sign-in?next={PREFIX}/runs?q%3Da")


@both_kinds
def test_the_api_names_itself_under_the_path(proxied: Callable[..., Proxied], strips: bool) -> None:
    site = proxied(strips=strips)
    key = {"Authorization": f"Bearer {site.store.add_key('k', 'admin', actor='a test')[0]}", "Accept": "application/json"}
    api = f"{PREFIX}/api/v1"

    def made(path: str, body: dict[str, Any]) -> str:
        answer = site.open(f"{api}{path}", "POST", json=body, headers=key)
        assert answer.status_code in (201, 202), answer.text
        assert site.open(answer.location, headers=key).status_code == 200
        return str(answer.location)

    site.ok(f"{api}/definitions", "POST", json={"definitions": [{"name": "shop.charge", "kind": "task"}]}, headers=key)
    assert made("/runs", {"name": "shop.charge"}).startswith(f"{api}/runs/")
    assert made("/batches", {"operation": "cancel", "q": "name:shop.charge"}).startswith(f"{api}/batches/")
    assert made("/queues/default/purge", {"confirm": "default"}).startswith(f"{api}/batches/")
    assert made("/webhooks", {"url": "https://hooks.example.com/x"}).startswith(f"{api}/webhooks/")
    assert site.ok(f"{api}/openapi.json", headers=key).get_json()["servers"] == [{"url": PREFIX}]
    docs = site.ok(f"{api}/docs", headers={**key, "Accept": "text/html"}).text
    assert all(found.startswith(f"{api}/") for found in Links.of(docs).gets)
    assert site.ok(f"{PREFIX}/healthz").get_json()["status"] == "ok"
    site.app.test_client().get("/healthz", base_url="http://127.0.0.1")  # a probe that knows nothing of the path


@pytest.mark.parametrize(
    "asked",
    [
        "/elsewhere",
        "//evil.example/tools/aiki/",
        "https://evil.example/tools/aiki/",
        f"{PREFIX}/../admin",
        f"{PREFIX}/%2e%2E/admin",
        f"{PREFIX}/a/.%2e/../../admin?x",
        f"{PREFIX}evil/",
        f"{PREFIX}/\\evil.example",
        PREFIX,
        "",
    ],
)
def test_one_is_sent_on_to_what_is_under_the_path_alone(proxied: Callable[..., Proxied], asked: str) -> None:
    site = proxied(strips=True)
    assert Links.of(site.ok(f"{PREFIX}/sign-in", query_string={"next": asked}).text).places[-1] == f"{PREFIX}/"


def test_what_a_client_says_of_the_path_is_not_believed(proxied: Callable[..., Proxied]) -> None:
    site = proxied(strips=True, trusted_proxies="127.0.0.1")
    said = {"X-Forwarded-Prefix": "/evil", "Script-Name": "/evil", "X-Script-Name": "/evil", "X-Original-URI": "/evil/"}
    text = site.ok(f"{PREFIX}/sign-in", headers=said).text
    assert "evil" not in text
    doubled = site.app.test_client().get(
        f"{PREFIX}//evil.example/", headers={"Accept": "text/html"}, base_url="https://example.com"
    )
    assert "evil" not in (doubled.location or "").partition("?")[0]


def test_without_a_path_nothing_is_different(proxied: Callable[..., Proxied]) -> None:
    for public_url in ("", "https://example.com", "https://example.com/", "https://example.com//"):
        site = proxied(strips=False, public_url=public_url, path="")
        assert site.ok("/sign-in").text.count('value="/"') == 1
        assert 'data-home="/"' in site.ok("/sign-in").text
        assert site.open("/tools/aiki/sign-in").status_code in (401, 404)
        assert site.jar["aiki_form"][1] == "/"


@pytest.mark.parametrize(
    "url",
    [
        *("example.com", "ftp://example.com/", "https://", "https:///aiki", "https://example.com/a b", "javascript:1"),
        *("https://example.com/a?x=1", "https://example.com/a#x", "https://u:p@example.com/", "https://example.com/a/../b"),
        *("https://example.com/a//b", "https://example.com/%61", 'https://example.com/"onload=', "https://example.com/é"),
        "https://example.com\\a",
    ],
)
def test_an_address_that_no_browser_could_be_sent_to_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"public_url=.*it must be like https://"):
        Settings.load({"AIKI_PUBLIC_URL": url})


def test_the_path_of_an_address() -> None:
    for url, path in {
        "": "",
        "https://example.com": "",
        "HTTPS://example.com:8443/": "",
        "http://[::1]:80/aiki": "/aiki",
        "https://example.com/a-b/c.d_e~f/": "/a-b/c.d_e~f",
    }.items():
        assert public_path(url) == path, url


def test_a_path_that_is_a_pages_own_is_refused(proxied: Callable[..., Proxied]) -> None:
    rules = [rule.rule.split("/")[1] for rule in proxied(strips=True).app.url_map.iter_rules()]
    assert {first for first in rules if first} - {"api"} == mounting.OWN
    for path in ("/runs", "/runs/x", "/static/", "/api", "/api/v1", "/api/v1/x"):
        with pytest.raises(ConfigurationError, match="of this server itself; put it under another path"):
            mounting.path_of(Settings.load({}, public_url=f"https://example.com{path}"))
    for path in ("/api/aiki", "/aiki/runs", "/run"):
        assert mounting.path_of(Settings.load({}, public_url=f"https://example.com{path}")) == path


def test_the_sdk_asks_under_the_path() -> None:
    for server_url in ("http://example.com/tools/aiki", "http://example.com/tools/aiki/"):
        client = RemoteClient(Settings.load({}, server_url=server_url))
        assert client._base == "http://example.com/tools/aiki/api/v1"
