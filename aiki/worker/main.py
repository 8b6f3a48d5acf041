"""Starting a worker: `main(options)` is what the command `aiki-worker` calls."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import traceback

import aiki
from aiki import logs, vitals
from aiki.broker import broker_of
from aiki.errors import ConfigurationError
from aiki.settings import hidden
from aiki.vitals import Vitals
from aiki.worker import process_hooks
from aiki.worker.log_lines import application_sets_up
from aiki.worker.options import EXIT_FAILED, EXIT_USAGE, Options
from aiki.worker.registry import Registry, load
from aiki.worker.supervisor import Supervisor

_log = logging.getLogger("aiki.worker")


def main(options: Options) -> int:
    """Run a worker in this process until it is stopped; returns the exit code (`options.EXIT_*`)."""
    page = Vitals("worker", name=options.name)
    page.tell(vitals.INSIDE, f"it is importing {', '.join(options.apps)}")
    try:
        options.check()
        with application_sets_up(options.log_level):
            registry = load(options.apps, options.broker_url)
            broker = broker_of(registry.settings, what="a worker", declares=False)
            started = _call_start_hooks(registry)
    except ConfigurationError as error:
        sys.stderr.write(f"aiki-worker: {error}\n")
        return EXIT_USAGE
    if not started:
        return EXIT_FAILED
    _warn_of_connections()
    try:
        supervisor = Supervisor(options, registry, broker, page)
    except ConfigurationError as error:
        sys.stderr.write(f"aiki-worker: {error}\n")
        return EXIT_USAGE
    except OSError as error:
        sys.stderr.write(f"aiki-worker: it cannot start: {error}\n")
        return EXIT_FAILED
    logs.identify(worker=options.name, worker_id=supervisor.worker)
    _say_hello(supervisor.worker, options, registry)
    # What is loaded now stays shared with the children: the collector must not write into these pages.
    gc.collect()
    gc.freeze()
    return supervisor.run()


def _call_start_hooks(registry: Registry) -> bool:
    try:
        process_hooks.call(registry.hooks, "worker_start")
    except Exception:  # noqa: BLE001  a hook is users' code, which may raise anything
        sys.stderr.write(f"aiki-worker: it cannot start:\n{traceback.format_exc()}")
        return False
    return True


def _say_hello(worker: str, options: Options, registry: Registry) -> None:
    _log.info(
        "aiki-worker %s, aiki %s, id %s, %d children, queues %s, namespace %s, broker %s",
        options.name,
        aiki.__version__,
        worker,
        options.concurrency,
        ",".join(options.queues),
        registry.settings.namespace,
        hidden(registry.settings.broker_url),
    )
    if registry.names:
        _log.info("tasks: %s", ", ".join(registry.names))
    else:
        _log.warning("%s defines no task: this worker will execute nothing", ", ".join(options.apps))
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
        _log.warning("importing the app started threads (%s): children that are forked do not have them", names)


def _warn_of_connections() -> None:
    """A connection that was opened before the fork is written to and read by all children at once."""
    there = process_hooks.open_connections()
    if there:
        _log.warning(
            "importing the app left connections open (%s), and children that are forked share them: answers get mixed up. "
            "Close them in a hook, @app.on_worker_start",
            ", ".join(there),
        )
