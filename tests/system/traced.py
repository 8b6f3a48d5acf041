"""Tasks and a workflow in processes that trace: each span is a line in the ledger. Found by workers as the module `traced`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from aiki import Aiki, RetryPolicy, WorkflowRun, current_run

app = Aiki("traced")


class Ledger(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with (Path(os.environ["LEDGER"]) / f"spans-{os.getpid()}").open("a") as file:
            for span in spans:
                file.write(json.dumps(json.loads(span.to_json(indent=None))) + "\n")
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Ledger()))
trace.set_tracer_provider(provider)


@app.task(retry=RetryPolicy.fixed(max_attempts=2, delay=0.1))
def sometimes(i: int) -> int:
    if current_run().attempt == 1:
        raise ValueError("not yet")
    with trace.get_tracer("mine").start_as_current_span("my own"):
        return i


@app.task
async def double(i: int) -> int:
    with trace.get_tracer("mine").start_as_current_span("my async own"):
        return 2 * i


@app.workflow
def flow(run: WorkflowRun) -> int:
    one = double(1)
    two = double.submit(2)
    run.sleep("rest", 0.1)
    return one + two.result() + double(3)


if __name__ == "__main__":
    with provider.get_tracer("mine").start_as_current_span("request"):
        handles = [sometimes.enqueue(1), flow.enqueue()]
    print([handle.result(timeout=30) for handle in handles])
