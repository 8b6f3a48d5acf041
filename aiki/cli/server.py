"""`aiki-server` (also `aiki server`): serve the HTTP API."""

from __future__ import annotations

import sys

import click

import aiki
from aiki.cli import common

_EPILOG = """\b
Exit codes:
  0  stopped as asked (TERM or INT)
  1  the database's schema is not current (run: aiki db upgrade), or the address is taken
  2  a wrong option or setting; an address that others can reach, without a user or an API key
  4  the database cannot be reached"""


@click.command("server", epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--bind",
    default="127.0.0.1:8470",
    envvar="AIKI_BIND",
    show_envvar=True,
    metavar="HOST:PORT",
    help="Where to listen. Any address but a loopback one needs a user or an API key.",
)
@click.option(
    "-w",
    "--workers",
    type=click.IntRange(1, 64),
    default=2,
    envvar="AIKI_WORKERS",
    show_envvar=True,
    help="Processes.",
)
@click.option(
    "--threads",
    type=click.IntRange(2, 256),
    default=16,
    envvar="AIKI_THREADS",
    show_envvar=True,
    help="Requests that a process answers at a time; half of them may be waiting for a run to end.",
)
@click.option(
    "--streams",
    type=click.IntRange(0, 10_000),
    default=500,
    envvar="AIKI_STREAMS",
    show_envvar=True,
    help="Event streams (live pages) that a process holds open at a time.",
)
@click.option(
    "--rate-limit",
    type=click.FloatRange(0),
    default=1000.0,
    envvar="AIKI_RATE_LIMIT",
    show_envvar=True,
    help="Requests a second that a process takes of one key, user or local client; twice as many at once. 0 is no limit.",
)
@click.option(
    "--api-key",
    default=None,
    metavar="KEY",
    help="What clients must send as a bearer token. Others can see options: prefer the variable. [env var: AIKI_API_KEY]",
)
@common.database_option
@common.broker_option
@common.namespace_option
@click.option(
    "--access-log/--no-access-log",
    default=False,
    envvar="AIKI_ACCESS_LOG",
    show_envvar=True,
    help="Log one line a request.",
)
@common.log_level_option
@click.version_option(aiki.__version__, prog_name="aiki-server")
def server(
    bind: str,
    workers: int,
    threads: int,
    streams: int,
    rate_limit: float,
    api_key: str | None,
    database: str | None,
    broker: str | None,
    namespace: str | None,
    access_log: bool,
    log_level: str,
) -> None:
    """Serve the HTTP API and the dashboard. It listens on loopback unless told otherwise.

    Run as many as you like: they share nothing but the database. The broker may be away: runs are recorded, and
    dispatched when it is back.
    """
    from aiki.api.server import ServerOptions, main
    from aiki.dashboard import install
    from aiki.settings import Settings

    common.set_up_logging(log_level)
    settings = Settings.load(database_url=database, broker_url=broker, namespace=namespace, api_key=api_key)
    settings.need("database_url", "broker_url", what="a server")
    options = ServerOptions(
        bind=bind,
        workers=workers,
        threads=threads,
        streams=streams,
        rate_limit=rate_limit,
        log_level=log_level,
        access_log=access_log,
    )
    sys.exit(main(settings, options, pages=install))
