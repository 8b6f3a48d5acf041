"""A newcomer finds the failed order, reads why, mends the input and runs it again, from the pages alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import keep
from tests.browser.site import Site


@pytest.mark.parametrize("js", [True, False], ids=["with script", "without script"])
def test_a_newcomer_mends_the_failed_order(browse: Callable[..., Page], site: Site, js: bool) -> None:
    begun = time.monotonic()
    page = browse("/", js=js)
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="Failed", exact=True).click()
    row = page.get_by_role("row").filter(has_text="shop.charge").filter(has_text="order o-11: the bank declined")
    row.get_by_role("link", name="shop.charge").click()

    expect(page.get_by_role("region", name="Error")).to_contain_text("order o-11: the bank declined 4200 cents")
    expect(page.get_by_role("region", name="Where it is")).to_contain_text("failed")
    expect(page.get_by_role("region", name="Input")).to_contain_text('"o-11"')
    page.get_by_role("region", name="Where it is").get_by_role("link", name="Edit input and run").click()

    field = page.get_by_label("Positional arguments")
    expect(field).to_have_value('[\n  "o-11",\n  4200\n]')
    field.fill('["o-12", 4200]')
    page.get_by_role("button", name="Edit input and run").click()

    expect(page.get_by_role("status").first).to_contain_text("A new run with the changed input")
    run_id = page.url.rpartition("/")[2].partition("?")[0]
    site.wait_state(run_id, "completed")
    if not js:
        page.reload()
    expect(page.get_by_role("heading", level=1)).to_contain_text("completed")
    expect(page.get_by_role("region", name="Result")).to_contain_text("charged 42.00 for order o-12")
    keep(page, f"walk {'with' if js else 'without'} script")
    assert time.monotonic() - begun < 60
