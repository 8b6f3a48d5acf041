"""What all pages share."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from flask import Flask

from aiki import dashboard
from aiki.api import create_app
from aiki.api.app import backend_of
from aiki.dashboard import assets
from aiki.dashboard.blueprint import CSP
from aiki.dashboard.views import here
from aiki.settings import Settings
from aiki.storage import Store
from tests.dashboard.conftest import Pages

TEMPLATES = Path(dashboard.__file__).parent / "templates"
OPEN = {"assets.static"}


def test_every_page_says_who_may_see_it(pages: Pages) -> None:
    views = pages.http.application.view_functions
    named = {name: view for name, view in views.items() if name.startswith(("dashboard.", "assets."))}
    assert named
    assert {name for name, view in named.items() if not hasattr(view, "action")} == OPEN


def test_no_template_has_what_the_policy_forbids() -> None:
    for path in TEMPLATES.glob("*.html"):
        text = path.read_text()
        assert not re.search(r"\sstyle=|\son[a-z]+=|javascript:|hx-on|\|\s*safe", text), path.name
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text)), path.name


def test_pages_are_compressed_and_have_a_policy(pages: Pages) -> None:
    answer = pages.get("/runs", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Security-Policy"] == CSP
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(answer.data).startswith(b"<!doctype html>")
    assert pages.get("/runs").headers["Content-Type"] == "text/html; charset=utf-8"


def test_static_files_are_compressed_and_kept(pages: Pages) -> None:
    page = pages.get("/runs").text
    found = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
    assert len(found) == 4
    total = 0
    for address in found:
        answer = pages.get(address, headers={"Accept-Encoding": "gzip"})
        assert answer.headers["Cache-Control"] == assets.FOR_EVER
        total += len(answer.data)
        again = pages.get(address, 304, headers={"If-None-Match": answer.headers["ETag"]})
        assert again.data == b""
    assert total < 30_000
    pages.get("/static/../__init__.py", 404)
    pages.get("/static/nothing.css", 404)


def test_a_part_that_did_not_change_is_not_sent_again(pages: Pages) -> None:
    pages.new_run()
    answer = pages.get("/runs?part=rows")
    assert answer.text.startswith('<div id="rows"')
    pages.get("/runs?part=rows", 304, headers={"If-None-Match": answer.headers["ETag"]})
    pages.get("/runs?part=nothing", 404)


def test_forms_of_other_sites_are_refused(pages: Pages) -> None:
    assert pages.http.post("/theme", data={"theme": "dark"}).status_code == 403
    pages.get("/runs")
    assert pages.http.post("/theme", data={"theme": "dark", "csrf_token": "x" * 43}).status_code == 403
    pages.post("/theme", {"theme": "dark", "next": "https://elsewhere.example/"})
    assert 'data-theme="dark"' in pages.get("/runs").text


def test_one_is_sent_on_to_this_server_alone() -> None:
    with Flask(__name__).test_request_context():
        for address in ("https://x.example", "//x.example", "/\\x.example", "", None, "/runs\r\nX: y"):
            assert here(address) == "/"
        assert here("/runs?q=a") == "/runs?q=a"


def test_errors_are_pages(pages: Pages) -> None:
    assert "no such run" in pages.get("/runs/00000000-0000-7000-8000-000000000000", 404).text
    missing = pages.get("/<script>", 404)
    assert missing.mimetype == "text/html"
    assert "<script>alert" not in missing.text
    assert pages.http.get("/nothing", headers={"Accept": "application/json"}).mimetype == "application/problem+json"


def test_a_database_that_is_away_is_told_on_a_page(tmp_path: Path) -> None:
    away = "mysql+pymysql://aiki:secret@127.0.0.1:1/aiki"
    app = create_app(Settings.load({}, database_url=away, broker_url=f"sqlite:///{tmp_path / 'b.db'}", timeout=1.0))
    dashboard.install(app)
    answer = app.test_client().get("/runs", headers={"Accept": "text/html"})
    assert answer.status_code == 503
    assert "The database does not answer" in answer.text
    assert "secret" not in answer.text
    assert answer.headers["Retry-After"]
    backend_of(app).close()


def test_a_defect_is_told_on_a_page(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(Store, "search", broken)
    pages.http.application.testing = False
    pages.http.application.config["PROPAGATE_EXCEPTIONS"] = False
    answer = pages.http.get("/runs", headers={"Accept": "text/html"})
    assert answer.status_code == 500
    assert answer.mimetype == "text/html"
    assert "Something went wrong" in answer.text
    assert "secret detail" not in answer.text
