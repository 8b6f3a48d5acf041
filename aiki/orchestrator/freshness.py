"""Signed heartbeats that are sent once more by somebody who has read them: told by their numbers and times.

What a lost worker said would otherwise keep it alive for as long as anybody repeats it. A hello has a number that rises with
each one of its worker; everything else has the server's time, as the worker knows it from its last snapshot.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from aiki import messages as m
from aiki.clock import SECOND
from aiki.messages import Heartbeat

WINDOW: Final = 300
"""Seconds by which a heartbeat's time may differ from the clock here: so orchestrators' clocks need not agree well."""
WORKERS: Final = 10_000
"""Of how many workers the number of the last hello is remembered."""


class Freshness:
    """One orchestrator's memory of what it has heard.

    :param clock: microseconds since the Unix epoch.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._hellos: OrderedDict[str, int] = OrderedDict()

    def is_fresh(self, beat: Heartbeat) -> bool:
        """Whether a signed heartbeat is said now. If not, and it is no hello, its worker should say hello, which tells it the
        time."""
        if beat.kind != m.HELLO:
            at = beat.fields.get("at")
            return isinstance(at, int) and abs(self._clock() - at) <= WINDOW * SECOND
        nonce = beat.fields.get("nonce")
        if not isinstance(nonce, int) or nonce <= self._hellos.get(beat.worker, -1):
            return False
        self._hellos[beat.worker] = nonce
        self._hellos.move_to_end(beat.worker)
        if len(self._hellos) > WORKERS:
            self._hellos.popitem(last=False)
        return True
