"""`aiki orchestrator`."""

from __future__ import annotations

import os
import signal
import sys
import threading

import click

from aiki.cli import common


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@common.database_option
@common.broker_option
@common.namespace_option
@common.log_level_option
def orchestrator(database: str | None, broker: str | None, namespace: str | None, log_level: str) -> None:
    """Move runs on: apply reports, publish what is due, find lost workers, repair what is stuck.

    Run two for availability: they share the work, and either may be killed at any moment. TERM or Ctrl-C stops it
    (exit code 0), a second one at once.
    """
    from aiki.orchestrator import main

    common.set_up_logging(log_level)
    settings = common.settings_of(database=database, broker=broker, namespace=namespace)
    sys.exit(main(settings, stop_on_signals()))


def stop_on_signals() -> threading.Event:
    """An event that TERM or INT sets. To be called before other threads start.

    A thread waits for the signals: an event must not be set from a signal handler, which may interrupt whoever waits for
    that same event while it holds the event's lock.
    """
    if os.getpid() == 1:
        # Process 1 of a container becomes the parent of what loses its own. It starts nothing itself, so the kernel may reap.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    stop = threading.Event()
    watched = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)

    def wait() -> None:
        signal.sigwait(watched)
        stop.set()
        os._exit(128 + signal.sigwait(watched))

    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stop
