"""How much one may ask: a token bucket for each principal, in this process."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

BURST_SECONDS: Final = 2.0
"""Seconds: the bucket holds the requests of this span."""
MAX_BUCKETS: Final = 10_000


class Limiter:
    """Lets `rate` requests a second pass for each key, and `burst` (by default twice as many) at once after a pause.

    A rate of 0 is no limit.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic, *, burst: float = 0.0) -> None:
        self._rate = rate
        self._most = burst or max(1.0, rate * BURST_SECONDS)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def wait(self, key: Hashable, *, count: bool = True) -> float:
        """0 if a request may pass, which counts unless not `count`; otherwise the seconds after which one may."""
        if self._rate <= 0:
            return 0.0
        with self._lock:
            now = self._clock()
            left, since = self._buckets.pop(key, (self._most, now))
            left = min(self._most, left + (now - since) * self._rate)
            passes = left >= 1
            self._buckets[key] = (left - 1 if passes and count else left, now)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
        return 0.0 if passes else (1 - left) / self._rate
