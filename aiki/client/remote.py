"""The remote client: the server over HTTP.

Every call has a deadline by the wall clock. Inside it, what did not get through (no connection, a lost answer, 429, 502, 503,
504) is asked again: with the same run ids, so that asking twice is one run, or under the same `Idempotency-Key`.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError

from aiki import ids, tracing
from aiki.client import forks, wire
from aiki.clock import LearntClock
from aiki.codec import Payload
from aiki.errors import ConfigurationError, RunConflict, RunNotFound, ServerError, Unavailable
from aiki.ids import parse_id
from aiki.messages import OPT_SHAPE
from aiki.model import Accepted, DefinitionInfo, End, NewRun, Page, RunDetail, RunFilter, RunView, StepView
from aiki.settings import DEFAULT_NAMESPACE, Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

T = TypeVar("T")

API: Final = "/api/v1"
_AGAIN: Final = frozenset({429, 502, 503, 504})
_UNDER_WAY: Final = "idempotency_conflict"
"""The server's answer to a request that it is still executing for an earlier sending."""
_CONNECT_TIMEOUT: Final = 3.0
_MAX_PAUSE: Final = 2.0
_MAX_ANSWER: Final = 256 * 1024 * 1024
_ASKED_AGAIN: Final = "_asked_again"
"""On an error: the question was asked before, and its answer may have been lost."""
_NO_HEADERS: Final[Mapping[str, str]] = {}
_POLL_FROM, _POLL_TO = 0.02, 1.0


class RemoteClient:
    """See `Client`. Keeps connections alive and shares them between threads; after a fork the child makes its own.

    :param actor: who asks, for audit records.
    :raises ConfigurationError: the server's URL is not one.
    """

    def __init__(self, settings: Settings, actor: str = "remote") -> None:
        self._settings = settings
        try:
            url = urllib3.util.parse_url(settings.server_url)
        except LocationParseError:
            url = urllib3.util.Url()
        if url.scheme not in ("http", "https") or not url.host or url.query or url.auth:
            raise ConfigurationError(
                f"server_url={settings.server_url!r}: it must be like http://aiki.internal:8080 (the key goes into api_key)"
            )
        self._base = settings.server_url.rstrip("/") + API
        self._headers = {"Accept": "application/json", "User-Agent": f"aiki-sdk ({actor})"}
        if settings.api_key:
            self._headers["Authorization"] = f"Bearer {settings.api_key}"
        if settings.namespace != DEFAULT_NAMESPACE:  # otherwise the key's, or the server's own
            self._headers["X-Aiki-Namespace"] = settings.namespace
        self._pool = self._new_pool()
        self._lock = threading.Lock()
        self._clock = LearntClock()
        forks.register(self)

    @staticmethod
    def _new_pool() -> urllib3.PoolManager:
        return urllib3.PoolManager(num_pools=2, maxsize=64, block=False, retries=False)

    # ------------------------------------------------------------ enqueue
    def enqueue(
        self,
        runs: Sequence[NewRun],
        *,
        session: Session | None = None,
        connection: Connection | None = None,
        batch: int | None = None,
    ) -> list[Accepted]:
        """See `Client.enqueue`. More than 1,000 runs take several requests, each all or none."""
        if session is not None or connection is not None:
            raise ConfigurationError(
                "session= and connection= need the embedded client: a transaction cannot be shared over HTTP. Set "
                "AIKI_DATABASE_URL and AIKI_BROKER_URL instead of AIKI_SERVER_URL, or enqueue after your commit"
            )
        # Runs have ids, so asking again is the same; but not what retries a run, which may have failed again since.
        once = any(run.on_conflict == "retry_failed" for run in runs)
        if len(runs) == 1:
            data = self._call("POST", "/runs", wire.new_run_to_json(runs[0]), once=once, more=_shape_header(runs))
            return [_understood(wire.accepted_from_json, data)]
        accepted: list[Accepted] = []
        for start in range(0, len(runs), wire.MAX_BATCH):
            body = {"runs": [wire.new_run_to_json(run) for run in runs[start : start + wire.MAX_BATCH]], "batch": batch}
            data = self._call("POST", "/runs/batch", body, once=once, more=_shape_header(runs))
            accepted += _understood(_accepted_list, data)
        return accepted

    def register(self, definitions: Sequence[DefinitionInfo]) -> None:
        """See `Client.register`."""
        if definitions:
            self._call("POST", "/definitions", {"definitions": [wire.definition_to_json(item) for item in definitions]})

    # ------------------------------------------------------------ read
    def get(self, run_id: str, *, wait: float = 0.0) -> RunView:
        """See `Client.get`."""
        return _understood(wire.run_from_json, self._wait(f"/runs/{_checked(run_id)}", wait, lambda data: data))

    def detail(self, run_id: str, *, wait: float = 0.0) -> RunDetail:
        """See `Client.detail`."""
        return _understood(
            wire.detail_from_json, self._wait(f"/runs/{_checked(run_id)}/detail", wait, lambda data: data["run"])
        )

    def _wait(self, path: str, wait: float, run_of: Callable[[Any], Any]) -> Any:
        """Ask, several times if need be: the server may answer before the time is over."""
        until = time.monotonic() + wait
        while True:
            left = min(max(0.0, until - time.monotonic()), wire.MAX_WAIT)
            began = time.monotonic()
            data = self._call("GET", path + (f"?wait={left:.3f}" if left > 0 else ""), wait=left)
            if (
                left <= 0
                or _understood(lambda found: wire.run_from_json(run_of(found)), data).ended
                or until - time.monotonic() <= 0
            ):
                return data
            if time.monotonic() - began < _POLL_FROM:  # it holds no more requests at present
                time.sleep(min(_POLL_TO / 4, max(0.0, until - time.monotonic())))

    def soon(self, run_id: str, timeout: float) -> End | None:
        """See `Client.soon`: over HTTP there is no shorter way than to ask."""
        del run_id, timeout
        return None

    async def aended(self, run_id: str, timeout: float | None) -> bool:
        """See `Client.aended`. Asks at an interval that grows from 20 ms to a second."""
        began = time.monotonic()
        while True:
            try:
                if (await asyncio.to_thread(self.get, run_id)).ended:
                    return True
                least = _POLL_FROM
            except Unavailable as error:
                least = error.retry_after
            waited = time.monotonic() - began
            pause = max(least, min(waited / 10, _POLL_TO))
            if timeout is not None:
                if waited >= timeout:
                    return False
                pause = min(pause, timeout - waited)
            await asyncio.sleep(pause)

    def list(self, where: RunFilter, *, limit: int = 50, after: str | None = None) -> Page:
        """See `Client.list`."""
        query: list[tuple[str, Any]] = [("state", state.value) for state in where.states]
        for name in ("name", "queue", "reference_id", "kind"):
            if getattr(where, name) is not None:
                query.append((name, getattr(where, name)))
        for name in ("created_after", "created_before"):
            if getattr(where, name) is not None:
                query.append((name, wire.time_to_json(getattr(where, name))))
        if where.parent_id is not None:
            query.append(("parent", where.parent_id))
        query.append(("limit", limit))
        if after is not None:
            query.append(("after", after))
        return _understood(wire.page_from_json, self._call("GET", "/runs?" + urlencode(query)))

    def now(self) -> int:
        """See `Client.now`: the server's clock, learnt from its answers; it is asked if it has not answered yet."""
        if not self._clock.known:
            self._call("GET", "/runs?limit=1")
        return self._clock()

    # ------------------------------------------------------------ change
    def _do(self, run_id: str, verb: str, asked: dict[str, Any] | None = None) -> RunView:
        path = f"/runs/{_checked(run_id)}/{verb}"
        return _understood(wire.run_from_json, self._call("POST", path, asked or {}, once=True))

    def _move(self, run_id: str, verb: str, asked: dict[str, Any] | None = None) -> RunView:
        """Do a verb that conflicts with what it brings about: asked again, a conflict may be the first question's success."""
        try:
            return self._do(run_id, verb, asked)
        except RunConflict as conflict:
            if not getattr(conflict, _ASKED_AGAIN, False):
                raise
            return self.get(run_id)

    def cancel(self, run_id: str, *, reason: str = "", at_once: bool = False, once: bool = False) -> RunView:
        """See `Client.cancel`."""
        asked = {"reason": reason}
        if at_once:
            return self._do(run_id, "terminate", asked)
        return self._do(run_id, "cancel", {**asked, "once": True} if once else asked)

    def pause(self, run_id: str, *, reason: str = "") -> RunView:
        """See `Client.pause`."""
        return self._do(run_id, "pause", {"reason": reason})

    def resume(self, run_id: str, *, reason: str = "") -> RunView:
        """See `Client.resume`."""
        return self._move(run_id, "resume", {"reason": reason})

    def wake(self, run_id: str, *, name: str = "", reason: str = "") -> RunView:
        """See `Client.wake`."""
        return self._move(run_id, "wake", {"name": name, "reason": reason} if name else {"reason": reason})

    def send_event(
        self, run_id: str, name: str, payload: Payload | None, *, reference_id: str | None = None, reason: str = ""
    ) -> RunView:
        """See `Client.send_event`. Without a reference id, one is made, so that asking again is the same event."""
        key = str(ids.new_id()) if reference_id is None else reference_id
        asked = {"name": name, "payload": wire.payload_to_json(payload), "reference_id": key, "reason": reason}
        return self._do(run_id, "events", asked)

    def history(self, run_id: str, *, after: int = -1, limit: int = 1000) -> Sequence[StepView]:
        """See `Client.history`."""
        path = f"/runs/{_checked(run_id)}/history?" + urlencode({"after": after, "limit": limit})
        return _understood(wire.history_from_json, self._call("GET", path))

    def retry(self, run_id: str, *, reason: str = "") -> RunView:
        """See `Client.retry`."""
        return self._move(run_id, "retry", {"reason": reason})

    def rerun(self, run_id: str, *, from_step: int | None = None, new_id: str | None = None, reason: str = "") -> Accepted:
        """See `Client.rerun`."""
        asked = {"id": new_id or str(ids.new_id()), "from_step": from_step, "reason": reason}
        return _understood(wire.accepted_from_json, self._call("POST", f"/runs/{_checked(run_id)}/rerun", asked))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer at any path below `/api/v1`, as JSON data. A POST is done once, however often it has to be asked."""
        return self._call(method, path, body, once=method == "POST")

    # ------------------------------------------------------------ end
    def close(self) -> None:
        """See `Client.close`."""
        self._pool.clear()

    def after_fork(self) -> Any:
        """See `aiki.client.forks`."""
        pool, self._pool = self._pool, self._new_pool()
        self._lock = threading.Lock()
        return pool

    # ------------------------------------------------------------ HTTP
    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        wait: float = 0.0,
        once: bool = False,
        more: Mapping[str, str] = _NO_HEADERS,
    ) -> Any:
        """Send the request until there is an answer or the deadline has come.

        :param wait: seconds that the server may take on purpose.
        :param once: the request must not be executed twice, and has no id of its own by which the server could recognise it.
        :param more: headers beside those of every request.
        """
        deadline = time.monotonic() + self._settings.timeout + wait
        # Under one key the server does it once, and gives the same answer again to whoever has lost it.
        if once:
            more = {**more, "Idempotency-Key": ids.new_id().hex}
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        tries = 0
        while True:
            tries += 1
            error: Unavailable
            try:
                status, headers, data = self._request(method, path, content, deadline, more)
                if status < 400:
                    return data
                problem = wire.problem_from_json(status, data)
                under_way = status == 409 and isinstance(data, dict) and data.get("code") == _UNDER_WAY
                if status not in _AGAIN and not under_way:
                    setattr(problem, _ASKED_AGAIN, tries > 1)
                    raise problem
                error = Unavailable(str(problem), _retry_after(headers, problem))
                pause = error.retry_after
            except (HTTPError, _TooSlow) as failure:
                reason = getattr(failure, "reason", None) or failure
                error = Unavailable(f"the server at {self._settings.server_url} cannot be reached: {reason}")
                error.__cause__ = failure
                pause = min(0.05 * 2**tries, _MAX_PAUSE)
            pause *= random.uniform(0.75, 1.25)  # noqa: S311  (jitter)
            if time.monotonic() + pause >= deadline:
                raise error
            time.sleep(pause)

    def _request(
        self, method: str, path: str, content: bytes | None, deadline: float, more: Mapping[str, str] = _NO_HEADERS
    ) -> tuple[int, Mapping[str, str], Any]:
        """One request and its whole answer, given up at the deadline however slowly bytes come."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise _TooSlow("no answer in time")
        headers = (
            {**self._headers, **more} if content is None else {**self._headers, "Content-Type": "application/json", **more}
        )
        carried = tracing.traceparent()
        if carried:
            headers = {**headers, "traceparent": carried}
        asked = self._clock.monotonic()
        response = self._pool.request(
            method,
            self._base + path,
            body=content,
            headers=headers,
            timeout=urllib3.Timeout(connect=min(left, _CONNECT_TIMEOUT), read=left),
            preload_content=False,
            redirect=False,
            retries=False,
        )
        try:
            raw = _read(response, deadline)
            self._learn_time(response.headers.get(wire.TIME_HEADER), asked)
        except BaseException:
            response.close()  # what is left of the answer must not be taken for the next one
            raise
        response.release_conn()
        return response.status, response.headers, _parse(response.status, raw)

    def _learn_time(self, told: str | None, asked: int) -> None:
        if told is not None and told.isascii() and told.isdigit() and len(told) < 18:
            with self._lock:
                self._clock.learn(int(told), asked, self._clock.monotonic())


def _shape_header(runs: Sequence[NewRun]) -> Mapping[str, str]:
    """The signature that the caller saw, if it is the same of all runs."""
    shapes = {run.options.get(OPT_SHAPE) for run in runs}
    shape = shapes.pop() if len(shapes) == 1 else None
    return {wire.SHAPE_HEADER: shape} if shape else _NO_HEADERS


class _TooSlow(Exception):
    """The deadline came in the middle of an answer."""


def _understood(read: Callable[[Any], T], data: Any) -> T:
    """The error of an answer; `ServerError` if its code is not known here."""
    try:
        return read(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        brief = json.dumps(data)[:200]
        raise ServerError(f"the server's answer is not understood ({type(error).__name__}: {error}): {brief}") from None


def _accepted_list(data: Any) -> list[Accepted]:
    return [wire.accepted_from_json(item) for item in data["runs"]]


def _read(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    chunks, size = [], 0
    while chunk := response.read1(1 << 20):
        chunks.append(chunk)
        size += len(chunk)
        if time.monotonic() > deadline:
            raise _TooSlow("the answer came too slowly")
        if size > _MAX_ANSWER:
            raise ServerError("the server's answer is over 256 MB")
    return b"".join(chunks)


def _parse(status: int, raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return json.loads(raw)
    except ValueError:
        if status >= 400:
            return None
        raise ServerError(
            f"the server answered {status} with something that is not JSON: {raw[:80]!r}; is it Aiki's?"
        ) from None


def _retry_after(headers: Mapping[str, str], problem: Exception) -> float:
    value = headers.get("Retry-After", "")
    try:
        return min(max(0.0, float(value)), 60.0)
    except ValueError:
        return problem.retry_after if isinstance(problem, Unavailable) else 1.0


def _checked(run_id: str) -> str:
    parsed = parse_id(run_id)
    if parsed is None:
        raise RunNotFound(run_id)
    return str(parsed)
