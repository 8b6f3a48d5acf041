"""Delivery tags: the numbers 1, 2, 3, … that both sides of AMQP give to messages, and which of them are still open."""

from __future__ import annotations


class Tags:
    """Which of the numbers up to `last` are open. Closing in order or nearly so costs constant time and memory.

    :ivar last: the highest number given out, where the owner says so.
    :ivar lowest: all below it are closed.
    """

    __slots__ = ("_closed", "last", "lowest")

    def __init__(self) -> None:
        self.last = 0
        self.lowest = 1
        self._closed: set[int] = set()

    def close(self, tag: int) -> bool:
        """Close one; whether it was open."""
        if tag < self.lowest or tag in self._closed:
            return False
        self._closed.add(tag)
        while self.lowest in self._closed:
            self._closed.discard(self.lowest)
            self.lowest += 1
        return True

    def close_through(self, tag: int) -> list[int]:
        """Close all up to `tag`; those that were open, in order."""
        opened = [number for number in range(self.lowest, tag + 1) if number not in self._closed]
        self._closed.difference_update(range(self.lowest, tag + 1))
        self.lowest = max(self.lowest, tag + 1)
        while self.lowest in self._closed:
            self._closed.discard(self.lowest)
            self.lowest += 1
        return opened
