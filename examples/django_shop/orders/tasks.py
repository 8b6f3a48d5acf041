"""What happens to an order once it is placed. Each task may be executed twice, and does its work once."""

from django.db import transaction
from django.db.models import F

from aiki import WorkflowRun
from bookshop.background import app
from orders.models import Book, Order


class SoldOut(Exception):
    """There is no copy left."""


@app.task
def reserve(order_id: int) -> None:
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=order_id)
        if order.state != Order.State.PLACED:
            return
        if not Book.objects.filter(pk=order.book_id, stock__gt=0).update(stock=F("stock") - 1):
            raise SoldOut(order.book.title)
        order.state = Order.State.RESERVED
        order.save(update_fields=["state"])


@app.task
def charge(order_id: int) -> None:
    Order.objects.filter(pk=order_id, state=Order.State.RESERVED).update(state=Order.State.PAID)


@app.task
def apologize(order_id: int) -> None:
    Order.objects.filter(pk=order_id, state=Order.State.PLACED).update(state=Order.State.SOLD_OUT)


@app.task
async def thank(order_id: int) -> str:
    order = await Order.objects.select_related("book").aget(pk=order_id)
    order.thanked = True
    await order.asave(update_fields=["thanked"])
    return f"thanked {order.email} for {order.book.title}"


@app.workflow
def fulfil(run: WorkflowRun, order_id: int) -> str:
    try:
        reserve(order_id)
    except SoldOut as error:
        apologize(order_id)
        return f"sold out: {error}"
    charge(order_id)
    return thank.submit(order_id).result()
