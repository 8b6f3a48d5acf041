"""The endpoints of server-sent events: a run, and what lists and the overview show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from flask import Blueprint, Response, request

from aiki.api import schemas
from aiki.api.access import needs, principal
from aiki.api.hub import Hub, Topic
from aiki.api.listening import SOCKET, STREAM, Listener
from aiki.api.openapi import describe
from aiki.api.problems import Refused
from aiki.api.requests import backend, client, query, store
from aiki.api.runs import checked_id, where_of
from aiki.api.signin import guard_of
from aiki.api.watches import ListWatch, NumbersWatch, RunWatch
from aiki.storage import Store

blueprint = Blueprint("streams", __name__)

EVENT_STREAM: Final = "text/event-stream"
RETRY_AFTER: Final = 10
_QUERY: Final = schemas.StreamQuery()
_NO_QUERY: Final = schemas.EmptySchema()
_ABOUT: Final = "Server-sent events (text/event-stream): `id`, `event` and `data` (JSON on one line)."


@blueprint.get("/runs/<run_id>/stream")
@needs("look")
@describe(query=_NO_QUERY, media={EVENT_STREAM: _ABOUT}, errors=("not_found",))
def run_stream(run_id: str) -> Response:
    """Follow a run by server-sent events until it ends.

    Events: `run` (`run` as it is, `steps`: how many its workflow has issued) whenever it has changed; `steps` that are new or
    have changed, without inputs and results, among the newest 500; `end` with the final `state`, after which the stream ends;
    `stale` and `fresh` when the database goes away and comes back. Comments are heartbeats. A stream also ends after 15
    minutes; a browser's EventSource opens it anew with `Last-Event-ID`, and is told what it missed. 204: the run has ended and
    that was told. 429: too many streams are open; ask for the run now and then instead.
    """
    query(_NO_QUERY)
    checked, seen = checked_id(run_id), _seen()
    run = client().get(checked)
    if run.ended and seen.split(".")[0] == str(run.updated_at):
        return Response(status=204)
    at = store()
    return _stream([Topic(("run", at.namespace, checked), lambda: RunWatch(("run", at.namespace, checked), at, checked))], seen)


@blueprint.get("/stream")
@needs("look")
@describe(query=_QUERY, repeatable=("state",), media={EVENT_STREAM: _ABOUT})
def stream() -> Response:
    """Follow the first page of a list, and the overview, by server-sent events.

    Events: `runs` with `ids` (the page, in order) and `changed` (the runs on it that are new or have changed; the first event
    has all); `overview` with `states`, how many runs there are in each (in those of `more`, more than that); `stale` and
    `fresh` as for a run. A list is told of at most once a second, and less often where very many listen.
    """
    asked = query(_QUERY, repeatable=("state",))
    at = store()
    topics = [_TOPICS[name](at, asked) for name in asked.get("topics", ("runs",))]
    return _stream(topics, _seen())


def _runs(at: Store, asked: dict[str, Any]) -> Topic:
    where, limit = where_of(asked), asked.get("limit", 50)
    key = ("runs", at.namespace, where.text, limit)
    return Topic(key, lambda: ListWatch(key, at, lambda: at.search(where, limit=limit).runs))


def _overview(at: Store, _asked: dict[str, Any]) -> Topic:
    key = ("overview", at.namespace)
    return Topic(key, lambda: NumbersWatch(key, at, "overview", lambda: _states(at)))


def _states(at: Store) -> dict[str, Any]:
    counts = {state.value: count for state, count in at.state_counts().items() if count.number}
    numbers = {state: count.number for state, count in counts.items()}
    return {"states": numbers, "more": [state for state, count in counts.items() if not count.exact]}


_TOPICS: Final = {"runs": _runs, "overview": _overview}


def _seen() -> str:
    return request.headers.get("Last-Event-ID", "")[:64]


def _stream(topics: list[Topic], seen: str) -> Response:
    handed = SOCKET in request.environ and request.environ.get("HTTP_VERSION") != "2"
    if request.method == "HEAD":
        return _headed(Response(mimetype=EVENT_STREAM))
    hub = backend().hub
    listener = hub.listen(topics, seen, holds=not handed, allowed=guard_of().still(), owner=_owner())
    if listener is None:
        raise Refused(
            *(429, "too_many_requests", "too many event streams are open; ask for what you want to know now and then instead"),
            retry_after=RETRY_AFTER,
        )
    if handed:
        request.environ[STREAM] = listener
        return _headed(Response(mimetype=EVENT_STREAM))
    return _headed(Response(_Pulled(hub, listener), mimetype=EVENT_STREAM))


def _owner() -> tuple[str, str] | None:
    """The owner of the share of streams that this one counts for; None: on a server without users and keys there is one share
    for all."""
    who = principal()
    return None if who.kind == "local" else (who.kind, who.name)


class _Pulled:
    """A stream for a server whose thread sends it. A generator would not be told of an end before its first piece."""

    def __init__(self, hub: Hub, listener: Listener) -> None:
        self._hub = hub
        self._listener = listener

    def __iter__(self) -> Iterator[bytes]:
        return self._listener.pull()

    def close(self) -> None:
        """See WSGI."""
        self._listener.close()
        self._hub.leave(self._listener)


def _headed(response: Response) -> Response:
    response.headers["X-Accel-Buffering"] = "no"
    response.headers.pop("Content-Length", None)
    return response
