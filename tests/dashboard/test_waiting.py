"""What a run waits for, where people and programs see it: taken from its recorded waits, whatever names stand in them."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest

from aiki import codec, ids
from aiki.clock import SECOND
from aiki.history import CHILD_ENDED, EVENT, EVENT_SENT, OPEN, RETRY, SLEEP, STEP, Step, Wait, Waits
from aiki.lifecycle.effects import Effects
from aiki.lifecycle.record import RunRow
from aiki.lifecycle.waits import suspend
from aiki.model import NewRun, RunDetail
from tests.client.contract import events
from tests.client.ending import end
from tests.client.workflows import child, new_workflow, record
from tests.dashboard.conftest import Pages
from tests.ready_made import sqlite_database

HOUR = 3600.0


@pytest.fixture
def pages_database(tmp_path: Path) -> str:
    """What is looked at here is no matter of the database."""
    return sqlite_database(tmp_path / "aiki.db")


@pytest.fixture(autouse=True)
def _moving(pages: Pages) -> None:
    pages.store.save_orchestrator(ids.new_id().hex, "alive", "h", 1, "1")


def asked(pages: Pages, path: str) -> dict[str, Any]:
    """The API's answer."""
    answer = pages.http.get(pages.api + path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.get_json()
    return found


def waits_for(pages: Pages, *waits: Wait, every: bool = False, steps: tuple[Step, ...] = ()) -> str:
    """A workflow that waits for these; its id."""
    run = new_workflow("o-1")
    pages.store.create_runs([run])
    kinds = {EVENT_SENT: EVENT, SLEEP: SLEEP, RETRY: STEP}
    issued = [Step(item.first, kinds[item.kind], item.name, "", OPEN, 0, {}) for item in waits if item.kind in kinds]
    record(pages.store, run.id, *issued, *steps)
    hold(pages, run.id, Waits(every, list(waits)))
    return run.id


def hold(pages: Pages, run_id: str, waits: Waits) -> None:
    raw = ids.to_bytes(run_id)

    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        suspend(rows[raw], waits, (), effects, pages.store.clock())

    pages.store.apply(pages.store.namespace, [raw], decide)


def event(name: str, ordinal: int = 0, timeout: float | None = None) -> Wait:
    return Wait(EVENT_SENT, ordinal, ordinal, name, None, timeout)


def sleep(name: str, ordinal: int = 0) -> Wait:
    return Wait(SLEEP, ordinal, ordinal, name, None, HOUR)


def told(pages: Pages, run_id: str) -> list[dict[str, Any]]:
    """The items, from the run itself, which are those of its detail too."""
    waiting = asked(pages, f"/runs/{run_id}")["waiting"]
    assert asked(pages, f"/runs/{run_id}/detail")["waiting"] == waiting
    return list(waiting["items"])


def offered(pages: Pages, run_id: str) -> tuple[bool, list[str]]:
    """Whether "Wake" is offered, and the names with which the events' forms are opened."""
    page = pages.get(f"/runs/{run_id}").text
    names = re.findall(r'href="[^"]*/do/event\?name=([^"]*)"', page)
    return f"/runs/{run_id}/do/wake" in page, [unquote_plus(html.unescape(name)) for name in names]


NAMES = [
    *("approved", "sleepover", "sleep", "approved and event paid", "paid until 5 or event x", " spaced ", "ü"),
    *("a 'quoted' \"one\"", "<b>&"),
]


@pytest.mark.parametrize("name", NAMES)
def test_an_event_of_any_name_is_asked_for_by_its_name(pages: Pages, name: str) -> None:
    run_id = waits_for(pages, event(name, timeout=HOUR))
    (item,) = told(pages, run_id)
    assert (item["kind"], item["name"]) == ("event", name)
    assert item["due_at"]
    assert offered(pages, run_id) == (False, [name])
    form = pages.get(f"/runs/{run_id}/do/event").text
    (filled,) = re.findall(r'<input name="name"[^>]* value="([^"]*)"', form)
    assert html.unescape(filled) == name
    pages.post(f"/runs/{run_id}/do/event", {"name": html.unescape(filled), "data": "1"})
    assert [sent for sent, _ in events(pages.store, run_id)] == [name]
    run = pages.store.get_run(run_id)
    assert run is not None
    assert run.state == "queued", "it was what it waits for"


@pytest.mark.parametrize("every", [False, True])
def test_two_events_are_two(pages: Pages, every: bool) -> None:
    run_id = waits_for(pages, event("approved", 0), event("paid", 1), every=every)
    assert [(item["kind"], item["name"]) for item in told(pages, run_id)] == [("event", "approved"), ("event", "paid")]
    assert asked(pages, f"/runs/{run_id}")["waiting"]["every"] is every
    assert offered(pages, run_id) == (False, ["approved", "paid"])
    form = pages.get(f"/runs/{run_id}/do/event").text
    assert re.findall(r'<option value="([^"]*)">', form) == ["approved", "paid"]
    assert re.findall(r'<input name="name"[^>]* value="([^"]*)"', form) == [""]
    opened = pages.get(f"/runs/{run_id}/do/event?name=paid").text
    assert re.findall(r'<input name="name"[^>]* value="([^"]*)"', opened) == ["paid"]


@pytest.mark.parametrize("name", ["night", "event paid", "no worker"])
def test_a_sleep_is_a_sleep(pages: Pages, name: str) -> None:
    run_id = waits_for(pages, sleep(name))
    (item,) = told(pages, run_id)
    assert (item["kind"], item["name"]) == ("sleep", name)
    assert offered(pages, run_id) == (True, [])


def test_an_event_and_a_sleep_are_both_offered(pages: Pages) -> None:
    run_id = waits_for(pages, event("sleepover", 0), sleep("event x", 1))
    assert offered(pages, run_id) == (True, ["sleepover"])


def test_runs_are_told_by_their_ids_without_those_that_have_ended(pages: Pages) -> None:
    parts = [NewRun(str(ids.new_id()), "shop.sleep", codec.encode([[n], {}])) for n in range(30)]
    pages.store.create_runs(parts)
    run_id = waits_for(
        pages, Wait(CHILD_ENDED, 0, 29, ""), every=True, steps=tuple(child(n, part) for n, part in enumerate(parts))
    )
    end(pages.store, parts[0].id)
    (item,) = told(pages, run_id)
    assert (item["kind"], item["name"], item["count"]) == ("run", "shop.sleep", 30)
    assert item["run_ids"] == [part.id for part in parts[1:21]]
    assert offered(pages, run_id) == (False, [])


def test_very_many_waits_are_counted(pages: Pages) -> None:
    run_id = waits_for(pages, *(event(f"e{n}", n) for n in range(70)))
    waiting = asked(pages, f"/runs/{run_id}")["waiting"]
    assert (len(waiting["items"]), waiting["more"]) == (50, 20)
    assert len(offered(pages, run_id)[1]) == 5


def test_a_task_waits_for_its_retry(pages: Pages) -> None:
    run_id = pages.new_run()
    raw = ids.to_bytes(run_id)

    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        rows[raw].state, rows[raw].waiting_on = "waiting", "retry: attempt 2 after sleep.Event"
        effects.deliver(rows[raw], pages.store.clock() + 60 * SECOND)

    pages.store.apply(pages.store.namespace, [raw], decide)
    (item,) = told(pages, run_id)
    assert item["kind"] == "retry"
    assert item["due_at"]
    assert offered(pages, run_id) == (False, [])


def test_what_does_not_wait_waits_for_nothing(pages: Pages) -> None:
    run_id = pages.new_run()
    assert asked(pages, f"/runs/{run_id}")["waiting"] is None
    detail = pages.store.detail(run_id)
    assert isinstance(detail, RunDetail)
    assert detail.waiting is None


@pytest.mark.parametrize(
    ("sentence", "error", "code"),
    [
        ("no worker has x@1", None, "no_definition"),
        ("this run of x@1 is a task, and the workers that are here have it as a workflow", None, "no_definition"),
        ("no worker: this worker's x@1 cannot execute the run", "TaskChanged", "code_changed"),
    ],
)
def test_why_a_run_is_stalled_is_told_by_what_is_recorded(pages: Pages, sentence: str, error: str | None, code: str) -> None:
    run_id = pages.new_run()
    raw = ids.to_bytes(run_id)

    def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
        rows[raw].state, rows[raw].waiting_on, rows[raw].error_type = "stalled", sentence, error

    pages.store.apply(pages.store.namespace, [raw], decide)
    assert pages.store.why(run_id).code == code
