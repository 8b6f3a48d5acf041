"""`aiki`, `aiki-worker` and `aiki-server`: which command is in which module, and how errors and exit codes come out.

A command's module is imported when the command runs, not before: a worker's process must not carry the database's libraries,
and a server's must not carry the worker.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Final, NamedTuple

import click

from aiki import __version__
from aiki.errors import AikiError, ConfigurationError, Unavailable

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 4

PARENT_VARIABLE: Final = "AIKI_PARENT_PID"
"""Set by a command that starts others: they die with the process of this id."""

EXIT_CODES: Final = """\b
Exit codes:
  0  done, or stopped as asked
  1  it failed: what was asked is not possible, or a check of `doctor` failed
  2  a wrong option, setting or definition
  3  a worker was stopped at once (second TERM, or QUIT) with runs in its hands, which were given back
  4  the server, the database or the broker cannot be reached; trying again later is safe
  130  interrupted (Ctrl-C) while it followed a batch, which goes on
"""


class _Where(NamedTuple):
    """The module of a command, and its line in the list of commands."""

    module: str
    attribute: str
    help: str


COMMANDS: Final[dict[str, _Where]] = {
    "dev": _Where("aiki.cli.dev", "dev", "Run server, orchestrator and workers here, reloading on change."),
    "worker": _Where("aiki.cli.worker", "worker", "Execute tasks (also: aiki-worker)."),
    "server": _Where("aiki.cli.server", "server", "Serve the HTTP API (also: aiki-server)."),
    "orchestrator": _Where("aiki.cli.orchestrator", "orchestrator", "Move runs on: reports, retries, delays, repair."),
    "db": _Where("aiki.cli.db", "db", "Make or upgrade the database's tables."),
    "runs": _Where("aiki.cli.runs", "runs", "Look at runs and act on them: cancel, retry, pause, wake, …"),
    "queues": _Where("aiki.cli.queues", "queues", "List the queues; pause, resume or empty one."),
    "workers": _Where("aiki.cli.workers", "workers", "List the workers and what they do; drain or stop one."),
    "dead": _Where("aiki.cli.dead", "dead", "Failures by their error, and messages that nobody could read."),
    "batches": _Where("aiki.cli.batches", "batches", "What is done to many runs at once: list, watch, stop."),
    "users": _Where("aiki.cli.users", "users", "Who may sign in to the dashboard: add, change, disable."),
    "keys": _Where("aiki.cli.keys", "keys", "What programs ask the server with: add and revoke API keys."),
    "installation": _Where(
        "aiki.cli.installation", "installation", "Whose database and broker these are; partitions, signatures, keys."
    ),
    "alive": _Where("aiki.cli.alive", "alive", "Health checks for containers."),
    "doctor": _Where("aiki.cli.doctor", "doctor", "Check database, broker, orchestrator and workers."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The commands, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        return load(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, where.help) for name, where in COMMANDS.items()])


def load(name: str) -> click.Command:
    """The command of this name."""
    where = COMMANDS[name]
    command = getattr(importlib.import_module(where.module), where.attribute)
    assert isinstance(command, click.Command), f"{where.module}.{where.attribute} is no command"
    return command


@click.group(cls=LazyGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="aiki")
def aiki() -> None:
    """Tasks and durable workflows for Python teams that run RabbitMQ and MySQL.

    Every option has an environment variable AIKI_*; the option wins. Without any, the embedded default is used: two SQLite
    files in .aiki/ under the working directory.
    """


def main() -> None:
    """The program `aiki`."""
    run(aiki, "aiki")


def worker_main() -> None:
    """The program `aiki-worker`."""
    run(None, "aiki-worker", "worker")


def server_main() -> None:
    """The program `aiki-server`."""
    run(None, "aiki-server", "server")


def run(command: click.Command | None, program: str, name: str = "") -> None:
    """Run a command and exit. Our own errors are one message, without a traceback."""
    heed_parent()
    heed_term()
    try:
        (command or load(name))(prog_name=program)
    except AikiError as error:
        sys.stdout.flush()
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(exit_code(error))


def heed_parent() -> None:
    """Die with the process that `PARENT_VARIABLE` names, if it is there; programs started from here do not inherit that."""
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent:
        from aiki.worker.process import die_with_parent

        die_with_parent(int(parent))


def heed_term() -> None:
    """End at TERM also as process 1 of a container, which the kernel spares every signal that nobody handles."""
    if os.getpid() == 1 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def exit_code(error: AikiError) -> int:
    """The exit code of an error."""
    if isinstance(error, ConfigurationError):
        return EXIT_USAGE
    return EXIT_UNAVAILABLE if isinstance(error, Unavailable) else EXIT_FAILED


if __name__ == "__main__":
    main()
