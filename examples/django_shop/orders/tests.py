"""The project's own tests: no worker runs, and nothing is left behind."""

from types import SimpleNamespace
from typing import Any
from unittest import mock

from django.core.management import call_command
from django.test import TestCase, TransactionTestCase

from bookshop.background import app
from orders.models import Book, Order
from orders.tasks import SoldOut, charge, fulfil, reserve, thank


def enqueued(order_id: int) -> list[Any]:
    """The runs of an order."""
    return list(app.runs(reference_id=f"order-{order_id}"))


class PlacingAnOrder(TestCase):
    def setUp(self) -> None:
        Book.objects.create(title="Emma", stock=1)

    def test_it_is_fulfilled_once_it_is_committed(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            answer = self.client.post("/orders/", {"book": "Emma", "email": "ann@example.org"})
        order = answer.json()["order"]
        self.assertEqual(answer.status_code, 201)
        self.assertEqual(enqueued(order), [])
        for callback in callbacks:
            callback()
        self.assertEqual([run.name for run in enqueued(order)], ["orders.tasks.fulfil"])

    def test_one_that_is_refused_enqueues_nothing(self) -> None:
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            answer = self.client.post("/orders/", {"book": "Emma", "email": "nobody"})
        self.assertEqual(answer.status_code, 400)
        self.assertFalse(Order.objects.exists())
        self.assertEqual(callbacks, [])

    def test_unknown_books_are_not_found(self) -> None:
        self.assertEqual(self.client.post("/orders/", {"book": "Ulysses"}).status_code, 404)


class Committing(TransactionTestCase):
    def test_a_real_commit_enqueues(self) -> None:
        Book.objects.create(title="Emma", stock=1)
        answer = self.client.post("/orders/", {"book": "Emma", "email": "ann@example.org"})
        self.assertEqual(len(enqueued(answer.json()["order"])), 1)

    def test_the_sweep_enqueues_what_has_no_run_and_nothing_twice(self) -> None:
        order = Order.objects.create(book=Book.objects.create(title="Emma"), email="ann@example.org")
        for _ in range(2):
            call_command("enqueue_missing", older_than=0)
        self.assertEqual(len(enqueued(order.pk)), 1)


class Tasks(TestCase):
    """A task is a function, and so is a workflow whose steps are tasks."""

    def setUp(self) -> None:
        self.order = Order.objects.create(book=Book.objects.create(title="Emma", stock=1), email="ann@example.org")

    def state(self) -> tuple[str, int]:
        self.order.refresh_from_db()
        return self.order.state, self.order.book.stock

    def test_reserving_twice_takes_one_copy(self) -> None:
        reserve(self.order.pk)
        reserve(self.order.pk)
        self.assertEqual(self.state(), ("reserved", 0))

    def test_the_last_copy_is_sold_once(self) -> None:
        other = Order.objects.create(book=self.order.book, email="bob@example.org")
        reserve(self.order.pk)
        with self.assertRaises(SoldOut):
            reserve(other.pk)

    def test_only_what_is_reserved_is_charged(self) -> None:
        charge(self.order.pk)
        self.assertEqual(self.state(), ("placed", 1))

    async def test_an_asynchronous_task(self) -> None:
        self.assertEqual(await thank(self.order.pk), "thanked ann@example.org for Emma")

    def test_the_workflow_reserves_charges_and_has_the_customer_thanked(self) -> None:
        with mock.patch.object(thank, "submit") as submit:
            fulfil.fn(SimpleNamespace(), self.order.pk)
        submit.assert_called_once_with(self.order.pk)
        self.assertEqual(self.state(), ("paid", 0))

    def test_the_workflow_apologizes_where_there_is_no_copy(self) -> None:
        Book.objects.update(stock=0)
        self.assertEqual(fulfil.fn(SimpleNamespace(), self.order.pk), "sold out: Emma")
        self.assertEqual(self.state(), ("sold out", 0))
