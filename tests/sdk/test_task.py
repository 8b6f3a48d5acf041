"""Enqueueing: arguments, options, many at once."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid

import pytest

from aiki import (
    Aiki,
    Call,
    ConfigurationError,
    EncodeError,
    PayloadTooLarge,
    ReferenceConflict,
    RetryPolicy,
    State,
    Task,
    codec,
)
from aiki.arguments import Arguments
from aiki.model import NewRun, RunDetail

NOON = dt.datetime(2099, 1, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def charge(app: Aiki) -> Task[..., str]:
    @app.task(name="charge")
    def charge(order: str, cents: int = 5, *, currency: str = "EUR") -> str:
        return order

    return charge


def input_of(app: Aiki, run_id: str) -> object:
    detail: RunDetail = app.client.detail(run_id)
    assert detail.input is not None
    return codec.decode(detail.input)


def test_arguments_are_carried(app: Aiki, charge: Task[..., str]) -> None:
    assert input_of(app, charge.enqueue("o", currency="USD").id) == [["o"], {"currency": "USD"}]
    assert input_of(app, charge.delay("o", 7).id) == [["o", 7], {}]
    assert input_of(app, charge.apply_async(["o"], {"cents": 1}).id) == [["o"], {"cents": 1}]
    assert input_of(app, charge.apply_async(kwargs={"order": "o"}).id) == [[], {"order": "o"}]
    assert input_of(app, asyncio.run(charge.aenqueue("o")).id) == [["o"], {}]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        (("o", 1, 2), {}),
        (("o",), {"order": "p"}),
        ((), {"cents": 1}),
        (("o",), {"coin": 1}),
        ((), {"order": "o", "x": 1}),
    ],
)
def test_wrong_arguments_raise_like_a_call(
    app: Aiki, charge: Task[..., str], args: tuple[str, ...], kwargs: dict[str, int]
) -> None:
    with pytest.raises(TypeError):
        charge(*args, **kwargs)
    for enqueue in (charge.enqueue, charge.delay, lambda *a, **k: charge.apply_async(a, k)):
        with pytest.raises(TypeError, match=r"^charge\(\) .*\(order: "):
            enqueue(*args, **kwargs)
    with pytest.raises(TypeError):
        asyncio.run(charge.aenqueue(*args, **kwargs))
    assert list(app.runs()) == []


def test_every_kind_of_signature_is_checked_as_python_does() -> None:
    def plain(a, b=1): ...  # type: ignore[no-untyped-def]
    def positional(a, /, b): ...  # type: ignore[no-untyped-def]
    def keywords(*, a, b=1): ...  # type: ignore[no-untyped-def]
    def rest(a, *more, c=1): ...  # type: ignore[no-untyped-def]
    def needs(a, *more, c): ...  # type: ignore[no-untyped-def]
    def anything(*args, **kwargs): ...  # type: ignore[no-untyped-def]

    calls: list[tuple[tuple[int, ...], dict[str, int]]] = [
        (args, kwargs)
        for args in ((), (1,), (1, 2), (1, 2, 3))
        for kwargs in ({}, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}, {"c": 1}, {"a": 1, "c": 2}, {"z": 1})
    ]
    for fn in (plain, positional, keywords, rest, needs, anything):
        arguments = Arguments(fn.__name__, fn)
        for args, kwargs in calls:
            assert _raises(fn, args, kwargs) == _raises(lambda *a, **k: arguments.check(a, k), args, kwargs), (fn, args, kwargs)  # noqa: B023


def _raises(fn: object, args: tuple[int, ...], kwargs: dict[str, int]) -> bool:
    try:
        fn(*args, **kwargs)  # type: ignore[operator]
    except TypeError:
        return True
    return False


def test_what_cannot_be_carried_is_named(app: Aiki, charge: Task[..., str]) -> None:
    with pytest.raises(EncodeError, match=r"arguments of charge at \$\[0\]\[0\]\.card"):
        charge.enqueue({"card": object()})
    with pytest.raises(PayloadTooLarge, match="arguments of charge"):
        charge.enqueue("x" * (app.settings.max_payload + 1))
    assert list(app.runs()) == []


def test_options_reach_the_run(app: Aiki, charge: Task[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[NewRun] = []
    enqueue = app.client.enqueue
    monkeypatch.setattr(app.client, "enqueue", lambda runs, **rest: sent.extend(runs) or enqueue(runs, **rest))
    run_id = str(uuid.uuid4())
    policy = RetryPolicy.fixed(2)
    handle = charge.options(
        eta=NOON, expires=NOON + dt.timedelta(hours=1), queue="money", retry=policy, time_limit=dt.timedelta(minutes=1),
        soft_time_limit=30, max_crashes=1, reference_id="r-1", run_id=run_id,
    ).enqueue("o")  # fmt: skip
    assert handle.id == run_id
    (run,) = sent
    noon = int(NOON.timestamp() * 1_000_000)
    assert (run.due_at, run.expires_at, run.queue, run.reference_id) == (noon, noon + 3_600_000_000, "money", "r-1")
    assert run.options == {"tl": 60.0, "sl": 30.0, "rp": policy.to_wire(), "mc": 1, "sg": charge.arguments.digest}
    assert handle.status() is State.SCHEDULED

    before = app.client.now()
    charge.options(countdown=60, expires=90).enqueue("o")
    assert sent[-1].due_at is not None
    assert sent[-1].expires_at is not None
    assert 0 <= sent[-1].due_at - before - 60_000_000 < 30_000_000
    assert sent[-1].expires_at - sent[-1].due_at == 30_000_000


def test_the_definitions_expiry_counts_from_when_the_run_is_due(app: Aiki, monkeypatch: pytest.MonkeyPatch) -> None:
    @app.task(name="brief", expires=10)
    def brief() -> None: ...

    monkeypatch.setattr(app.client, "now", lambda: 1_000_000)
    sent: list[NewRun] = []
    monkeypatch.setattr(app.client, "enqueue", lambda runs, **rest: sent.extend(runs) or [])
    brief.enqueue_many([(), ()])
    brief.options(countdown=5).enqueue_many([()])
    assert [(run.due_at, run.expires_at) for run in sent] == [(None, 11_000_000), (None, 11_000_000), (6_000_000, 16_000_000)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"countdown": -1}, "countdown=-1"),
        ({"countdown": "5"}, "countdown='5'"),
        ({"countdown": True}, "countdown=True"),
        ({"countdown": 1, "eta": NOON}, "not both"),
        ({"eta": dt.datetime(2099, 1, 1)}, "has no time zone"),
        ({"eta": 5}, "must be a datetime"),
        ({"expires": dt.datetime(2099, 1, 1)}, "has no time zone"),
        ({"on_conflict": "ignore"}, "on_conflict='ignore'"),
        ({"reference_id": ""}, "reference_id=''"),
        ({"run_id": "order-1"}, "reference_id"),
        ({"batch": 0}, "batch=0"),
        ({"conutdown": 1}, "did you mean 'countdown'"),
        ({"priority": 1}, "queue of its own"),
        ({"retry": True}, "retry=True"),
    ],
)
def test_wrong_options_raise(charge: Task[..., str], options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        charge.options(**options)  # type: ignore[arg-type]


def test_options_of_celerys_that_do_not_exist_raise(charge: Task[..., str]) -> None:
    for option in ("link", "priority", "serializer", "headers", "routing_key", "ignore_result", "shadow"):
        with pytest.raises(ConfigurationError, match=f"no option '{option}'; "):
            charge.apply_async(("o",), **{option: None})
    with pytest.raises(ConfigurationError, match="did you mean 'countdown'"):
        charge.apply_async(("o",), countdwn=1)


def test_many_are_enqueued_with_few_transactions(app: Aiki, charge: Task[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    enqueue = app.client.enqueue
    monkeypatch.setattr(app.client, "enqueue", lambda runs, **rest: sizes.append(len(runs)) or enqueue(runs, **rest))
    handles = charge.enqueue_many((str(i), i) for i in range(2500))
    assert sizes == [1000, 1000, 500]
    assert len({handle.id for handle in handles}) == 2500
    assert input_of(app, handles[1234].id) == [["1234", 1234], {}]
    sizes.clear()
    charge.enqueue_many([("x" * 1_500_000,)] * 4)
    assert sizes == [2, 2]
    assert charge.enqueue_many([]) == []


def test_many_take_tuples_dicts_and_calls(app: Aiki, charge: Task[..., str]) -> None:
    handles = charge.enqueue_many([("a",), {"order": "b"}, charge.call("c", 3), Call(("d",), reference_id="d-1")])
    assert [input_of(app, handle.id) for handle in handles] == [
        [["a"], {}], [[], {"order": "b"}], [["c", 3], {}], [["d"], {}],
    ]  # fmt: skip
    assert charge.options(reference_id="d-1").enqueue("d") == handles[3]
    with pytest.raises(ReferenceConflict):
        charge.options(reference_id="d-1").enqueue("other")


def test_one_wrong_item_means_none_is_enqueued(app: Aiki, charge: Task[..., str]) -> None:
    with pytest.raises(TypeError, match="item 1 is 'b'"):
        charge.enqueue_many([("a",), "b"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="missing a required argument") as caught:
        charge.enqueue_many([("a",), ()])
    assert caught.value.__notes__ == ["enqueue_many: this is item 1; nothing was enqueued"]
    with pytest.raises(ConfigurationError, match="name one run"):
        charge.options(reference_id="x").enqueue_many([("a",)])
    assert list(app.runs()) == []


def test_a_task_is_called_as_a_function(app: Aiki, charge: Task[..., str]) -> None:
    assert charge("o") == "o"

    @app.task(name="later")
    async def later(x: int) -> int:
        return x + 1

    assert asyncio.run(later(1)) == 2
