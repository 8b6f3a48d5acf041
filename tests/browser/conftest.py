"""A real Chromium on a real `aiki dev`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import provision, services
from tests.browser.site import Site

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
ARTIFACTS = Path(__file__).parents[2] / "test-artifacts" / "browser"
AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


EXPECTED = ("status of 4", "ERR_INTERNET_DISCONNECTED", "Failed to fetch")
"""What browsers report of forms that are refused, and of a server that is away: no error of the page."""


expect.set_options(timeout=20_000)


@pytest.fixture(scope="package")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests here; it is closed behind them, since its event loop must not meet other tests'."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=provision.need_chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The shop, with runs in all states."""
    made = Site(tmp_path_factory.mktemp("site"), services.free_port())
    try:
        yield made.wait_ready().fill()
    finally:
        made.close()


@pytest.fixture
def browse(chromium: Browser, site: Site) -> Iterator[Callable[..., Page]]:
    """Opens pages: `browse("/runs", js=False, width=360, dark=True)`. At the end nothing may have gone wrong in any."""
    wrong: list[str] = []
    contexts = []

    def open_(path: str, *, js: bool = True, width: int = 1440, dark: bool = False, **more: Any) -> Page:
        context = chromium.new_context(
            base_url=site.url,
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            java_script_enabled=js,
            **more,
        )
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not [text for text in wrong if not any(part in text for part in EXPECTED)]


def violations(page: Page) -> list[str]:
    """What axe finds wrong with a page."""
    page.evaluate(AXE)
    found = page.evaluate(
        "rules => axe.run(document, {runOnly: rules, resultTypes: ['violations']}).then(r => r.violations)", RULES
    )
    return [
        f"{item['id']}: {item['help']}: {node['html'][:200]} {node['failureSummary'][:200]}"
        for item in found
        for node in item["nodes"]
    ]


def overflow(page: Page) -> list[str]:
    """What is wider than the page."""
    return page.evaluate(
        """() => {
          const out = [];
          if (document.documentElement.scrollWidth > innerWidth) out.push("the page: " + document.documentElement.scrollWidth);
          for (const item of document.querySelectorAll("body *")) {
            const box = item.getBoundingClientRect();
            const apart = ".hide, .skip, svg, .scroll, .table, .trace, .json, pre, code, nav ul, thead, dialog:not([open])";
            if (!box.width || item.closest(apart)) continue;
            if (box.right > innerWidth + 1 || box.left < -1) out.push(item.outerHTML.slice(0, 120) + " " + box.right);
          }
          return out.slice(0, 5);
        }"""
    )


def keep(page: Page, name: str) -> None:
    """A screenshot among the artefacts of a test run."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    page.screenshot(path=ARTIFACTS / f"{safe}.png", full_page=True)
