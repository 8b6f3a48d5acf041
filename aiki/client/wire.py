"""The JSON of the HTTP API, spoken by `remote.py` and served by `aiki.api`: one mapping for both ends.

| object | JSON |
|---|---|
| time | `"2026-11-23T15:52:00.123456Z"`: UTC, microseconds; null where there is none |
| payload | `{"encoding": "json", "text": "[[1],{}]"}`: opaque, as `aiki.codec` makes it |
| `NewRun` | `name` and, as wanted, `id`, `input` (a payload) or `args` and `kwargs` (plain JSON), `queue`, `version`, `kind`, \
`due_at` or `countdown` (seconds), `expires_at` or `expires_in`, `options`, `reference_id`, `on_conflict` |
| `options` | `time_limit`, `soft_time_limit` (seconds), `retry` (a policy on the wire), `max_crashes` |
| `Accepted` | `{"id", "state", "created"}` |
| `RunView` | its fields by their names |
| `RunDetail` | `{"run": RunView, "input": payload, "result": payload, "traceback": text, "attempts": [Attempt, …]}` |
| `StepView` | its fields by their names; `result` is a payload |
| `Page` | `{"runs": [RunView, …], "next": id or null}` |
| `DefinitionInfo` | `{"name", "version", "kind", "options"}` |
| error | RFC 9457 problem details with `code`, see `PROBLEMS` |

`POST /runs` takes a `NewRun` and answers an `Accepted`; `POST /runs/batch` takes `{"runs": […], "batch": n or null}` and
answers `{"runs": [Accepted, …]}`; `POST /definitions` takes `{"definitions": […]}`. `POST /runs/<id>/…` answers a `RunView`:

| verb | takes |
|---|---|
| `cancel` | `reason`; `once`: true to change nothing if a cancel was asked for before (a second one ends a workflow) |
| `terminate`, `pause` | `reason` |
| `resume`, `retry` | nothing |
| `wake` | `name` of the sleep, absent for any |
| `events` | `name`; `payload`, or `data` (plain JSON); `reference_id`: sending it again under the same one changes nothing |

but for `rerun`, which takes `from_step` (an ordinal) and the new run's `id`, and answers an `Accepted`.
`GET /runs/<id>/history?after=&limit=` answers `{"steps": [StepView, …], "next": ordinal or null}`. Each answer carries the
server's clock in the header `Aiki-Time`: microseconds since the Unix epoch.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, TypeVar, cast, get_args

from aiki import codec, errors, ids
from aiki.clock import SECOND, iso
from aiki.codec import Payload
from aiki.messages import OPT_RETRY, OPT_SHAPE, OPT_SOFT_TIME_LIMIT, OPT_TIME_LIMIT, OPT_TRACE
from aiki.model import (
    Accepted,
    Attempt,
    DefinitionInfo,
    NewRun,
    OnConflict,
    Page,
    RunDetail,
    RunView,
    StepView,
    Waiting,
    WaitView,
)
from aiki.states import State

T = TypeVar("T")

TIME_HEADER: Final = "Aiki-Time"
MAX_BATCH: Final = 1000
"""Runs in one `POST /runs/batch`."""
MAX_WAIT: Final = 30.0
"""Seconds that one `GET` may wait for a run's end."""
MAX_STEPS: Final = 5000
"""Steps in one answer of a run's history."""
OPT_MAX_CRASHES: Final = "mc"

_OPTION_NAMES: Final = {
    OPT_TIME_LIMIT: "time_limit",
    OPT_SOFT_TIME_LIMIT: "soft_time_limit",
    OPT_RETRY: "retry",
    OPT_MAX_CRASHES: "max_crashes",
}
_IN_HEADERS: Final = frozenset({OPT_TRACE, OPT_SHAPE})
"""Options that travel as headers, which servers that do not know them pass over."""
SHAPE_HEADER: Final = "Aiki-Signature"
_OPTION_CODES: Final = {name: code for code, name in _OPTION_NAMES.items()}
_TIMES: Final = frozenset(
    {"created_at", "due_at", "started_at", "finished_at", "expires_at", "updated_at", "created_after", "created_before"}
)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)


class WireError(ValueError):
    """JSON that is not what the API speaks; the message names the field."""


# ---------------------------------------------------------------- times
def time_to_json(us: int | None) -> str | None:
    """Microseconds since the Unix epoch as ISO-8601 text."""
    return None if us is None else iso(us)


def time_from_json(text: str | None) -> int | None:
    """Microseconds since the Unix epoch of an ISO-8601 time with a zone."""
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise WireError(f"{text!r} is not an ISO-8601 time such as 2026-01-31T12:00:00Z") from None
    return time_to_us(moment)


def time_to_us(moment: dt.datetime) -> int:
    """Microseconds since the Unix epoch of a datetime, which must have a zone; raises `WireError`."""
    if moment.utcoffset() is None:
        raise WireError(f"the time {moment.isoformat()} has no time zone; write one, for example Z or +02:00")
    return (moment - _EPOCH) // _MICROSECOND


# ---------------------------------------------------------------- payloads
def payload_to_json(payload: Payload | None) -> dict[str, str] | None:
    """A payload, opaque."""
    return None if payload is None else {"encoding": payload.encoding, "text": payload.text}


def payload_from_json(data: Any, what: str = "input") -> Payload | None:
    """A payload, opaque."""
    if data is None:
        return None
    if not (isinstance(data, Mapping) and isinstance(data.get("encoding"), str) and isinstance(data.get("text"), str)):
        raise WireError(f'{what}: it must be {{"encoding": "json", "text": "…"}}')
    if not data["text"].isascii():
        raise WireError(f"{what}: its text must be ASCII")
    return Payload(data["encoding"], data["text"])


# ---------------------------------------------------------------- new runs
def new_run_to_json(run: NewRun) -> dict[str, Any]:
    """A new run, defaults left out."""
    out: dict[str, Any] = {"id": run.id, "name": run.name, "queue": run.queue, "input": payload_to_json(run.input)}
    if run.version != "1":
        out["version"] = run.version
    if run.kind != "task":
        out["kind"] = run.kind
    if run.due_at is not None:
        out["due_at"] = time_to_json(run.due_at)
    if run.expires_at is not None:
        out["expires_at"] = time_to_json(run.expires_at)
    options = {_OPTION_NAMES.get(code, code): value for code, value in run.options.items() if code not in _IN_HEADERS}
    if options:
        out["options"] = options
    if run.reference_id is not None:
        out["reference_id"] = run.reference_id
        out["on_conflict"] = run.on_conflict
    return out


def new_run_from_json(
    data: Mapping[str, Any], *, now: int, definition: DefinitionInfo | None = None, limit: int = codec.DEFAULT_LIMIT
) -> NewRun:
    """The run that a client asks for.

    :param now: the server's clock, from which `countdown` and `expires_in` count.
    :param definition: gives what the client leaves open: version, kind, queue, expiry and options.
    :param limit: the largest input, in bytes.
    :raises WireError: it cannot be understood; the message names the field.
    :raises aiki.errors.PayloadError: `args` or `kwargs` cannot be carried, or the input is too large.
    """
    defaults: Mapping[str, Any] = definition.options if definition else {}
    name = _text(data, "name")
    if name is None:
        raise WireError("name: it is missing")
    own = {"max_crashes": defaults["max_crashes"]} if "max_crashes" in defaults else {}
    options = {**own, **(_mapping(data, "options") or {})}
    return NewRun(
        id=_run_id(data.get("id")),
        name=name,
        input=_input(data, name, limit),
        queue=_text(data, "queue") or defaults.get("queue") or "default",
        version=_text(data, "version") or (definition.version if definition else "1"),
        kind=_text(data, "kind") or (definition.kind if definition else "task"),
        due_at=_moment(data, "due_at", "countdown", now),
        expires_at=_moment(data, "expires_at", "expires_in", now, defaults.get("expires")),
        options={_OPTION_CODES.get(key, key): value for key, value in options.items()},
        reference_id=_text(data, "reference_id"),
        on_conflict=_on_conflict(data.get("on_conflict", "error")),
    )


def _on_conflict(value: Any) -> OnConflict:
    if value not in get_args(OnConflict):
        raise WireError(f"on_conflict: {value!r} is none of {', '.join(get_args(OnConflict))}")
    return cast(OnConflict, value)


def _run_id(value: Any) -> str:
    if value is None:
        return str(ids.new_id())
    parsed = ids.parse_id(value)
    if parsed is None:
        raise WireError(f"id: {str(value)[:64]!r} is not a UUID")
    return str(parsed)


def _input(data: Mapping[str, Any], name: str, limit: int) -> Payload:
    opaque = payload_from_json(data.get("input"))
    if opaque is None:
        args, kwargs = data.get("args") or [], data.get("kwargs") or {}
        if not isinstance(args, list) or not isinstance(kwargs, Mapping):
            raise WireError("args must be a list, kwargs an object")
        return codec.encode([args, dict(kwargs)], limit=limit, what=f"arguments of {name}")
    if "args" in data or "kwargs" in data:
        raise WireError("input: give either it, or args and kwargs")
    if len(opaque.text) > limit:
        raise errors.PayloadTooLarge(
            f"the arguments of {name} are {len(opaque.text):,} bytes, over the server's limit of {limit:,}"
        )
    return opaque


def _moment(data: Mapping[str, Any], at: str, span: str, now: int, default: float | None = None) -> int | None:
    if data.get(at) is not None:
        return time_from_json(data[at])
    seconds = data.get(span, default)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 100 * 366 * 86400:
        raise WireError(f"{span}: {seconds!r} is not a number of seconds, 0 or more")
    return now + int(seconds * SECOND)


def _text(data: Mapping[str, Any], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise WireError(f"{key}: it must be text, not {value!r}")
    return value


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    value = data.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise WireError(f"{key}: it must be an object, not {value!r}")
    return value


# ---------------------------------------------------------------- answers
def accepted_to_json(accepted: Accepted) -> dict[str, Any]:
    """The answer to a new run."""
    return {"id": accepted.id, "state": accepted.state.value, "created": accepted.created}


def accepted_from_json(data: Mapping[str, Any]) -> Accepted:
    """The answer to a new run."""
    return Accepted(data["id"], State(data["state"]), bool(data["created"]))


def run_to_json(run: RunView) -> dict[str, Any]:
    """A run; times as text."""
    return _to_json(run)


def run_from_json(data: Mapping[str, Any]) -> RunView:
    """A run; fields that this version does not know are passed over."""
    return _from_json(RunView, {**data, "state": State(data["state"])})


def detail_to_json(detail: RunDetail) -> dict[str, Any]:
    """A run with its payloads and attempts."""
    return {
        "run": run_to_json(detail.run),
        "input": payload_to_json(detail.input),
        "result": payload_to_json(detail.result),
        "traceback": detail.traceback,
        "attempts": [_to_json(attempt) for attempt in detail.attempts],
        "waiting": waiting_to_json(detail.waiting),
    }


def detail_from_json(data: Mapping[str, Any]) -> RunDetail:
    """A run with its payloads and attempts."""
    return RunDetail(
        run_from_json(data["run"]),
        payload_from_json(data.get("input")),
        payload_from_json(data.get("result"), "result"),
        data.get("traceback") or "",
        [_from_json(Attempt, attempt) for attempt in data.get("attempts", ())],
        bool(data.get("withheld")),
        waiting_from_json(data.get("waiting")),
    )


def waiting_to_json(waiting: Waiting | None) -> dict[str, Any] | None:
    """The waits of a run."""
    if waiting is None:
        return None
    items = [{**_to_json(item), "run_ids": list(item.run_ids)} for item in waiting.items]
    return {"every": waiting.every, "items": items, "more": waiting.more}


def waiting_from_json(data: Any) -> Waiting | None:
    """The waits of a run; None where the answer has none, as from former releases."""
    if data is None:
        return None
    items = [_from_json(WaitView, {**item, "run_ids": tuple(item.get("run_ids", ()))}) for item in data["items"]]
    return Waiting(bool(data["every"]), tuple(items), int(data.get("more", 0)))


def attempt_to_json(attempt: Attempt) -> dict[str, Any]:
    """An attempt; times as text."""
    return _to_json(attempt)


def step_to_json(step: StepView) -> dict[str, Any]:
    """A step of a workflow; times as text."""
    return {**_to_json(step), "result": payload_to_json(step.result)}


def history_to_json(steps: Sequence[StepView], *, more: bool) -> dict[str, Any]:
    """A page of a workflow's steps. `more`: there are others behind it."""
    return {"steps": [step_to_json(step) for step in steps], "next": steps[-1].ordinal if more else None}


def history_from_json(data: Mapping[str, Any]) -> list[StepView]:
    """The steps of a workflow."""
    return [_from_json(StepView, {**item, "result": payload_from_json(item.get("result"))}) for item in data["steps"]]


def page_to_json(page: Page) -> dict[str, Any]:
    """A page of runs."""
    return {"runs": [run_to_json(run) for run in page.runs], "next": page.next}


def page_from_json(data: Mapping[str, Any]) -> Page:
    """A page of runs."""
    return Page([run_from_json(run) for run in data["runs"]], data.get("next"))


def definition_to_json(definition: DefinitionInfo) -> dict[str, Any]:
    """A definition."""
    return {
        "name": definition.name,
        "version": definition.version,
        "kind": definition.kind,
        "options": definition.options,
    }


def definition_from_json(data: Mapping[str, Any]) -> DefinitionInfo:
    """A definition; raises `WireError`."""
    name = _text(data, "name")
    if not name:
        raise WireError("name: it is missing")
    return DefinitionInfo(
        name, _text(data, "version") or "1", _text(data, "kind") or "task", dict(_mapping(data, "options") or {})
    )


def _to_json(item: Any) -> dict[str, Any]:
    out = {}
    for spec in fields(item):
        value = getattr(item, spec.name)
        out[spec.name] = time_to_json(value) if spec.name in _TIMES else value
    return out


def _from_json(kind: type[T], data: Mapping[str, Any]) -> T:
    known = {spec.name for spec in fields(kind)}  # type: ignore[arg-type]
    return kind(**{key: time_from_json(value) if key in _TIMES else value for key, value in data.items() if key in known})


# ---------------------------------------------------------------- errors
PROBLEMS: Final[tuple[tuple[type[errors.AikiError], str, int], ...]] = (
    (errors.UnknownTask, "unknown_task", 422),
    (errors.ReferenceConflict, "reference_conflict", 409),
    (errors.Conflict, "conflict", 409),
    (errors.RunNotFound, "not_found", 404),
    (errors.NotThere, "not_found", 404),
    (errors.PayloadTooLarge, "payload_too_large", 413),
    (errors.PayloadError, "invalid", 422),
    (errors.FilterError, "invalid", 400),
    (errors.ConfigurationError, "invalid", 422),
    (errors.Unauthorized, "unauthorized", 401),
    (errors.Unavailable, "unavailable", 503),
)
"""Error, code and HTTP status; the first that fits. Beside `code`, problems carry the error's own fields (`name`,
`closest`, `version`, `versions`, `reference_id`, `run_id`, `retry_after`; of a filter `position`, `length`, `suggestions`)."""


_TOLD: Final = (
    *("name", "closest", "version", "versions", "reference_id", "run_id", "retry_after"),
    *("position", "length", "suggestions"),
)


def problem_to_json(error: errors.AikiError) -> dict[str, Any]:
    """An error as RFC 9457 problem details; `status` is the HTTP status."""
    fitting = ((code, status) for kind, code, status in PROBLEMS if isinstance(error, kind))
    code, status = next(fitting, ("internal", 500))
    out: dict[str, Any] = {"type": f"urn:aiki:{code}", "title": code.replace("_", " "), "status": status}
    out |= {"detail": str(error), "code": code}
    for name in _TOLD:
        if hasattr(error, name):
            out[name] = getattr(error, name)
    return out


def problem_from_json(status: int, data: Any) -> errors.AikiError:
    """The error of a problem, to be raised by the caller."""
    problem: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    detail = str(problem.get("detail") or problem.get("title") or f"the server answered {status}")
    code = problem.get("code")
    if code == "unknown_task":
        names, versions = ([str(item) for item in problem.get(key) or ()] for key in ("closest", "versions"))
        return errors.UnknownTask(str(problem.get("name", "")), names, version=problem.get("version"), versions=versions)
    if code == "invalid" and isinstance(problem.get("position"), int):
        found = [str(item) for item in problem.get("suggestions") or ()]
        return errors.FilterError(detail, problem["position"], int(problem.get("length") or 1), found)
    if code == "reference_conflict":
        return _told(errors.ReferenceConflict("", "", str(problem.get("run_id", ""))), detail)
    if code == "not_found" and problem.get("run_id"):
        return errors.RunNotFound(str(problem["run_id"]))
    if code == "not_found":
        return errors.ServerError(detail)
    simple: dict[Any, type[errors.AikiError]] = {
        "conflict": errors.RunConflict,
        "payload_too_large": errors.PayloadTooLarge,
        "unauthorized": errors.Unauthorized,
        "invalid": errors.ConfigurationError,
    }
    if code in simple:
        return simple[code](detail)
    if code == "unavailable" or status in (429, 502, 503, 504):
        return errors.Unavailable(detail, _seconds(problem.get("retry_after")))
    if status in (401, 403):
        return errors.Unauthorized(detail)
    if status == 413:
        return errors.PayloadTooLarge(detail)
    return errors.ServerError(f"the server answered {status}: {detail}")


def _told(error: errors.AikiError, detail: str) -> errors.AikiError:
    error.args = (detail,)
    return error


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 3600 else 1.0


_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def csv_cell(value: Any) -> Any:
    """A field of a run as a CSV file holds it: text that a spreadsheet would take for a formula is quoted."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
