"""OpenTelemetry spans, in processes whose application uses it: from `enqueue` over the execution to each step.

Aiki configures nothing and imports nothing: a process traces once the application (or `opentelemetry-instrument`) has imported
`opentelemetry.trace`, and what it has set up decides what becomes of the spans. The trace travels in a run's options as a W3C
`traceparent` (`messages.OPT_TRACE`), also through the server, which needs no OpenTelemetry for it.

| span | kind | begins and ends |
|---|---|---|
| `enqueue NAME` | producer | with the call; the runs that it records belong to it |
| `execute NAME` | consumer | with an execution of the run, each attempt and each call of a workflow's function |
| `step NAME` | internal | with a step that really runs: one that is replayed has none |
| `submit NAME` | producer | where a workflow starts a run |
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from aiki.messages import OPT_TRACE

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from aiki.messages import Dispatch, Report
    from aiki.model import NewRun

TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_API: Final = "opentelemetry.trace"
_ERRORS: Final = frozenset({"failed", "retry"})


def checked(text: str) -> str:
    """A `traceparent` if it is one; else an empty text: a trace is never worth refusing a request."""
    return text if TRACEPARENT.fullmatch(text) else ""


def active() -> bool:
    """Whether this process traces."""
    return _API in sys.modules


def traceparent() -> str:
    """The current span, as it travels; empty where there is none."""
    if not active():
        return ""
    from opentelemetry import trace  # the process has imported it already

    return _text(trace.get_current_span())


def _text(span: Span) -> str:
    found = span.get_span_context()
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}" if found.is_valid else ""


def _tracer() -> Tracer:
    from opentelemetry import trace

    return trace.get_tracer("aiki")


# ---------------------------------------------------------------- enqueue
@contextmanager
def producing(what: str, name: str, runs: Iterable[NewRun]) -> Iterator[None]:
    """Around the recording of runs: they belong to the span of this. `what`: enqueue or submit."""
    if not active():
        yield
        return
    from opentelemetry.trace import SpanKind

    runs = list(runs)
    attributes: dict[str, Any] = {"messaging.system": "aiki", "messaging.operation.type": "send", "aiki.name": name}
    if len(runs) == 1:
        attributes["aiki.run_id"] = runs[0].id
    else:
        attributes["messaging.batch.message_count"] = len(runs)
    with _tracer().start_as_current_span(f"{what} {name}", kind=SpanKind.PRODUCER, attributes=attributes) as span:
        carried = _text(span)
        if carried:
            for run in runs:
                run.options = {**run.options, OPT_TRACE: carried}  # options are shared by runs
        yield


# ---------------------------------------------------------------- execution
def begin(dispatch: Dispatch, kind: str, context: Context) -> Span | None:
    """A span for an execution, current in `context`; None where this process does not trace."""
    if not active():
        return None
    from opentelemetry import context as contexts
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    from aiki import ids

    parent = TraceContextTextMapPropagator().extract(
        {"traceparent": str(dispatch.options.get(OPT_TRACE, ""))}, contexts.Context()
    )
    span = _tracer().start_span(
        f"execute {dispatch.name}",
        parent,
        trace.SpanKind.CONSUMER,
        {
            "messaging.system": "aiki",
            "messaging.operation.type": "process",
            "aiki.name": dispatch.name,
            "aiki.run_id": ids.to_text(bytes.fromhex(dispatch.run_id)),
            "aiki.kind": kind,
            "aiki.version": dispatch.version,
            "aiki.attempt": dispatch.attempt,
        },
    )
    context.run(contexts.attach, trace.set_span_in_context(span, parent))
    return span


def end(span: Span, report: Report, error: BaseException | None) -> None:
    """The execution is over, with this report."""
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("aiki.outcome", report.kind)
    if report.kind in _ERRORS:
        if error is not None:
            span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, str(report.body.get("type", ""))))
        if "delay" in report.body:
            span.add_event("retry", {"aiki.delay": float(report.body["delay"])})
    elif report.kind == "completed":
        span.set_status(Status(StatusCode.OK))
    span.end()


@contextmanager
def step(name: str, ordinal: int, attempt: int) -> Iterator[None]:
    """Around a step that runs. An exception makes it an error."""
    if not active():
        yield
        return
    attributes: dict[str, Any] = {"aiki.name": name, "aiki.step": ordinal, "aiki.attempt": attempt}
    with _tracer().start_as_current_span(f"step {name}", attributes=attributes):
        yield


def flush(millis: int = 2000) -> None:
    """Have what is kept exported: this process ends."""
    if not active():
        return
    from opentelemetry import trace

    force = getattr(trace.get_tracer_provider(), "force_flush", None)
    if force is not None:
        force(millis)
