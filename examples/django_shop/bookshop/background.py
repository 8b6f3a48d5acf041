"""The Aiki app, and what its workers do about Django's connections. Task modules and views import it; it starts nothing."""

from collections.abc import AsyncIterator, Iterator

from asgiref.sync import sync_to_async
from django.db import close_old_connections, connections

from aiki import Aiki, CurrentRun

app = Aiki("bookshop")


@app.on_worker_start
def close_connections() -> None:
    connections.close_all()


@app.around_run
def usable_connections(run: CurrentRun) -> Iterator[None]:
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


@app.around_run
async def usable_connections_of_async_code(run: CurrentRun) -> AsyncIterator[None]:
    await sync_to_async(close_old_connections)()
    try:
        yield
    finally:
        await sync_to_async(close_old_connections)()
