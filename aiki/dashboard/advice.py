"""What to do about a run, in words, from where it is and why."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from aiki.history import EVENT_SENT, SLEEP
from aiki.model import RunDetail, Waiting
from aiki.states import State
from aiki.storage.why import Why

MAX_EVENTS: Final = 5
"""Events that are named one by one."""


class Advice(NamedTuple):
    """Something to do.

    :ivar verb: of `aiki.dashboard.steering`, where it can be done here.
    :ivar command: to be typed elsewhere.
    :ivar query: what the verb's form is filled in with; `page`: the endpoint at which to do it.
    """

    text: str
    verb: str = ""
    command: str = ""
    query: dict[str, Any] | None = None
    page: str = ""


def advice(detail: RunDetail, reason: Why) -> list[Advice]:
    """What to do next, the likeliest first."""
    run, code = detail.run, reason.code
    app = run.name.partition(".")[0]
    start = f"aiki-worker -A {app} -Q {run.queue}"
    if run.state in (State.FAILED, State.DEAD):
        return _after_failure(detail)
    if run.state is State.CANCELLED:
        return [Advice("Start it anew with the same input.", "rerun"), Advice("Or change the input first.", "edit")]
    table: dict[str, list[Advice]] = {
        "no_orchestrator": [Advice("Start an orchestrator: nothing moves without one.", command="aiki orchestrator")],
        "no_worker": [Advice(f"Start a worker that takes from queue {run.queue}.", command=start)],
        "no_definition": [Advice(f"Deploy a worker that has {run.name}, version {run.version}.", command=start)],
        "code_changed": [
            Advice("Deploy code that fits what the workflow has done; it goes on by itself then."),
            Advice("Or try again now with the workers there are.", "retry"),
        ],
        "queue_paused": [Advice(f"Resume queue {run.queue}, once what it was paused for is over.", page="dashboard.queues")],
        "paused": [Advice("Resume it.", "resume")],
        "scheduled": [Advice("It starts by itself when its time comes.")],
        "worker_silent": [Advice("Nothing: it is dispatched to another worker as soon as this one is given up.")],
    }
    return table.get(code) or _while_waiting(detail.waiting)


def _while_waiting(waiting: Waiting | None) -> list[Advice]:
    """What brings a waiting run on: an item for each event, and one for whatever it sleeps in."""
    if waiting is None:
        return []
    names = waiting.names(EVENT_SENT)
    what = "the event that it waits for" if len(names) == 1 else "event {}"
    out = [Advice(f"Send {what.format(name)}.", "event", query={"name": name}) for name in names[:MAX_EVENTS]]
    if waiting.names(SLEEP):
        out.append(Advice("It goes on by itself; or end its sleep now.", "wake"))
    return out


def _after_failure(detail: RunDetail) -> list[Advice]:
    workflow = detail.run.kind == "workflow"
    again = "Once the cause is mended, retry it: it goes on from the step that failed." if workflow else ""
    out = [
        Advice("If the input is wrong, change it and run it again.", "edit"),
        Advice(again or "If the cause has gone, retry it: the same run is executed again.", "retry"),
    ]
    if detail.run.state is State.DEAD:
        out.insert(
            0, Advice("Executing it killed its process time and again. Look at the signal below: SIGKILL is often memory.")
        )
    return out
