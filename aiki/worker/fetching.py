"""The values of a history that its dispatch leaves out: asked for when the workflow looks at them.

The question goes through the report queue, so it needs no road of its own; the answer comes to a queue of the child's own, and
may get lost: then it is asked for again. The values that follow in the history are asked for with it, as far as one answer
carries them, for a replay looks at one after the other. What was looked at is not kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

from aiki.ceilings import FETCH_BYTES, FETCH_VALUES
from aiki.errors import PayloadError
from aiki.history import ValueKey
from aiki.messages import Values

ASK_AGAIN: Final = 2.0
GIVE_UP: Final = 30.0
"""Seconds without an answer after which the run is given back: an orchestrator of an earlier release does not know the
question, and dispatches with the whole history."""
_numbers = itertools.count(1)

Ask = Callable[[int, Sequence[ValueKey]], Values]


class Fetched:
    """The values that one call of a workflow's function fetches.

    :param ask: asks with a number, waits, and gives the answer; raises what is to be raised in the function instead.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._places: dict[ValueKey, int] = {}
        self._keys: list[tuple[ValueKey, int]] = []
        self._here: dict[ValueKey, str] = {}

    def expect(self, outside: Sequence[tuple[ValueKey, int]]) -> None:
        """What the history leaves out: keys with lengths, in the order in which they are likely to be looked at."""
        self._keys = list(outside)
        self._places = {key: at for at, (key, _) in enumerate(self._keys)}

    def close(self) -> None:
        """The function has been left: let go of who was asked, which holds the whole history."""
        self._ask = _refuse
        self._here.clear()

    def get(self, key: ValueKey) -> str:
        """The text of a key. Raises `PayloadError` where there is none any more."""
        text = self._here.pop(key, None)
        if text is not None:
            return text
        self._here.clear()  # the code looks elsewhere: what it has passed over is not wanted
        found = self._ask(next(_numbers), self._wanted(key)).texts
        text = found.pop(key, None)
        if text is None:
            raise PayloadError(f"a value of this run's history ({key.of} {key.key}) is no longer there, or cannot be sent")
        self._here = {other: carried for other, carried in found.items() if carried is not None}
        return text

    def _wanted(self, key: ValueKey) -> list[ValueKey]:
        at = self._places[key]
        out: list[ValueKey] = []
        total = 0
        for other, size in itertools.islice(self._keys, at, at + FETCH_VALUES):
            total += size
            if out and total > FETCH_BYTES:
                break
            out.append(other)
        return out


def _refuse(_number: int, keys: Sequence[ValueKey]) -> Values:
    raise PayloadError(f"{len(keys)} values of a history are asked for after the workflow's function has been left")
