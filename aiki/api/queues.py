"""The endpoints of queues: how full they are, who takes from them; pause and resume."""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response, url_for
from marshmallow import fields

from aiki import filters
from aiki.api import batches, field_checks, schemas
from aiki.api.access import needs
from aiki.api.answers import Answer, a_time
from aiki.api.openapi import describe
from aiki.api.problems import Refused, answer
from aiki.api.requests import backend, body, client, query, store
from aiki.broker.base import Depth
from aiki.client import wire
from aiki.errors import ConfigurationError, RunConflict
from aiki.settings import check_name
from aiki.storage.batches import Operation, Target
from aiki.storage.queues import Pause, QueueCount, Rates
from aiki.storage.roster import ALIVE, WorkerRow

blueprint = Blueprint("queues", __name__)

_REASON: Final = schemas.ReasonSchema()
_EMPTY: Final = schemas.EmptySchema()


class QueueRuns(Answer):
    """Runs of the queue by the database. `exact` is false if there are more than were counted."""

    queued = fields.Integer()
    running = fields.Integer()
    scheduled = fields.Integer()
    exact = fields.Boolean()


class QueueMessages(Answer):
    """What the broker says: messages ready (one may carry several runs), and consumers."""

    ready = fields.Integer()
    consumers = fields.Integer()


class QueueRates(Answer):
    """Runs a second: recorded (in the last minute), started and ended (in about the last five)."""

    recorded = fields.Float()
    started = fields.Float()
    ended = fields.Float()


class QueuePause(Answer):
    """Since when the queue is paused, by whom and why."""

    by = fields.String()
    at = a_time()
    reason = fields.String()
    text = fields.String()


class QueueWorker(Answer):
    """A worker that takes from the queue. `holds_paused`: it has heard that it is not to take from it now."""

    id = fields.String()
    name = fields.String()
    concurrency = fields.Integer()
    draining = fields.Boolean()
    holds_paused = fields.Boolean()


class Queue(Answer):
    """A queue. `oldest_at`: since when the first of its queued runs waits; `broker` is null where that does not answer."""

    name = fields.String()
    paused = fields.Nested(QueuePause, allow_none=True)
    runs = fields.Nested(QueueRuns)
    oldest_at = a_time(allow_none=True)
    rates = fields.Nested(QueueRates)
    broker = fields.Nested(QueueMessages, allow_none=True)
    workers = fields.List(fields.Nested(QueueWorker))


class Queues(Answer):
    """All queues that are known, by name."""

    queues = fields.List(fields.Nested(Queue))


@blueprint.get("/queues")
@needs("look")
@describe(query=_EMPTY, answer=Queues)
def list_queues() -> Response:
    """All queues, with how full they are by the database and by the broker, and who takes from them."""
    query(_EMPTY)
    return answer({"queues": found_queues()})


@blueprint.get("/queues/<queue>")
@needs("look")
@describe(query=_EMPTY, answer=Queue)
def show(queue: str) -> Response:
    """One queue."""
    query(_EMPTY)
    return answer(found_queues(_known(queue))[0])


@blueprint.post("/queues/<queue>/pause")
@needs("queues.operate")
@describe(body=_REASON, optional_body=True, answer=Queue, example={"reason": "until the bank is back"})
def pause(queue: str) -> Response:
    """Have no run of the queue begun until it is resumed.

    What runs is finished; new runs are accepted and wait. Pausing a paused queue changes nothing."""
    asked = body(_REASON, optional=True)
    client().pause_queue(_known(queue), reason=asked.get("reason", ""))
    return answer(found_queues(queue)[0])


@blueprint.post("/queues/<queue>/resume")
@needs("queues.operate")
@describe(body=_REASON, optional_body=True, answer=Queue, errors=("conflict",))
def resume(queue: str) -> Response:
    """Have the runs of a paused queue begun again, in their order."""
    asked = body(_REASON, optional=True)
    client().resume_queue(_known(queue), reason=asked.get("reason", ""))
    return answer(found_queues(queue)[0])


class PurgeSchema(schemas.ReasonSchema):
    """Why a queue is emptied; `confirm` is its name."""

    confirm = field_checks.Checked(field_checks.queue_name, required=True)


_PURGE: Final = PurgeSchema()


@blueprint.post("/queues/<queue>/purge")
@needs("queues.purge")
@describe(body=_PURGE, answers={201: batches.Batch}, errors=("conflict",), example={"confirm": "bulk", "reason": "sent twice"})
def purge(queue: str) -> Response:
    """Cancel all queued runs of the queue, by a batch. `confirm` must be the queue's name.

    Runs that are scheduled for later, wait or run are left alone."""
    asked = body(_PURGE)
    if asked["confirm"] != _known(queue):
        raise RunConflict(f"this would cancel all queued runs of queue {queue}: to confirm it, send confirm: {queue!r}")
    target = Target(q=filters.parse(f"queue:{filters.quoted(queue)} status:queued").text)
    made, _ = batches.begin(Operation.CANCEL, target, reason=asked.get("reason", ""), confirm=Operation.CANCEL.value)
    response = answer(batches.batch_to_json(made), 201)
    response.headers["Location"] = url_for("batches.show", batch_id=made.id)
    return response


def _known(queue: str) -> str:
    try:
        return check_name("queue", queue)
    except ConfigurationError as error:
        raise Refused(404, "not_found", str(error)) from None


def found_queues(*only: str) -> list[dict[str, Any]]:
    """All queues, or these, as JSON data."""
    at = store()
    counts, paused, workers = at.count_by_queue(), at.pauses().queues, at.workers(ALIVE)
    names = sorted(only or {*at.queue_names(), *counts, *paused})
    rates = at.rates(names)
    depths = backend().depths.of(at, names)
    now = at.clock()
    return [
        _queue(name, counts.get(name, QueueCount()), paused.get(name), depths[name], rates[name], workers, now)
        for name in names
    ]


def _queue(
    name: str,
    count: QueueCount,
    paused: Pause | None,
    depth: Depth | None,
    rates: Rates,
    workers: list[WorkerRow],
    now: int,
) -> dict[str, Any]:
    return {
        "name": name,
        "paused": None
        if paused is None
        else {"by": paused.by, "at": wire.time_to_json(paused.at), "reason": paused.reason, "text": paused.told(now)},
        "runs": {
            "queued": count.queued,
            "running": count.running,
            "scheduled": count.scheduled,
            "exact": count.exact,
        },
        "oldest_at": wire.time_to_json(count.oldest_at),
        "rates": {name: round(value, 2) for name, value in rates._asdict().items()},
        "broker": None if depth is None else {"ready": depth.ready, "consumers": depth.consumers},
        "workers": [
            {
                "id": worker.id,
                "name": worker.name,
                "concurrency": worker.concurrency,
                "draining": worker.draining,
                "holds_paused": name in worker.paused,
            }
            for worker in workers
            if name in worker.queues
        ],
    }
