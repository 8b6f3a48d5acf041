"""The hooks of a worker's processes: before the first fork, and as each child begins and ends."""

from __future__ import annotations

import contextvars
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterable
from typing import Any

from aiki.hooks import Hooks
from aiki.worker.looping import Loop, is_awaitable

_log = logging.getLogger(__name__)


def call(apps: Iterable[Hooks], kind: str, loop: Loop | None = None) -> None:
    """Call the hooks of a kind (`worker_start` or `child_start`), app by app. Raises what they raise, with a note of the hook.

    :param loop: where asynchronous ones are awaited.
    """
    for hooks in apps:
        for hook in getattr(hooks, kind):
            try:
                _call(hook, loop)
            except BaseException as error:
                error.add_note(f"raised in the hook {_name(hook)}, @app.on_{kind}")
                raise


def call_last(apps: Iterable[Hooks], loop: Loop) -> None:
    """Call the hooks for the end of a child, the last one first. Their errors are logged, and the others are called."""
    for hook in reversed([hook for hooks in apps for hook in hooks.child_stop]):
        try:
            _call(hook, loop)
        except BaseException:  # noqa: BLE001  a hook is users' code, and this process ends in any case
            _log.exception("the hook %s, @app.on_child_stop, failed", _name(hook))


def _call(hook: Callable[[], object], loop: Loop | None) -> None:
    result = hook()
    if loop is not None and is_awaitable(result):
        loop.run(_awaited(result), contextvars.copy_context())


async def _awaited(work: Any) -> None:
    await work


def _name(hook: object) -> str:
    return f"{getattr(hook, '__module__', '?')}.{getattr(hook, '__qualname__', repr(hook))}"


def open_connections() -> list[str]:
    """To where this process has connections, as `host:port` or a path: children that are forked would share them."""
    found = []
    for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        if number <= 2:
            continue  # a service manager's journal, perhaps
        try:
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as copy:
                peer = copy.getpeername()
        except OSError:
            continue  # closed meanwhile, or not connected
        if isinstance(peer, tuple):
            found.append(f"{peer[0]}:{peer[1]}")
        elif peer:
            found.append(os.fsdecode(peer))
    return found
