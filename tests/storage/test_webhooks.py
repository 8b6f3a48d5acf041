"""What webhooks are to be told: written with the end that causes it, once, and read until it is taken."""

from __future__ import annotations

import pytest

from aiki.model import NewRun
from aiki.storage import Store
from aiki.storage.webhooks import MAX_WEBHOOKS, TooManyWebhooks, Webhook, WebhookNotFound
from tests.storage.bench import Bench, child, submission
from tests.storage.conftest import SetClock

ALL = ("cancelled", "completed", "dead", "failed")


@pytest.fixture
def bench(emptied_store: Store, clock: SetClock) -> Bench:
    emptied_store._webhooks.clear()
    return Bench(emptied_store, clock)


def hook(bench: Bench, *names: str, states: tuple[str, ...] = ALL) -> Webhook:
    return bench.store.create_webhook("https://x.example/a", states=states, names=names, secret="s" * 16, actor="ann")


def told(bench: Bench) -> list[tuple[str, str, str]]:
    """Webhook, name and state of all that is to be delivered."""
    claimed = bench.store.claim_webhooks()
    return sorted((c.delivery.webhook_id, c.delivery.event["name"], c.delivery.event["state"]) for c in claimed)


def test_each_end_is_told_to_those_who_asked_for_it(bench: Bench) -> None:
    every, some = hook(bench), hook(bench, "shop.pay*", "mail", states=("failed",))
    runs = {name: bench.start(name, kind="task") for name in ("shop.pay", "shop.payday", "mail", "mailing")}
    bench.fail(runs["shop.pay"])
    bench.complete(runs["shop.payday"], 1)
    bench.fail(runs["mailing"])
    bench.cancel(runs["mail"])
    assert told(bench) == sorted(
        [
            (every.id, "mail", "cancelled"),
            (every.id, "mailing", "failed"),
            (every.id, "shop.pay", "failed"),
            (every.id, "shop.payday", "completed"),
            (some.id, "shop.pay", "failed"),
        ]
    )


def test_a_report_that_comes_twice_is_told_once_and_each_end_is_told(bench: Bench) -> None:
    hook(bench)
    run = bench.start("a", kind="task")
    epoch = bench.row(run)["epoch"]
    bench.fail(run)
    first = bench.store.claim_webhooks()
    bench.report(run, ("failed", {"type": "E", "message": "", "tb": ""}), epoch=epoch)
    assert bench.store.claim_webhooks() == []
    bench.retry(run)
    bench.complete(run)
    (second,) = bench.store.claim_webhooks()
    assert second.delivery.event["state"] == "completed"
    assert first[0].delivery.id != second.delivery.id


def test_an_event_says_which_run_and_no_input(bench: Bench, clock: SetClock) -> None:
    hook(bench)
    run = bench.start("shop.pay", "secret-input", kind="task", reference_id="o-1")
    clock.move(5)
    bench.fail(run, message="secret-message")
    (item,) = bench.store.claim_webhooks()
    event = item.delivery.event
    assert (event["run_id"], event["reference_id"], event["error_type"]) == (bench.text(run), "o-1", "ValueError")
    assert event["finished_at"] - event["created_at"] == 5_000_000
    assert "secret" not in str(event)


def test_children_are_told_of_as_well(bench: Bench) -> None:
    hook(bench, "shop.part")
    part: NewRun = child()
    bench.steps(bench.start(), submission(0, part))
    bench.complete(bench.id(part), 1)
    assert [name for _, name, _ in told(bench)] == ["shop.part"]


def test_without_webhooks_nothing_is_written_and_what_was_asked_is_remembered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    execute = bench.store.db.execute

    def watched(connection: object, sql: str, parameters: object = ()) -> object:
        asked.append(sql)
        return execute(connection, sql, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.store.db, "execute", watched)
    for _ in range(20):
        bench.complete(bench.start("a", kind="task"))
    assert len([sql for sql in asked if "webhooks" in sql]) == 1
    assert told(bench) == []


def test_another_process_knows_of_a_new_webhook_within_moments(bench: Bench, clock: SetClock) -> None:
    bench.complete(bench.start("a", kind="task"))
    other = Store(str(bench.store.db.url.render_as_string(hide_password=False)), clock=clock)
    try:
        other.create_webhook("https://x.example", states=ALL, names=(), secret="s" * 16)
    finally:
        other.close()
    clock.move(2.1)
    bench.complete(bench.start("b", kind="task"))
    assert [name for _, name, _ in told(bench)] == ["b"]


def test_a_claim_runs_out(bench: Bench, clock: SetClock) -> None:
    hook(bench)
    bench.complete(bench.start("a", kind="task"))
    (first,) = bench.store.claim_webhooks()
    assert bench.store.claim_webhooks() == []
    clock.move(121)
    (again,) = bench.store.claim_webhooks()
    assert again.delivery.id == first.delivery.id


def test_taken_refused_given_up_and_tried_again(bench: Bench, clock: SetClock) -> None:
    made = hook(bench)
    for name in ("a", "b"):
        bench.complete(bench.start(name, kind="task"))
    one, two = (item.delivery for item in bench.store.claim_webhooks())
    bench.store.webhook_taken([one])
    bench.store.webhook_refused(two, "it answered 500", None)
    found = bench.store.webhook(made.id)
    assert (found.waiting, found.given_up, found.error) == (0, 1, "it answered 500")
    assert found.delivered_at == clock.now
    (left,) = bench.store.webhook_deliveries(made.id)
    assert (left.id, left.attempts, left.due_at) == (two.id, 1, None)
    clock.move(10**6)
    assert bench.store.claim_webhooks() == []
    assert bench.store.redeliver(made.id) == 1
    assert [item.delivery.id for item in bench.store.claim_webhooks()] == [two.id]


def test_off_on_and_away(bench: Bench, clock: SetClock) -> None:
    made = hook(bench)
    bench.complete(bench.start("before", kind="task"))
    assert bench.store.enable_webhook(made.id, False).enabled is False
    bench.complete(bench.start("off", kind="task"))
    assert told(bench) == []
    bench.store.enable_webhook(made.id, True)
    clock.move(61)
    assert [name for _, name, _ in told(bench)] == ["before"]
    bench.store.delete_webhook(made.id)
    clock.move(1000)
    assert told(bench) == []
    for verb in (bench.store.webhook, bench.store.delete_webhook, bench.store.redeliver):
        with pytest.raises(WebhookNotFound):
            verb(made.id)
        with pytest.raises(WebhookNotFound):
            verb("no id")


def test_there_are_not_endlessly_many(bench: Bench) -> None:
    for _ in range(MAX_WEBHOOKS):
        hook(bench)
    with pytest.raises(TooManyWebhooks):
        hook(bench)


def test_wrong_states_are_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="running"):
        hook(bench, states=("running",))
