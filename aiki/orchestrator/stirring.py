"""Wake-ups: looking at runs that have new arrivals, such as an event, the end of a child or an order of a parent.

The code that records an arrival notes the run here (`note`). If its process died before that, the arrival is found in the
inbox (`find`). A run with very many arrivals is looked at less often, so that this costs little: one look brings it on for all
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from aiki.lifecycle import workflows
from aiki.lifecycle.effects import Applied, Effects
from aiki.lifecycle.record import RunRow
from aiki.orchestrator.isolation import Isolation
from aiki.storage import Store

FOUND_AT_ONCE: Final = 500
AT_ONCE: Final = 100
"""Runs a transaction."""
MANY: Final = 500
REST: Final = 10
"""Back-off for a run to which more than `MANY` things came: it rests for this many times as long as looking at it took."""


class Stirring:
    """The runs that one orchestrator has to look at.

    :param refuse: is given a run (namespace, id) that cannot be looked at, with the reason.
    """

    def __init__(
        self,
        store: Store,
        monotonic: Callable[[], float],
        isolation: Isolation,
        refuse: Callable[[str, bytes, str], None],
    ) -> None:
        self._store = store
        self._monotonic = monotonic
        self._isolation = isolation
        self._refuse = refuse
        self._noted: dict[tuple[str, bytes], None] = {}
        self._place = ("", b"")
        self._resting: dict[tuple[str, bytes], float] = {}

    def note(self, namespace: str, run_ids: Iterable[bytes]) -> None:
        """Something has come to these runs."""
        self._noted.update(dict.fromkeys((namespace, run_id) for run_id in run_ids))

    def find(self) -> None:
        """Note what is in the inbox and was not looked at."""
        found = self._store.stirred(self._place, FOUND_AT_ONCE)
        self._place = found[-1] if len(found) >= FOUND_AT_ONCE else ("", b"")  # those that rest hide no others
        self._noted.update(dict.fromkeys(found))

    def run_once(self, now: float) -> Iterator[tuple[str, Applied]]:
        """Look at what was noted; what it yields is to be followed. Raises `StorageUnavailable`."""
        self._resting = {key: until for key, until in self._resting.items() if until > now}
        due: dict[str, list[bytes]] = {}
        for namespace, run_id in self._noted:
            if (namespace, run_id) not in self._resting:
                due.setdefault(namespace, []).append(run_id)
        for namespace, run_ids in due.items():
            for start in range(0, len(run_ids), AT_ONCE):
                for applied in self._isolation.each(
                    run_ids[start : start + AT_ONCE],
                    lambda part, namespace=namespace: self._look(namespace, part, now),  # type: ignore[misc]
                    lambda run_id, why, namespace=namespace: self._cannot(namespace, run_id, why),  # type: ignore[misc]
                ):
                    yield namespace, applied

    def _cannot(self, namespace: str, run_id: bytes, why: str) -> None:
        self._noted.pop((namespace, run_id), None)
        self._refuse(namespace, run_id, why)

    def _look(self, namespace: str, run_ids: Sequence[bytes], now: float) -> Applied:
        heavy: set[bytes] = set()

        def decide(rows: dict[bytes, RunRow], effects: Effects) -> None:
            for row in rows.values():
                if len(effects.arrived.get(row.id, ())) > MANY:
                    heavy.add(row.id)
                workflows.stir(row, effects, self._store.clock())

        begun = self._monotonic()
        applied = self._store.apply(namespace, run_ids, decide, arrived=run_ids)
        for run_id in run_ids:
            self._noted.pop((namespace, run_id), None)
        until = now + REST * (self._monotonic() - begun)
        self._resting.update({(namespace, run_id): until for run_id in heavy})
        return applied
