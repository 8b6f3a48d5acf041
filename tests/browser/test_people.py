"""Signing in, choosing a namespace, and what each role sees, in the browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from aiki import ids
from aiki.codec import encode
from aiki.model import DefinitionInfo, NewRun
from aiki.settings import Settings
from aiki.storage import Store, open_store
from tests.api.live import LiveServer
from tests.api.people import PASSWORD
from tests.browser.conftest import keep, overflow, violations

SECRET = "sk-live-0815"


class Office:
    """A server with people: its address, its store, and a run with a secret in its input."""

    def __init__(self, server: LiveServer, store: Store) -> None:
        self.url = server.url
        self.store = store
        self.run_id = str(ids.new_id())
        store.register_definitions([DefinitionInfo("shop.charge")])
        store.of("second").register_definitions([DefinitionInfo("shop.other")])
        payload = encode([[], {"order_id": "o-1", "api_key": SECRET}])
        store.create_runs([NewRun(self.run_id, "shop.charge", payload)])
        store.add_user("vera", PASSWORD, "viewer", ["default"])
        store.add_user("oleg", PASSWORD, "operator", ["default", "second"])


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("office")
    places = {"database_url": f"sqlite:///{folder / 'aiki.db'}", "broker_url": f"sqlite:///{folder / 'broker.db'}"}
    store = open_store(Settings.load({}, **places))
    server = LiveServer(folder / "server", AIKI_DATABASE_URL=places["database_url"], AIKI_BROKER_URL=places["broker_url"])
    try:
        yield Office(server.wait_ready(), store)
    finally:
        server.close()
        store.close()


@pytest.fixture
def page(chromium: Browser, office: Office) -> Iterator[Page]:
    context = chromium.new_context(base_url=office.url, viewport={"width": 768, "height": 900})
    context.set_default_timeout(20_000)
    yield context.new_page()
    context.close()


def sign_in(page: Page, name: str, password: str = PASSWORD) -> None:
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_one_signs_in_and_is_led_to_where_one_wanted(page: Page, office: Office) -> None:
    page.goto(f"/runs/{office.run_id}")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    for dark, width in ((False, 1440), (True, 360)):
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.set_viewport_size({"width": width, "height": 900})
        assert not overflow(page)
        assert not violations(page)
        keep(page, f"sign in {'dark' if dark else 'light'} {width}")
    sign_in(page, "vera", "wrong")
    expect(page.get_by_role("alert")).to_contain_text("wrong")
    assert not violations(page)
    sign_in(page, "vera")
    expect(page.get_by_role("heading", level=1)).to_contain_text("shop.charge")
    assert page.url.endswith(office.run_id)
    page.get_by_role("button", name="Sign out vera").click()
    page.goto("/runs")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_viewer_sees_no_secrets_and_nothing_to_do(page: Page, office: Office) -> None:
    page.goto(f"/runs/{office.run_id}")
    sign_in(page, "vera")
    expect(page.get_by_role("region", name="Input")).to_contain_text("[masked]")
    assert SECRET not in page.content()
    assert page.get_by_role("link", name="Cancel").count() == 0
    assert page.locator("input[name=run]").count() == 0
    page.goto(f"/runs/{office.run_id}/do/cancel")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Not allowed")
    assert not violations(page)


def test_an_operator_edits_around_a_secret(page: Page, office: Office) -> None:
    page.goto(f"/runs/{office.run_id}/do/edit")
    sign_in(page, "oleg")
    field = page.get_by_label("Named arguments")
    expect(field).to_have_value('{\n  "order_id": "o-1",\n  "api_key": "[masked]"\n}')
    field.fill('{"order_id": "o-2", "api_key": "[masked]"}')
    page.get_by_label("Why").fill("the wrong order")
    page.get_by_role("button", name="Edit input and run").click()
    expect(page.get_by_role("region", name="Input")).to_contain_text("o-2")
    run_id = page.url.rpartition("/")[2].partition("?")[0]
    detail = office.store.detail(run_id)
    assert detail is not None
    assert detail.input is not None
    assert SECRET in detail.input.text


def test_one_chooses_a_namespace(page: Page, office: Office) -> None:
    page.goto("/runs")
    sign_in(page, "oleg")
    expect(page.locator("[data-row]").first).to_be_visible()
    page.get_by_label("Namespace").select_option("second")
    expect(page.get_by_label("Namespace")).to_have_value("second")
    page.goto("/runs")
    expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
    assert not violations(page)
    page.goto(f"/runs/{office.run_id}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Not found")
