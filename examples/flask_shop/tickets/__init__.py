"""The application: `create_app()` makes it, for the web server, the workers and the tests alike."""

from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy

from tickets.background import app as aiki

db = SQLAlchemy()
migrate = Migrate()


def create_app() -> Flask:
    flask_app = Flask(__name__)
    # The same database as Aiki's: what a request writes and what it enqueues is one transaction.
    flask_app.config["SQLALCHEMY_DATABASE_URI"] = aiki.settings.database_url
    # A connection of the pool is tried before it is used: the server may have closed it meanwhile.
    flask_app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"pool_pre_ping": True}
    flask_app.config["SENDER"] = "tickets@example.org"
    db.init_app(flask_app)
    migrate.init_app(flask_app, db, include_name=is_ours)
    from tickets import commands, views  # they need `db`

    flask_app.register_blueprint(views.blueprint)
    flask_app.cli.add_command(commands.add_concert)
    return flask_app


def is_ours(name: str | None, kind: str, parents: object) -> bool:
    """Whether `flask db migrate` looks at it: Aiki's tables are in the same database, and are Aiki's to upgrade."""
    return kind != "table" or not str(name).startswith("aiki_")
