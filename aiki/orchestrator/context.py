"""The context that the parts of one orchestrator share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aiki import messages as m
from aiki.broker import Session
from aiki.errors import BrokerUnavailable
from aiki.lifecycle import reports
from aiki.lifecycle.effects import Applied, Decide, Effects
from aiki.lifecycle.record import RunRow
from aiki.lifecycle.reports import Outcome, Rules
from aiki.messages import RunKey
from aiki.model import Outgoing
from aiki.orchestrator.isolation import Failed, Isolation
from aiki.orchestrator.judge import Carrier
from aiki.orchestrator.live import Live
from aiki.orchestrator.outbound import Outbound
from aiki.orchestrator.stirring import Stirring
from aiki.settings import Settings
from aiki.storage import Store

Carriers = dict[tuple[str, RunKey], list[Carrier]]
"""The messages that brought the inquiries of a turn."""


class Inquire(Protocol):
    """`Judge.add`."""

    def __call__(self, namespace: str, key: RunKey, *, again: bool, carrier: Carrier) -> None:
        """Ask whether anybody is at this run."""


class Context:
    """See the module. `session` and `out` are there while the broker is."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        live: Live,
        isolation: Isolation,
        monotonic: Callable[[], float],
        inquire: Inquire,
    ) -> None:
        self.store = store
        self.settings = settings
        self.live = live
        self.isolation = isolation
        self.monotonic = monotonic
        self.stirring = Stirring(store, monotonic, isolation, self.cannot_go_on)
        self._inquire = inquire
        self._session: Session | None = None
        self._out: Outbound | None = None
        self._durations: dict[tuple[str, str], float] = {}
        self._dirty: set[tuple[str, str]] = set()
        self._next_breath = 0.0
        self._told: list[tuple[str, RunKey]] = []
        """Revocations that this orchestrator has sent to the workers and that are not yet marked as announced."""

    # ------------------------------------------------------------ the session
    @property
    def session(self) -> Session:
        """The session with the broker; raises `BrokerUnavailable` where there is none."""
        if self._session is None:
            raise BrokerUnavailable("there is no session with the broker")
        return self._session

    @property
    def out(self) -> Outbound:
        """The publisher on that session; raises `BrokerUnavailable` where there is none."""
        if self._out is None:
            raise BrokerUnavailable("there is no session with the broker")
        return self._out

    @property
    def connected(self) -> bool:
        """Whether there is a session."""
        return self._session is not None

    def use(self, session: Session | None) -> Session | None:
        """Work with this session from now on, or with none; the one before."""
        before, self._session = self._session, session
        self._out = None if session is None else Outbound(self.store, session, self._unpublished)
        return before

    def rules(self, namespace: str) -> Rules:
        """What decisions need to know."""
        return Rules(self.store.clock(), self.settings.max_crashes, self.live.skills(namespace))

    # ------------------------------------------------------------ after a commit
    def follow(
        self, namespace: str, applied: Applied, outcome: Outcome | None = None, carriers: Carriers | None = None
    ) -> None:
        """Act on what a committed transaction asks for."""
        now = self.monotonic()
        if now >= self._next_breath:  # many transactions in one turn may take longer than the broker waits for a sign of life
            self._next_breath = now + 1.0
            self.session.beat()
        outcome = outcome or Outcome()
        self.out.publish(applied.outgoing)
        for kind, runs in (
            (m.REVOKE, applied.revoke),
            (m.CANCEL, applied.interrupt),
            (m.CANCEL_SOON, applied.soon),
            (m.ABORT, outcome.abort),
        ):
            if runs:
                self.out.control(namespace, kind, runs)
        self.note_told(namespace, [*applied.revoke, *applied.interrupt])
        self.stirring.note(namespace, sorted(applied.stirred))
        for key, again in outcome.inquire:
            for carrier in (carriers or {}).get((namespace, key), []):
                self._inquire(namespace, key, again=again, carrier=carrier)
        for name, millis in outcome.durations.items():
            mean = sum(millis) / len(millis)
            known = self._durations.get((namespace, name))
            self._durations[namespace, name] = mean if known is None else 0.8 * known + 0.2 * mean
            self._dirty.add((namespace, name))

    def note_told(self, namespace: str, keys: Sequence[RunKey]) -> None:
        """The workers were told of these revocations."""
        self._told += [(namespace, key) for key in keys]

    def take_told(self, limit: int = 5000) -> list[tuple[str, RunKey]]:
        """Some of the revocations that the workers were told of, to be put on record."""
        told, self._told = self._told[:limit], self._told[limit:]
        return told

    def take_durations(self) -> dict[str, dict[str, float]]:
        """Mean durations (ms) that have changed since the last call: by namespace, then name."""
        dirty, self._dirty = self._dirty, set()
        out: dict[str, dict[str, float]] = {}
        for namespace, name in dirty:
            out.setdefault(namespace, {})[name] = self._durations[namespace, name]
        return out

    # ------------------------------------------------------------ many runs, each isolated
    def apply_each(self, namespace: str, run_ids: Sequence[bytes], decide: Decide) -> None:
        """Apply a decision to runs, and follow what it asks for; a run that it cannot be applied to fails."""
        store = self.store
        for applied in self.isolation.each(
            run_ids,
            lambda part: store.apply(namespace, part, decide),
            lambda run_id, why: self.cannot_go_on(namespace, run_id, why),
        ):
            self.follow(namespace, applied)

    def cannot_go_on(self, namespace: str, run_id: bytes, why: str) -> None:
        """Something about this run raises each time: it fails, with the reason."""

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            for row in rows.values():
                reports.cannot_go_on(row, self.store.clock(), why)

        self.isolation.note("runs", f"run {run_id.hex()} in namespace {namespace} cannot go on: {why}")
        found = self.isolation.attempt(self.store.apply, namespace, [run_id], decide)
        if isinstance(found, Failed):
            why = f"{why}; and: {found.why}"
        else:
            self.follow(namespace, found.value)
        # Where its row itself cannot be read or written as others are, this says the least of what became of it. In any case
        # nothing is left that would have it looked at again.
        self.isolation.do("runs", f"run {run_id.hex()}", self.store.give_up_run, namespace, run_id, why)

    def fail_unsendable(self) -> None:
        """Runs whose dispatch is larger than the broker takes."""
        while self.out.unsendable:
            namespace, run_id, why = self.out.unsendable.pop()

            def decide(rows: dict[bytes, RunRow], effects: Effects, why: str = why) -> None:
                for row in rows.values():
                    reports.fail_unsendable(row, self.store.clock(), why)

            self.apply_each(namespace, [run_id], decide)

    def _unpublished(self, outgoing: Outgoing, why: str) -> None:
        """No message can be made of this dispatch."""
        self.cannot_go_on(outgoing.namespace, bytes.fromhex(outgoing.dispatch.run_id), f"its dispatch cannot be sent: {why}")
