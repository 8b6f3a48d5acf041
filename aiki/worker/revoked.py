"""The revocations that a worker has heard of, in memory that its link writes and its children read.

Two areas, each with up to eight hash tables, each table twice as large as the one before; all words are 64 bits. A table
holds numbers made of run and epoch, at the first free word from where the number belongs. One store of a word is seen whole,
and nothing is moved, so readers need no lock. A table that is five eighths full is followed by the next one. What is not used
takes no memory: a million revocations take 16 MiB, whatever the number of children.

Nobody tells a worker that a revocation is of no more use, so once there are many, it asks which are. The link *turns over*: it
empties the older area, adds what it hears from then on to it, and asks for a snapshot, which is added too. Both
areas count all the while. Once the snapshot is complete the area holds all that may still come out of a queue; but a child may
have taken a dispatch out of its queue before, whose revocation the orchestrators know to be of no more use. So the other area
is emptied only at the next turn, and not before each child has said that it has none of those any more (`Slot.rid`).

The number is Python's own hash, whose key the processes of one worker share, for they are forks of the supervisor. Two of a
million runs are taken for each other with a probability of less than one in ten million.
"""

from __future__ import annotations

import mmap
import struct
from typing import Final

_KEY: Final = struct.Struct("<16sI")
_WORD: Final = 8
_FIRST: Final = 14
_TABLES: Final = 8
"""The first table has 2^14 words, the last 2^21."""
_ALL_BITS: Final = (1 << 64) - 1
KEPT: Final = 1_000_000
"""So many revocations are kept without asking which of them are of use."""
# words of the header
_CURRENT, _TURNS, _COMPLETE, _COUNT, _USED, _MANY = 0, 1, 2, 3, 5, 7


class Revoked:
    """See the module. `covers` is for everybody, the rest for the link alone.

    :param first: the binary logarithm of the words of the first table.
    :param tables: how many tables an area has at most.
    :param kept: so many are kept before `should_turn` says so.
    """

    def __init__(self, first: int = _FIRST, tables: int = _TABLES, kept: int = KEPT) -> None:
        self._kept = kept
        self._header = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._header[_MANY] = kept
        sizes = [1 << (first + number) for number in range(tables)]
        self._limits = [sum(sizes[: number + 1]) * 5 // 8 for number in range(tables)]
        self._maps = [mmap.mmap(-1, sum(sizes) * _WORD) for _ in range(2)]
        self._tables: list[list[tuple[memoryview, int]]] = []
        for area in self._maps:
            words = memoryview(area).cast("Q")
            at, tables_of_it = 0, []
            for size in sizes:
                tables_of_it.append((words[at : at + size], size - 1))
                at += size
            self._tables.append(tables_of_it)

    # ------------------------------------------------------------ everybody
    def covers(self, run: bytes, epoch: int) -> bool:
        """Whether the run was revoked, by all that the link has written."""
        header = self._header
        if not header[_USED] and not header[_USED + 1]:
            return False
        key = hash(_KEY.pack(run, epoch)) & _ALL_BITS or 1
        # The area that is emptied next holds nothing that the other lacks: what is read while that happens is right.
        return self._holds(0, key) or self._holds(1, key)

    def _holds(self, area: int, key: int) -> bool:
        for table, mask in self._tables[area][: self._header[_USED + area]]:
            at = key & mask
            while found := table[at]:
                if found == key:
                    return True
                at = (at + 1) & mask
        return False

    @property
    def complete(self) -> int:
        """How often a snapshot has been taken over whole after a turn."""
        return int(self._header[_COMPLETE])

    # ------------------------------------------------------------ the link
    def __len__(self) -> int:
        """How many the current area holds."""
        return int(self._header[_COUNT + self._header[_CURRENT]])

    def add(self, run: bytes, epoch: int) -> bool:
        """Add a revocation to the current area; False if there is no room. Raises `struct.error` for what is none."""
        header = self._header
        area = header[_CURRENT]
        key = hash(_KEY.pack(run, epoch)) & _ALL_BITS or 1
        if self._holds(area, key):
            return True
        count, used = header[_COUNT + area], header[_USED + area]
        if not used or count >= self._limits[used - 1]:
            if used == len(self._limits):
                return False
            header[_USED + area] = used = used + 1
        table, mask = self._tables[area][used - 1]
        at = key & mask
        while table[at]:
            at = (at + 1) & mask
        table[at] = key
        header[_COUNT + area] = count + 1
        return True

    @property
    def turning(self) -> bool:
        """Whether a snapshot is awaited that contains the revocations still in use. Also for a link that takes the place of
        another."""
        return bool(self._header[_TURNS] != self._header[_COMPLETE])

    @property
    def should_turn(self) -> bool:
        """Whether there are so many that it is time to ask for those still in use."""
        return len(self) > self._header[_MANY] and not self.turning

    def turn(self) -> None:
        """Empty the older area and have it be the current one. A snapshot that is asked for after this completes it.

        The caller knows that every child is rid of what it took before the last turn was complete.
        """
        header = self._header
        older = 1 - header[_CURRENT]
        header[_USED + older] = header[_COUNT + older] = 0
        self._maps[older].madvise(mmap.MADV_REMOVE)
        header[_TURNS] += 1
        header[_CURRENT] = older

    def completed(self) -> None:
        """All of a snapshot that was asked for after the turn was added."""
        self._header[_MANY] = max(self._kept, len(self) * 5 // 4)
        self._header[_COMPLETE] = self._header[_TURNS]
