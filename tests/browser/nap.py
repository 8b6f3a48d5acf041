"""A workflow that sleeps for long, beside those of the shop."""

from __future__ import annotations

from aiki import Aiki, WorkflowRun

app = Aiki("nap")


@app.workflow
def nap(run: WorkflowRun) -> str:
    """Sleep until woken."""
    run.sleep("winter", 86_400)
    return "spring"
