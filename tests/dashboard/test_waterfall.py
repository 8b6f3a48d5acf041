"""Histories of any length are shown folded, a page at a time, in about the same time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from aiki import ids
from aiki.dashboard import waterfall
from aiki.model import RunFilter
from aiki.storage import Store
from tests.dashboard.conftest import Pages
from tests.scale import FULL

MANY = 100_000 if FULL else 5_000
SECOND = 1_000_000


def with_steps(pages: Pages, count: int, name: Callable[[int], str], *, bad: int = -1) -> str:
    """A workflow that has issued so many steps."""
    run_id = pages.new_run("perf.flow", kind="workflow")
    store, raw = pages.store, ids.to_bytes(run_id)
    now = store.clock()
    columns = (
        *(
            "namespace",
            "run_id",
            "ordinal",
            "kind",
            "name",
            "digest",
            "state",
            "attempt",
            "input",
            "encoding",
            "data",
            "millis",
        ),
        *("created_at", "finished_at"),
    )
    rows = [
        (
            *("default", raw, i, "step", name(i), "0" * 32, "failed" if i == bad else "completed", 1, f'{{"i":{i}}}'),
            *("json", store.db.dialect.blob('"a result"'), 5, now + i * 100, now + i * 100 + 50),
        )
        for i in range(count)
    ]

    def work(connection: object) -> None:
        store.db.insert_new(connection, "aiki_steps", columns, rows)  # type: ignore[arg-type]
        store.db.execute(connection, "UPDATE aiki_runs SET history = ? WHERE id = ?", (count, raw))  # type: ignore[arg-type]

    store.db.transaction(work)
    return run_id


def quick(pages: Pages, path: str) -> str:
    begun = time.thread_time()
    text = pages.get(path).text
    assert time.thread_time() - begun < 1.0
    assert len(text) < 150_000
    return text


def test_equal_steps_are_one_line(pages: Pages) -> None:
    run_id = with_steps(pages, MANY, lambda _: "shop.reserve", bad=MANY // 2)
    outline = pages.store.outline(run_id)
    assert outline.total == MANY
    assert [(fold.first, fold.steps) for fold in outline.folds] == [(0, outline.folds[0].steps)]
    assert outline.next is None or FULL
    text = quick(pages, f"/runs/{run_id}")
    assert f"shop.reserve × {outline.folds[0].steps:,}" in text
    assert f"the first that failed: {MANY // 2}" in text
    lines = quick(pages, f"/runs/{run_id}?steps=1000-{MANY - 1}")
    assert lines.count("data-row") == 100
    assert f"steps=1100-{MANY - 1}" in lines
    assert "failed" in pages.get(f"/runs/{run_id}/step/{MANY // 2}").text


def test_steps_of_many_sorts_are_paged(pages: Pages) -> None:
    run_id = with_steps(pages, MANY, lambda i: f"shop.{'ab'[i % 2]}")
    seen, first = 0, 0
    text = quick(pages, f"/runs/{run_id}")
    for _ in range(3):
        assert text.count("data-row") == waterfall.ON_A_PAGE
        found = re.search(r'rel="next" href="[^"]*\?from=(\d+)', text)
        assert found
        assert int(found[1]) == first + waterfall.ON_A_PAGE
        first, seen = int(found[1]), seen + 1
        text = quick(pages, f"/runs/{run_id}?from={first}")
    last = quick(pages, f"/runs/{run_id}?from={MANY - 10}")
    assert last.count("data-row") == 10
    assert 'rel="next"' not in last


def test_folds_join_over_windows(pages: Pages) -> None:
    run_id = with_steps(pages, 2_500, lambda i: "shop.a" if i < 1_500 else "shop.b")
    folds = pages.store.outline(run_id).folds
    assert [(fold.name, fold.first, fold.last, fold.steps) for fold in folds] == [
        ("shop.a", 0, 1_499, 1_500),
        ("shop.b", 1_500, 2_499, 1_000),
    ]
    assert folds[0].ended_at is not None


def test_children_show_the_state_of_their_runs(pages: Pages) -> None:
    run_id = pages.new_run("perf.flow", kind="workflow")
    child = pages.new_run("shop.charge")
    store: Store = pages.store
    values = (
        "default",
        ids.to_bytes(run_id),
        0,
        "task",
        "shop.charge",
        "0" * 32,
        "open",
        0,
        ids.to_bytes(child),
        store.clock(),
    )
    columns = ("namespace", "run_id", "ordinal", "kind", "name", "digest", "state", "attempt", "child_id", "created_at")

    def work(connection: object) -> None:
        store.db.insert_new(connection, "aiki_steps", columns, [values])  # type: ignore[arg-type]
        store.db.execute(connection, "UPDATE aiki_runs SET history = 1 WHERE id = ?", (ids.to_bytes(run_id),))  # type: ignore[arg-type]

    store.db.transaction(work)
    assert store.step_lines(run_id)[0].state == "queued"
    assert store.outline(run_id).folds[0].states == {"queued": 1}
    text = pages.get(f"/runs/{run_id}").text
    assert child in text
    assert len(store.list_runs(RunFilter()).runs) == 2


def test_wrong_ranges_are_told(pages: Pages) -> None:
    run_id = pages.new_run("perf.flow", kind="workflow")
    assert "it must be two ordinals" in pages.get(f"/runs/{run_id}?steps=x", 400).text
    assert pages.get(f"/runs/{run_id}?from=x").status_code == 200
    assert pages.get(f"/runs/{run_id}?from=999999999999").status_code == 200
    assert pages.get(f"/runs/{run_id}?steps=99999999999-999999999999").status_code == 200
    pages.get(f"/runs/{run_id}/step/99999999999999999999", 404)


def told(pages: Pages, run_id: str) -> list[tuple[str, list[tuple[str, bool]]]]:
    """The attempts of a task: state, and what each part of its bar is, and whether it has an end."""
    detail = pages.store.detail(run_id)
    assert detail is not None
    lines = waterfall.of_attempts(detail)
    low, high = waterfall.scaled(lines, pages.store.clock())
    assert low <= high
    return [(line.state, [(part.what, part.end is not None) for part in line.parts]) for line in lines]


def test_attempts_along_time(pages: Pages) -> None:
    later = pages.new_run(countdown=3600)
    assert told(pages, later) == [("scheduled", [("wait", False)])]
    pages.post(f"/runs/{later}/do/cancel")
    assert told(pages, later) == [("cancelled", [("cancelled", True)])]
    assert "goes on" not in pages.get(f"/runs/{later}").text
    assert told(pages, pages.new_run()) == [("queued", [("queue", False)])]
