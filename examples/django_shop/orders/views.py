"""Placing an order, and looking at it."""

from functools import partial

from django.core.exceptions import BadRequest, ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_GET, require_POST

from orders.models import Book, Order
from orders.tasks import fulfil


@require_POST
def place(request: HttpRequest) -> JsonResponse:
    """Record the order, and have it fulfilled once it is committed (`ATOMIC_REQUESTS`: when the view has returned)."""
    book = get_object_or_404(Book, title=request.POST.get("book"))
    order = Order.objects.create(book=book, email=request.POST.get("email", ""))
    enqueue = fulfil.options(reference_id=f"order-{order.pk}").enqueue
    transaction.on_commit(partial(enqueue, order.pk), robust=True)
    try:
        validate_email(order.email)
    except ValidationError as error:
        raise BadRequest("no email address") from error  # rolls back: there is no order, and nothing is enqueued
    return JsonResponse({"order": order.pk}, status=201)


@require_GET
def show(request: HttpRequest, pk: int) -> JsonResponse:
    order = get_object_or_404(Order.objects.select_related("book"), pk=pk)
    shown = {"order": pk, "book": order.book.title, "stock": order.book.stock, "state": order.state, "thanked": order.thanked}
    return JsonResponse(shown)
