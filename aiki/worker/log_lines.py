"""Logging in a worker: the application's own set-up is kept, and what it has left open is done here.

The application is imported before anything is set up, so `logging.basicConfig` and `dictConfig` in its modules do what they do
in any other program. Afterwards a handler of ours is added to the root logger if the application has put none there; it writes
what no handler of the application has taken, so that no line comes twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiki import logs

TEXT: Final = "%(asctime)s %(levelname)-7s [%(process)d] %(name)s: %(message)s"
DEFAULT_LEVEL: Final = "info"
_OURS: Final = "aiki"
_NOISY: Final = ("amqp", "kombu", "asyncio")


@contextmanager
def application_sets_up(level: str | None) -> Iterator[None]:
    """Import the application inside of this; what it does not set up is set up at the end.

    :param level: what the operator has asked for; None: nothing, so that the application may choose.
    :raises ConfigurationError: the level or the format is unknown.
    """
    number = logs.level_number(level or DEFAULT_LEVEL)
    handler = logs.handler(text=TEXT)
    ours = logging.getLogger(_OURS)
    before, logging.lastResort = logging.lastResort, handler  # written to while there is no other
    ours.setLevel(number)
    try:
        yield
    finally:
        logging.lastResort = before
        logs.revive()
        chosen = ours.level not in (number, logging.NOTSET)
        if level is not None or not chosen:
            ours.setLevel(number)
        _complete(handler, number)


def _complete(handler: logging.Handler, number: int) -> None:
    root = logging.getLogger()
    if not root.handlers:
        handler.addFilter(_is_left)
        root.addHandler(handler)
        if root.level == logging.WARNING:  # as Python has it
            root.setLevel(number)
    for name in _NOISY:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(max(number, logging.WARNING))


def _is_left(record: logging.LogRecord) -> bool:
    """Whether no handler below the root logger has taken a record."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger.parent is not None:
        for handler in logger.handlers:
            if record.levelno >= handler.level and not isinstance(handler, logging.NullHandler):
                return False
        logger = logger.parent
    return True
