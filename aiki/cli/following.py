"""`aiki runs watch`, `events` and `export`: a run followed to its end, what came to it, and runs as a file."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from typing import Any, Final

import click

from aiki.cli import asking, bar, common
from aiki.cli.asking import Api
from aiki.cli.batches import INTERRUPTED
from aiki.client import wire
from aiki.history import OPEN
from aiki.states import TERMINAL, State

_WAIT: Final = 1
"""Seconds that one look at a run may wait for its end."""
_STEPS: Final = 1000
_PAGE: Final = 200


# ---------------------------------------------------------------- watch
@click.command()
@click.argument("run_id", metavar="RUN")
@asking.options
def watch(run_id: str, output: str, **given: str | None) -> None:
    """Follow a run until it ends: its states, progress, and a workflow's steps.

    Exit code 0 if it completed, 1 if it ended otherwise. Interrupting this command leaves the run alone.
    """
    with asking.opened(**given) as api:
        try:
            run = _followed(api, run_id, output)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
    if output == "json":
        common.print_data(output, run)
    sys.exit(0 if run["state"] == State.COMPLETED else 1)


def _followed(api: Api, run_id: str, output: str) -> dict[str, Any]:
    told: tuple[Any, ...] | None = None
    steps = _Steps(api, run_id, output)
    wait = 0
    while True:
        run: dict[str, Any] = api.ask("GET", asking.path("runs", run_id, wait=wait))
        if run["kind"] == "workflow":
            steps.look()
        now = tuple(run[name] for name in ("state", "attempt", "waiting_on", "progress", "progress_message"))
        if now != told:
            told = now
            _tell(output, run, _run_line(run))
        if run["state"] in TERMINAL:
            return run
        wait = _WAIT


def _run_line(run: dict[str, Any]) -> str:
    error = ": ".join(text for text in (run["error_type"], run["error_message"]) if text)
    share = "" if run["progress"] is None else f"{run['progress']:.0%}"
    attempt = f"attempt {run['attempt']}" if run["attempt"] > 1 else ""
    more = (attempt, run["waiting_on"], share, run["progress_message"], error if run["state"] in TERMINAL else "")
    return f"{run['updated_at']}  {run['name']}  {run['state']}  " + "; ".join(text for text in more if text)


class _Steps:
    """A workflow's steps: what is new of them, and how those that were open went on."""

    def __init__(self, api: Api, run_id: str, output: str) -> None:
        self._api = api
        self._run_id = run_id
        self._output = output
        self._open: dict[int, tuple[str, int]] = {}
        self._last = -1

    def look(self) -> None:
        """Tell what has changed."""
        for step in self._pages(min(self._open, default=self._last + 1) - 1):
            ordinal, seen = step["ordinal"], (step["state"], step["attempt"])
            if ordinal <= self._last and self._open.get(ordinal, seen) == seen:
                continue
            self._last = max(self._last, ordinal)
            if step["state"] == OPEN:
                self._open[ordinal] = seen
            else:
                self._open.pop(ordinal, None)
            _tell(self._output, step, _step_line(step))

    def _pages(self, after: int) -> Iterator[dict[str, Any]]:
        while True:
            page = self._api.ask("GET", asking.path("runs", self._run_id, "history", after=after, limit=_STEPS))
            yield from page["steps"]
            if page["next"] is None:
                return
            after = page["next"]


def _step_line(step: dict[str, Any]) -> str:
    error = ": ".join(text for text in (step["error_type"], step["error_message"]) if text)
    took = None if step["millis"] is None else common.duration(step["millis"] / 1000)
    attempt = f"attempt {step['attempt']}" if step["attempt"] > 1 else ""
    when = step["finished_at"] or step["created_at"]
    return f"{when}  step {step['ordinal']} {step['kind']} {step['name']}  {step['state']}  " + "; ".join(
        text for text in (attempt, took, error) if text
    )


def _tell(output: str, data: dict[str, Any], line: str) -> None:
    if output == "jsonl":
        common.print_data(output, data)
    elif output == "table":
        click.echo(common.printable(line).rstrip())


# ---------------------------------------------------------------- events
@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("-n", "--limit", type=click.IntRange(1, 200), default=50, show_default=True, help="How many.")
@click.option("--after", metavar="TOKEN", help="Go on where the page before ended, as it said.")
@asking.options
def events(run_id: str, limit: int, after: str | None, output: str, **given: str | None) -> None:
    """List what came to a run from outside: events, ends of its children, orders of its parent."""
    with asking.opened(**given) as api:
        page = api.ask("GET", asking.path("runs", run_id, "events", limit=limit, after=after))
        now = api.now()
    if output != "table":
        common.print_data(output, page, "events")
        return
    header = ("CAME", "KIND", "NAME", "TAKEN BY STEP", "OUTCOME", "ERROR")
    common.print_table(header, [_event_line(event, now) for event in page["events"]])
    if page["next"]:
        click.echo(f"more: --after {page['next']}", err=True)


def _event_line(event: dict[str, Any], now: int) -> tuple[Any, ...]:
    error = ": ".join(text for text in (event["error_type"], event["error_message"]) if text)
    came = common.since(event["created_at"], now)
    return came, event["kind"], event["name"], event["step"], event["outcome"] or None, error[:100] or None


# ---------------------------------------------------------------- export
@click.command()
@click.argument("words", metavar="[FILTER]...", nargs=-1)
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="At most so many; all without it.")
@common.namespace_option
@common.broker_option
@common.database_option
@common.server_option
def export(words: tuple[str, ...], form: str, limit: int | None, **given: str | None) -> None:
    """Write runs that match to standard output, newest first, page by page: however many there are."""
    q = common.filter_of(words) or None
    with asking.opened(**given) as api, bar.progress("export") as show:
        try:
            _write(_runs(api, q, limit), form, show)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def _runs(api: Api, q: str | None, limit: int | None) -> Iterator[dict[str, Any]]:
    after, left = None, limit
    while True:
        page = api.ask("GET", asking.path("runs", q=q, limit=min(_PAGE, left or _PAGE), after=after))
        yield from page["runs"]
        left = None if left is None else left - len(page["runs"])
        after = page["next"]
        if after is None or left == 0:
            return


def _write(runs: Iterator[dict[str, Any]], form: str, show: bar.Show) -> None:
    lines = csv.writer(sys.stdout)
    for count, run in enumerate(runs, 1):
        if form == "jsonl":
            common.print_data("jsonl", run)
            continue
        if count == 1:
            lines.writerow(run)
        lines.writerow([wire.csv_cell(value) for value in run.values()])
        if count % _PAGE == 0:
            show(None, f"{count:,} runs")
