"""Tasks and a workflow that log, found by workers as the module `monitored`."""

from __future__ import annotations

import logging
import os
import signal
import time

from aiki import Aiki, RetryPolicy, WorkflowRun, current_run

app = Aiki("monitored")
log = logging.getLogger("monitored.code")


@app.task
def talk(i: int) -> int:
    log.info("talking %d", i)
    log.debug("not told")
    current_run().logger.warning("with the run's own logger")
    return i


@app.task
def last_words() -> None:
    log.info("last words")
    time.sleep(1.5)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(retry=RetryPolicy.fixed(max_attempts=2, delay=0.1))
def again() -> None:
    log.info("attempt %d", current_run().attempt)
    raise ValueError("no")


@app.workflow
def flow(run: WorkflowRun) -> int:
    one = talk(1)
    two = talk.submit(2)
    return one + two.result()
