"""A page with its script behind a proxy that has the server under a path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from aiki.client.remote import RemoteClient
from aiki.model import RunFilter
from aiki.settings import Settings
from tests.api.live import LiveServer
from tests.browser.front import Front

PATH = "/tools/aiki"


@pytest.fixture(params=[True, False], ids=["cut off", "kept"])
def front(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Front]:
    made = Front(PATH, strips=request.param)
    server = LiveServer(tmp_path / "server", AIKI_PUBLIC_URL=f"{made.url}{PATH}/")
    try:
        server.wait_ready()
        found = urlsplit(server.url)
        made.target = (str(found.hostname), int(found.port or 0))
        assert server.ask("POST", "/api/v1/definitions", {"definitions": [{"name": "shop.charge"}]})[0] == 200
        assert server.ask("POST", "/api/v1/runs", {"name": "shop.charge", "kwargs": {"order": "o-1"}})[0] == 201
        yield made
    finally:
        server.close()
        made.close()


def test_a_page_renews_asks_and_leads_on_under_the_path(front: Front, chromium: Browser) -> None:
    context = chromium.new_context(base_url=front.url, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    try:
        with (
            page.expect_request(lambda request: f"{PATH}/api/v1/stream" in request.url),
            page.expect_response(lambda answer: f"{PATH}/runs?part=rows" in answer.url),
        ):
            page.goto(f"{PATH}/runs")
        page.get_by_role("link", name="shop.charge").first.click()
        expect(page).to_have_url(f"{front.url}{PATH}/runs/{page.url.rpartition('/')[2]}")
        page.get_by_role("link", name="Cancel", exact=True).click()
        expect(page.get_by_role("dialog")).to_contain_text("Why")
        page.get_by_role("dialog").get_by_role("button").first.click()
        expect(page.locator("#main")).to_contain_text("cancelled")
        page.keyboard.press("Control+k")
        with page.expect_response(lambda answer: answer.url.endswith(f"{PATH}/names")):
            page.keyboard.press("Escape")
            page.keyboard.press("Control+k")
        page.get_by_role("combobox").fill("shop")
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "?q=" in url)
        assert page.url.startswith(f"{front.url}{PATH}/runs?q=")
        client = RemoteClient(Settings.load({}, server_url=f"{front.url}{PATH}/"))
        assert [run.name for run in client.list(RunFilter()).runs] == ["shop.charge"]
        page.locator("a.brand").click()
        expect(page).to_have_url(f"{front.url}{PATH}/")
    finally:
        context.close()
    assert front.elsewhere == []
    assert wrong == []
