"""`manage.py enqueue_missing`: fulfil orders whose process died after the commit. For any scheduler, once a minute."""

import datetime as dt
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from orders.models import Order
from orders.tasks import fulfil


class Command(BaseCommand):
    help = "Enqueue what was committed and not enqueued."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--older-than", type=float, default=60, help="seconds")

    def handle(self, *args: Any, **options: Any) -> None:
        before = timezone.now() - dt.timedelta(seconds=options["older_than"])
        for order in Order.objects.filter(state=Order.State.PLACED, created__lt=before):
            # Under the same reference id as in the view: an order that has a run gets no second one.
            fulfil.options(reference_id=f"order-{order.pk}").enqueue(order.pk)
