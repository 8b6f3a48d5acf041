"""An app with hooks that note in which process they are called; what `HOOKS` names goes wrong."""

from __future__ import annotations

import logging.config
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from aiki import Aiki, CurrentRun

app = Aiki("hooked")
logging.config.dictConfig({"version": 1})  # as many projects have it: it silences the loggers that are there
WRONG = os.environ.get("HOOKS", "")
PLACE = Path(os.environ.get("HOOKS_AT", os.devnull))
connection = socket.create_connection(("127.0.0.1", int(os.environ["HOOKS_PORT"]))) if "HOOKS_PORT" in os.environ else None


def note(what: str) -> None:
    with PLACE.open("a") as out:
        out.write(f"{what} {os.getpid()}\n")
    if what == WRONG:
        raise RuntimeError(f"{what} goes wrong")


@app.on_worker_start
def worker_start() -> None:
    if connection is not None and WRONG != "leaves open":
        connection.close()
    note("worker_start")


@app.on_child_start
async def child_start() -> None:
    if WRONG == "first child_start" and PLACE.read_text().count("child_start") == 0:
        note(WRONG)
    note("child_start")
    while "HOOKS_WAIT" in os.environ and not Path(os.environ["HOOKS_WAIT"]).exists():
        time.sleep(0.05)


@app.on_child_stop
def child_stop() -> None:
    note("child_stop")


@app.around_run
def around(run: CurrentRun) -> Iterator[None]:
    note("enter")
    yield
    note("leave")


@app.task(name="work")
def work() -> int:
    note("work")
    return os.getpid()
