"""Starting a worker: `main(options)` is what the command `aiki-worker` calls."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import traceback

import aiki
from aiki import logs
from aiki.broker import broker_of
from aiki.errors import ConfigurationError
from aiki.settings import hidden
from aiki.worker import process_hooks
from aiki.worker.options import EXIT_FAILED, EXIT_USAGE, Options
from aiki.worker.registry import Registry, load
from aiki.worker.supervisor import Supervisor

_log = logging.getLogger("aiki.worker")

_NOISY = ("amqp", "kombu", "asyncio")


def main(options: Options) -> int:
    """Run a worker in this process until it is told to stop; returns the exit code (`options.EXIT_*`)."""
    try:
        _configure_logging(options.log_level)
        options.check()
        registry = load(options.apps, options.broker_url)
        logs.revive()
        settings = registry.settings
        broker = broker_of(settings, what="a worker", declares=False)
    except ConfigurationError as error:
        sys.stderr.write(f"aiki-worker: {error}\n")
        return EXIT_USAGE
    try:
        process_hooks.call(registry.hooks, "worker_start")
    except Exception:  # noqa: BLE001  a hook is users' code, which may raise anything
        sys.stderr.write(f"aiki-worker: it cannot start:\n{traceback.format_exc()}")
        return EXIT_FAILED
    _warn_of_connections()
    try:
        supervisor = Supervisor(options, registry, broker)
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


def _configure_logging(level: str) -> None:
    """One line a record on standard error, unless the app has set up logging itself when it is imported."""
    logs.set_up(level, text="%(asctime)s %(levelname)-7s [%(process)d] %(name)s: %(message)s", force=False)
    number = logging.getLevelNamesMapping()[level.upper()]
    logging.getLogger("aiki").setLevel(number)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
