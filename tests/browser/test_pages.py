"""Each page: nothing for axe to find, nothing that overlaps or is cut, small, and reachable by the keyboard."""

from __future__ import annotations

import gzip
import itertools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from aiki import dashboard
from aiki.api import create_app
from aiki.settings import Settings
from tests.browser.conftest import keep, overflow, violations
from tests.browser.places import NO_PAGES, PLACES
from tests.browser.site import Site

WIDTHS = (360, 768, 1440)
FULL = os.environ.get("AIKI_TEST_FULL") == "1"
MAX_BYTES = 60_000
MAX_FIRST_BYTE = 0.1
BROWSER = {"Accept": "text/html", "Accept-Encoding": "gzip"}


def test_every_page_is_looked_at(tmp_path: Path) -> None:
    places = {"database_url": f"sqlite:///{tmp_path / 'a.db'}", "broker_url": f"sqlite:///{tmp_path / 'b.db'}"}
    app = create_app(Settings.load({}, **places))
    dashboard.install(app)
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("dashboard.")]
    pages = {rule.endpoint for rule in rules if "GET" in (rule.methods or ())} - NO_PAGES
    assert pages - set(PLACES) == set(), "add their addresses to tests/browser/places.py"


@pytest.mark.parametrize("endpoint", PLACES)
def test_pages_are_accessible_and_fit(browse: Callable[..., Page], site: Site, endpoint: str) -> None:
    addresses = PLACES[endpoint](site)
    assert addresses
    page = browse("/static/icon.svg")
    wrong: list[str] = []
    for name, path in addresses.items():
        page.goto(path)
        for dark, width in itertools.product((False, True), WIDTHS):
            page.emulate_media(color_scheme="dark" if dark else "light")
            page.set_viewport_size({"width": width, "height": 900})
            where = f"{name} {'dark' if dark else 'light'} {width}"
            wrong += [f"{where}: too wide: {item}" for item in overflow(page)]
            if FULL or (dark, width) in ((False, 1440), (True, 360)):
                wrong += [f"{where}: {item}" for item in violations(page)]
                keep(page, where)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("endpoint", PLACES)
def test_pages_are_whole_without_script(browse: Callable[..., Page], site: Site, endpoint: str) -> None:
    page = browse("/static/icon.svg", js=False, width=360)
    for name, path in PLACES[endpoint](site).items():
        page.goto(path)
        assert page.get_by_role("heading").first.is_visible(), name
        assert page.locator("button[hidden]:visible").count() == 0
        assert not overflow(page), name


def test_pages_are_small_and_quick(site: Site) -> None:
    """Page, styles and scripts together, as they are sent; the first byte as the browser waits for it."""
    took: list[float] = []
    for endpoint, addresses in PLACES.items():
        for name, path in addresses(site).items():
            times = []
            for _ in range(5):
                begun = time.monotonic()
                answer = site.http.request("GET", site.url + path, headers=BROWSER, preload_content=False)
                times.append(time.monotonic() - begun)
                body = answer.read(decode_content=False)
                answer.release_conn()
            took.append(statistics.median(times))
            text = gzip.decompress(body).decode() if answer.headers.get("Content-Encoding") == "gzip" else body.decode()
            assets = [part.split('"')[0] for part in text.split('="')[1:] if part.startswith("/static/")]
            assert len(assets) >= 4, (endpoint, name)
            total = len(body)
            for asset in assets:
                sent = site.http.request("GET", site.url + asset, headers=BROWSER, preload_content=False)
                total += len(sent.read(decode_content=False))
                sent.release_conn()
            assert total <= MAX_BYTES, (endpoint, name, total)
    assert statistics.quantiles(took, n=20)[-1] <= MAX_FIRST_BYTE, sorted(took)[-10:]


def test_everything_is_reached_by_keyboard(browse: Callable[..., Page], site: Site) -> None:
    for path in ("/runs", f"/runs/{site.runs['failed workflow']}"):
        page = browse(path)
        wanted = page.evaluate(
            """() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary")]
                 .filter(item => item.checkVisibility() && !item.disabled && item.type !== "hidden").length"""
        )
        reached = page.evaluate("() => { window.seen = new Set(); return 0; }")
        for _ in range(wanted * 2 + 40):
            page.keyboard.press("Tab")
            reached = page.evaluate(
                """() => {
                     const at = document.activeElement;
                     if (at.matches("a[href], button, input, select, textarea, summary")) {
                       window.seen.add(at);
                       const style = getComputedStyle(at);
                       const ring = at.matches("input[type=checkbox]") || style.outlineStyle !== "none";
                       if (!ring) throw new Error("no ring: " + at.outerHTML);
                     }
                     return window.seen.size;
                   }"""
            )
            if reached >= wanted:
                break
        assert reached >= wanted, (path, reached, wanted)


def test_nothing_moves_for_those_who_do_not_want_it(browse: Callable[..., Page], site: Site) -> None:
    page = browse("/runs", reduced_motion="reduce")
    moving = page.evaluate("() => document.getAnimations().length")
    assert moving == 0
