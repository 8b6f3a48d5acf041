"""`aiki runs`: list, show, retry, rerun and cancel, through the client that the settings name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aiki import codec
from aiki.cli import common
from aiki.codec import Payload
from aiki.errors import AikiError, DecodeError, RunNotFound, Unavailable
from aiki.model import Attempt, RunDetail, RunFilter, RunView
from aiki.states import State

if TYPE_CHECKING:
    from aiki.client import Client

F = TypeVar("F", bound=Callable[..., Any])


def _client_options(function: F) -> F:
    for option in (
        common.output_option,
        common.namespace_option,
        common.broker_option,
        common.database_option,
        common.server_option,
    ):
        function = option(function)
    return function


@contextmanager
def _client(**given: str | None) -> Iterator[Client]:
    from aiki.client import open_client

    client = open_client(common.settings_of(**given), "aiki runs")
    try:
        yield client
    finally:
        client.close()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def runs() -> None:
    """List, show, retry, rerun and cancel runs.

    Asks the server that --server or AIKI_SERVER_URL names; without one, the database and the broker.
    """


@runs.command("list")
@click.option(
    "-s",
    "--state",
    "states",
    multiple=True,
    type=click.Choice([item.value for item in State]),
    help="Only these; may be repeated.",
)
@click.option("--name", metavar="TASK", help="Only runs of this task.")
@click.option("-Q", "--queue", metavar="NAME", help="Only runs of this queue.")
@click.option("--reference", "reference_id", metavar="ID", help="Only the run with this reference id.")
@click.option("-n", "--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many.")
@click.option("--after", metavar="RUN", help="Go on behind this run, the last of the page before.")
@_client_options
def list_(
    states: tuple[str, ...],
    name: str | None,
    queue: str | None,
    reference_id: str | None,
    limit: int,
    after: str | None,
    output: str,
    **given: str | None,
) -> None:
    """List runs, newest first."""
    where = RunFilter(states=tuple(State(item) for item in states), name=name, queue=queue, reference_id=reference_id)
    with _client(**given) as client:
        page = client.list(where, limit=limit, after=after)
        now = client.now()
    if output == "json":
        common.print_json({"runs": [common.run_json(run) for run in page.runs], "next": page.next})
        return
    header = ("RUN", "NAME", "QUEUE", "STATE", "ATTEMPT", "CREATED", "WHY")
    common.print_table(header, [_line(run, now) for run in page.runs])
    if page.next:
        click.echo(f"more: --after {page.next}", err=True)


def _line(run: RunView, now: int) -> tuple[Any, ...]:
    why = run.waiting_on if not run.ended else _error(run)
    return run.id, run.name, run.queue, run.state, run.attempt, common.ago(run.created_at, now), (why or "")[:100]


def _error(run: RunView) -> str | None:
    if run.error_type and run.error_message:
        return f"{run.error_type}: {run.error_message}"
    return run.error_type or run.error_message


@runs.command()
@click.argument("run_id", metavar="RUN")
@_client_options
def show(run_id: str, output: str, **given: str | None) -> None:
    """Show a run: its state, input, result, and each attempt that did not end in a result."""
    with _client(**given) as client:
        detail = client.detail(run_id)
        now = client.now()
    if output == "json":
        common.print_json(_detail_json(detail))
    else:
        _print_detail(detail, now)


def _detail_json(detail: RunDetail) -> dict[str, Any]:
    attempts = [
        {key: common.when(value) if key.endswith("_at") else value for key, value in asdict(attempt).items()}
        for attempt in detail.attempts
    ]
    return {
        **common.run_json(detail.run),
        "input": _payload_json(detail.input),
        "result": _payload_json(detail.result),
        "traceback": detail.traceback,
        "attempts": attempts,
    }


def _payload_json(payload: Payload | None) -> Any:
    """What a payload says, as the JSON it is; its encoding where it cannot be read here."""
    if payload is None:
        return None
    try:
        return json.loads(codec.json_text(payload))
    except (DecodeError, ValueError):
        return {"encoding": payload.encoding, "text": payload.text}


def _payload_text(payload: Payload | None) -> str | None:
    if payload is None:
        return None
    text = json.dumps(_payload_json(payload), ensure_ascii=False)
    return text if len(text) <= 2000 else f"{text[:2000]}… ({len(text):,} characters; -o json shows all)"


def _print_detail(detail: RunDetail, now: int) -> None:
    run = detail.run
    progress = None if run.progress is None and not run.progress_message else _progress(run)
    lines = [
        ("run", run.id),
        ("name", f"{run.name}@{run.version}"),
        ("queue", run.queue),
        ("state", run.state + (" (to be cancelled)" if run.cancel_requested and not run.ended else "")),
        ("waiting on", run.waiting_on),
        ("attempt", run.attempt),
        ("crashes", run.crashes or None),
        ("reference id", run.reference_id),
        ("worker", run.worker),
        ("progress", progress),
        *((name, _moment(value, now)) for name, value in _times(run)),
        ("input", _payload_text(detail.input)),
        ("result", _payload_text(detail.result)),
        ("error", _error(run)),
    ]
    for name, value in lines:
        if value is not None:
            click.echo(f"{name + ':':<14}{common.printable(value)}")
    if detail.attempts:
        click.echo("\nattempts that did not end in a result:")
        header = ("NUMBER", "OUTCOME", "HOW", "WORKER", "FINISHED", "ERROR")
        common.print_table(header, [_attempt_line(attempt, now) for attempt in detail.attempts])
    if detail.traceback:
        click.echo("\n" + "\n".join(common.printable(line) for line in detail.traceback.splitlines()))


def _progress(run: RunView) -> str:
    share = "" if run.progress is None else f"{run.progress:.0%} "
    return share + (run.progress_message or "")


def _times(run: RunView) -> list[tuple[str, int | None]]:
    times = [("created", run.created_at), ("started", run.started_at), ("finished", run.finished_at)]
    return times if run.ended else [*times, ("due", run.due_at), ("expires", run.expires_at)]


def _moment(micros: int | None, now: int) -> str | None:
    return None if micros is None else f"{common.when(micros)} ({common.ago(micros, now)})"


def _attempt_line(attempt: Attempt, now: int) -> tuple[Any, ...]:
    how = attempt.signal or (None if attempt.exit_code is None else f"exit code {attempt.exit_code}")
    error = f"{attempt.error_type}: {attempt.error_message}"
    return attempt.number, attempt.outcome, how, attempt.worker[:16], common.ago(attempt.finished_at, now), error[:200]


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@_client_options
def retry(run_ids: tuple[str, ...], output: str, **given: str | None) -> None:
    """Have failed, dead or cancelled runs go on, under the same ids."""
    with _client(**given) as client:
        _each(run_ids, client.retry, output)


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@_client_options
def rerun(run_ids: tuple[str, ...], output: str, **given: str | None) -> None:
    """Start new runs with the same input; prints their ids."""
    with _client(**given) as client:
        _each(run_ids, lambda run_id: client.get(client.rerun(run_id).id), output)


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option("--reason", default="", help="Recorded with the run.")
@_client_options
def cancel(run_ids: tuple[str, ...], reason: str, output: str, **given: str | None) -> None:
    """Cancel runs: at once if nobody executes them, else they are interrupted. An ended run stays as it is."""
    with _client(**given) as client:
        _each(run_ids, lambda run_id: client.cancel(run_id, reason=reason), output)


def _each(run_ids: tuple[str, ...], act: Callable[[str], RunView], output: str) -> None:
    """Do it to each run; what fails for one is told, and the others are still done. Exits with 1 if any failed."""
    done, failed = [], False
    for run_id in run_ids:
        try:
            done.append(act(run_id))
        except Unavailable:
            raise
        except AikiError as error:
            failed = True
            text = f"there is no run {run_id}" if isinstance(error, RunNotFound) else str(error)
            click.echo(f"aiki: {text}", err=True)
    if output == "json":
        common.print_json([common.run_json(run) for run in done])
    else:
        for run in done:
            pending = " (to be cancelled: a worker executes it)" if run.cancel_requested and not run.ended else ""
            click.echo(f"{run.id}  {run.state}{pending}")
    if failed:
        sys.exit(1)
