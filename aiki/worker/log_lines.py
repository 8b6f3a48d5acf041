"""Logging in a worker: the application's own set-up is kept, and what it has left open is done here.

The application is imported before anything is set up, so `logging.basicConfig` and `dictConfig` in its modules do what they do
in any other program. Afterwards a handler of ours is added to the root logger if the application has put none there; it writes
what no handler of the application has taken, so that no line comes twice. A handler takes what its level and its filters let
pass; one that sends mail takes nothing, for it is no place to look lines up.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from aiki import logs

TEXT: Final = "%(asctime)s %(levelname)-7s [%(process)d] %(name)s: %(message)s"
DEFAULT_LEVEL: Final = "info"
_OURS: Final = "aiki"
_NOISY: Final = ("amqp", "kombu", "asyncio")
_MAILS: Final = frozenset({"logging.handlers.SMTPHandler", "django.utils.log.AdminEmailHandler"})
_TAKEN: Final = "_aiki_taken"
"""The attribute of a record that has passed the filters of a handler."""


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
        for logger in list(root.manager.loggerDict.values()):
            for other in logger.handlers if isinstance(logger, logging.Logger) else ():
                _watch(other)
        if root.level == logging.WARNING:  # as Python has it
            root.setLevel(number)
    for name in _NOISY:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(max(number, logging.WARNING))


def _is_left(record: logging.LogRecord) -> bool:
    """Whether no handler below the root logger has taken a record. They have been asked before, for the root comes last."""
    if _TAKEN in vars(record):
        return False
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger.parent is not None:
        for handler in logger.handlers:
            if record.levelno >= handler.level and _passes(handler, record):
                return False
        logger = logger.parent
    return True


def _passes(handler: logging.Handler, record: logging.LogRecord) -> bool:
    """Whether a handler has written a record of its level that is not marked."""
    ask: Callable[[logging.LogRecord], object] = handler.filter
    if not _writes(handler) or isinstance(ask, _Watched):
        return False  # one that is watched had marked it
    if not _asks(handler):
        return True
    _watch(handler)
    try:
        return bool(ask(copy.copy(record)))  # filters may change it
    except Exception:  # noqa: BLE001  a filter is users' code; a moment ago it raised nothing, so that says nothing
        return True


def _writes(handler: logging.Handler) -> bool:
    """Whether what it takes can be looked up somewhere."""
    kinds = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(handler).__mro__)
    return not isinstance(handler, logging.NullHandler) and _MAILS.isdisjoint(kinds)


def _asks(handler: logging.Handler) -> bool:
    return bool(handler.filters) or type(handler).filter is not logging.Filterer.filter


def _watch(handler: logging.Handler) -> None:
    """Have it mark the records that pass its filters, if it is of the common kind that asks them once for each record."""
    if _asks(handler) and _writes(handler) and type(handler).handle is logging.Handler.handle:
        handler.filter = _Watched(handler.filter)  # type: ignore[method-assign]


class _Watched:
    """A handler's `filter` that marks what passes: filters that count records, or change them, are to be asked once."""

    def __init__(self, ask: Callable[[logging.LogRecord], Any]) -> None:
        self._ask = ask

    def __call__(self, record: logging.LogRecord) -> Any:
        """As the handler's own. Since Python 3.12 that may give another record."""
        found = self._ask(record)
        if found:
            vars(record)[_TAKEN] = True
        return found
