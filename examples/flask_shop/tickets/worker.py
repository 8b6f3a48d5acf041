"""What workers load: `aiki-worker -A tickets.worker`. Nothing else imports it."""

from collections.abc import Iterator

from aiki import CurrentRun
from tickets import create_app, db, tasks  # noqa: F401  importing the tasks defines them
from tickets.background import app

flask_app = create_app()


@app.on_worker_start
def close_connections() -> None:
    with flask_app.app_context():
        db.engine.dispose()


@app.around_run
def in_app_context(run: CurrentRun) -> Iterator[None]:
    with flask_app.app_context():
        yield
