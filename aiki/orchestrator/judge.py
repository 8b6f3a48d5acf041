"""Inquiries: is anybody executing this (run, epoch)? No I/O; messages go out and in through the orchestrator.

An inquiry came through the report queue, so behind every report that was confirmed before it. The judge asks all live workers
(`ASK`): each first promises never to begin these epochs, then says which it holds. So once all have answered or are lost, and
none holds the run, nobody executes it and nobody will. But somebody may have: a report confirmed after the inquiry and before
the answer is no more held, and not yet applied. So what is still open goes down its report partition once more, as a `SYNC`;
when that comes back, all such reports have been applied, and the run can be dispatched anew without starting twice.

The message that brought an inquiry stays unacked until the run is found to be held, or the `SYNC` is confirmed (not until it
comes back: there may be as many unacked inquiries as the subscription allows, and the `SYNC` stands behind them). A `SYNC` of
another process, or of before a lost session, is an inquiry like any other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from aiki.broker import Delivery
from aiki.messages import Held, RunKey

MAX_RUNS = 1000
"""Runs a round: one control message asks for all of them, so that one answer is the whole answer."""
GATHER = 0.05
"""Seconds between rounds, unless one is full: each costs a question to all workers and some transactions."""
PROMISES = 1000
"""How many rounds are remembered until their `SYNC` comes back; one that is forgotten is asked again."""
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
    """Inquiries that were asked together, and the workers that have not answered."""

    nonce: int
    namespace: str
    open: dict[RunKey, Inquiry]
    waiting: set[str]
    asked: float

    def by_partition(self) -> dict[int, dict[RunKey, Inquiry]]:
        """The open inquiries by the report partition that brought them."""
        out: dict[int, dict[RunKey, Inquiry]] = {}
        for key, inquiry in self.open.items():
            out.setdefault(int(inquiry.carriers[0].delivery.source.key), {})[key] = inquiry
        return out


@dataclass(slots=True)
class Verdict:
    """The result of inquiries. `held`: runs, each with the answer of its worker; `free`: runs that no worker holds."""

    namespace: str
    held: list[tuple[RunKey, str, Held]] = field(default_factory=list)
    free: dict[RunKey, bool] = field(default_factory=dict)
    """(run, epoch) to whether a copy may still be out."""
    carriers: list[Carrier] = field(default_factory=list)


class Judge:
    """The inquiries of one orchestrator."""

    def __init__(self, seed: int) -> None:
        self._nonce = seed
        self._open: dict[tuple[str, RunKey], Inquiry] = {}
        """All that are pending or in a round."""
        self._pending: dict[str, dict[RunKey, Inquiry]] = {}
        self._rounds: dict[int, Round] = {}
        self._asked = float("-inf")
        self._promised: deque[int] = deque(maxlen=PROMISES)

    def __len__(self) -> int:
        return len(self._open)

    def clear(self) -> None:
        """Forget everything: the session is gone, and the broker hands the inquiries out again."""
        self._open.clear()
        self._pending.clear()
        self._rounds.clear()
        self._promised.clear()

    def add(self, namespace: str, key: RunKey, *, again: bool, carrier: Carrier) -> None:
        """An inquiry was received."""
        known = self._open.get((namespace, key))
        if known is None:
            known = self._open[namespace, key] = self._pending.setdefault(namespace, {})[key] = Inquiry(again)
        known.again = known.again or again
        known.carriers.append(carrier)
        carrier.open += 1

    def ask(self, live: dict[str, set[str]], now: float) -> list[Round]:
        """Begin rounds for what was received; the caller broadcasts each. `live`: workers by namespace.

        A lone inquiry is asked at once; under many, each round waits a moment for company.
        """
        rounds: list[Round] = []
        if not self._pending or (now - self._asked < GATHER and max(map(len, self._pending.values())) < MAX_RUNS):
            return rounds
        self._asked = now
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
                del self._open[round_.namespace, key]
                verdict.held.append((key, worker, item))
                verdict.carriers.extend(inquiry.carriers)
        return verdict

    def gone(self, worker: str) -> None:
        """A worker stopped or is lost: it answers no more."""
        for round_ in self._rounds.values():
            round_.waiting.discard(worker)

    def answered(self) -> list[Round]:
        """Rounds that everybody has answered by now. The caller sends what is open in them as `SYNC`."""
        done = [r for r in self._rounds.values() if not r.waiting]
        for round_ in done:
            del self._rounds[round_.nonce]
            for key in round_.open:
                del self._open[round_.namespace, key]
            self._promised.append(round_.nonce)
        return done

    def promised(self, nonce: int) -> bool:
        """Whether this orchestrator has sent the `SYNC`: then all live workers have promised never to begin the runs that it
        names."""
        return nonce in self._promised
