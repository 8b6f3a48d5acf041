"""The project's own tests: what is enqueued, and what tasks do."""

from types import SimpleNamespace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select

from tickets import db
from tickets.background import app as aiki
from tickets.models import Booking, Concert
from tickets.tasks import SoldOut, book, reserve, send_ticket


def ask(client: FlaskClient, **form: str) -> tuple[int, dict[str, object] | None]:
    answer = client.post("/bookings/", data={"concert": "Winterreise", "email": "ann@example.org", **form})
    return answer.status_code, answer.get_json(silent=True)


@pytest.fixture
def booking(context: None) -> Booking:
    made = Booking(concert=db.session.scalars(select(Concert)).one(), email="ann@example.org")
    db.session.add(made)
    db.session.commit()
    return made


# ---------------------------------------------------------------- views
def test_a_booking_and_its_run_are_one_transaction(client: FlaskClient) -> None:
    status, answer = ask(client)
    assert status == 201
    run = aiki.handle(str(answer["run"])).view()
    assert (run.name, run.reference_id) == ("tickets.tasks.book", f"booking-{answer['booking']}")
    assert client.get(f"/bookings/{answer['booking']}/").get_json()["state"] == "asked for"


def test_what_is_refused_is_neither_recorded_nor_enqueued(client: FlaskClient) -> None:
    before = list(aiki.runs())
    assert ask(client, email="nobody")[0] == 400
    assert list(aiki.runs()) == before
    with client.application.app_context():
        assert db.session.scalar(select(func.count(Booking.id))) == 0


def test_unknown_concerts_are_not_found(client: FlaskClient) -> None:
    assert ask(client, concert="Fidelio")[0] == 404


# ---------------------------------------------------------------- tasks are functions
def test_reserving_twice_takes_one_seat(booking: Booking) -> None:
    reserve(booking.id)
    reserve(booking.id)
    assert (booking.state, booking.concert.seats) == ("reserved", 0)


def test_the_last_seat_is_sold_once(booking: Booking) -> None:
    other = Booking(concert=booking.concert, email="bob@example.org")
    db.session.add(other)
    db.session.commit()
    reserve(booking.id)
    with pytest.raises(SoldOut):
        reserve(other.id)


def test_a_ticket_is_sent_in_the_applications_name(booking: Booking) -> None:
    assert send_ticket(booking.id) == "ticket for Winterreise sent to ann@example.org"
    assert (booking.state, booking.sent_by) == ("sent", "tickets@example.org")


def test_the_workflow_from_its_begin_to_its_end(booking: Booking) -> None:
    assert book.fn(SimpleNamespace(), booking.id) == "ticket for Winterreise sent to ann@example.org"
    booking.concert.seats, booking.state = 0, "asked for"
    db.session.commit()
    assert book.fn(SimpleNamespace(), booking.id) == "sold out: Winterreise"
    assert booking.state == "sold out"


# ---------------------------------------------------------------- migrations
def test_the_migrations_make_the_models_and_leave_aikis_tables_alone(flask_app: Flask, context: None) -> None:
    with db.engine.connect() as connection:
        found = MigrationContext.configure(connection, opts=flask_app.extensions["migrate"].configure_args)
        assert compare_metadata(found, db.metadata) == []
