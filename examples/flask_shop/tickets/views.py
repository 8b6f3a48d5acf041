"""Booking a seat, and looking at the booking."""

from flask import Blueprint, abort, request
from sqlalchemy import select

from tickets import db
from tickets.models import Booking, Concert
from tickets.tasks import book

blueprint = Blueprint("bookings", __name__)


@blueprint.post("/bookings/")
def ask() -> tuple[dict[str, object], int]:
    """Record the booking and enqueue its workflow in one transaction: both are there, or neither is."""
    concert = db.session.scalars(select(Concert).where(Concert.title == request.form["concert"])).first()
    if concert is None:
        abort(404)
    booking = Booking(concert=concert, email=request.form["email"])
    db.session.add(booking)
    db.session.flush()  # gives it its id
    handle = book.options(session=db.session(), reference_id=f"booking-{booking.id}").enqueue(booking.id)
    if "@" not in booking.email:
        abort(400)  # without a commit: there is no booking, and no run
    db.session.commit()
    return {"booking": booking.id, "run": handle.id}, 201


@blueprint.get("/bookings/<int:pk>/")
def show(pk: int) -> dict[str, object]:
    booking = db.get_or_404(Booking, pk)
    return {"booking": pk, "state": booking.state, "seats": booking.concert.seats, "sent_by": booking.sent_by}
