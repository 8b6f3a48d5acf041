"""Inquiries: is anybody executing this (run, epoch)? No I/O; messages go out and in through the orchestrator.

An inquiry came through the report queue, so behind every report that was confirmed before it. The judge asks all live workers
(`ASK`): each first promises never to begin these epochs, then says which it holds. So once all have answered or are lost, and
none holds the run, nobody executes it and nobody will. But somebody may have: a report confirmed after the inquiry and before
the answer is no more held, and not yet applied. So the judge then sends a `SYNC` down each report partition that brought an
inquiry; when it comes back, all such reports have been applied, and what is still open can be dispatched anew without starting
twice. The message that brought the inquiry stays unacked until then; should this process die, the broker gives it to the next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from aiki.broker import Delivery
from aiki.messages import Held, RunKey

MAX_RUNS = 1000
"""Runs a round: one control message asks for all of them, so that one answer is the whole answer."""
ASK_AGAIN = 2.0
"""Seconds after which workers that have not answered are asked once more (control messages are not confirmed)."""


@dataclass(slots=True)
class Carrier:
    """A message whose ack waits for `open` inquiries."""

    delivery: Delivery
    open: int = 0


@dataclass(slots=True)
class Inquiry:
    """One (run, epoch) in question. `again`: another copy of its dispatch may come out of a queue."""

    again: bool
    carriers: list[Carrier] = field(default_factory=list)


@dataclass(slots=True)
class Round:
    """Inquiries that were asked together, the workers that have not answered, the partitions that have not been synced.

    `syncing` is None until everybody has answered.
    """

    nonce: int
    namespace: str
    open: dict[RunKey, Inquiry]
    waiting: set[str]
    asked: float
    syncing: set[int] | None = None

    @property
    def partitions(self) -> set[int]:
        """The report partitions that brought the open inquiries."""
        return {int(c.delivery.source.key) for inquiry in self.open.values() for c in inquiry.carriers}


@dataclass(slots=True)
class Verdict:
    """What a round came to. `held` names the executor's worker and what it said; `free` is held by nobody."""

    namespace: str
    held: list[tuple[RunKey, str, Held]] = field(default_factory=list)
    free: dict[RunKey, bool] = field(default_factory=dict)
    """(run, epoch) to whether a copy may still be out."""
    carriers: list[Carrier] = field(default_factory=list)


class Judge:
    """The inquiries of one orchestrator."""

    def __init__(self, seed: int) -> None:
        self._nonce = seed
        self._pending: dict[str, dict[RunKey, Inquiry]] = {}
        self._rounds: dict[int, Round] = {}

    def __len__(self) -> int:
        return sum(len(r.open) for r in self._rounds.values()) + sum(len(p) for p in self._pending.values())

    def clear(self) -> None:
        """Forget everything: the session is gone, and the broker hands the inquiries out again."""
        self._pending.clear()
        self._rounds.clear()

    def add(self, namespace: str, key: RunKey, *, again: bool, carrier: Carrier) -> None:
        """An inquiry was received."""
        for round_ in self._rounds.values():
            known = round_.open.get(key) if round_.namespace == namespace else None
            if known is not None:
                break
        else:
            known = self._pending.setdefault(namespace, {}).setdefault(key, Inquiry(again))
        known.again = known.again or again
        known.carriers.append(carrier)
        carrier.open += 1

    def ask(self, live: dict[str, set[str]], now: float) -> list[Round]:
        """Begin a round for what was received since the last; the caller broadcasts each. `live`: workers by namespace."""
        rounds = []
        for namespace, inquiries in self._pending.items():
            items = list(inquiries.items())
            for start in range(0, len(items), MAX_RUNS):
                self._nonce += 1
                part = dict(items[start : start + MAX_RUNS])
                round_ = Round(self._nonce, namespace, part, set(live.get(namespace, set())), now)
                self._rounds[round_.nonce] = round_
                rounds.append(round_)
        self._pending = {}
        return rounds

    def ask_again(self, now: float) -> list[Round]:
        """Rounds that wait for answers longer than they should; the caller broadcasts them once more."""
        late = [r for r in self._rounds.values() if r.waiting and now - r.asked > ASK_AGAIN]
        for round_ in late:
            round_.asked = now
        return late

    def answer(self, worker: str, nonce: int, held: Iterable[Held]) -> Verdict | None:
        """A worker answered a round: what it holds is settled by that."""
        round_ = self._rounds.get(nonce)
        if round_ is None:
            return None
        round_.waiting.discard(worker)
        verdict = Verdict(round_.namespace)
        for item in held:
            key = RunKey(item.run_id, item.epoch)
            inquiry = round_.open.pop(key, None)
            if inquiry is not None:
                verdict.held.append((key, worker, item))
                verdict.carriers.extend(inquiry.carriers)
        return verdict

    def gone(self, worker: str) -> None:
        """A worker stopped or is lost: it answers no more."""
        for round_ in self._rounds.values():
            round_.waiting.discard(worker)

    def answered(self) -> list[Round]:
        """Rounds that everybody has answered by now; the caller sends a `SYNC` to each partition of theirs."""
        done = [r for r in self._rounds.values() if not r.waiting and r.syncing is None]
        for round_ in done:
            round_.syncing = round_.partitions
        return done

    def synced(self, nonce: int, partition: int) -> None:
        """A `SYNC` came back: what was reported before it is applied before `settled` is asked."""
        round_ = self._rounds.get(nonce)
        if round_ is not None and round_.syncing is not None:
            round_.syncing.discard(partition)

    def settled(self) -> list[Verdict]:
        """Rounds that are answered and synced: what is left in them is held by nobody, and was ended by nobody."""
        done = [r for r in self._rounds.values() if r.syncing is not None and not r.syncing]
        out = []
        for round_ in done:
            del self._rounds[round_.nonce]
            verdict = Verdict(round_.namespace)
            for key, inquiry in round_.open.items():
                verdict.free[key] = inquiry.again
                verdict.carriers.extend(inquiry.carriers)
            out.append(verdict)
        return out
