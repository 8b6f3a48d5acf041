"""`aiki dev`: server, orchestrator and workers in one command, restarted when they die, reloaded when a file changes.

One loop on the main thread takes events (a child ended, a file changed, the app was looked at, a signal came) and decides;
threads only wait for these events. A change is tried in a process of its own before the running worker is given up, so a syntax
error never takes the worker away.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final

import click

from aiki.cli import common
from aiki.cli.children import Child, Exited, Orphans, Printer
from aiki.cli.main import EXIT_USAGE, PARENT_VARIABLE
from aiki.cli.probe import Found, read_answer
from aiki.errors import AikiError, ConfigurationError
from aiki.settings import SECRETS, Settings, hidden

GRACE_SECONDS: Final = 10.0
"""How long running tasks may take to end when everything stops."""
HARD_SECONDS: Final = 5.0
FIRST_BACKOFF: Final = 0.5
MAX_BACKOFF: Final = 10.0
YOUNG_SECONDS: Final = 10.0
READY_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `aiki dev`. `queues` empty: all queues of the app's tasks."""

    apps: tuple[str, ...]
    concurrency: int
    queues: str
    port: int
    reload: bool
    log_level: str


@dataclass(frozen=True, slots=True)
class Changed:
    """Python files changed."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Probed:
    """The app was looked at: what was found, or what is wrong."""

    found: Found | None
    error: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A signal to stop."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The server answers."""


@dataclass(slots=True)
class Role:
    """One of the three programs: how it is started, the process that is it now, and when to start it again."""

    name: str
    arguments: list[str]
    child: Child | None = None
    due: float | None = None
    failures: int = 0
    leaving: list[Child] = field(default_factory=list)

    def children(self) -> list[Child]:
        """All its processes, those that are about to leave included."""
        return [*self.leaving, *([self.child] if self.child else [])]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-A", "--app", "apps", multiple=True, required=True, metavar="MODULE[:ATTRIBUTE]", help="The Aiki app; may be repeated."
)
@click.option(
    "-c", "--concurrency", type=click.IntRange(1, 64), default=2, show_default=True, help="Number of worker processes."
)
@click.option(
    "-Q", "--queues", default="", metavar="NAME[,NAME]", help="Queues to take from; by default all that the tasks name."
)
@click.option(
    "-p",
    "--port",
    type=click.IntRange(1, 65535),
    default=8470,
    show_default=True,
    envvar="AIKI_DEV_PORT",
    help="The API's port.",
)
@click.option("--reload/--no-reload", default=True, show_default=True, help="Restart the worker when a Python file changes.")
@common.log_level_option
def dev(apps: tuple[str, ...], concurrency: int, queues: str, port: int, reload: bool, log_level: str) -> None:
    """Run server, orchestrator and workers here, for development.

    Needs no other program: runs are kept in two SQLite files in .aiki/ under the working directory, unless AIKI_DATABASE_URL
    and AIKI_BROKER_URL (or the app) name others. A second terminal in the same directory can enqueue at once. Ctrl-C stops
    everything, letting tasks that run end (ten seconds; a second Ctrl-C stops them, and they are given back).
    """
    sys.exit(Dev(Options(apps, concurrency, queues, port, reload, log_level)).run())


class Dev:
    """See the module."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._events: SimpleQueue[object] = SimpleQueue()
        self._printer = Printer()
        self._roles: dict[str, Role] = {}
        self._env = dict(os.environ)
        self._settings: Settings | None = None
        self._example = ""
        self._probing = self._dirty = False
        self._probe_pid = 0
        self._asked = 0
        self._stop_watching = threading.Event()

    def say(self, text: str) -> None:
        """A line of our own."""
        self._printer.say(text)

    # ------------------------------------------------------------ life
    def run(self) -> int:
        """Run until stopped; returns the exit code."""
        check_port(self._options.port)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        if self._options.reload:
            threading.Thread(target=self._watch, name="watch", daemon=True).start()
        if os.getpid() == 1:
            Orphans(self._pids).start()
        self._probe()
        code = 0
        try:
            while not self._asked:
                self._start_due()
                stop = self._handle(self._next_event())
                if stop is not None:
                    code = stop
                    break
        finally:
            self._stop_all()
        return code

    def _pids(self) -> set[int]:
        return {self._probe_pid, *(child.pid for role in list(self._roles.values()) for child in role.children())}

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._asked += 1
        self._events.put(Asked())

    def _next_event(self) -> object | None:
        due = [role.due for role in self._roles.values() if role.due is not None]
        try:
            return self._events.get(timeout=max(0.0, min(due) - time.monotonic()) if due else None)
        except Empty:
            return None

    def _handle(self, event: object | None) -> int | None:
        """Act on an event; an exit code if that is the end of it all."""
        if isinstance(event, Exited):
            return self._on_exit(event)
        if isinstance(event, Changed):
            self.say(f"{shown(event.paths)} changed; trying it")
            self._probe()
        elif isinstance(event, Probed):
            return self._on_probed(event)
        elif isinstance(event, Serving):
            self._greet()
        return None

    # ------------------------------------------------------------ looking at the app
    def _probe(self) -> None:
        """Have the app imported in a process of its own; the answer comes as an event."""
        if self._probing:
            self._dirty = True
            return
        self._probing, self._dirty = True, False
        command = [sys.executable, "-m", "aiki.cli.probe", *self._options.apps]

        def wait() -> None:
            process = subprocess.Popen(  # noqa: S603
                command,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            self._probe_pid = process.pid
            output, errors = process.communicate()
            try:
                if process.returncode != 0:
                    raise ConfigurationError(errors.strip() or f"importing the app ended with {process.returncode}")
                self._events.put(Probed(read_answer(output), ""))
            except AikiError as error:
                self._events.put(Probed(None, str(error)))

        threading.Thread(target=wait, name="probe", daemon=True).start()

    def _on_probed(self, event: Probed) -> int | None:
        self._probing = False
        if self._dirty:
            self._probe()
            return None
        worker = self._roles.get("worker")
        running = worker is not None and worker.child is not None
        if event.found is None:
            self.say(event.error)
            if not self._options.reload:
                return EXIT_USAGE
            self.say("the worker that runs stays as it is until that is mended" if running else "waiting for a change")
            return None
        if self._settings is None:
            self._start_all(event.found)
            return None
        if Settings(**event.found.settings) != self._settings:
            self.say("the app's settings changed: restart `aiki dev` for that")
        assert worker is not None
        worker.arguments = self._worker_arguments(event.found)
        worker.failures = 0
        self._reload(worker)
        return None

    def _reload(self, worker: Role) -> None:
        """The old worker finishes what it runs and gives back the rest, while the new one starts."""
        if worker.child is not None:
            worker.leaving.append(worker.child)
            worker.child.signal(signal.SIGTERM)
            worker.child = None
        worker.due = time.monotonic()
        self.say(
            "reloaded: a new worker starts; the old one finishes what it runs" if worker.leaving else "a new worker starts"
        )

    def _watch(self) -> None:
        from watchfiles import PythonFilter, watch

        here = os.getcwd()
        try:
            for changes in watch(
                here, watch_filter=PythonFilter(), stop_event=self._stop_watching, debounce=200, raise_interrupt=False
            ):
                self._events.put(Changed(tuple(sorted({os.path.relpath(path, here) for _, path in changes}))))
        except OSError as error:
            self.say(f"cannot watch {here} for changes ({error}): restart `aiki dev` to have changes take effect")

    # ------------------------------------------------------------ starting
    def _start_all(self, found: Found) -> None:
        settings = self._settings = Settings(**found.settings)
        settings.need("database_url", "broker_url", what="`aiki dev`, which runs server, orchestrator and worker here,")
        self._example = found.example
        # The app may have its own ideas of where things are; everybody gets the same.
        for name, value in found.settings.items():
            # A secret that was read from a file is handed on itself.
            if name != "server_url" and value != "" and name.removesuffix("_file") not in {*SECRETS} - {name}:
                self._env[f"AIKI_{name.upper()}"] = str(value)
        from aiki.storage import upgrade

        upgrade(settings.database_url, settings.database_password_file)
        level = self._options.log_level
        self._roles = {
            "orchestrator": Role("orchestrator", ["orchestrator", "-l", level]),
            "server": Role("server", ["server", "--bind", f"127.0.0.1:{self._options.port}", "-w", "1", "-l", level]),
            "worker": Role("worker", self._worker_arguments(found)),
        }
        for role in self._roles.values():
            role.due = 0.0
        threading.Thread(target=self._await_server, name="await server", daemon=True).start()

    def _worker_arguments(self, found: Found) -> list[str]:
        options = self._options
        apps = [part for spec in options.apps for part in ("-A", spec)]
        queues = options.queues or ",".join(found.queues)
        return ["worker", *apps, "-c", str(options.concurrency), "-Q", queues, "-n", "dev", "-l", options.log_level]

    def _start_due(self) -> None:
        now = time.monotonic()
        for role in self._roles.values():
            if role.due is not None and role.due <= now:
                role.due = None
                role.child = Child(role.name, role.arguments, self._env, self._printer, self._events)

    def _await_server(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and not self._asked:
            if answers(self._options.port):
                self._events.put(Serving())
                return
            time.sleep(0.1)
        self.say(f"the server does not answer on port {self._options.port} yet; its lines above say why")

    def _greet(self) -> None:
        assert self._settings is not None
        self.say(f"Dashboard: http://127.0.0.1:{self._options.port}/")
        self.say(f"API:    http://127.0.0.1:{self._options.port}/api/v1/runs")
        self.say(f"Runs:   {common_place(self._settings)}")
        if self._example:
            self.say("Try in another terminal, in this directory:")
            self.say(f'    python -c "{self._example}"')
            self.say("    aiki runs list")
        self.say("Ctrl-C stops everything.")

    # ------------------------------------------------------------ what ends
    def _on_exit(self, event: Exited) -> int | None:
        role = self._roles[event.child.name]
        if event.child in role.leaving:
            role.leaving.remove(event.child)
            return None
        role.child = None
        if event.code == EXIT_USAGE:  # starting it again would be of no use
            if role.name != "worker" or not self._options.reload:
                self.say(f"the {role.name} cannot be started; stopping")
                return EXIT_USAGE
            self.say("the worker cannot be started; waiting for a change")
            return None
        lived = time.monotonic() - event.child.started
        role.failures = role.failures + 1 if lived < YOUNG_SECONDS else 1
        pause = min(FIRST_BACKOFF * 2 ** (role.failures - 1), MAX_BACKOFF)
        role.due = time.monotonic() + pause
        self.say(f"the {role.name} ended ({event}); it is started again in {pause:g} s")
        return None

    # ------------------------------------------------------------ stopping
    def _stop_all(self) -> None:
        """Worker first, so that the others can take what it reports; then the server; the orchestrator last."""
        self._stop_watching.set()
        everyone = [child for role in self._roles.values() for child in role.children()]
        if everyone:
            self.say("stopping; tasks that run may end (once more: stop them at once)")
        asked = self._asked
        for name in ("worker", "server", "orchestrator"):
            children = self._roles[name].children() if name in self._roles else []
            for child in children:
                child.signal(signal.SIGTERM)
            if not wait_for(children, GRACE_SECONDS if name == "worker" else HARD_SECONDS, lambda: self._asked > asked):
                for child in children:
                    child.signal(signal.SIGQUIT)
                wait_for(children, HARD_SECONDS, lambda: self._asked > asked + 1)
        for child in everyone:
            child.kill_group()
        if everyone:
            self.say("stopped")


def wait_for(children: list[Child], seconds: float, hurry: Callable[[], bool]) -> bool:
    """Whether all have ended before `seconds` are over and before anybody is in a hurry."""
    deadline = time.monotonic() + seconds
    for child in children:
        while not child.ended.wait(0.05):
            if time.monotonic() > deadline or hurry():
                return False
    return True


def answers(port: int) -> bool:
    """Whether an HTTP server on the loopback answers, with whatever status."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def check_port(port: int) -> None:
    """Raise `ConfigurationError` if the address is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(f"port {port} cannot be used ({error.strerror}); choose another one with --port") from None


def common_place(settings: Settings) -> str:
    """Where runs are kept, without a password."""
    path = settings.database_url.removeprefix("sqlite:///")
    if path == settings.database_url:
        return hidden(settings.database_url)
    return str(Path(path).relative_to(os.getcwd())) if Path(path).is_relative_to(os.getcwd()) else path


def shown(paths: tuple[str, ...]) -> str:
    """A few paths."""
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
