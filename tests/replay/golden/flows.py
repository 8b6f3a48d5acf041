"""The workflows whose histories are kept here. Never edit one that has a history: see README.md."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from aiki import Aiki, EventTimeout, RetryPolicy, StepFailed, WorkflowRun, as_completed, first, gather

app = Aiki("golden")


class Size(enum.Enum):
    SMALL = "s"


@dataclass
class Address:
    street: str
    number: int


class OutOfStock(Exception):
    """Can be made anew from its arguments."""


class Refused(Exception):
    """Cannot be made anew: `code` is beside its arguments."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


@app.task(name="golden.reserve")
def reserve(order: str, items: dict[Any, int]) -> str:
    return f"reserved {order}: {sum(items.values())}"


@app.task(name="golden.price")
def price(item: str, size: Size = Size.SMALL) -> Decimal:
    return Decimal(len(item)) / 2


@app.task(name="golden.pack")
def pack(item: str) -> str:
    return f"packed {item}"


@app.task(name="golden.ship")
def ship(address: Address, on: dt.datetime, marks: set[str]) -> Address:
    return Address(address.street, address.number + len(marks))


@app.task(name="golden.release")
def release(order: str) -> None:
    return None


@app.task(name="golden.charge")
def charge(order: str) -> None:
    raise OutOfStock(order, 3)


@app.task(name="golden.check")
def check(order: str) -> None:
    raise Refused(order, 7)


_tries: list[int] = []


@app.task(name="golden.flaky", retry=RetryPolicy.fixed(5, delay=30))
def flaky(n: int) -> int:
    _tries.append(n)
    if len(_tries) % 3:
        raise TimeoutError(f"try {len(_tries) % 3}")
    return n


@app.workflow(name="golden.label")
def label(run: WorkflowRun, order: str) -> str:
    return f"label {order}"


@app.workflow(name="golden.checkout")
def checkout(run: WorkflowRun, order: str) -> Any:
    seen: list[Any] = [reserve(order, {2: 1, 1: 4}), reserve(order=order, items={"b": 1, "a": 2})]
    seen.append(price("book", size=Size.SMALL))
    parts = [pack.submit(item) for item in ("x", "y", "z")]
    seen.append(run.sleep("cool off", 60))
    seen += gather(*parts)
    paid = run.wait_event("paid", timeout=3600)
    seen += [paid, label(order)]
    seen.append(ship(Address("high street", 1), dt.datetime(2030, 1, 2, tzinfo=dt.UTC), {"fragile", "up"}))
    seen.append(run.step("plain", lambda n: {"n": (n, None)}, 5))
    return seen


@app.workflow(name="golden.refund")
def refund(run: WorkflowRun, order: str) -> Any:
    with run.saga() as saga:
        reserve(order, {"a": 1})
        saga.compensate(release, order)
        pack(order)
        saga.compensate(release, order + "/packed")
        charge(order)


@app.workflow(name="golden.errors")
def errors(run: WorkflowRun, order: str) -> Any:
    seen: list[Any] = []
    for call in (lambda: charge(order), lambda: check(order), lambda: charge.submit(order).result()):
        try:
            call()
        except (OutOfStock, StepFailed) as error:
            seen.append([type(error).__name__, str(error)])
    seen.append(flaky(5))
    try:
        gather(pack.submit("one"), charge.submit("two"))
    except StepFailed as error:
        seen.append(error.error_message)
    return seen


def positive(data: Any) -> int:
    if data <= 0:
        raise ValueError("not positive")
    return int(data) * 2


@app.workflow(name="golden.approval")
def approval(run: WorkflowRun, order: str) -> Any:
    seen: list[Any] = [run.random() < 2, run.now().year, len(str(run.uuid4()))]
    yes, late = run.event("yes", schema=positive), run.timer("late", 3600)
    seen.append("yes" if first(yes, late) is yes else "late")
    seen.append(yes.result())
    if run.patched("ask again"):
        try:
            run.wait_event("no", timeout=60)
        except EventTimeout as error:
            seen.append(str(error))
    seen += [future.result() for future in as_completed(pack.submit("a"), pack.submit("b"))]
    seen.append([str(item) for item in gather(pack.submit("c"), charge.submit(order), return_exceptions=True)])
    return seen


@app.workflow(name="golden.subscription")
def subscription(run: WorkflowRun, month: int) -> Any:
    reserve(f"month {month}", {})
    run.sleep("month", dt.timedelta(days=30))
    if month < 3:
        run.continue_as_new(month + 1)
    return month


@app.workflow(name="golden.cancelled")
def cancelled(run: WorkflowRun, order: str) -> Any:
    with run.saga() as saga:
        reserve(order, {})
        saga.compensate(release, order)
        pack.submit(order)
        try:
            first(run.event("never"), run.timer("long", 1e6))
        finally:
            run.sleep("cool", 60)
            pack(order)


TASKS = {task.name: task for task in (reserve, pack, charge)}
FLOWS = {flow.name: flow for flow in (checkout, refund, errors, approval, subscription, cancelled)}
