"""What type checkers must say of code that uses workflows; see `cases.py`."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Any, assert_type

from aiki import Aiki, Future, Handle, RetryPolicy, Task, Workflow, WorkflowRun, as_completed, first, gather

app = Aiki("shop")


@app.task
def charge(order: str, cents: int = 5) -> float:
    return 1.0


@app.task
async def mail(to: str) -> list[int]:
    return [1]


def stock(shelf: int) -> str:
    return "full"


async def weigh(parcel: bytes, *, unit: str = "g") -> int:
    return 1


@app.workflow
def ship(run: WorkflowRun, order: str) -> str:
    return order


@app.workflow(name="shop.checkout", version="2", queue="money", retry=RetryPolicy.fixed(), time_limit=dt.timedelta(hours=1))
def checkout(run: WorkflowRun, order: str, *, cents: int = 5) -> dict[str, float]:
    assert_type(charge(order), float)
    charge(7)  # E: incompatible type "int"; expected "str"

    paid = charge.submit(order, cents)
    assert_type(paid, Future[float])
    assert_type(paid.result(), float)
    assert_type(charge.options(queue="x", on_parent_cancel="abandon").submit(order), Future[float])
    assert_type(mail.submit("a"), Future[list[int]])
    charge.submit()  # E: Missing positional argument "order"
    charge.submit(order, "x")  # E: incompatible type "str"; expected "int"
    mail.submit(b"a")  # E: incompatible type "bytes"; expected "str"
    charge.options(on_parent_cancel="ignore")  # E: incompatible type "Literal['ignore']"

    assert_type(ship(order), str)
    assert_type(ship.submit(order), Future[str])
    assert_type(ship.options(reference_id="o").submit(order).result(), str)
    ship(run, order)  # E: Too many arguments
    ship.submit(5)  # E: incompatible type "int"; expected "str"

    assert_type(gather(paid, charge.submit("b")), list[float])
    assert_type(gather(*[charge.submit(str(i)) for i in range(3)]), list[float])
    assert_type(gather(paid, ship.submit(order)), list[object])
    assert_type(first(paid, charge.submit("b")), Future[float])
    assert_type(first(ship.submit(order), ship.submit(order)).result(), str)
    assert_type(as_completed(paid, paid), Iterator[Future[float]])
    gather(charge("o"))  # E: incompatible type "float"

    assert_type(run.step("stock", stock, 3), str)
    assert_type(run.step("weigh", weigh, b"", unit="kg"), int)
    assert_type(run.step("charge", charge.fn, order, cents=3), float)
    run.step("stock", stock, "3")  # E: No overload variant
    run.step("stock", stock)  # E: No overload variant
    run.step("weigh", weigh, b"", units="kg")  # E: Unexpected keyword argument "units"
    run.step(stock, 3)  # E: No overload variant

    assert_type(run.sleep("night", dt.timedelta(days=1)), bool)
    assert_type(run.timer("night", 5), Future[bool])
    assert_type(run.wait_event("paid", timeout=5), Any)
    assert_type(run.event("paid"), Future[Any])
    assert_type(run.now(), dt.datetime)
    assert_type(run.uuid4(), uuid.UUID)
    assert_type(run.random(), float)
    assert_type(run.patched("x"), bool)
    run.sleep("night", "5")  # E: incompatible type "str"

    with run.saga() as saga:
        saga.compensate(charge, order)
        saga.compensate(stock, 3)
        saga.compensate(stock, "3")  # E: incompatible type "str"; expected "int"
    if not order:
        run.continue_as_new("next", cents=3)
    return {"paid": paid.result()}


assert_type(checkout.enqueue("o"), Handle[dict[str, float]])
assert_type(checkout.enqueue("o", cents=1).result(), dict[str, float])
assert_type(checkout.delay("o"), Handle[dict[str, float]])
assert_type(checkout.apply_async(("o",)), Handle[dict[str, float]])
assert_type(checkout.options(countdown=3).enqueue("o"), Handle[dict[str, float]])
assert_type(checkout.enqueue_many([("o",), checkout.call("o", cents=1)]), list[Handle[dict[str, float]]])
assert_type(checkout.enqueue("o").rerun(from_step=3), Handle[dict[str, float]])

checkout.enqueue()  # E: Missing positional argument "order"
checkout.enqueue(1)  # E: incompatible type "int"; expected "str"
checkout.enqueue("o", 5)  # E: Too many positional arguments
checkout.enqueue("o", cent=5)  # E: Unexpected keyword argument "cent"
checkout.delay(None)  # E: incompatible type "None"; expected "str"
checkout.call("o", cents="x")  # E: incompatible type "str"; expected "int"
checkout.options(countdown=1).enqueue(b"o")  # E: incompatible type "bytes"; expected "str"
checkout.fn("o")  # E: Too few arguments
text: str = checkout.enqueue("o").result()  # E: expression has type "dict[str, float]"


@app.workflow  # E: expected "Callable[[WorkflowRun], None]"
def forgot(order: str) -> None: ...


@app.workflow(max_retires=3)  # E: Unexpected keyword argument "max_retires"
def wrong(run: WorkflowRun) -> None: ...


def takes(flow: Workflow[[str], str], task: Task[[str], str]) -> None:
    flow.enqueue("a")
    task.enqueue("a")


async def main() -> None:
    takes(ship, ship)
    assert_type(await checkout.aenqueue("o"), Handle[dict[str, float]])
    assert_type(await (await ship.aenqueue("o")).aresult(), str)
    await checkout.aenqueue(2)  # E: incompatible type "int"; expected "str"


asyncio.run(main())
