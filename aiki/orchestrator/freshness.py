"""Replay protection: signed heartbeats that somebody has read and sends again are recognised by their numbers and times.

Otherwise the heartbeats of a lost worker would keep it alive for as long as they are repeated. A hello has a number that rises
with each hello of its worker; all others carry the server's time, as the worker knows it from its last snapshot.
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
    """The newest number and time of each worker, as one orchestrator has received them.

    :param clock: microseconds since the Unix epoch.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._hellos: OrderedDict[str, int] = OrderedDict()

    def is_fresh(self, beat: Heartbeat) -> bool:
        """Whether a signed heartbeat is fresh. If it is not, and is no hello, its worker should send a hello, whose answer
        contains the time."""
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
