"""`aiki runs`: look at runs and act on them. Each verb is the API's, asked over HTTP or in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from aiki import codec, ids
from aiki.cli import asking, batches, common, following, steps
from aiki.cli.access import actor
from aiki.cli.asking import Api
from aiki.client import wire
from aiki.codec import Payload
from aiki.errors import AikiError, RunNotFound, Unavailable
from aiki.ids import parse_id
from aiki.model import Attempt, RunDetail, RunView, StepView
from aiki.options import check_reference, check_step_name
from aiki.states import State

if TYPE_CHECKING:
    from aiki.client import Client


_reason_option = click.option("--reason", default="", help="Why: recorded in the audit, with who did it.")


def _bulk_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("-y", "--yes", is_flag=True, help="With --all: however many there are, do not ask."),
        batches.wait_option,
        click.option("--all", "all_", metavar="FILTER", help="Not some runs but all that match, as one batch."),
    ):
        function = option(function)
    return function


def _one_by_one(run_ids: tuple[str, ...], given: dict[str, Any]) -> dict[str, str | None]:
    """The options without those of batches, which are for `--all`."""
    if not run_ids:
        raise click.UsageError("name runs, or all that match: --all FILTER")
    return {name: value for name, value in given.items() if name not in ("all_", "wait", "yes")}


def _all(operation: str, run_ids: tuple[str, ...], reason: str, output: str, given: dict[str, Any]) -> None:
    if run_ids:
        raise click.UsageError("name runs, or say --all FILTER (in quotes, as one word), not both")
    target = {"q": common.filter_of([given.pop("all_")])}
    yes, wait = given.pop("yes"), given.pop("wait")
    with asking.opened(**given) as api:
        batches.begin(api, operation, target, output, reason=reason, yes=yes, wait=wait)


@contextmanager
def _client(**given: str | None) -> Iterator[Client]:
    from aiki.client import open_client

    client = open_client(common.settings_of(**given), actor())
    try:
        yield client
    finally:
        client.close()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def runs() -> None:
    """Look at runs, and act on them.

    Asks the server that --server or AIKI_SERVER_URL names; without one, the database and the broker.
    """


@runs.command("list")
@click.argument("words", metavar="[FILTER]...", nargs=-1)
@click.option(
    "-s",
    "--state",
    "states",
    multiple=True,
    type=click.Choice([item.value for item in State]),
    help="Only these; may be repeated.",
)
@click.option("--name", metavar="TASK", help="Only runs of this task or workflow.")
@click.option("--kind", type=click.Choice(["task", "workflow"]), help="Only tasks, or only workflows.")
@click.option("--parent", metavar="RUN", help="Only what this workflow's run started.")
@click.option("-Q", "--queue", metavar="NAME", help="Only runs of this queue.")
@click.option("--reference", "reference_id", metavar="ID", help="Only the run with this reference id.")
@click.option("-n", "--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many.")
@click.option("--after", metavar="TOKEN", help="Go on where the page before ended, as it said.")
@asking.options
def list_(
    words: tuple[str, ...],
    states: tuple[str, ...],
    limit: int,
    after: str | None,
    output: str,
    name: str | None,
    kind: str | None,
    parent: str | None,
    queue: str | None,
    reference_id: str | None,
    **given: str | None,
) -> None:
    """List runs, newest first.

    \b
    FILTER: what is to match, as in the dashboard:
      aiki runs list 'status:failed name:mail* since:1h'
      aiki runs list -- '-status:completed error:Timeout* args.order_id:42'
    """
    if parent is not None and parse_id(parent) is None:
        raise click.BadParameter(f"{parent!r} is not a run id", param_hint="--parent")
    fields = {"name": name, "kind": kind, "parent": parent, "queue": queue, "reference_id": reference_id}
    q = common.filter_of(words) or None
    with asking.opened(**given) as api:
        page = api.ask("GET", asking.path("runs", q=q, state=states or None, limit=limit, after=after, **fields))
        now = api.now()
    found = [wire.run_from_json(item) for item in page["runs"]]
    if output != "table":
        data = {"runs": [common.run_json(run) for run in found], "next": page["next"]}
        common.print_data(output, data, "runs")
        return
    header = ("RUN", "NAME", "QUEUE", "STATE", "ATTEMPT", "CREATED", "WHY")
    common.print_table(header, [_line(run, now) for run in found])
    if page["next"]:
        looked = "" if page["complete"] else f" (few match; looked through {page['looked']:,} runs so far)"
        click.echo(f"more: --after {page['next']}{looked}", err=True)


def _line(run: RunView, now: int) -> tuple[Any, ...]:
    why = run.waiting_on if not run.ended else _error(run)
    return run.id, run.name, run.queue, run.state, run.attempt, common.ago(run.created_at, now), (why or "")[:100]


def _error(run: RunView) -> str | None:
    if run.error_type and run.error_message:
        return f"{run.error_type}: {run.error_message}"
    return run.error_type or run.error_message


@runs.command()
@click.argument("run_id", metavar="RUN")
@asking.options
def show(run_id: str, output: str, **given: str | None) -> None:
    """Show a run: its state, input, result, a workflow's steps, and each attempt that did not end in a result."""
    with _client(**given) as client:
        detail = client.detail(run_id)
        issued = list(steps.all_steps(client, detail.run.id)) if detail.run.kind == "workflow" else []
        now = client.now()
    if output != "table":
        common.print_data(output, _detail_json(detail, issued))
    else:
        _print_detail(detail, issued, now)


def _detail_json(detail: RunDetail, issued: list[StepView]) -> dict[str, Any]:
    attempts = [
        {key: common.when(value) if key.endswith("_at") else value for key, value in asdict(attempt).items()}
        for attempt in detail.attempts
    ]
    return {
        **common.run_json(detail.run),
        "input": steps.payload_json(detail.input),
        "result": steps.payload_json(detail.result),
        "traceback": detail.traceback,
        "attempts": attempts,
        "steps": [steps.step_json(step) for step in issued],
    }


def _payload_text(payload: Payload | None) -> str | None:
    if payload is None:
        return None
    text = json.dumps(steps.payload_json(payload), ensure_ascii=False)
    return text if len(text) <= 2000 else f"{text[:2000]}… ({len(text):,} characters; -o json shows all)"


def _print_detail(detail: RunDetail, issued: list[StepView], now: int) -> None:
    run = detail.run
    progress = None if run.progress is None and not run.progress_message else _progress(run)
    lines = [
        ("run", run.id),
        ("name", f"{run.name}@{run.version}"),
        ("parent", run.parent_id),
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
    if issued:
        click.echo("\nsteps:")
        for line in steps.folded(run.id, issued, now):
            click.echo(line)
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
@click.argument("run_id", metavar="RUN")
@click.option("-n", "--limit", type=click.IntRange(1, 5000), default=1000, show_default=True, help="How many.")
@click.option("--after", type=click.IntRange(-1), default=-1, metavar="STEP", help="Only steps behind this one.")
@asking.options
def history(run_id: str, limit: int, after: int, output: str, **given: str | None) -> None:
    """List what a workflow has issued, step by step, with results."""
    with _client(**given) as client:
        issued = client.history(run_id, after=after, limit=limit)
        now = client.now()
    following = issued[-1].ordinal if len(issued) == limit else None
    if output != "table":
        common.print_data(output, {"steps": [steps.step_json(step) for step in issued], "next": following}, "steps")
        return
    for line in steps.with_results(issued, now):
        click.echo(line)
    if following is not None:
        click.echo(f"more: --after {following}", err=True)


# ---------------------------------------------------------------- act
@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1)
@_bulk_options
@_reason_option
@asking.options
def retry(run_ids: tuple[str, ...], **given: Any) -> None:
    """Have failed, dead or cancelled runs go on, under the same ids, their retry policies from the beginning."""
    _act("retry", run_ids, given)


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option("--from-step", type=click.IntRange(0), metavar="STEP", help="Of a workflow: copy what was done before this step.")
@_reason_option
@asking.options
def rerun(run_ids: tuple[str, ...], from_step: int | None, reason: str, output: str, **given: str | None) -> None:
    """Start new runs with the same input; prints their ids."""

    def start(api: Api, run_id: str) -> RunView:
        asked = {"id": str(ids.new_id()), "from_step": from_step, "reason": reason}
        made = api.ask("POST", asking.path("runs", run_id, "rerun"), asked)
        return wire.run_from_json(api.ask("GET", asking.path("runs", made["id"])))

    with asking.opened(**given) as api:
        _each(run_ids, lambda run_id: start(api, run_id), output)


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1)
@_bulk_options
@_reason_option
@asking.options
def cancel(run_ids: tuple[str, ...], **given: Any) -> None:
    """Cancel runs: at once if nobody executes them, else they are interrupted. An ended run stays as it is.

    A workflow that has begun meets the cancel in its code, which may compensate; a second cancel ends it at once.
    """
    _act("cancel", run_ids, given)


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1)
@_bulk_options
@_reason_option
@asking.options
def terminate(run_ids: tuple[str, ...], **given: Any) -> None:
    """End runs now, without calling their code again: nothing is compensated."""
    _act("terminate", run_ids, given)


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1)
@_bulk_options
@_reason_option
@asking.options
def pause(run_ids: tuple[str, ...], **given: Any) -> None:
    """Keep runs from going on until they are resumed. A workflow that runs stops at its next durable point."""
    _act("pause", run_ids, given, _to_be_paused)


def _to_be_paused(run: RunView) -> str:
    return " (to be paused: at its next durable point)" if run.state is State.RUNNING else ""


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1)
@_bulk_options
@_reason_option
@asking.options
def resume(run_ids: tuple[str, ...], **given: Any) -> None:
    """Have paused runs go on."""
    _act("resume", run_ids, given)


@runs.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@click.option("--name", default="", help="The sleep of this name; without it, whatever the workflow sleeps in.")
@_reason_option
@asking.options
def wake(run_ids: tuple[str, ...], name: str, reason: str, output: str, **given: str | None) -> None:
    """End workflows' sleeps early."""
    if name:
        check_step_name(name)
    asked = {"name": name, "reason": reason} if name else {"reason": reason}
    with asking.opened(**given) as api:
        _each(run_ids, lambda run_id: _done(api, run_id, "wake", asked), output)


@runs.command()
@click.argument("run_id", metavar="RUN")
@click.argument("name", metavar="NAME")
@click.option("--data", metavar="JSON", help="What the workflow's wait_event returns.")
@click.option("--reference", "reference_id", metavar="ID", help="Sending it again under the same one changes nothing.")
@_reason_option
@asking.options
def event(
    run_id: str, name: str, data: str | None, reference_id: str | None, reason: str, output: str, **given: str | None
) -> None:
    """Send an event to a workflow; it is kept until the workflow waits for it."""
    check_step_name(name)
    check_reference(f"event {name}", reference_id)
    payload = None if data is None else _event_data(data)
    asked = {"name": name, "payload": wire.payload_to_json(payload), "reference_id": reference_id, "reason": reason}
    with asking.opened(**given) as api:
        _each((run_id,), lambda run_id: _done(api, run_id, "events", asked), output)


def _act(verb: str, run_ids: tuple[str, ...], given: dict[str, Any], pending: Callable[[RunView], str] | None = None) -> None:
    """Do a verb to the runs that are named, one by one, or as one batch to all that match."""
    reason, output = given.pop("reason"), given.pop("output")
    if given["all_"] is not None:
        _all(verb, run_ids, reason, output, given)
        return
    with asking.opened(**_one_by_one(run_ids, given)) as api:
        _each(run_ids, lambda run_id: _done(api, run_id, verb, {"reason": reason}), output, pending or _to_be_cancelled)


def _done(api: Api, run_id: str, verb: str, asked: dict[str, Any]) -> RunView:
    """Have the API do it; the run then."""
    return wire.run_from_json(api.ask("POST", asking.path("runs", run_id, verb), asked))


def _event_data(data: str) -> Payload:
    try:
        plain = json.loads(data)
    except ValueError as error:
        raise click.BadParameter(
            f"{data[:100]!r} is not JSON ({error}); text needs quotes: '\"paid\"'", param_hint="--data"
        ) from None
    # Decoded and encoded: the codec's tags may stand in it, as they do in what `show` prints.
    return codec.encode(codec.decode(Payload(codec.JSON, json.dumps(plain)), what="--data"), what="--data")


def _to_be_cancelled(run: RunView) -> str:
    if not run.cancel_requested or run.ended:
        return ""
    if run.kind == "workflow":
        return " (to be cancelled: its code meets it at its next durable point)"
    return " (to be cancelled: a worker executes it)"


def _each(
    run_ids: tuple[str, ...],
    act: Callable[[str], RunView],
    output: str,
    pending: Callable[[RunView], str] = _to_be_cancelled,
) -> None:
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
    if output != "table":
        common.print_data(output, [common.run_json(run) for run in done])
    else:
        for run in done:
            click.echo(f"{run.id}  {run.state}{pending(run)}")
    if failed:
        sys.exit(1)


runs.add_command(following.watch)
runs.add_command(following.events)
runs.add_command(following.export)
