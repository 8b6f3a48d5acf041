"""The event loop of a child: one for its whole life, for all its tasks and steps.

What asynchronous clients keep (connections, locks, pools) belongs to a loop; a client at the top of a module is shared by all
that this process executes, and works only if they all have the same.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from aiki.hooks import Around
from aiki.worker.gate import Gate

_LEFTOVER_SECONDS: Final = 2.0


class Loop:
    """See the module. It is made by `begin`, or when it is first needed, and made anew if users' code has closed it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> None:
        """From now on `offer` gives a loop also before the first asynchronous task."""
        asyncio.set_event_loop(self._get())

    def offer(self) -> None:
        """Have `asyncio.get_event_loop()` in code that is not asynchronous give this loop, whatever ran before."""
        if self._loop is not None:
            asyncio.set_event_loop(self._get())

    def run(self, work: Coroutine[Any, Any, Any], context: contextvars.Context) -> Any:
        """Run a coroutine to its end; asyncio tasks that it leaves behind are cancelled: no other run is to carry them on."""
        loop = self._get()
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(loop.create_task(work, context=context))
        finally:
            if asyncio.all_tasks(loop):
                loop.run_until_complete(_cancel_leftovers())

    def _get(self) -> asyncio.AbstractEventLoop:
        loop = self._loop
        if loop is None or loop.is_closed():
            loop = self._loop = asyncio.new_event_loop()
            weakref.finalize(self, _release, loop)
        return loop

    def close(self) -> None:
        """Release it, in a process that goes on without it."""
        loop, self._loop = self._loop, None
        if loop is not None:
            _release(loop)
            asyncio.set_event_loop(None)


def _release(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed() and not loop.is_running():
        loop.close()


def is_awaitable(value: object) -> bool:
    """Whether a function that is not asynchronous has given something that is to be awaited (a decorator over `async def`)."""
    return hasattr(type(value), "__await__")


def give_up(value: object) -> None:
    """Nobody is going to await it: let Python not complain of that."""
    if inspect.iscoroutine(value):
        value.close()


async def drive(gate: Gate, work: Callable[[], Awaitable[Any]], around: Around | None) -> Any:
    """Await users' work, with the gate open, inside of the asynchronous hooks if there are any."""
    if around is None or not around.is_async:
        return await _gated(gate, work)

    async def settled() -> Any:
        raised = gate.raised
        try:
            return await _gated(gate, work)
        finally:
            if gate.raised != raised:
                # An interrupt that came as the work ended is meant for it: let it not arrive in a hook.
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)

    return await around.drive(settled)


async def _gated(gate: Gate, work: Callable[[], Awaitable[Any]]) -> Any:
    gate.enter_async()
    try:
        return await work()
    finally:
        gate.leave()


async def _cancel_leftovers() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.wait(left, timeout=_LEFTOVER_SECONDS)
