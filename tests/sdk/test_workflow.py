"""Workflows as their users define, enqueue and call them."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from aiki import (
    Aiki,
    Call,
    ConfigurationError,
    EncodeError,
    NotDurable,
    ReferenceConflict,
    RetryPolicy,
    RunConflict,
    RunNotFound,
    State,
    Task,
    Workflow,
    WorkflowRun,
    codec,
    first,
    gather,
)
from aiki.context import inside_step, inside_workflow
from aiki.history import History, Step
from aiki.replay import Limits, Replay
from aiki.storage import Store
from aiki.workflow_host import About, StepCall
from tests.client.contract import events
from tests.client.workflows import done, record, sleep
from tests.sdk.test_task import input_of


@pytest.fixture
def charge(app: Aiki) -> Task[..., str]:
    @app.task(name="charge", retry=RetryPolicy.fixed(3), time_limit=9, soft_time_limit=5)
    def charge(order: str, cents: int = 5) -> str:
        return f"charged {cents}"

    return charge


@pytest.fixture
def checkout(app: Aiki, charge: Task[..., str]) -> Workflow[..., str]:
    @app.workflow(name="checkout")
    def checkout(run: WorkflowRun, order: str, *, cents: int = 5) -> str:
        return charge(order, cents)

    return checkout


# ---------------------------------------------------------------- define
def test_a_workflow_is_a_definition(app: Aiki) -> None:
    policy = RetryPolicy.exponential(4)

    @app.workflow(
        name="shop.checkout", version="7", queue="money", retry=policy, time_limit=dt.timedelta(minutes=1), soft_time_limit=5,
        expires=60, max_crashes=1,
    )  # fmt: skip
    def checkout(run: WorkflowRun, order: str) -> str:
        """Sell it."""
        return order

    @app.workflow
    def ship(run, /):  # type: ignore[no-untyped-def]
        return run

    assert isinstance(checkout, Workflow)
    assert dict(app.definitions) == {"shop.checkout": checkout, f"{__name__}.ship": ship}
    assert (checkout.kind, checkout.name, checkout.version, checkout.is_async) == ("workflow", "shop.checkout", "7", False)
    assert (checkout.info.kind, checkout.info.version) == ("workflow", "7")
    assert checkout.info.options == {
        **{"queue": "money", "retry": policy.to_wire(), "time_limit": 60.0, "soft_time_limit": 5.0},
        **{"expires": 60.0, "max_crashes": 1},
    }
    assert (checkout.__doc__, repr(checkout)) == ("Sell it.", "<Workflow shop.checkout@7>")
    assert ship.fn("the run") == "the run"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_retires": 3}, "max_retires"),
        ({"max_retries": 3}, "max_attempts"),
        ({"quue": "x"}, "@app.workflow: unknown option 'quue'; did you mean 'queue'"),
        ({"bind": True}, "current_run"),
        ({"acks_late": True}, "nothing is needed"),
        ({"retry": 3}, r"RetryPolicy.exponential\(max_attempts=3\)"),
        ({"queue": "a/b"}, "queue 'a/b'"),
        ({"time_limit": 5, "soft_time_limit": 5}, "must be below"),
        ({"version": 2}, "version=2"),
        ({"version": ""}, "version=''"),
        ({"version": "x" * 65}, "1 to 64 printable characters"),
        ({"name": " x"}, "name=' x'"),
    ],
)
def test_wrong_options_are_told_where_they_are_written(app: Aiki, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):

        @app.workflow(**options)  # type: ignore[call-overload]
        def checkout(run: WorkflowRun) -> None: ...


def test_the_run_comes_first(app: Aiki) -> None:
    def none() -> None: ...
    def keyword(*, run: WorkflowRun) -> None: ...
    def rest(*args: str) -> None: ...
    def forgot(order: str) -> None: ...
    def forgot_too(order: list[int]) -> None: ...

    for fn in (none, keyword, rest, forgot, forgot_too):
        with pytest.raises(
            ConfigurationError, match=rf"{fn.__name__}: its first parameter must be the run.*{fn.__name__}\(run"
        ):
            app.workflow(fn)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="not order: 'str'"):
        app.workflow(forgot)  # type: ignore[arg-type]
    assert dict(app.definitions) == {}


def test_odd_functions_are_refused(app: Aiki, charge: Task[..., str]) -> None:
    async def later(run: WorkflowRun) -> None: ...

    def numbers(run: WorkflowRun) -> object:
        yield 1

    with pytest.raises(ConfigurationError, match=r"plain function, not `async def`; what it awaits are steps"):
        app.workflow(later)
    with pytest.raises(ConfigurationError, match="a workflow cannot be a generator"):
        app.workflow(numbers)
    with pytest.raises(ConfigurationError, match="over a function"):
        app.workflow(int)
    with pytest.raises(ConfigurationError, match=r"@app.workflow\(name='x'\)"):
        app.workflow("x")  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="charge is a task already"):
        app.workflow(charge)  # type: ignore[arg-type]


# ---------------------------------------------------------------- versions
def test_versions_live_side_by_side(app: Aiki, store: Store) -> None:
    def made(version: str) -> Workflow[[str], str]:
        def checkout(run: WorkflowRun, order: str) -> str:
            return version

        return app.workflow(name="checkout", version=version)(checkout)

    ten, nine = made("10"), made("9")
    assert dict(app.versions) == {("checkout", "10"): ten, ("checkout", "9"): nine}
    assert dict(app.definitions) == {"checkout": nine}, "the one that was defined last"
    pinned = [app.client.get(flow.enqueue("o").id).version for flow in (ten, nine)]
    assert pinned == ["10", "9"]
    newest = store.definition("checkout")
    assert newest is not None
    assert (newest.version, store.versions_of("checkout")) == ("9", ["10", "9"])
    assert store.definition("checkout", "10") == ten.info
    assert store.definition("checkout", "11") is None
    again = app.client.rerun(ten.enqueue("o").id)
    assert app.client.get(again.id).version == "10"


def test_two_of_one_name_and_version_are_told_with_their_places(app: Aiki) -> None:
    @app.workflow(name="checkout")
    def one(run: WorkflowRun) -> None: ...

    with pytest.raises(ConfigurationError, match=r"two workflows are named 'checkout'.*another version="):

        @app.workflow(name="checkout")
        def two(run: WorkflowRun) -> None: ...

    app.workflow(name="checkout")(one.fn)  # the same function, imported again


# ---------------------------------------------------------------- enqueue
def test_a_workflow_is_enqueued_like_a_task(app: Aiki, checkout: Workflow[..., str]) -> None:
    async def later() -> str:
        return (await checkout.options(countdown=60).aenqueue("o")).id

    assert input_of(app, checkout.enqueue("o", cents=7).id) == [["o"], {"cents": 7}]
    assert input_of(app, checkout.delay("o").id) == [["o"], {}]
    assert input_of(app, checkout.apply_async(("o",), {"cents": 1}, queue="money").id) == [["o"], {"cents": 1}]
    calls = [("a",), {"order": "b"}, checkout.call("c", cents=1), Call(("d",), reference_id="d-1")]
    many = checkout.enqueue_many(calls)
    assert [input_of(app, handle.id) for handle in many][1:3] == [[[], {"order": "b"}], [["c"], {"cents": 1}]]
    assert app.client.get(asyncio.run(later())).state is State.SCHEDULED
    assert len(list(app.runs(kind="workflow", name="checkout"))) == 8
    assert list(app.runs(kind="task")) == []
    with pytest.raises(ConfigurationError, match="kind='job'"):
        app.runs(kind="job")
    assert list(app.runs(parent=many[0].id)) == []
    with pytest.raises(ConfigurationError, match="'o-1' is not a run id"):
        app.runs(parent="o-1")


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), (("o", 1), {}), (("o",), {"run": 1}), (("o",), {"cent": 1})])
def test_wrong_arguments_raise_like_a_call(
    app: Aiki, checkout: Workflow[..., str], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    for enqueue in (checkout.enqueue, checkout.delay, lambda *a, **k: checkout.apply_async(a, k)):
        with pytest.raises(TypeError, match=r"^checkout\(\) .*its signature is \(order: "):
            enqueue(*args, **kwargs)
    with pytest.raises(TypeError, match="checkout"):
        asyncio.run(checkout.aenqueue(*args, **kwargs))
    with pytest.raises(TypeError, match="checkout"):
        checkout.enqueue_many([Call(args, kwargs)])
    assert list(app.runs()) == []


def test_celerys_habits_work_or_raise(checkout: Workflow[..., str]) -> None:
    for option in ("link", "priority", "serializer", "headers", "ignore_result"):
        with pytest.raises(ConfigurationError, match=f"no option '{option}'; "):
            checkout.apply_async(("o",), **{option: None})
        with pytest.raises(ConfigurationError, match=f"no option '{option}'; "):
            checkout.options(**{option: None})
    with pytest.raises(ConfigurationError, match="did you mean 'countdown'"):
        checkout.apply_async(("o",), countdwn=1)
    with pytest.raises(ConfigurationError, match="on_parent_cancel='ignore'"):
        checkout.options(on_parent_cancel="ignore")  # type: ignore[arg-type]


def test_a_reference_id_names_one_run(checkout: Workflow[..., str]) -> None:
    handle = checkout.options(reference_id="o-1").enqueue("o")
    assert checkout.options(reference_id="o-1").enqueue("o") == handle
    with pytest.raises(ReferenceConflict):
        checkout.options(reference_id="o-1").enqueue("other")
    assert checkout.options(reference_id="o-1", on_conflict="return_existing").enqueue("other") == handle


def test_a_workflow_is_enqueued_in_the_callers_transaction(app: Aiki, checkout: Workflow[..., str], store: Store) -> None:
    checkout.enqueue("before")  # the tables, and the definitions
    engine = sa.create_engine(app.settings.database_url)
    with Session(engine) as session:
        handle = checkout.options(session=session).enqueue("o")
        session.rollback()
        with pytest.raises(RunNotFound):
            handle.view()
        handle = checkout.options(session=session).enqueue("o")
        session.commit()
    engine.dispose()
    assert (handle.view().kind, handle.status()) == ("workflow", State.QUEUED)


# ---------------------------------------------------------------- handles
def test_a_handle_steers_a_workflow(app: Aiki, checkout: Workflow[..., str], store: Store) -> None:
    handle = checkout.enqueue("o")
    record(store, handle.id, done(0, "reserve", 7), done(1, "charge"))
    assert [(step.ordinal, step.name) for step in handle.history()] == [(0, "reserve"), (1, "charge")]
    sleep(store, handle.id, 2, "night")
    assert handle.pause("look first") is State.PAUSED
    assert handle.resume() is State.QUEUED
    sleep(store, handle.id, 3, "winter")
    with pytest.raises(RunConflict, match="winter"):
        handle.wake("night")
    assert handle.wake() is State.QUEUED
    again = handle.rerun(from_step=1)
    assert again != handle
    assert [step.name for step in again.history()] == ["reserve"]
    assert handle.cancel() is State.QUEUED, "its code meets the cancel"
    assert handle.terminate("now") is State.CANCELLED


def test_events_are_sent_by_name(checkout: Workflow[..., str], store: Store) -> None:
    handle = checkout.enqueue("o")
    for _ in range(2):
        handle.send_event("paid", {"at": dt.date(2026, 1, 31)}, reference_id="p-1")
    handle.send_event("seen")
    assert dict(events(store, handle.id)) == {"paid": codec.encode({"at": dt.date(2026, 1, 31)}), "seen": None}
    for name, data, reference_id in (("", 1, None), ("a\nb", 1, None), ("paid", 1, ""), ("paid", 1, "x" * 256)):
        with pytest.raises(ConfigurationError):
            handle.send_event(name, data, reference_id=reference_id)
    with pytest.raises(EncodeError, match=r"event paid at \$\.card"):
        handle.send_event("paid", {"card": object()})
    assert len(events(store, handle.id)) == 2


def test_a_long_history_is_fetched_page_by_page(checkout: Workflow[..., str], store: Store) -> None:
    handle = checkout.enqueue("o")
    record(store, handle.id, *(done(i, f"step-{i}") for i in range(2001)))
    assert [step.ordinal for step in handle.history()] == list(range(2001))


# ---------------------------------------------------------------- call
class Recorder:
    """What a workflow's run is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def call_task(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.asked.append(("call", task.name, args, kwargs))
        return "recorded"

    def submit_task(self, bound: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.asked.append(("submit", bound.task.name, args, kwargs, bound.abandon))
        return "a future"


def test_outside_of_a_workflow_a_task_is_a_function_and_a_workflow_is_not(
    charge: Task[..., str], checkout: Workflow[..., str]
) -> None:
    assert charge("o", 7) == "charged 7"
    assert checkout.fn(None, "o", cents=3) == "charged 3", "with no framework at all"  # type: ignore[arg-type]
    with pytest.raises(NotDurable, match=r"checkout was called outside of a workflow; use checkout.enqueue\(...\)"):
        checkout("o")
    for task in (charge, checkout, charge.options(queue="x")):
        with pytest.raises(NotDurable, match=r"submit\(...\) works inside a workflow only; elsewhere use enqueue"):
            task.submit("o")
    for together in (gather, first):
        with pytest.raises(ConfigurationError, match=r"take futures: what task.submit"):
            together(charge)  # type: ignore[arg-type]
    assert gather() == []


def test_inside_a_workflow_calls_are_recorded(charge: Task[..., str], checkout: Workflow[..., str]) -> None:
    recorder = Recorder()
    with inside_workflow(recorder):
        assert charge("o", cents=7) == "recorded"
        assert checkout("o") == "recorded"
        assert charge.submit("o") == "a future"
        assert checkout.options(on_parent_cancel="abandon").submit("o", cents=1) == "a future"
        assert charge.fn("o", 7) == "charged 7", "the plain function stays one"
        with pytest.raises(ConfigurationError, match="session= and connection= are for enqueue"):
            charge.options(session=object()).submit("o")  # type: ignore[arg-type]
        with inside_step(0, 1):
            assert charge("o", 7) == "charged 7", "within a step, a task is a function"
            with pytest.raises(NotDurable):
                checkout("o")
            with pytest.raises(NotDurable):
                charge.submit("o")
    assert recorder.asked == [
        ("call", "charge", ("o",), {"cents": 7}),
        ("call", "checkout", ("o",), {}),
        ("submit", "charge", ("o",), {}, False),
        ("submit", "checkout", ("o",), {"cents": 1}, True),
    ]
    assert charge("o") == "charged 5"


def test_calls_in_other_threads_of_a_workflow_are_refused(charge: Task[..., str], checkout: Workflow[..., str]) -> None:
    caught: list[BaseException] = []

    def call(fn: Callable[..., Any]) -> None:
        try:
            fn("o")
        except NotDurable as error:
            caught.append(error)

    with inside_workflow(Recorder()):
        for fn in (charge, checkout, charge.submit):
            thread = threading.Thread(target=call, args=[fn])
            thread.start()
            thread.join()
    assert len(caught) == 3
    assert all("another thread" in str(error) for error in caught)


class InMemory:
    """A host that executes steps here and keeps what is reported."""

    cancel_requested = pausing = leaving = aborted = False
    max_payload = 100_000

    def __init__(self) -> None:
        self.steps: dict[int, Step] = {}
        self.calls: list[StepCall] = []

    def operation(self) -> Any:
        return nullcontext()

    def now(self) -> int:
        return 1_800_000_000_000_000

    def report(self, steps: list[Step]) -> None:
        self.steps.update({step.ordinal: step for step in steps})

    def confirm(self) -> bool:
        return True

    def execute(self, fn: Any, args: Any, kwargs: Any, call: StepCall) -> Any:
        self.calls.append(call)
        made = fn(*args, **kwargs)
        return asyncio.run(made) if asyncio.iscoroutine(made) else made

    def describe(self, error: BaseException) -> tuple[str, str, str]:
        return type(error).__name__, str(error), ""

    def progress(self, fraction: float | None, message: str) -> None: ...


def test_a_task_can_be_a_step_under_another_name(app: Aiki, charge: Task[..., str], checkout: Workflow[..., str]) -> None:
    @app.task(name="mail")
    async def mail(to: str) -> str:
        return f"mailed {to}"

    host = InMemory()
    run = WorkflowRun(host, Replay("checkout", History(), Limits()), About("0" * 32, "checkout", "1", 1), checkout.arguments)
    with inside_workflow(run):
        assert run.step("deposit", charge, "o", cents=7) == "charged 7"
        assert run.step("invite", mail, "ann") == "mailed ann"
        assert run.step("price", len, "four") == 4
        with pytest.raises(ConfigurationError, match="call it, or submit it"):
            run.step("sell", checkout, "o")
    assert [(step.kind, step.name, step.state) for step in host.steps.values()] == [
        ("step", "deposit", "completed"), ("step", "invite", "completed"), ("step", "price", "completed"),
    ]  # fmt: skip
    assert [(call.soft, call.hard, call.retry_delay >= 0) for call in host.calls] == [
        (5.0, 9.0, True), (0.0, 0.0, False), (0.0, 0.0, False),
    ]  # fmt: skip
