"""`aiki alive`: the probes of containers and service managers. Each says how a process does, by its exit code and in one line.

It must answer at once, on a machine that may be short of everything: so it loads next to nothing (no client, no database, no
broker) and reads what the process says of itself (`aiki.vitals`). Only a server is asked by a request, for that is its work.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import click

from aiki import vitals
from aiki.cli.judging import ILL, WAITS, WELL, Probe, Verdict, judge
from aiki.vitals import Found, Reading

MAX_PORT: Final = 65535
HEALTHZ_SECONDS: Final = 5.0
READYZ_SECONDS: Final = 3.0

_EPILOG: Final = """\b
Exit codes:
  0  it is well
  1  it is not there, or something in it does not work
  2  a wrong option
  4  it waits for what is outside of it: the broker, the database, an orchestrator; or a server that does not answer
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def alive() -> None:
    """Probes: exit code 0 if the process in this container does its work, else one line that says why not.

    Without an option it is --ready. Let --live alone decide on a restart: it fails only if the process itself is stuck, never
    because the broker or the database is away.
    """


def _probe_options(function: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option(
            "--ready", "probe", flag_value=Probe.READY.value, default=Probe.READY.value, help="It does its work now (default)."
        ),
        click.option("--live", "probe", flag_value=Probe.LIVE.value, help="It is not stuck: to start it anew would not help."),
        click.option(
            "--started", "probe", flag_value=Probe.STARTED.value, help="All its parts have come up, whatever else is away."
        ),
        click.option(
            "--pid", type=click.IntRange(1), help="The process with this id, also in another container, or another user's."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@alive.command(epilog=_EPILOG)
@_probe_options
@click.option("-n", "--name", help="The worker of this name; by default all that run in this container must be well.")
def worker(probe: str, pid: int | None, name: str | None) -> None:
    """A worker: its session with the broker, an orchestrator's answer, its children."""
    found = vitals.find("worker", pid)
    readings = [item for item in found.readings if name is None or item.name == name]
    _conclude(_all_of("worker", found, readings, Probe(probe), named=name))


@alive.command(epilog=_EPILOG)
@_probe_options
@click.option("--database", hidden=True, expose_value=False, help="Of no use any more: the process itself tells.")
def orchestrator(probe: str, pid: int | None) -> None:
    """An orchestrator: its session with the broker, its database, its duties."""
    found = vitals.find("orchestrator", pid)
    _conclude(_all_of("orchestrator", found, found.readings, Probe(probe)))


@alive.command(epilog=_EPILOG)
@_probe_options
@click.option("--bind", envvar="AIKI_BIND", show_envvar=True, help="Where it listens; by default where it says that it does.")
def server(probe: str, pid: int | None, bind: str | None) -> None:
    """A server: it answers requests; ready: its database answers, too."""
    found = vitals.find("server", pid)
    port = None if bind is None else bind.rpartition(":")[2]
    if port is not None and not (port.isdecimal() and int(port) <= MAX_PORT):
        raise click.BadParameter(f"{bind!r} is no host:port", param_hint="--bind")
    readings = [item for item in found.readings if port in (None, "0", str(item.identity.get("port")))]
    if not readings and port is not None and int(port) and pid is None:
        _conclude(_ask(f"server on port {port}", {"host": "127.0.0.1", "port": int(port)}, Probe(probe)))
    verdict = _all_of("server", found, readings, Probe(probe))
    for reading in readings if verdict.code == WELL else ():
        verdict = _ask(f"server (pid {reading.pid})", reading.identity, Probe(probe))
        if verdict.code != WELL:
            break
    _conclude(verdict)


# ---------------------------------------------------------------- judging
def _all_of(kind: str, found: Found, readings: list[Reading], probe: Probe, *, named: str | None = None) -> Verdict:
    """The first that is not well, else the last that is."""
    now = time.monotonic_ns()
    verdicts = [judge(reading, probe, now) for reading in readings]
    if verdicts:
        return next((verdict for verdict in verdicts if verdict.code != WELL), verdicts[-1])
    called = "" if named is None else f" called {named!r}"
    line = f"no {kind}{called} runs here"
    if found.readings:
        line += f"; there is {', '.join(repr(item.name) for item in found.readings)}"
    if found.elsewhere:
        line += f"; of other containers or services there are pids {_listed(found.elsewhere)}: name one with --pid"
    if found.closed:
        line += f"; pids {_listed(found.closed)} are another user's: ask as that user, or as root with --pid"
    return Verdict(ILL, line)


def _listed(pids: list[int]) -> str:
    return ", ".join(map(str, pids[:5])) + (", …" if len(pids) > 5 else "")


def _conclude(verdict: Verdict) -> None:
    line = "".join(char if char.isprintable() else " " for char in verdict.line)  # names and errors may be anything
    if verdict.code == WELL:
        click.echo(line)
    else:
        print(f"aiki alive: {line}", file=sys.stderr)
    sys.exit(verdict.code)


# ---------------------------------------------------------------- asking a server
def _ask(who: str, where: dict[str, Any], probe: Probe) -> Verdict:
    """Send it a request."""
    host, port = where.get("host"), where.get("port")
    if not isinstance(host, str) or type(port) is not int or not 0 < port <= MAX_PORT:
        line = f"{who} does not say where it listens: its host is {host!r}, its port {port!r}. Ask it with --bind alone"
        return Verdict(ILL, line)
    try:
        if probe is Probe.READY:
            status, body = _get(where, "/readyz", READYZ_SECONDS)
            if status == 503:
                return Verdict(WAITS, f"{who}: its database does not answer")
            if status == 200:
                told = _field(body, "broker")
                return Verdict(WELL, f"{who} is ready" + (f"; the broker is {told}" if told not in ("", "ok") else ""))
        else:
            status, _ = _get(where, "/healthz", HEALTHZ_SECONDS)
            if status == 200:
                return Verdict(WELL, f"{who} is {probe}")
        return Verdict(ILL, f"{who} answers {status}")
    except TimeoutError:
        if probe is Probe.READY and _ask(who, where, Probe.LIVE).code == WELL:
            return Verdict(WAITS, f"{who}: its database has not answered for {READYZ_SECONDS:g} s")
        seconds = HEALTHZ_SECONDS if probe is not Probe.READY else READYZ_SECONDS
        return Verdict(WAITS, f"{who} does not answer on port {where['port']} within {seconds:g} s")
    except (OSError, ValueError) as error:
        return Verdict(WAITS, f"{who} does not answer on port {where['port']}: {error}")


def _get(where: dict[str, Any], path: str, seconds: float) -> tuple[int, bytes]:
    """The status and the body of an answer. Raises `OSError`, `TimeoutError`, `ValueError`."""
    deadline = time.monotonic() + seconds
    with socket.create_connection((str(where["host"]), int(where["port"])), timeout=seconds) as plain:
        connection = _secured(plain) if where.get("tls") else plain
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{where['port']}\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while len(data) < 65536:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            part = connection.recv(65536)
            if not part:
                break
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("what answers is no HTTP server")
    return int(words[1]), body


def _secured(plain: socket.socket) -> socket.socket:
    import ssl  # only where it is needed: it takes a while to load

    # This machine's own process is asked whether it lives: its certificate is for other names, and proves nothing here.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(plain)


def _field(body: bytes, name: str) -> str:
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    return str(found.get(name, "")) if isinstance(found, dict) else ""
