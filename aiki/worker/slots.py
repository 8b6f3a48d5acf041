"""The memory that supervisor, link and children share: what each child holds, who is revoked, who is to stop.

One anonymous shared mapping, little-endian, made before the first fork. All words are 64 bits and aligned, so one
store of a word is seen whole by the others (revocations have mappings of their own, see `aiki.worker.revoked`)::

    header     16 words: GO, DRAIN, CLOCK (server's time less monotonic time), PAUSES (count of changes of the paused queues)
    slots      each: 24 words (`_PID` … below), then 1024 entries of 64 bytes
    paused     one byte for each of the worker's queues: 1 while it is paused
    identity   a word (rises with each change, odd while it is written), its length, and up to 496 bytes: the worker's keys

A slot's entries are the runs its child has *begun*: entry i stands at i modulo 1024; `TAIL` counts those begun, `HEAD` those
whose report is confirmed; those between are *held*. `EXECUTING` is 1 + the index of the entry whose user code runs, or 0.

Who writes what: a child its own slot's TAIL, HEAD, EXECUTING, STATE, WANT, RID, READY, TURNED, TAKES and entries; the link
LEASED, GO and the revocations, CLOCK, and what is to happen soon; the supervisor PID, INCARNATION, the interrupt words, and
DRAIN. A new child's slot is reset by the supervisor.

The order of writes is what the promise of `ASK` rests on. A child writes its entry and TAIL, *then* reads the revocations, then
executes. The link writes the revocation, waits a millisecond, *then* reads the slots. The wait stands for the
memory barrier that Python does not have: no store stays unseen by other processors for that long.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import Final, NamedTuple

from aiki.clock import now_us
from aiki.worker.revoked import Revoked

ENTRIES: Final = 1024
MAX_HELD: Final = 1000
"""A child begins nothing while it holds this many."""

_WORD = 8
_HEADER_WORDS = 16
_SLOT_WORDS = 24
_ENTRY = struct.Struct("<16sIHHQfffIi")
_ENTRY_BYTES = 64
_SLOT_BYTES = _SLOT_WORDS * _WORD + ENTRIES * _ENTRY_BYTES
_IDENTITY_BYTES = 512

# words of the header
_GO, _DRAIN, _CLOCK, _PAUSES = 0, 1, 3, 4
# words of a slot
_PID, _INCARNATION, _STATE, _READY, _TAIL, _HEAD, _EXECUTING, _LEASED = range(8)
_CANCEL, _CANCEL_REASON, _SOFT, _WANT, _CANCEL_SOON, _PAUSE_SOON, _RID, _SOFT_TIMES = range(8, 16)
_TURNED, _TAKES = 16, 17

# states of a child
STARTING: Final = 0
IDLE: Final = 1
BUSY: Final = 2
LEAVING: Final = 3
PREPARING: Final = 4
"""It calls the application's hooks for its start, which may take long."""

# why a child is interrupted
CANCEL: Final = 1
ABORT: Final = 2


class Entry(NamedTuple):
    """A run that a child has begun.

    `run` is 16 bytes; `definition` its index in the registry; `began` monotonic nanoseconds; `soft` and `hard` limits in
    seconds, 0 for none; `retry_delay` seconds until the next attempt if it is killed at the hard limit, below 0 for none.
    `ordinal` is that of the workflow's step that is executed, -1 for none.
    """

    run: bytes
    epoch: int
    partition: int
    definition: int
    began: int
    soft: float
    hard: float
    retry_delay: float
    attempt: int
    ordinal: int


class Held(NamedTuple):
    """A held entry with where it was found: `at` is its index in its slot, and whether its user code runs."""

    at: int
    executing: bool
    entry: Entry


class Slot:
    """One child's part of the shared memory."""

    __slots__ = ("_base", "_map", "_words", "number")

    def __init__(self, shared: mmap.mmap, words: memoryview, number: int) -> None:
        self.number = number
        self._map = shared
        offset = _HEADER_WORDS * _WORD + number * _SLOT_BYTES
        self._words = words[offset // _WORD : offset // _WORD + _SLOT_WORDS]
        self._base = offset + _SLOT_WORDS * _WORD

    # ------------------------------------------------------------ the supervisor's side
    def reset(self) -> int:
        """Clear the slot for a new child; returns the new incarnation."""
        words = self._words
        incarnation = words[_INCARNATION] + 1
        for word in range(_SLOT_WORDS):
            if word != _INCARNATION:
                words[word] = 0
        words[_INCARNATION] = incarnation
        return incarnation

    def interrupt(self, index: int, reason: int) -> None:
        """Ask the child to stop entry `index`: a cancel or an abort."""
        self._words[_CANCEL_REASON] = reason
        self._words[_CANCEL] = index + 1

    def soft_limit(self, index: int) -> None:
        """Tell the child that entry `index` ran into its soft time limit, or runs on all the same."""
        words = self._words
        words[_SOFT_TIMES] = words[_SOFT_TIMES] + 1 if words[_SOFT] == index + 1 else 1
        words[_SOFT] = index + 1

    # ------------------------------------------------------------ the child's side
    def begin(
        self,
        run: bytes,
        epoch: int,
        partition: int,
        definition: int,
        began: int,
        soft: float,
        hard: float,
        retry_delay: float,
        attempt: int,
        ordinal: int = -1,
    ) -> int:
        """Write the next entry; returns its index. The caller checks the revocations after it, before it executes."""
        words = self._words
        index: int = words[_TAIL]
        _ENTRY.pack_into(
            self._map,
            self._base + (index % ENTRIES) * _ENTRY_BYTES,
            run,
            epoch,
            partition,
            definition,
            began,
            soft,
            hard,
            retry_delay,
            attempt,
            ordinal,
        )
        words[_TAIL] = index + 1
        return index

    def execute(self, index: int) -> None:
        """User code of entry `index` runs from now on."""
        self._words[_EXECUTING] = index + 1

    def executed(self) -> None:
        """No user code runs."""
        self._words[_EXECUTING] = 0

    def confirm(self, head: int) -> None:
        """All entries below `head` are confirmed."""
        self._words[_HEAD] = head

    # ------------------------------------------------------------ single words
    @property
    def pid(self) -> int:
        """The child's process id, 0 for none."""
        return int(self._words[_PID])

    @pid.setter
    def pid(self, value: int) -> None:
        self._words[_PID] = value

    @property
    def incarnation(self) -> int:
        """How many children this slot has had."""
        return int(self._words[_INCARNATION])

    @property
    def state(self) -> int:
        """STARTING, PREPARING, IDLE (waits for work), BUSY or LEAVING."""
        return int(self._words[_STATE])

    @state.setter
    def state(self, value: int) -> None:
        self._words[_STATE] = value

    @property
    def ready(self) -> bool:
        """Whether the child came as far as its main loop."""
        return bool(self._words[_READY])

    @ready.setter
    def ready(self, value: bool) -> None:
        self._words[_READY] = int(value)

    @property
    def tail(self) -> int:
        """How many entries were begun."""
        return int(self._words[_TAIL])

    @property
    def executing(self) -> int | None:
        """The index of the entry whose user code runs."""
        return int(self._words[_EXECUTING]) - 1 if self._words[_EXECUTING] else None

    @property
    def leased(self) -> int | None:
        """The index of the last entry whose `started` report is confirmed."""
        return int(self._words[_LEASED]) - 1 if self._words[_LEASED] else None

    @leased.setter
    def leased(self, index: int) -> None:
        self._words[_LEASED] = index + 1

    @property
    def cancelled(self) -> tuple[int, int]:
        """The (index, reason) last interrupted; index -1 for none."""
        return int(self._words[_CANCEL]) - 1, int(self._words[_CANCEL_REASON])

    @property
    def softened(self) -> int:
        """The index whose soft limit was signalled last, -1 for none."""
        return int(self._words[_SOFT]) - 1

    @property
    def softened_times(self) -> int:
        """How often the entry `softened` was signalled."""
        return int(self._words[_SOFT_TIMES])

    @property
    def cancel_soon(self) -> int:
        """The index of the entry whose workflow is to meet its cancel at the next durable point, -1 for none."""
        return int(self._words[_CANCEL_SOON]) - 1

    @cancel_soon.setter
    def cancel_soon(self, index: int) -> None:
        self._words[_CANCEL_SOON] = index + 1

    @property
    def pause_soon(self) -> int:
        """The index of the entry whose workflow is to be given back at the next durable point, -1 for none."""
        return int(self._words[_PAUSE_SOON]) - 1

    @pause_soon.setter
    def pause_soon(self, index: int) -> None:
        self._words[_PAUSE_SOON] = index + 1

    @property
    def want(self) -> int:
        """Monotonic nanoseconds: the child needs a snapshot asked for after this time."""
        return int(self._words[_WANT])

    @want.setter
    def want(self, value: int) -> None:
        self._words[_WANT] = value

    @property
    def rid(self) -> int:
        """The child has no job any more that it took before this many snapshots of the revocations were complete."""
        return int(self._words[_RID])

    @rid.setter
    def rid(self, value: int) -> None:
        self._words[_RID] = value

    @property
    def turned(self) -> int:
        """Monotonic nanoseconds of the last turn of the child's main loop, which does not turn while user code runs."""
        return int(self._words[_TURNED])

    @property
    def takes(self) -> bool:
        """Whether the child was subscribed to its queues at that turn."""
        return bool(self._words[_TAKES])

    def turn(self, takes: bool) -> None:
        """The child's main loop turns."""
        words = self._words
        words[_TURNED] = time.monotonic_ns()
        words[_TAKES] = takes

    # ------------------------------------------------------------ everybody's reading
    def entry(self, index: int) -> Entry:
        """Entry `index`; the caller knows that it is held."""
        return Entry(*_ENTRY.unpack_from(self._map, self._base + (index % ENTRIES) * _ENTRY_BYTES))

    def held(self) -> tuple[int, list[Held]]:
        """The child's incarnation, and what it holds, oldest first.

        An entry that is confirmed meanwhile may be missing; one that is held all the while never is.
        """
        words = self._words
        while True:
            incarnation = int(words[_INCARNATION])
            head, tail, executing = int(words[_HEAD]), int(words[_TAIL]), int(words[_EXECUTING])
            found = [Held(i, executing == i + 1, self.entry(i)) for i in range(head, tail)]
            head = int(words[_HEAD])
            # An entry is overwritten only after it was confirmed: dropping what HEAD has passed drops what may be torn.
            if words[_INCARNATION] == incarnation:
                return incarnation, [item for item in found if item.at >= head]

    def latest(self) -> Held | None:
        """The entry begun last, if it is still held: the only one that may be executing."""
        words = self._words
        tail = int(words[_TAIL])
        if tail == 0 or words[_HEAD] >= tail:
            return None
        held = Held(tail - 1, words[_EXECUTING] == tail, self.entry(tail - 1))
        return held if words[_TAIL] == tail else None


class Shared:
    """The whole mapping: header, slots, and which of the worker's `queues` are paused; and `revoked`, the revocations."""

    def __init__(self, slots: int, queues: int = 1, revoked: Revoked | None = None) -> None:
        size = _HEADER_WORDS * _WORD + slots * _SLOT_BYTES
        self._paused = size
        self._queues = queues
        self._identity = size + -(-queues // _WORD) * _WORD
        self._map = mmap.mmap(-1, self._identity + _IDENTITY_BYTES)
        self._words = memoryview(self._map).cast("Q")
        self.revoked = Revoked() if revoked is None else revoked
        self.slots = [Slot(self._map, self._words, number) for number in range(slots)]

    @property
    def go(self) -> int:
        """Monotonic nanoseconds of the latest hello whose snapshot was taken over; 0 before the first."""
        return int(self._words[_GO])

    @go.setter
    def go(self, value: int) -> None:
        self._words[_GO] = value

    @property
    def clock_offset(self) -> int:
        """The server's time less this machine's monotonic time, microseconds; 0 while it is not known."""
        return int(self._words[_CLOCK])

    @clock_offset.setter
    def clock_offset(self, value: int) -> None:
        self._words[_CLOCK] = max(0, value)

    def now(self) -> int:
        """The server's clock, microseconds since the Unix epoch; this machine's while the server's is not known."""
        offset = self.clock_offset
        return offset + time.monotonic_ns() // 1000 if offset else now_us()

    @property
    def draining(self) -> bool:
        """Whether the worker stops: children finish what runs and leave."""
        return bool(self._words[_DRAIN])

    def drain(self) -> None:
        """Have all children leave."""
        self._words[_DRAIN] = 1

    @property
    def pauses(self) -> int:
        """How often the set of paused queues has changed."""
        return int(self._words[_PAUSES])

    @property
    def paused(self) -> list[bool]:
        """Which of the worker's queues are paused, in their order."""
        return [bool(byte) for byte in self._map[self._paused : self._paused + self._queues]]

    def pause(self, paused: list[bool]) -> None:
        """Set which queues are paused. Only the link calls this."""
        self._map[self._paused : self._paused + self._queues] = bytes(paused)
        self._words[_PAUSES] += 1

    # ------------------------------------------------------------ keys
    @property
    def identity_version(self) -> int:
        """Rises with each change of the identity; 0 before the first."""
        return int(self._words[self._identity // _WORD])

    @property
    def identity(self) -> tuple[int, bytes] | None:
        """The version and the bytes of what `identify` wrote last; None: nothing yet, or it is being written."""
        version = self.identity_version
        length = int(self._words[self._identity // _WORD + 1])
        data = self._map[self._identity + 2 * _WORD : self._identity + 2 * _WORD + length]
        return (version, data) if version and version % 2 == 0 and version == self.identity_version else None

    @property
    def identity_bytes(self) -> bytes:
        """The content that `identify` wrote last; empty if there was none. For the link, which alone writes it."""
        found = self.identity
        return b"" if found is None else found[1]

    def identify(self, data: bytes) -> None:
        """Tell the children who the worker is. Only the link calls this."""
        if len(data) > _IDENTITY_BYTES - 2 * _WORD:
            raise ValueError(f"an identity of {len(data)} bytes")
        at = self._identity // _WORD
        self._words[at] |= 1
        self._words[at + 1] = len(data)
        self._map[self._identity + 2 * _WORD : self._identity + 2 * _WORD + len(data)] = data
        self._words[at] += 1

    @property
    def may_turn(self) -> bool:
        """Whether all children are rid of what they took before the last turn of the revocations was complete."""
        return all(slot.rid >= self.revoked.complete for slot in self.slots if slot.pid)
