"""Filters over runs: what is found is what a plain reading of the filter finds, page by page, in both directions."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from aiki import codec, ids
from aiki.clock import SECOND
from aiki.errors import ConfigurationError
from aiki.filters import Filter, parse
from aiki.model import RunView
from aiki.storage import Store, searching
from tests.storage.conftest import SetClock

NAMES = ("mail.send", "mail.digest", "shop.charge", "report")
QUEUES = ("default", "bulk")
STATES = ("scheduled", "queued", "running", "waiting", "paused", "stalled", "completed", "failed", "cancelled", "dead")
ERRORS = (None, "TimeoutError", "requests.Timeout", "ValueError")
HOUR = 3600 * SECOND


def fill(store: Store, count: int, seed: int = 1) -> None:
    """Runs of all kinds, many of them recorded in the same microsecond."""
    rng = random.Random(seed)
    now = store.clock()
    runs, inputs, references = [], [], []
    for number in range(count):
        raw = ids.new_id().bytes
        state = rng.choice(STATES)
        error = rng.choice(ERRORS[1:]) if state in ("failed", "dead") else None
        reference = f"o-{number}" if rng.random() < 0.3 else None
        name = rng.choice(NAMES)
        created = now - (count - number) // 4 * 60 * SECOND
        started = created + SECOND if state not in ("scheduled", "queued", "stalled") else None
        finished = started + rng.randrange(1, 30) * SECOND if started and state in STATES[6:] else None
        message = f"{error}: no answer from host {number % 5}" if error else None
        kind = "workflow" if number % 7 == 0 else "task"
        row = [store.namespace, raw, kind, name, str(number % 3), rng.choice(QUEUES), state, 1, 0]
        row += [reference, error, message, number % 4 + 1, created, started, finished, created]
        runs.append(row)
        payload = codec.encode([[number, {"sku": f"s{number % 10}"}], {"order_id": number % 50, "total": number / 2}])
        inputs.append((store.namespace, raw, "input", payload.encoding, store.db.dialect.blob(payload.text)))
        if reference:
            references.append((store.namespace, name, reference, raw, b"\0" * 32))
    columns = "namespace id kind name version queue state epoch partition_no reference_id error_type error_message attempt"
    columns += " created_at started_at finished_at updated_at"

    def work(connection: Any) -> None:
        store.db.insert(connection, "aiki_runs", columns.split(), runs)
        store.db.insert(connection, "aiki_payloads", ("namespace", "run_id", "role", "encoding", "data"), inputs)
        keys = ("namespace", "name", "reference_id", "run_id", "input_hash")
        store.db.insert(connection, "aiki_reference_ids", keys, references)

    store.db.transaction(work)


@pytest.fixture(scope="module")
def filled(shared_store: Store) -> Store:
    shared_store.clock = SetClock()
    fill(shared_store, 600)
    return shared_store


def everything(store: Store) -> list[RunView]:
    return _pages(store, Filter(), 500)


def _pages(store: Store, where: Filter, limit: int) -> list[RunView]:
    out: list[RunView] = []
    after: str | None = None
    while True:
        page = store.search(where, limit=limit, after=after)
        assert len(page.runs) <= limit
        out += page.runs
        after = page.next
        if after is None:
            return out


def took(run: RunView) -> float:
    return ((run.finished_at or 0) - (run.started_at or 0)) / SECOND


PLAIN: dict[str, Callable[[RunView, int], bool]] = {
    "": lambda r, n: True,
    "status:failed": lambda r, n: r.state == "failed",
    "status:failed,dead name:mail.send": lambda r, n: r.state in ("failed", "dead") and r.name == "mail.send",
    "-status:completed": lambda r, n: r.state != "completed",
    "status:active": lambda r, n: not r.ended,
    "-status:active name:mail*": lambda r, n: r.ended and r.name.startswith("mail"),
    "name:mail*": lambda r, n: r.name.startswith("mail"),
    "name:*digest": lambda r, n: r.name.endswith("digest"),
    "name:*a*e*": lambda r, n: "e" in r.name[r.name.find("a") + 1 :] and "a" in r.name,
    "name:nobody": lambda r, n: False,
    "name:nobody*": lambda r, n: False,
    "-name:mail*": lambda r, n: not r.name.startswith("mail"),
    "name:report,shop.charge queue:bulk": lambda r, n: r.name in ("report", "shop.charge") and r.queue == "bulk",
    "queue:bulk": lambda r, n: r.queue == "bulk",
    "queue:b*": lambda r, n: r.queue == "bulk",
    "queue:bülk": lambda r, n: False,
    "kind:workflow": lambda r, n: r.kind == "workflow",
    "version:2 kind:task": lambda r, n: r.version == "2" and r.kind == "task",
    "since:1h": lambda r, n: r.created_at >= n - HOUR,
    "until:1h": lambda r, n: r.created_at <= n - HOUR,
    "status:failed since:1h": lambda r, n: r.state == "failed" and r.created_at >= n - HOUR,
    "created:>2h created:<1h": lambda r, n: n - 2 * HOUR < r.created_at < n - HOUR,
    "-created:>1h": lambda r, n: r.created_at <= n - HOUR,
    "created:>30m,<2h": lambda r, n: r.created_at > n - HOUR / 2 or r.created_at < n - 2 * HOUR,
    "error:Timeout*": lambda r, n: (r.error_type or "").split(".")[-1].startswith("Timeout"),
    "error:Timeout": lambda r, n: r.error_type == "requests.Timeout",
    "-error:Timeout*": lambda r, n: not (r.error_type or "").split(".")[-1].startswith("Timeout"),
    "status:failed -error:Timeout* attempt:>2": lambda r, n: (
        r.state == "failed" and r.error_type == "ValueError" and r.attempt > 2
    ),
    "error:*": lambda r, n: r.error_type is not None,
    "-error:*": lambda r, n: r.error_type is None,
    "message:*host\\ 3": lambda r, n: (r.error_message or "").endswith("host 3"),
    "attempt:2..3": lambda r, n: r.attempt in (2, 3),
    "attempt:1,4": lambda r, n: r.attempt in (1, 4),
    "duration:>10s": lambda r, n: (
        (r.finished_at is not None and took(r) > 10) or (_runs(r) and n - (r.started_at or n) > 10 * SECOND)
    ),
    "duration:5s..7s": lambda r, n: (
        (r.finished_at is not None and 5 <= took(r) <= 7) or (_runs(r) and 5 <= (n - r.started_at) / SECOND <= 7)
    ),
    "reference:o-12": lambda r, n: r.reference_id == "o-12",
    "reference:o-1*": lambda r, n: (r.reference_id or "").startswith("o-1"),
    "reference:*": lambda r, n: r.reference_id is not None,
    "-reference:*": lambda r, n: r.reference_id is None,
    "reference:*7": lambda r, n: (r.reference_id or "").endswith("7"),
    "DIGEST": lambda r, n: "digest" in r.name,
    '"no answer" valueerror': lambda r, n: r.error_type == "ValueError",
    "-timeout": lambda r, n: "imeout" not in (r.error_type or ""),
    "worker:*": lambda r, n: False,
    "-worker:w1": lambda r, n: True,
    "parent:*": lambda r, n: False,
    "args.order_id:7 status:failed": lambda r, n: False,
}


def _runs(run: RunView) -> bool:
    return run.started_at is not None and run.finished_at is None


@pytest.mark.parametrize("text", [text for text in PLAIN if "args" not in text])
def test_a_filter_finds_what_it_says(filled: Store, text: str) -> None:
    now = filled.clock()
    wanted = [run.id for run in everything(filled) if PLAIN[text](run, now)]
    where = parse(text)
    assert [run.id for run in _pages(filled, where, 500)] == wanted
    assert [run.id for run in _pages(filled, where, 37)] == wanted
    assert filled.count(where) == (len(wanted), True) or filled.count(where).number == len(wanted)


def test_all_runs_newest_first(filled: Store) -> None:
    runs = everything(filled)
    assert len(runs) == 600
    places = [(run.created_at, run.id) for run in runs]
    assert places == sorted(places, reverse=True)


@pytest.mark.parametrize(
    "text", ["", "status:failed,dead", "kind:workflow", "name:mail* -error:*", "reference:o-1*", "args.order_id:7"]
)
def test_pages_lead_back(filled: Store, text: str) -> None:
    where = parse(text)
    there = [filled.search(where, limit=5)]
    while there[-1].next:
        there.append(filled.search(where, limit=5, after=there[-1].next))
    assert there[0].previous is None
    for page, newer in zip(there[1:][::-1], there[:-1][::-1], strict=True):
        if not page.runs:
            continue
        back = filled.search(where, limit=5, before=page.previous)
        assert [run.id for run in back.runs] == [run.id for run in newer.runs]
        assert back.next is not None


def test_arguments(filled: Store) -> None:
    def numbers(text: str) -> list[int]:
        out = []
        for run in _pages(filled, parse(text), 50):
            detail = filled.detail(run.id)
            assert detail is not None
            assert detail.input is not None
            out.append(codec.decode(detail.input)[0][0])
        return sorted(out)

    assert numbers("args.order_id:7") == list(range(7, 600, 50))
    assert numbers("args.0:42") == [42]
    assert numbers("args.sku:s3 args.order_id:3") == list(range(3, 600, 50))
    assert numbers("args.1.sku:s9 args.order_id:<10") == list(range(9, 600, 50))
    assert numbers("args.total:>299") == [599]
    assert numbers("args.total:10..11.5") == [20, 21, 22, 23]
    assert numbers("args.sku:s*") == list(range(600))
    assert numbers("-args.order_id:1,2,3 args.0:1,2,3,4") == [4]
    assert numbers("args.nothing:x") == []


def test_a_run_is_found_by_its_id_and_its_beginning(filled: Store) -> None:
    run = everything(filled)[100]
    for text in (f"id:{run.id}", run.id, run.id.replace("-", ""), f"id:{run.id[:-3]}*", f"status:{run.state} id:{run.id}"):
        assert [found.id for found in filled.search(parse(text)).runs] == [run.id], text
    assert filled.search(parse(f"-id:{run.id} id:{run.id}")).runs == []
    reference = next(run for run in everything(filled) if run.reference_id)
    assert [found.id for found in filled.search(parse(str(reference.reference_id))).runs] == [reference.id]


def test_looking_stops_and_says_so(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "BUDGET_IN_ROWS", 200)
    page = filled.search(parse("args.order_id:7"), limit=50)
    assert (page.complete, page.looked) == (False, 200)
    assert 0 < len(page.runs) < 10
    assert page.next is not None
    assert len(_pages(filled, parse("args.order_id:7"), 50)) == 12
    count = filled.count(parse("args.order_id:7"))
    assert (count.exact, count.number) == (False, len(page.runs))


def test_counts_stop_at_their_cap(filled: Store) -> None:
    assert filled.count(Filter(), cap=100).text == "100+"
    assert filled.count(Filter(), cap=600).text == "600"
    assert filled.count(parse("kind:task"), cap=10).text == "10+"


def test_a_damaged_place_is_refused(filled: Store) -> None:
    for text in ("x", "12.zz", "12", ".", "é"):
        with pytest.raises(ConfigurationError, match="earlier page"):
            filled.search(Filter(), after=text)


def test_only_runs_of_the_namespace(filled: Store, open_other: Callable[[str], Store]) -> None:
    other = open_other("other")
    for text in ("", "status:failed", "name:mail*", "queue:bulk", "reference:o-*", "args.order_id:7", "digest"):
        assert other.search(parse(text)).runs == []
        assert other.count(parse(text)).number == 0


@pytest.fixture
def open_other(filled: Store) -> Any:
    stores = []

    def make(namespace: str) -> Store:
        store = Store(filled.db.url.render_as_string(hide_password=False), namespace=namespace, clock=filled.clock)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()
