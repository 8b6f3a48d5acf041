"""A small online shop: the tasks behind an order, and a checkout that is a durable workflow.

What goes wrong in it is decided by the order's number alone, so that one knows what must come out (`demo.py` counts).

    aiki dev -A shop                                    # in this directory
    python -c "from shop import charge; print(charge.enqueue('o-1', 4200).result())"
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

from aiki import Aiki, RetryLater, RetryPolicy, WorkflowRun, current_run, current_run_or_none, gather

app = Aiki("shop")


class BankUnreachable(Exception):
    """The bank does not answer; asking again helps."""


class CardDeclined(Exception):
    """The bank said no; asking again is of no use."""


class RefundRefused(Exception):
    """The bank does not take the money back."""


def number_of(order_id: str) -> int:
    """The number in an order id such as `o-17`."""
    return int(order_id.rpartition("-")[2])


def hiccups_of(order_id: str) -> int:
    """How often the bank fails before it answers for this order."""
    number = number_of(order_id)
    if number % 25 == 7:
        return 2
    return 1 if number % 10 == 3 else 0


def is_declined(order_id: str) -> bool:
    """Whether the card of this order is refused."""
    return number_of(order_id) % 20 == 11


def _attempt() -> int:
    """Which attempt this is; 1 where the function is called directly, as in a unit test."""
    run = current_run_or_none()
    return run.attempt if run else 1


@contextmanager
def _noted(name: str, key: str) -> Iterator[None]:
    """Note outside of Aiki that a step begins and ends, and in which process: `demo.py` holds it against the history."""
    _note(f"began {name} {key}")
    yield
    _note(f"ended {name} {key}")


def _note(what: str) -> None:
    path = os.environ.get("SHOP_NOTES")
    if path:
        with open(path, "a") as notes:
            notes.write(f"{what} {os.getpid()} {time.time_ns() // 1000}\n")


@app.task(retry=RetryPolicy.exponential(max_attempts=5, delay=0.2, give_up_on=(CardDeclined,)))
def charge(order_id: str, cents: int) -> str:
    """Take the money. Retried while the bank is unreachable, never after it has said no."""
    with _noted("charge", order_id):
        time.sleep(0.005)
        if is_declined(order_id):
            raise CardDeclined(f"order {order_id}: the bank declined {cents} cents")
        if _attempt() <= hiccups_of(order_id):
            raise BankUnreachable(f"order {order_id}: no answer within 5 ms")
    return f"charged {Decimal(cents) / 100:.2f} for order {order_id}"


@app.task
async def send_mail(order_id: str, subject: str) -> str:
    """Send a mail. Some mail servers want to be asked again later, and say when."""
    await asyncio.sleep(0.003)
    if number_of(order_id) % 30 == 17 and _attempt() == 1:
        raise RetryLater(0.5, "greylisted")
    return f"mailed {subject!r} to the customer of order {order_id}"


@app.task
def render_invoice(order_id: str, cents: int) -> dict[str, Decimal | str]:
    """Write the invoice. What is returned may hold more than JSON can say."""
    net = (Decimal(cents) / 100 / Decimal("1.19")).quantize(Decimal("0.01"))
    return {"order": order_id, "net": net, "tax": Decimal(cents) / 100 - net}


@app.task(retry=RetryPolicy.fixed(max_attempts=2, delay=0.3))
def refund(order_id: str, cents: int) -> None:
    """Give the money back: fails for good, after two attempts."""
    raise RefundRefused(f"order {order_id}: the bank keeps the {cents} cents")


@app.task(time_limit=60)
def resize_image(name: str, seconds: float) -> str:
    """Resize a picture, slowly, telling how far it is."""
    run = current_run()
    run.logger.debug("resizing %s", name)
    steps = 20
    with _noted("resize_image", name):
        for step in range(steps):
            run.progress(step / steps, f"process {os.getpid()}")
            time.sleep(seconds / steps)
    return f"{name} has 3 sizes"


# ---------------------------------------------------------------- a checkout, which survives anything
@app.task
def reserve(item: str) -> str:
    """Put an item aside; where it lies."""
    with _noted("reserve", item):
        time.sleep(0.2)
    return f"{item}: shelf {len(item)}"


@app.task
def pack(order_id: str, places: list[str]) -> str:
    """Pack what was reserved. Takes its time."""
    with _noted("pack", order_id):
        time.sleep(1.0)
    return f"parcel of {len(places)} for {order_id}"


@app.task
def print_label(parcel: str) -> str:
    """Print the label that goes on the parcel."""
    with _noted("print_label", "label"):
        return f"label on {parcel}"


def hand_over(label: str) -> str:
    """Give the parcel to the carrier. A plain function can be a step, too."""
    with _noted("hand_over", "carrier"):
        return f"{label}, handed over"


@app.workflow
def shipping(run: WorkflowRun, parcel: str) -> str:
    """Send a parcel. A workflow that `checkout` calls: a run of its own."""
    label = print_label(parcel)
    return run.step("hand over", hand_over, label)


@app.workflow
def checkout(run: WorkflowRun, order_id: str, cents: int, items: list[str]) -> dict[str, str]:
    """An order from the card to the parcel. What is done is never done again, whatever crashes."""
    receipt = charge(order_id, cents)  # a step in this process; retried durably while the bank is unreachable
    places = gather(*(reserve.submit(item) for item in items))  # on the task queue, in parallel
    approval = run.wait_event("approved", timeout=3600)  # holds nothing while it waits
    run.sleep("cooling off", 0.5)
    parcel = pack(order_id, places)
    sent = shipping(parcel)  # a child workflow
    return {"receipt": receipt, "approved by": approval["by"], "parcel": sent}
