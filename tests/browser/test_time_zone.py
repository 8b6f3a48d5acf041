"""The reader's zone and clock, as the script meets them."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.site import Site

SHIFTED = """(() => {
  const real = Date.now.bind(Date);
  window.shifted = 0;
  Date.now = () => real() + window.shifted;
})()"""
"""The reader's clock can be set while the page is open."""


def test_the_zone_of_this_computer_is_chosen_and_named(browse: Callable[..., Page], site: Site) -> None:
    page = browse("/time-zone?next=/runs", timezone_id="Asia/Tokyo")
    # The first time that a live part is renewed it is sent whole, and then not until it has changed.
    with page.expect_response(lambda answer: "part=rows" in answer.url and answer.status == 200):
        page.get_by_role("button", name="Use this computer's: Asia/Tokyo").click()
        page.wait_for_url("**/runs")
    expect(page.locator("body")).to_have_attribute("data-zone", "Asia/Tokyo")
    named = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \+09:00 Asia/Tokyo$")
    expect(page.locator("time[datetime]").first).to_have_attribute("title", named)
    page.context.set_offline(True)
    stale = re.compile(r"Stale since \d\d:\d\d:\d\d Asia/Tokyo")
    expect(page.locator("#live")).to_have_text(stale)
    page.context.set_offline(False)


def test_spans_do_not_follow_the_readers_clock(browse: Callable[..., Page], site: Site) -> None:
    page = browse("/time-zone")
    page.add_init_script(SHIFTED)
    page.goto(f"/runs/{site.runs['completed']}")
    created = page.locator("dt", has_text="Created").locator("+ dd time")
    expect(created).to_have_text(re.compile(r"^\d+ (s|min) ago$"))
    with page.expect_response(lambda answer: answer.request.method == "HEAD"):
        page.evaluate("window.shifted = 5 * 86400e3")
    expect(created).to_have_text(re.compile(r"^\d+ (s|min) ago$"))
    assert "d" not in created.inner_text()
