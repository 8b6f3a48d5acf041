"""Concerts, and bookings of their seats."""

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from tickets import db


class Concert(db.Model):  # type: ignore[name-defined]
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(100), unique=True)
    seats: Mapped[int] = mapped_column(default=0)


class Booking(db.Model):  # type: ignore[name-defined]
    id: Mapped[int] = mapped_column(primary_key=True)
    concert_id: Mapped[int] = mapped_column(ForeignKey(Concert.id))
    email: Mapped[str] = mapped_column(String(100))
    state: Mapped[str] = mapped_column(String(20), default="asked for")
    sent_by: Mapped[str | None] = mapped_column(String(100))
    concert: Mapped[Concert] = relationship()
