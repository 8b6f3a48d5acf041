"""An app with a task that swallows what is raised in it, and a supervisor that is soon impatient."""

from __future__ import annotations

import time

from aiki.worker import supervisor
from tests.worker.sample_app import App

supervisor.AGAIN_SECONDS = 0.5  # type: ignore[misc]
app = App()


@app.task(soft_time_limit=0.3)
def swallow_once() -> None:
    try:
        time.sleep(60)
    except BaseException:
        time.sleep(60)
