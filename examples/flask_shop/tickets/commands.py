"""`flask --app tickets add-concert TITLE SEATS`."""

import click
from flask.cli import with_appcontext

from tickets import db
from tickets.models import Concert


@click.command("add-concert")
@click.argument("title")
@click.argument("seats", type=int)
@with_appcontext
def add_concert(title: str, seats: int) -> None:
    """Sell the seats of a concert."""
    db.session.add(Concert(title=title, seats=seats))
    db.session.commit()
