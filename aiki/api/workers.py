"""The endpoints of workers: who works, what each child does, and how to have one drain or stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flask import Blueprint, Response
from marshmallow import fields, validate

from aiki.api import schemas
from aiki.api.access import needs
from aiki.api.answers import Answer, DefinitionName, a_time, an_id
from aiki.api.openapi import describe
from aiki.api.problems import Refused, answer
from aiki.api.requests import body, client, query, store
from aiki.client import wire
from aiki.ids import parse_id
from aiki.storage.roster import OrchestratorRow, Wanted, WorkerRow

blueprint = Blueprint("workers", __name__)

_WORKERS_QUERY: Final = schemas.WorkersQuery()
_REASON: Final = schemas.ReasonSchema()
_EMPTY: Final = schemas.EmptySchema()


_STOP: Final = schemas.StopSchema()


class WorkerChild(Answer):
    """A child of a worker: what it runs, since when, and its resident memory in KiB."""

    slot = fields.Integer()
    pid = fields.Integer()
    run = an_id(allow_none=True)
    name = fields.String(allow_none=True)
    since = a_time(allow_none=True)
    memory = fields.Integer()


class Worker(Answer):
    """An incarnation of a worker: `alive`, `stopped` (said bye) or `lost`.

    `memory`: KiB of its own processes, without the children; `paused`: those of its queues that it holds to be paused;
    `wanted`: what an operator asked of it."""

    id = an_id()
    name = fields.String()
    state = fields.String(validate=validate.OneOf(["alive", "stopped", "lost"]))
    host = fields.String()
    pid = fields.Integer()
    version = fields.String()
    queues = fields.List(fields.String())
    paused = fields.List(fields.String())
    concurrency = fields.Integer()
    definitions = fields.List(fields.Nested(DefinitionName))
    children = fields.List(fields.Nested(WorkerChild))
    memory = fields.Integer(allow_none=True)
    draining = fields.Boolean()
    wanted = fields.String(validate=validate.OneOf([*Wanted]), allow_none=True)
    wanted_by = fields.String(allow_none=True)
    started_at = a_time()
    heard_at = a_time()


class Workers(Answer):
    """Workers, newest first."""

    workers = fields.List(fields.Nested(Worker))


class Orchestrator(Answer):
    """An orchestrator, and when it was last heard."""

    id = an_id()
    state = fields.String(validate=validate.OneOf(["alive", "stopped"]))
    host = fields.String()
    pid = fields.Integer()
    version = fields.String()
    started_at = a_time()
    heard_at = a_time()


class Orchestrators(Answer):
    """Orchestrators, the one heard last first."""

    orchestrators = fields.List(fields.Nested(Orchestrator))


@blueprint.get("/workers")
@needs("look")
@describe(query=_WORKERS_QUERY, answer=Workers)
def list_workers() -> Response:
    """Workers, newest first; `?state=alive` for those that live."""
    asked = query(_WORKERS_QUERY)
    return answer({"workers": [worker_to_json(item) for item in store().workers(asked.get("state"))]})


@blueprint.get("/workers/<worker_id>")
@needs("look")
@describe(query=_EMPTY, answer=Worker)
def show(worker_id: str) -> Response:
    """One worker."""
    query(_EMPTY)
    return answer(worker_to_json(_there(store().worker, worker_id)))


@blueprint.post("/workers/<worker_id>/drain")
@needs("workers.operate")
@describe(body=_REASON, optional_body=True, answer=Worker, errors=("conflict",), example={"reason": "the machine is replaced"})
def drain(worker_id: str) -> Response:
    """Have a worker finish what runs, however long that takes, take nothing new, and exit."""
    asked = body(_REASON, optional=True)
    return _want(worker_id, Wanted.DRAIN, asked.get("reason", ""))


@blueprint.post("/workers/<worker_id>/stop")
@needs("workers.operate")
@describe(body=_STOP, optional_body=True, answer=Worker, errors=("conflict",), example={"at_once": True})
def stop(worker_id: str) -> Response:
    """Stop a worker as TERM does; `at_once`: what runs is killed, and given back uncharged."""
    asked = body(_STOP, optional=True)
    return _want(worker_id, Wanted.KILL if asked.get("at_once") else Wanted.STOP, asked.get("reason", ""))


@blueprint.get("/orchestrators")
@needs("look")
@describe(query=_EMPTY, answer=Orchestrators)
def list_orchestrators() -> Response:
    """The orchestrators that were heard within a day."""
    query(_EMPTY)
    return answer({"orchestrators": [_orchestrator(item) for item in store().orchestrators()]})


def _want(worker_id: str, wanted: Wanted, reason: str) -> Response:
    return answer(worker_to_json(_there(lambda one: client().stop_worker(one, wanted, reason=reason), worker_id)))


def _there(find: Callable[[str], WorkerRow | None], worker_id: str) -> WorkerRow:
    parsed = parse_id(worker_id)
    found = None if parsed is None else find(parsed.hex)
    if found is None:
        raise Refused(404, "not_found", f"there is no worker {worker_id[:64]!r}")
    return found


def worker_to_json(worker: WorkerRow) -> dict[str, Any]:
    """A worker; times as text."""
    return {
        "id": worker.id,
        "name": worker.name,
        "state": worker.state,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "queues": list(worker.queues),
        "paused": list(worker.paused),
        "concurrency": worker.concurrency,
        "definitions": [{"name": name, "version": version} for name, version in sorted(worker.definitions)],
        "children": [_child(item, worker.heard_at) for item in worker.children],
        "memory": worker.memory,
        "draining": worker.draining,
        "wanted": worker.wanted,
        "wanted_by": worker.wanted_by,
        "started_at": wire.time_to_json(worker.started_at),
        "heard_at": wire.time_to_json(worker.heard_at),
    }


def _child(child: dict[str, Any], heard_at: int) -> dict[str, Any]:
    """What a beat said of a child; it said how long its run had taken by then."""
    run = parse_id(str(child.get("run") or ""))
    since = None if run is None else heard_at - int(child.get("ms", 0)) * 1000
    return {
        "slot": int(child.get("slot", 0)),
        "pid": int(child.get("pid", 0)),
        "run": None if run is None else str(run),
        "name": None if run is None else str(child.get("name") or ""),
        "since": wire.time_to_json(since),
        "memory": int(child.get("rss", 0)),
    }


def _orchestrator(row: OrchestratorRow) -> dict[str, Any]:
    times = {"started_at": wire.time_to_json(row.started_at), "heard_at": wire.time_to_json(row.heard_at)}
    return {"id": row.id, "state": row.state, "host": row.host, "pid": row.pid, "version": row.version, **times}
