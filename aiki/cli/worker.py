"""`aiki-worker` (also `aiki worker`): execute tasks."""

from __future__ import annotations

import os
import socket
import sys

import click

import aiki
from aiki.worker.options import MAX_CONCURRENCY, Options

_EPILOG = """Exit codes: 0 stopped as asked (TERM or INT: what runs is finished, what was only taken is given back);
1 it could not start; 2 an option or the app is wrong; 3 stopped at once (QUIT, a second TERM or INT, or the drain timeout:
what runs is killed and given back). Settings of the app (broker, namespace, payload limit) come from Aiki(...) and the
AIKI_* variables."""


def _split(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Several values, given with several options or with commas between them."""
    out = [part.strip() for item in value for part in item.split(",")]
    return tuple(dict.fromkeys(part for part in out if part))


def _host() -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in socket.gethostname())[:64] or "worker"


@click.command("worker", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "-A",
    "--app",
    "apps",
    multiple=True,
    required=True,
    callback=_split,
    envvar="AIKI_WORKER_APP",
    show_envvar=True,
    metavar="MODULE[:ATTRIBUTE]",
    help="The Aiki app; several are allowed.",
)
@click.option(
    "-c",
    "--concurrency",
    type=click.IntRange(1, MAX_CONCURRENCY),
    default=lambda: os.cpu_count() or 1,
    show_default="number of CPUs",
    envvar="AIKI_WORKER_CONCURRENCY",
    show_envvar=True,
    help="Number of child processes.",
)
@click.option(
    "-Q",
    "--queues",
    multiple=True,
    default=("default",),
    callback=_split,
    envvar="AIKI_WORKER_QUEUES",
    show_envvar=True,
    metavar="NAME[,NAME]",
    help="Queues to take from.",
)
@click.option(
    "-n",
    "--name",
    default=_host,
    show_default="host name",
    envvar="AIKI_WORKER_NAME",
    show_envvar=True,
    help="How operators see this worker.",
)
@click.option(
    "-l",
    "--loglevel",
    "--log-level",
    "log_level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
    default=None,
    show_default="info",
    envvar=["AIKI_WORKER_LOGLEVEL", "AIKI_LOG_LEVEL"],
    show_envvar=True,
    help="What of Aiki's own is logged; also what of the app's, unless that sets up logging itself.",
)
@click.option(
    "--max-tasks-per-child",
    "max_tasks",
    type=click.IntRange(0),
    default=0,
    envvar="AIKI_WORKER_MAX_TASKS_PER_CHILD",
    show_envvar=True,
    help="Replace a child after so many tasks; 0 is never.",
)
@click.option(
    "--max-memory-per-child",
    "max_memory",
    type=click.IntRange(0),
    default=0,
    envvar="AIKI_WORKER_MAX_MEMORY_PER_CHILD",
    show_envvar=True,
    metavar="KIB",
    help="Replace a child that is larger than this after a task; 0 is never.",
)
@click.option(
    "--time-limit",
    type=float,
    default=None,
    envvar="AIKI_WORKER_TIME_LIMIT",
    show_envvar=True,
    metavar="SECONDS",
    help="Kill the child of a task that runs longer and names no limit of its own.",
)
@click.option(
    "--soft-time-limit",
    type=float,
    default=None,
    envvar="AIKI_WORKER_SOFT_TIME_LIMIT",
    show_envvar=True,
    metavar="SECONDS",
    help="Raise SoftTimeLimitExceeded in a task that runs longer and names no limit of its own.",
)
@click.option(
    "--drain-timeout",
    type=float,
    default=None,
    envvar="AIKI_WORKER_DRAIN_TIMEOUT",
    show_envvar=True,
    metavar="SECONDS",
    help="Once asked to stop, kill and give back what still runs after so long; less than the platform's grace period.",
)
@click.option(
    "--prefetch",
    type=click.IntRange(1, 1000),
    default=32,
    envvar="AIKI_WORKER_PREFETCH",
    show_envvar=True,
    help="Most messages that a child takes ahead while its tasks are short.",
)
@click.option(
    "--broker",
    "broker_url",
    default=None,
    metavar="URL",
    help="The broker, in place of the app's own.  [env var: AIKI_BROKER_URL, unless the app names one]",
)
@click.version_option(aiki.__version__, prog_name="aiki-worker")
def worker(
    apps: tuple[str, ...],
    concurrency: int,
    queues: tuple[str, ...],
    name: str,
    log_level: str | None,
    max_tasks: int,
    max_memory: int,
    time_limit: float | None,
    soft_time_limit: float | None,
    drain_timeout: float | None,
    prefetch: int,
    broker_url: str | None,
) -> None:
    """Execute tasks: one supervisor, and child processes that take them from the broker."""
    from aiki.worker.main import main

    options = Options(
        apps=apps,
        concurrency=concurrency,
        queues=queues,
        name=name,
        log_level=log_level,
        max_tasks=max_tasks,
        max_memory=max_memory,
        time_limit=time_limit,
        soft_time_limit=soft_time_limit,
        drain_timeout=drain_timeout,
        prefetch=prefetch,
        broker_url=broker_url,
    )
    sys.exit(main(options))
