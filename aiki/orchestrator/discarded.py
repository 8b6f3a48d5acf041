"""Messages that RabbitMQ has removed from a queue because of a policy or of a limit of the queue.

They arrive as dead letters and are none: the run of a dispatch is still queued on record and is dispatched anew, and a report
is applied as if it had come the usual way. The log names the setting that causes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiki.broker import Delivery, Kind
from aiki.messages import DispatchList
from aiki.orchestrator.isolation import Isolation
from aiki.storage import Store

REASONS: Final = {
    "expired": "a policy sets message-ttl, or expires, for its queue",
    "maxlen": "a policy sets max-length, or max-length-bytes, for its queue",
    "delivery_limit": "a policy sets delivery-limit for its queue, or the queue was not declared by Aiki",
}
"""RabbitMQ's reasons for throwing a message out of a queue, and what is behind them."""


class Discarded:
    """Distinguishes such messages from dead letters, and takes the dispatches among them.

    :param why_refused: gives the reason why a message is not believed, empty if it is.
    """

    def __init__(self, store: Store, isolation: Isolation, why_refused: Callable[[bytes], str] = lambda body: "") -> None:
        self._store = store
        self._isolation = isolation
        self._why_refused = why_refused

    def kind(self, delivery: Delivery) -> Kind | None:
        """`WORK` or `REPORTS` if a dead letter was thrown out of such a queue; None if it is kept for people."""
        why = REASONS.get(str(delivery.headers.get("reason", "")))
        source = str(delivery.headers.get("queue", ""))
        kind = source.partition("/")[0]
        if why is None or kind not in (Kind.WORK.value, Kind.REPORTS.value) or self._why_refused(delivery.body):
            return None
        self._isolation.note(
            "policies",
            f"RabbitMQ throws messages of {source} away: {why}. No run is lost, but many are late: take that setting away",
        )
        return Kind(kind)

    def take(self, delivery: Delivery) -> None:
        """Take a dispatch. Its runs are found by the reconciler: at its pace, for whatever is sent at once may go the same way.

        :raises MessageError: it cannot be read.
        """
        found = DispatchList.decode(delivery.body)
        if found.marker is not None:
            # Queues are emptied from their head, so what was before it has gone, too.
            self._store.marker_taken(found.namespace, found.queue, found.marker)
