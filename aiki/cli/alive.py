"""`aiki alive`: the health checks of containers. Each looks at the process beside it, and says how that is by its exit code."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from aiki.cli import common
from aiki.cli.main import EXIT_FAILED, EXIT_UNAVAILABLE

RECENT: Final = 20.0
"""Seconds within which an orchestrator that works is heard."""
_ORCHESTRATOR: Final = re.compile(r"\baiki(\.cli\.main)? orchestrator\b")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def alive() -> None:
    """Health checks for containers: exit code 0 if the process in this container is well."""


@alive.command()
@click.option("--bind", default="127.0.0.1:8470", envvar="AIKI_BIND", show_envvar=True, help="Where the server listens.")
def server(bind: str) -> None:
    """The server answers."""
    import urllib3

    port = bind.rpartition(":")[2]
    try:
        answer = urllib3.request("GET", f"http://127.0.0.1:{port}/healthz", timeout=5.0, retries=False)
    except urllib3.exceptions.HTTPError as error:
        _fail(f"the server does not answer on port {port}: {error}", EXIT_UNAVAILABLE)
    if answer.status != 200:
        _fail(f"the server answers {answer.status}")


@alive.command()
@common.database_option
def orchestrator(database: str | None) -> None:
    """An orchestrator of this host has been heard in the last seconds; the database may be away."""
    from aiki.clock import SECOND
    from aiki.errors import StorageUnavailable
    from aiki.storage import open_store

    if not any(map(_ORCHESTRATOR.search, _commands())):
        _fail("no orchestrator runs here")
    try:
        store = open_store(common.settings_of(database=database))
    except StorageUnavailable:
        return  # it waits for it, as it should: being started anew would not help
    try:
        heard = [item.heard_at for item in store.orchestrators() if item.host == socket.gethostname()]
        if not heard or max(heard) < store.clock() - int(RECENT * SECOND):
            _fail(f"no orchestrator of {socket.gethostname()} was heard in the last {RECENT:g} s")
    finally:
        store.close()


@alive.command()
def worker() -> None:
    """A worker runs here, with its link and its children."""
    names = set(_names())
    for name in ("aiki-link", "aiki-child"):
        if name not in names:
            _fail(f"no process {name} runs here")


def _processes() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdecimal() and path.name != str(os.getpid()))


def _names() -> Iterator[str]:
    for path in _processes():
        try:
            yield (path / "comm").read_text().strip()
        except OSError:
            continue  # it has ended


def _commands() -> Iterator[str]:
    for path in _processes():
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        yield " ".join(Path(word.decode(errors="replace")).name for word in words if word)


def _fail(why: str, code: int = EXIT_FAILED) -> None:
    print(f"aiki alive: {why}", file=sys.stderr)
    sys.exit(code)
