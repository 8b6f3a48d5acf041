"""The page of a run, and what can be done to it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from flask import Flask, g

from aiki.api.access import LOCAL
from aiki.codec import Payload, encode
from aiki.dashboard import jsonview
from aiki.ids import new_id, to_bytes
from aiki.lifecycle.run_logs import LogRecord
from aiki.model import RunFilter
from aiki.states import State
from aiki.storage.auditing import AuditFilter
from tests.dashboard.conftest import Pages


def test_a_task_is_shown_with_its_input(pages: Pages) -> None:
    run_id = pages.new_run(kwargs={"order_id": "<script>alert(1)</script>", "cents": 2**80})
    text = pages.get(f"/runs/{run_id}").text
    assert "<script>alert" not in text
    assert str(2**80) in text
    assert "queued" in text
    assert pages.get(f"/runs/{run_id}/payload/input").get_json()[1]["order_id"].startswith("<script>")
    kept = pages.get(f"/runs/{run_id}/payload/input?download=1")
    assert kept.headers["Content-Disposition"].startswith("attachment")
    pages.get(f"/runs/{run_id}/payload/nothing", 404)


def test_verbs_ask_and_then_do(pages: Pages) -> None:
    run_id = pages.new_run()
    form = pages.get(f"/runs/{run_id}/do/cancel").text
    assert 'name="reason"' in form
    answer = pages.post(f"/runs/{run_id}/do/cancel", {"reason": "no longer wanted"})
    assert answer.headers["Location"] == f"/runs/{run_id}?did=cancel"
    assert pages.store.get_run(run_id).state is State.CANCELLED  # type: ignore[union-attr]
    assert "Asked to cancel" in pages.get(f"/runs/{run_id}?did=cancel").text
    pages.post(f"/runs/{run_id}/do/retry")
    assert pages.store.get_run(run_id).state is State.QUEUED  # type: ignore[union-attr]
    pages.post(f"/runs/{run_id}/do/pause", {"reason": "x"})
    pages.post(f"/runs/{run_id}/do/resume", {"reason": "on we go"})
    reasons = [(entry.action, entry.reason) for entry in pages.store.audit_log(AuditFilter(subject=run_id))]
    assert {("cancel", "no longer wanted"), ("pause", "x"), ("resume", "on we go")} <= set(reasons)
    refused = pages.post(f"/runs/{run_id}/do/wake", status=400)
    assert "only a workflow that sleeps" in refused.text
    pages.get(f"/runs/{run_id}/do/nothing", 404)


def test_an_edited_input_makes_a_new_run_once(pages: Pages) -> None:
    run_id = pages.new_run(args=["o-1"], kwargs={"cents": 3**99, "rate": 1.50})
    form = pages.get(f"/runs/{run_id}/do/edit").text
    assert str(3**99) in form
    found = re.search(r'name="new_id" value="([^"]+)"', form)
    assert found
    bad = pages.post(f"/runs/{run_id}/do/edit", {"new_id": found[1], "args": "[1,", "kwargs": "{}"}, 400)
    assert "line 1, column 4" in bad.text
    assert ">[1,<" in bad.text
    changed = {"new_id": found[1], "args": "[]", "kwargs": f'{{"order_id": "o-2", "cents": {7**99}}}'}
    first = pages.post(f"/runs/{run_id}/do/edit", changed)
    again = pages.post(f"/runs/{run_id}/do/edit", changed)
    assert first.headers["Location"] == again.headers["Location"] == f"/runs/{found[1]}?did=edit"
    assert len(pages.store.list_runs(RunFilter()).runs) == 2
    assert str(7**99) in pages.get(f"/runs/{found[1]}").text


def test_a_workflow_takes_events(pages: Pages) -> None:
    run_id = pages.new_run("shop.checkout", kind="workflow")
    pages.post(f"/runs/{run_id}/do/event", {"name": "approved", "data": '{"by": "Ada", "n": 12345678901234567890123}'})
    text = pages.get(f"/runs/{run_id}").text
    assert "approved" in text
    assert "12345678901234567890123" in text
    assert "not yet" in text
    assert "name: " in pages.post(f"/runs/{run_id}/do/event", {"name": ""}, 400).text


@pytest.fixture
def asked() -> Iterator[None]:
    """A request by somebody who sees everything."""
    with Flask(__name__).test_request_context():
        g.principal = LOCAL
        yield


@pytest.mark.usefixtures("asked")
def test_payloads_are_never_cut_in_silence() -> None:
    many = jsonview.shown(encode(list(range(5000))))
    assert many.html is not None
    assert many.left == 5000 - (jsonview.MAX_NODES - 1)
    assert f"{many.left:,} more" in many.html
    long = jsonview.shown(encode("x" * 5000))
    assert long.html is not None
    assert "3,500 more characters" in long.html
    deep: list[object] = []
    for _ in range(150):
        deep = [deep]
    assert jsonview.shown(encode(deep)).html is not None
    assert jsonview.shown(Payload("aes", "xxxx")).html is None
    large = jsonview.shown(encode("y" * (jsonview.MAX_READ + 1)))
    assert (large.html, large.why) == (None, "it is too large to be shown here")
    assert jsonview.shown(encode({"a": 1}, compress_above=1)).left == 0


@pytest.mark.usefixtures("asked")
def test_numbers_are_shown_as_they_are_written() -> None:
    payload = Payload("json", '{"a":1.10,"b":1e400,"c":9007199254740993,"d":{"$aiki":"int","v":"-0x10000000000000000"}}')
    html = jsonview.shown(payload).html
    assert html is not None
    for text in ("1.10", "1e400", "9007199254740993", "-18446744073709551616"):
        assert f'<span class="jn">{text}</span>' in html


def test_nobody_is_known_by_a_wrong_id(pages: Pages) -> None:
    for path in (f"/runs/{new_id()}", "/runs/nothing", f"/runs/{new_id()}/do/cancel", f"/runs/{new_id()}/payload/input"):
        assert "no such run" in pages.get(path, 404).text


def test_many_are_asked_for_and_begun(pages: Pages) -> None:
    made = [pages.new_run() for _ in range(3)]
    assert "No run is selected" in pages.get("/runs/bulk?verb=cancel", 400).text
    pages.get("/runs/bulk?verb=nothing", 404)
    assert "this is not a run" in pages.get("/runs/bulk?verb=cancel&run=x", 400).text
    picked = "&".join(f"run={run_id}" for run_id in made)
    assert "Cancel: 3 runs" in pages.get(f"/runs/bulk?verb=cancel&{picked}").text
    form = {"verb": "cancel", "run": made, "q": 'name:"a b"', "reason": "x", "batch": str(new_id()), "number": 3}
    first, again = pages.post("/runs/bulk", form), pages.post("/runs/bulk", form)
    assert first.headers["Location"] == again.headers["Location"] == f"/batches/{form['batch']}?did=batch"
    text = pages.get(first.headers["Location"]).text
    assert "0 of 3" in text
    assert "Cancel 3 runs" in pages.get("/batches").text
    pages.get(f"/batches/{form['batch']}?part=batch")
    pages.get(f"/batches/{form['batch']}/stop")
    pages.post(f"/batches/{form['batch']}/stop", {"reason": "wrong ones"})
    assert "is over" in pages.post(f"/batches/{form['batch']}/stop", status=400).text
    assert pages.store.batch(str(form["batch"])).state == "stopped"  # type: ignore[union-attr]
    pages.get(f"/batches/{new_id()}", 404)


def test_above_a_hundred_the_number_is_typed(pages: Pages) -> None:
    for _ in range(101):
        pages.new_run()
    text = pages.get("/runs/bulk?verb=cancel&all=1&q=name:shop.charge").text
    assert "Cancel: 101 runs" in text
    assert "Type <strong>101</strong>" in text
    form = {"verb": "cancel", "all": "1", "q": "name:shop.charge", "number": 101}
    assert "Type 101 to go on" in pages.post("/runs/bulk", form, 400).text
    assert "Type 101 to go on" in pages.post("/runs/bulk", {**form, "typed": "100"}, 400).text
    location = pages.post("/runs/bulk", {**form, "typed": "101", "reason": "<b>"}).headers["Location"]
    assert "&lt;b&gt;" in pages.get(location).text
    assert "wrong" not in pages.get("/runs/bulk?verb=cancel&all=1&q=stat%22us:", 400).text


def test_the_number_cannot_be_left_out(pages: Pages) -> None:
    for _ in range(101):
        pages.new_run()
    assert pages.store.batches() == []
    answer = pages.post("/runs/bulk", {"verb": "cancel", "all": "1", "q": ""}, 400)
    assert "Cancel: 101 runs" in answer.text
    assert pages.store.batches() == []


def test_logs_are_shown(pages: Pages) -> None:
    run_id = pages.new_run()
    record = LogRecord(to_bytes(run_id), 1, pages.store.clock(), 2, None, "WARNING", "shop", "<low> on\npaper")
    pages.store.db.transaction(lambda connection: pages.store.write_logs(connection, "default", [record]))
    text = pages.get(f"/runs/{run_id}").text
    assert "&lt;low&gt; on" in text
    assert "attempt 2" in text
