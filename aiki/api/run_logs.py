"""The endpoint of what a run logged."""

from __future__ import annotations

from typing import Any, Final

from flask import Blueprint, Response
from marshmallow import fields

from aiki.api import field_checks
from aiki.api.access import needs
from aiki.api.answers import Answer, a_time
from aiki.api.openapi import describe
from aiki.api.problems import answer
from aiki.api.requests import query, store
from aiki.api.runs import checked_id
from aiki.client import wire
from aiki.lifecycle.run_logs import KEPT
from aiki.storage.run_logs import LogLine

blueprint = Blueprint("run_logs", __name__)


def _number(value: Any) -> int:
    if not isinstance(value, str) or not value.isascii() or not value.isdecimal() or int(value[:10]) > 2**31 - 1:
        raise ValueError("it must be the number of a record, from 0 on")
    return int(value)


class LogsQuery(field_checks.Strict):
    """`after`: the number of the last record that is known."""

    after = field_checks.Checked(_number, shape={"type": "integer", "minimum": 0, "maximum": 2**31 - 1})


class LogLineAnswer(Answer):
    """A record. `number` counts what the run has logged; `step`: the workflow's step that logged it."""

    number = fields.Integer()
    time = a_time()
    level = fields.String()
    logger = fields.String()
    message = fields.String()
    attempt = fields.Integer()
    step = fields.Integer(allow_none=True)


class RunLogsAnswer(Answer):
    """The last 200 records, in order. `dropped`: there were more before the first of them."""

    logs = fields.List(fields.Nested(LogLineAnswer))
    dropped = fields.Boolean()


_QUERY: Final = LogsQuery()


@blueprint.get("/runs/<run_id>/logs")
@needs("look")
@describe(query=_QUERY, answer=RunLogsAnswer, errors=("not_found",))
def logs(run_id: str) -> Response:
    """What a run logged: at level INFO and above, the last 200 records, reported about once a second while it executes."""
    after = query(_QUERY).get("after", 0)
    lines = store().run_logs(checked_id(run_id), after=after, limit=KEPT)
    return answer({"logs": [_line(item) for item in lines], "dropped": bool(lines) and lines[0].number > after + 1})


def _line(item: LogLine) -> dict[str, Any]:
    return {
        "number": item.number,
        "time": wire.time_to_json(item.logged_at),
        "level": item.level,
        "logger": item.logger,
        "message": item.message,
        "attempt": item.attempt,
        "step": item.step,
    }
