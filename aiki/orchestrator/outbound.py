"""Publishing what is due, with pipelined confirms: a delivery is deleted, by its own id, once the broker answers for it.

Nothing is ever sent twice from here. What was refused, or was on its way when the session died, stays in the database: its
claim runs out, and the sweeper publishes it marked `again`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from aiki.broker import CONTROL, Session, reports
from aiki.ceilings import CONTROL_RUNS
from aiki.errors import BrokerUnavailable, MessageTooLarge, StorageUnavailable
from aiki.messages import Control, RunKey
from aiki.model import Outgoing
from aiki.orchestrator.isolation import words
from aiki.publishing import Packed, pack
from aiki.storage import Store

logger = logging.getLogger("aiki.orchestrator")

DELETE_AT_ONCE = 500
DELETE_AFTER = 0.05


class Outbound:
    """The publishing side of one session of the orchestrator.

    :param refuse: is given a dispatch of which no message can be made, with the reason.
    """

    def __init__(self, store: Store, session: Session, refuse: Callable[[Outgoing, str], None]) -> None:
        self._store = store
        self._refuse = refuse
        self._session = session
        self._unconfirmed: dict[int, tuple[str, list[bytes]]] = {}
        self._confirmed: dict[str, list[bytes]] = {}
        self._reports: dict[int, Callable[[], None]] = {}
        self.unsendable: list[tuple[str, bytes, str]] = []
        """Runs (namespace, id, why) whose dispatch no message can carry: they are to fail."""
        self._count = 0
        self._since = 0.0

    @property
    def in_flight(self) -> int:
        """Messages sent and not settled."""
        return len(self._unconfirmed)

    def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """Send dispatches without waiting."""
        for packed in self._packed(outgoing):
            try:
                seq = self._session.send(packed.to, packed.body)
            except MessageTooLarge as error:
                self.unsendable += [(packed.namespace, raw[:16], str(error)) for raw in packed.delivery_ids]
                continue
            self._unconfirmed[seq] = (packed.namespace, packed.delivery_ids)

    def _packed(self, outgoing: Sequence[Outgoing]) -> list[Packed]:
        """The messages; a dispatch of which none can be made is set apart from the others."""
        try:
            return list(pack(outgoing))
        except (StorageUnavailable, BrokerUnavailable):
            raise
        except Exception as error:  # noqa: BLE001  the boundary, at what is in hand: no look at the database tells more
            if len(outgoing) == 1:
                self._refuse(outgoing[0], words(error))
                return []
        middle = len(outgoing) // 2
        return [*self._packed(outgoing[:middle]), *self._packed(outgoing[middle:])]

    def report(self, partition: int, body: bytes, confirmed: Callable[[], None]) -> None:
        """Send a report of our own; `confirmed` is called, from `settle`, once the broker answers for it."""
        self._reports[self._session.send(reports(partition), body)] = confirmed

    def control(self, namespace: str, kind: str, runs: Sequence[RunKey] = (), **fields: object) -> None:
        """Broadcast to the workers of a namespace; long lists go as several messages."""
        for start in range(0, max(len(runs), 1), CONTROL_RUNS):
            part = list(runs[start : start + CONTROL_RUNS])
            more = {"more": 1} if start + CONTROL_RUNS < len(runs) else {}
            self._session.send(CONTROL, Control(namespace, kind, part, {**fields, **more}).encode())

    def settle(self, now: float) -> None:
        """Take in confirms, and delete what they are about, many at a time."""
        for seq, ok in self._session.settled():
            confirmed = self._reports.pop(seq, None)
            if confirmed is not None:
                if not ok:
                    raise BrokerUnavailable("the broker refused a report of the orchestrator's own")
                confirmed()
                continue
            sent = self._unconfirmed.pop(seq, None)
            if sent is None:
                continue
            namespace, delivery_ids = sent
            if not ok:
                logger.warning("the broker refused a dispatch of %d runs; they will be sent again", len(delivery_ids))
                continue
            if not self._count:
                self._since = now
            self._confirmed.setdefault(namespace, []).extend(delivery_ids)
            self._count += len(delivery_ids)
        if self._count >= DELETE_AT_ONCE or (self._count and now - self._since > DELETE_AFTER):
            self.flush()

    def flush(self) -> None:
        """Delete all confirmed deliveries now."""
        confirmed, self._confirmed, self._count = self._confirmed, {}, 0
        for namespace, delivery_ids in confirmed.items():
            self._store.delivered(delivery_ids, namespace)
