"""A workflow's steps as people read them: a table, folded where it is long, or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from aiki import codec
from aiki.cli import common
from aiki.codec import Payload
from aiki.errors import DecodeError
from aiki.history import OPEN
from aiki.model import StepView

if TYPE_CHECKING:
    from aiki.client import Client

SHOWN: Final = 50
"""Steps that `aiki runs show` prints; of more, the first and the last half."""
_PAGE: Final = 1000
_HEADER: Final = ("STEP", "KIND", "NAME", "STATE", "ATTEMPT", "TOOK", "CHILD", "WHY")


def all_steps(client: Client, run_id: str) -> Iterator[StepView]:
    """All that a workflow has issued, fetched page by page."""
    after = -1
    while page := client.history(run_id, after=after, limit=_PAGE):
        yield from page
        after = page[-1].ordinal


def folded(run_id: str, steps: Sequence[StepView], now: int) -> list[str]:
    """The lines of a table of the steps, with the middle of a long one left out."""
    left_out = max(0, len(steps) - SHOWN)
    shown = [*steps[: SHOWN // 2], *steps[-SHOWN // 2 :]] if left_out else steps
    lines = common.table_lines(_HEADER, [_line(step, now) for step in shown])
    if left_out:
        lines.insert(1 + SHOWN // 2, f"… {left_out:,} more: aiki runs history {run_id}")
    return lines


def with_results(steps: Sequence[StepView], now: int) -> list[str]:
    """The lines of a table of the steps and the beginnings of their results."""
    rows = [(*_line(step, now)[:-1], _result(step), _why(step, now)) for step in steps]
    return common.table_lines((*_HEADER[:-1], "RESULT", _HEADER[-1]), rows)


def _line(step: StepView, now: int) -> tuple[Any, ...]:
    took = None if step.millis is None else common.duration(step.millis / 1000)
    attempt = step.attempt or None
    return step.ordinal, step.kind, step.name[:60], step.state, attempt, took, step.child_id, _why(step, now)


def _why(step: StepView, now: int) -> str:
    """The error, and until when an open step waits."""
    error = ": ".join(text for text in (step.error_type, step.error_message) if text)
    until = f"due {common.ago(step.due_at, now)}" if step.state == OPEN and step.due_at is not None else ""
    return "; ".join(text for text in (until, error) if text)[:200]


def _result(step: StepView) -> str | None:
    text = None if step.result is None else json.dumps(payload_json(step.result), ensure_ascii=False)
    return text if text is None or len(text) <= 60 else f"{text[:59]}…"


def step_json(step: StepView) -> dict[str, Any]:
    """A step as JSON data: the fields of `StepView`, times as ISO 8601, the result as the JSON it is."""
    data = {**asdict(step), "result": payload_json(step.result)}
    return {key: common.when(value) if key.endswith("_at") else value for key, value in data.items()}


def payload_json(payload: Payload | None) -> Any:
    """The JSON of a payload; its encoding where it cannot be read here."""
    if payload is None:
        return None
    try:
        return json.loads(codec.json_text(payload))
    except (DecodeError, ValueError):
        return {"encoding": payload.encoding, "text": payload.text}
