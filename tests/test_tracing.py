"""Spans with the SDK's own in-memory exporter, and what travels."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from aiki import codec, tracing
from aiki.messages import OPT_TRACE, Dispatch, Report
from aiki.model import NewRun

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "_tracer", lambda: provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def run(**options: object) -> NewRun:
    return NewRun("0190aaaa-bbbb-7ccc-8ddd-000000000001", "a", codec.encode([[], {}]), options=dict(options))


def dispatch(**options: object) -> Dispatch:
    return Dispatch("0190aaaabbbb7ccc8ddd000000000001", 1, "a", "1", 2, 0, "json", "[[],{}]", dict(options))


def test_runs_carry_the_span_that_made_them(exported: InMemorySpanExporter) -> None:
    shared = {"tl": 5}
    runs = [NewRun(f"0190aaaa-bbbb-7ccc-8ddd-00000000000{n}", "a", codec.encode([[], {}]), options=shared) for n in (1, 2)]
    with tracing.producing("enqueue", "a", runs):
        pass
    (span,) = exported.get_finished_spans()
    assert span.attributes is not None
    assert (span.name, span.attributes["messaging.batch.message_count"]) == ("enqueue a", 2)
    carried = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"
    assert [one.options for one in runs] == [{"tl": 5, OPT_TRACE: carried}] * 2
    assert shared == {"tl": 5}


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (Report("completed", "", 1, {}), StatusCode.OK),
        (Report("failed", "", 1, {"type": "ValueError"}), StatusCode.ERROR),
        (Report("suspended", "", 1, {}), StatusCode.UNSET),
        (Report("cancelled", "", 1, {}), StatusCode.UNSET),
    ],
)
def test_an_execution_is_a_child_of_what_it_carries(exported: InMemorySpanExporter, report: Report, status: StatusCode) -> None:
    span = tracing.begin(dispatch(tp=PARENT), "task", contextvars.copy_context())
    assert span is not None
    tracing.end(span, report, ValueError("no") if report.kind == "failed" else None)
    (found,) = exported.get_finished_spans()
    assert found.parent is not None
    assert (found.context.trace_id, found.parent.span_id) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)
    assert found.status.status_code is status
    assert found.attributes is not None
    assert found.attributes["aiki.outcome"] == report.kind


@pytest.mark.parametrize("odd", ["", "nonsense", 5, None, "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_what_is_no_trace_begins_one(exported: InMemorySpanExporter, odd: object) -> None:
    span = tracing.begin(dispatch(tp=odd), "task", contextvars.copy_context())
    assert span is not None
    span.end()
    assert exported.get_finished_spans()[0].parent is None


def test_a_step_that_raises_is_an_error(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="no"), tracing.step("a", 3, 1):
        raise ValueError("no")
    assert exported.get_finished_spans()[0].status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (PARENT, True),
        ("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", True),
        (PARENT.upper(), False),
        ("ff" + PARENT[2:], False),
        (PARENT + "-x", False),
        ("00-" + "0" * 32 + "-b7ad6b7169203331-01", False),
        ("", False),
    ],
)
def test_traceparents(text: str, good: bool) -> None:
    assert tracing.checked(text) == (text if good else "")
