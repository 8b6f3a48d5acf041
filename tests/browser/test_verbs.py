"""Everything that can be done to a run, from its page, with and without script."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.site import Site


class Hand:
    """Does things as a person does: opens the run, chooses, fills in, confirms. Everything is asked why."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page = page
        self.site = site

    def do(self, run_id: str, verb: str, button: str = "", **fields: str) -> str:
        """The id of the run that is shown then."""
        self.page.goto(f"/runs/{run_id}")
        self.page.get_by_role("group", name="Actions").get_by_role("link", name=verb, exact=True).click()
        form = self.page.locator("#ask")
        for label, text in fields.items():
            form.get_by_label(label.replace("_", " ")).fill(text)
        form.get_by_label("Why").fill(f"{verb} <i>it</i>")
        form.get_by_role("button", name=button or verb, exact=True).click()
        expect(self.page.get_by_role("status").first).to_be_visible()
        expect(self.page.get_by_role("region", name="Where it is")).to_be_visible()
        return self.page.url.rpartition("/")[2].partition("?")[0]


@pytest.fixture(params=[True, False], ids=["with script", "without script"])
def hand(request: pytest.FixtureRequest, browse: Callable[..., Page], site: Site) -> Hand:
    return Hand(browse("/runs", js=request.param, dark=not request.param), site)


def test_a_task_is_paused_resumed_cancelled_and_retried(hand: Hand) -> None:
    site, run_id = hand.site, hand.site.enqueue("charge", "o-60", 100, countdown=86_400)
    assert hand.do(run_id, "Pause") == run_id
    site.wait_state(run_id, "paused")
    hand.do(run_id, "Resume")
    site.wait_state(run_id, "scheduled")
    hand.do(run_id, "Cancel", "Cancel the run")
    site.wait_state(run_id, "cancelled")
    expect(hand.page.get_by_role("region", name="What people did")).to_contain_text("Cancel <i>it</i>")
    hand.do(run_id, "Retry")
    site.wait_state(run_id, "completed")


def test_a_run_is_made_again(hand: Hand) -> None:
    site, old = hand.site, hand.site.runs["completed"]
    new = hand.do(old, "Run again")
    assert new != old
    site.wait_state(new, "completed")
    new = hand.do(old, "Edit input and run", Positional_arguments='["o-61", 18446744073709551616]')
    site.wait_state(new, "completed")
    expect(hand.page.get_by_role("region", name="Facts")).to_contain_text("Made from")
    expect(hand.page.get_by_role("region", name="Input")).to_contain_text("18446744073709551616")


def test_a_workflow_is_sent_an_event_and_run_again_from_a_step(hand: Hand) -> None:
    site = hand.site
    run_id = site.enqueue("checkout", "o-62", 990, ["lamp"])
    site.wait_state(run_id, "waiting")
    hand.do(run_id, "Send an event", Name="approved", Data='{"by": "Ada"}')
    site.wait_state(run_id, "completed")
    hand.page.goto(f"/runs/{run_id}/step/4")
    hand.page.get_by_role("link", name="Run again from this step").click()
    form = hand.page.locator("#ask")
    expect(form.get_by_label("From step")).to_have_value("4")
    form.get_by_role("button", name="Run again").click()
    expect(hand.page.get_by_role("status").first).to_be_visible()
    new = hand.page.url.rpartition("/")[2].partition("?")[0]
    assert new != run_id
    site.wait_state(new, "completed")
    assert len(site.ask("GET", f"/runs/{new}/history")["steps"]) == len(site.ask("GET", f"/runs/{run_id}/history")["steps"])


def test_a_sleeping_workflow_is_woken_and_another_terminated(hand: Hand) -> None:
    site = hand.site
    run_id, other = site.enqueue("nap", app="nap"), site.enqueue("nap", app="nap")
    for each in (run_id, other):
        site.wait_state(each, "waiting")
    hand.do(run_id, "Wake")
    site.wait_state(run_id, "completed")
    hand.do(other, "Terminate", "Terminate the run")
    site.wait_state(other, "cancelled")


def test_what_cannot_be_used_is_told_and_nothing_is_lost(hand: Hand) -> None:
    hand.page.goto(f"/runs/{hand.site.runs['failed']}/do/edit")
    hand.page.get_by_label("Positional arguments").fill('["o-1", 42')
    hand.page.get_by_role("button", name="Edit input and run").click()
    expect(hand.page.get_by_role("alert")).to_contain_text("line 1, column 11")
    expect(hand.page.get_by_label("Positional arguments")).to_have_value('["o-1", 42')
