"""What happens to a booking. Each task may be executed twice, and does its work once."""

from flask import current_app
from sqlalchemy import update

from aiki import WorkflowRun
from tickets import db
from tickets.background import app
from tickets.models import Booking, Concert


class SoldOut(Exception):
    """There is no seat left."""


@app.task
def reserve(booking_id: int) -> None:
    booking = db.session.get_one(Booking, booking_id, with_for_update=True)
    if booking.state != "asked for":
        return
    free = update(Concert).where(Concert.id == booking.concert_id, Concert.seats > 0)
    if not db.session.execute(free.values(seats=Concert.seats - 1)).rowcount:
        raise SoldOut(booking.concert.title)
    booking.state = "reserved"
    db.session.commit()


@app.task
def turn_down(booking_id: int) -> None:
    db.session.get_one(Booking, booking_id).state = "sold out"
    db.session.commit()


@app.task
def send_ticket(booking_id: int) -> str:
    booking = db.session.get_one(Booking, booking_id)
    booking.state, booking.sent_by = "sent", current_app.config["SENDER"]
    db.session.commit()
    return f"ticket for {booking.concert.title} sent to {booking.email}"


@app.workflow
def book(run: WorkflowRun, booking_id: int) -> str:
    try:
        reserve(booking_id)
    except SoldOut as error:
        turn_down(booking_id)
        return f"sold out: {error}"
    return send_ticket(booking_id)
