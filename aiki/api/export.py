"""Runs as a file: newline-delimited JSON or CSV, sent while it is read, page by page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from typing import Final

from flask import Blueprint, Response, request

from aiki.api import schemas
from aiki.api.access import needs
from aiki.api.openapi import describe
from aiki.api.problems import Refused
from aiki.api.requests import backend, query, store
from aiki.api.runs import where_of
from aiki.client import wire
from aiki.filters import Filter
from aiki.model import RunView
from aiki.storage import Store

blueprint = Blueprint("export", __name__)

PAGE: Final = 500
COLUMNS: Final = tuple(spec.name for spec in fields(RunView))
NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"
_QUERY: Final = schemas.ExportQuery()


@blueprint.get("/runs/export")
@needs("look")
@describe(
    query=_QUERY,
    repeatable=("state",),
    media={
        NDJSON: "One run a line, as in lists.",
        CSV: "The same with a header line; text that a spreadsheet would run is quoted.",
    },
)
def export_runs() -> Response:
    """Runs that match, newest first, as a file: `format` is `ndjson` (the default) or `csv`.

    At most `limit` runs, 200,000 by default; for more, ask for one span of time after the other (`created_before`). The file is
    sent while it is read; if it cannot be read to its end, the connection is cut off without the last chunk.
    """
    asked = query(_QUERY, repeatable=("state",))
    where, form = where_of(asked), asked.get("format", "ndjson")
    kind, write = (CSV, _csv) if form == "csv" else (NDJSON, _ndjson)
    stack = ExitStack()
    if not stack.enter_context(backend().holding_a_thread()):
        detail = "too many requests that take long are under way; ask again later"
        raise Refused(429, "too_many_requests", detail, retry_after=5)
    body: Iterable[str] = ()
    if request.method != "HEAD":
        body = write(_found(store(), where, asked.get("limit", schemas.MAX_EXPORT)))
    response = Response(body, mimetype=kind)
    response.call_on_close(stack.close)
    response.headers["Content-Disposition"] = f'attachment; filename="runs.{form}"'
    return response


def _found(at: Store, where: Filter, limit: int) -> Iterator[list[RunView]]:
    """Pages of runs. The first one is read before the answer begins, so that an error is answered as a problem."""
    page = at.search(where, limit=min(PAGE, limit))

    def pages() -> Iterator[list[RunView]]:
        found, left = page, limit
        while True:
            yield found.runs[:left]
            left -= len(found.runs)
            if found.next is None or left <= 0:
                return
            found = at.search(where, limit=min(PAGE, left), after=found.next)

    return pages()


def _ndjson(pages: Iterable[list[RunView]]) -> Iterator[str]:
    for page in pages:
        yield "".join(json.dumps(wire.run_to_json(run), separators=(",", ":")) + "\n" for run in page)


def _csv(pages: Iterable[list[RunView]]) -> Iterator[str]:
    yield ",".join(COLUMNS) + "\r\n"
    for page in pages:
        lines = io.StringIO()
        csv.writer(lines).writerows([wire.csv_cell(value) for value in wire.run_to_json(run).values()] for run in page)
        yield lines.getvalue()
