"""What the script adds: live parts, dialogs, keys, the palette."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from playwright.sync_api import Page, expect

from tests.browser.conftest import keep, violations
from tests.browser.site import Site
from tests.waiting import wait_until


def test_a_list_renews_itself(browse: Callable[..., Page], site: Site) -> None:
    page = browse("/runs?q=name:shop.render_invoice")
    before = page.locator("[data-row]").count()
    page.locator("[data-row] input").first.check()
    run_id = site.enqueue("render_invoice", "o-77", 500)
    expect(page.locator(f"#r-{run_id}")).to_contain_text("completed")
    assert page.locator("[data-row]").count() == before + 1
    assert page.locator("input[name=run]:checked").count() == 1, "what was selected stays so"


def test_a_run_renews_itself_and_stays_as_it_was_opened(browse: Callable[..., Page], site: Site) -> None:
    run_id = site.enqueue("checkout", "o-40", 990, ["lamp"])
    page = browse(f"/runs/{run_id}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("waiting")
    page.get_by_role("region", name="Input").locator("summary").first.click()  # closes it
    site.ask("POST", f"/runs/{run_id}/events", {"name": "approved", "data": {"by": "Ada"}})
    expect(page.get_by_role("heading", level=1)).to_contain_text("completed")
    expect(page.get_by_role("region", name="Result")).to_contain_text("handed over")
    assert page.locator("#live").is_hidden(), "nothing renews itself on the page of a run that has ended"


def test_it_can_be_paused_and_tells_when_it_is_cut_off(browse: Callable[..., Page], site: Site) -> None:
    page = browse("/runs")
    live = page.locator("#live")
    expect(live).to_have_text("Live")
    live.click()
    expect(live).to_have_text("Paused")
    page.reload()
    expect(live).to_have_text("Paused")
    live.click()
    page.context.set_offline(True)
    expect(live).to_contain_text("Stale since")
    page.context.set_offline(False)
    expect(live).to_have_text("Live")


def test_verbs_ask_in_a_dialog(browse: Callable[..., Page], site: Site) -> None:
    run_id = site.enqueue("charge", "o-50", 100, countdown=86_400)
    page = browse(f"/runs/{run_id}")
    page.get_by_role("group", name="Actions").get_by_role("link", name="Cancel").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    assert not violations(page)
    keep(page, "dialog")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("group", name="Actions").get_by_role("link", name="Cancel").click()
    dialog.get_by_label("Why").fill("no longer wanted")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("cancelled")
    expect(page.get_by_role("region", name="Where it is")).to_contain_text("no longer wanted")


def test_keys(browse: Callable[..., Page], site: Site) -> None:
    page = browse("/runs")
    page.keyboard.press("/")
    expect(page.locator("#filter")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    expect(page.locator("[data-row]").first).to_have_attribute("data-at", "")
    page.keyboard.press("x")
    expect(page.locator("[data-row] input").first).to_be_checked()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next and previous row")
    assert not violations(page)
    page.keyboard.press("Escape")
    page.keyboard.press("o")
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/runs")


def test_the_palette_finds_names_and_runs(browse: Callable[..., Page], site: Site) -> None:
    page = browse("/runs")
    page.keyboard.press("Control+k")
    box = page.get_by_role("combobox")
    box.fill("rndinv")
    expect(page.get_by_role("option", selected=True)).to_contain_text("shop.render_invoice")
    assert not violations(page)
    keep(page, "palette")
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs?q=name*")
    page.keyboard.press("Control+k")
    page.get_by_role("combobox").fill(site.runs["failed"])
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{site.runs['failed']}")


def test_themes(browse: Callable[..., Page], site: Site) -> None:
    page = browse("/runs", js=False)
    for theme in ("light", "dark", "auto"):
        page.get_by_role("button", name="Theme").click()
        expect(page.locator("html")).to_have_attribute("data-theme", theme)


def test_payloads_are_copied_whole_and_downloaded(browse: Callable[..., Page], site: Site) -> None:
    page = browse(f"/runs/{site.runs['retried']}", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the input").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert str(2**70) not in page.evaluate("() => navigator.clipboard.readText()")  # as it is stored: hexadecimal, exact
    assert hex(2**70) in page.evaluate("() => navigator.clipboard.readText()")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the input").click()
    assert download.value.suggested_filename.endswith("-input.json")


def test_rows_are_selected_and_retried(browse: Callable[..., Page], site: Site) -> None:
    for js in (True, False):
        made = [site.enqueue("charge", f"o-{71 + 20 * i}", 100) for i in range(2)]
        for run_id in made:
            site.wait_state(run_id, "failed")
        page = browse("/runs?q=status:failed", js=js)
        for run_id in made:
            page.locator(f"#r-{run_id} input").check()
        page.get_by_role("button", name="Retry").click()
        expect(page.get_by_role("heading", name="Retry: 2 runs")).to_be_visible()
        page.get_by_role("button", name="Retry 2 runs").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Retry 2 runs")
        if js:
            expect(page.get_by_role("heading", level=1)).to_contain_text("done")
            expect(page.get_by_role("region", name="Progress")).to_contain_text("2 of 2")
        for run_id in made:
            again = partial(lambda asked: site.ask("GET", f"/runs/{asked}")["attempt"] == 2, run_id)
            wait_until(again, 30, "the run to be retried")
            site.wait_state(run_id, "failed")
