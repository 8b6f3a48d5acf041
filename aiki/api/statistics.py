"""The endpoints of the overview: what runs did, how long they took, what fails, and what needs attention."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from flask import Blueprint, Response
from marshmallow import fields, validate

from aiki import filters
from aiki.api import answers, field_checks, schemas
from aiki.api.access import needs
from aiki.api.answers import Answer, a_time
from aiki.api.openapi import describe
from aiki.api.problems import answer, invalid
from aiki.api.requests import query, store
from aiki.client import wire
from aiki.clock import SECOND
from aiki.storage.statistics import Latency

blueprint = Blueprint("statistics", __name__)

POINTS: Final = 120
"""Steps that an answer has if no `step` is asked for; about."""
MOST_POINTS: Final = 2000
LONGEST: Final = 400 * 86400 * SECOND
MINUTE: Final = 60 * SECOND


def _moment(value: str) -> str:
    filters.moments_of(value[:64], 0)
    return value


def _span(value: str) -> int:
    try:
        return filters.span_of(value)
    except ValueError:
        raise ValueError(f"{value[:40]!r} is not a duration such as 1m, 10m or 1h") from None


def _checked_moment(value: str) -> str:
    try:
        return _moment(value)
    except ValueError:
        raise ValueError(f"{value[:40]!r} is not a time; say 15m, 24h, 7d (ago), today or 2026-11-01T12:00Z") from None


field_checks.shaped(_checked_moment, type="string", maxLength=64)
field_checks.shaped(_span, type="string", maxLength=32)


class StatisticsQuery(field_checks.Strict):
    """Of which time, in which steps, and of which runs."""

    since = field_checks.Checked(_checked_moment)
    until = field_checks.Checked(_checked_moment)
    step = field_checks.Checked(_span)
    name = schemas.FilterQuery._declared_fields["name"]
    queue = schemas.FilterQuery._declared_fields["queue"]


class SpanCounts(Answer):
    """What happened in a span of time from `at` on."""

    at = a_time()
    started = fields.Integer()
    completed = fields.Integer()
    failed = fields.Integer()
    dead = fields.Integer()
    cancelled = fields.Integer()
    retried = fields.Integer()


class LatencyAnswer(Answer):
    """Milliseconds, reckoned from a histogram; null where nothing was measured."""

    count = fields.Integer()
    mean = fields.Float(allow_none=True)
    p50 = fields.Float(allow_none=True)
    p95 = fields.Float(allow_none=True)
    p99 = fields.Float(allow_none=True)


class FailingName(Answer):
    """A name whose runs failed or died, of so many that ended."""

    name = fields.String()
    failed = fields.Integer()
    ended = fields.Integer()


class StateCount(Answer):
    """How many runs are in a state; `exact` is false where counting stopped."""

    state = answers.a_state()
    count = fields.Integer()
    exact = fields.Boolean()


class StatisticsAnswer(Answer):
    """What runs did. `step` is in seconds; `waiting` is from the dispatch to the start, `running` from there to the end."""

    since = a_time()
    until = a_time()
    step = fields.Integer()
    throughput = fields.List(fields.Nested(SpanCounts))
    waiting = fields.Nested(LatencyAnswer)
    running = fields.Nested(LatencyAnswer)
    top_failing = fields.List(fields.Nested(FailingName))
    states = fields.List(fields.Nested(StateCount))


_KINDS: Final = ("no_orchestrator", "no_worker", "stalled", "dead", "dead_letters", "queue_behind", "queue_paused", "stuck")


class AttentionItem(Answer):
    """Something to look at; `q` is the filter of the runs that it is about."""

    kind = fields.String(validate=validate.OneOf(_KINDS))
    text = fields.String()
    subject = fields.String()
    count = fields.Integer(allow_none=True)
    exact = fields.Boolean()
    since = a_time(allow_none=True)
    q = fields.String()


class AttentionAnswer(Answer):
    """What needs attention, worst first."""

    items = fields.List(fields.Nested(AttentionItem))


_QUERY: Final = StatisticsQuery()
_NO_QUERY: Final = schemas.EmptySchema()


@blueprint.get("/statistics")
@needs("look")
@describe(query=_QUERY, answer=StatisticsAnswer)
def statistics() -> Response:
    """What runs did since a time (`?since=1h`): throughput, latencies, what fails; and how many are in each state now.

    Read from sums by minute, ten minutes, hour and day that stand a few seconds behind. Minutes are kept for 6 hours, ten
    minutes for 4 days, hours for 62 days.
    """
    asked = query(_QUERY)
    at = store()
    now = at.clock()
    since = filters.moments_of(asked.get("since", "1h"), now)[0]
    until = filters.moments_of(asked.get("until", "now"), now)[1]
    if not 0 < until - since <= LONGEST:
        raise invalid("since: it must be before until, and at most 400 days", {"since": ["it must be before until"]})
    step = asked.get("step") or max(MINUTE, (until - since) // POINTS // MINUTE * MINUTE)
    about = {"name": asked.get("name"), "queue": asked.get("queue")}
    counts = at.throughput(since, until, step, **about)
    took = at.latencies(since, until, **about)
    return answer(
        {
            "since": wire.time_to_json(since),
            "until": wire.time_to_json(until),
            "step": (counts[1].at - counts[0].at if len(counts) > 1 else step) // SECOND,
            "throughput": [{**asdict(item), "at": wire.time_to_json(item.at)} for item in counts],
            "waiting": _latency(took.waiting),
            "running": _latency(took.running),
            "top_failing": [asdict(item) for item in at.top_failing(since, until)],
            "states": [
                {"state": state.value, "count": count.number, "exact": count.exact}
                for state, count in at.state_counts().items()
            ],
        }
    )


def _latency(found: Latency) -> dict[str, Any]:
    return {key: value if value is None or key == "count" else round(value, 3) for key, value in asdict(found).items()}


@blueprint.get("/attention")
@needs("look")
@describe(query=_NO_QUERY, answer=AttentionAnswer)
def attention() -> Response:
    """What an operator should look at: dead and stalled runs, queues that nobody serves or that are behind, and more."""
    query(_NO_QUERY)
    return answer(
        {
            "items": [
                {
                    "kind": item.kind,
                    "text": item.text,
                    "subject": item.subject,
                    "count": None if item.count is None else item.count.number,
                    "exact": item.count is None or item.count.exact,
                    "since": wire.time_to_json(item.since),
                    "q": item.where,
                }
                for item in store().needs_attention()
            ]
        }
    )
