"""A client with a database and no broker: an orchestrator publishes what it records, and informs the workers.

It stands in for the `Publisher`. People's verbs work so (`aiki runs cancel --database …`); `enqueue` asks for a broker.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiki.client.publisher import FLUSH, Pending
from aiki.messages import Control
from aiki.model import Outgoing


class Recorder:
    """Publishes nothing; see `Publisher` for what its methods mean elsewhere."""

    down = ""
    sent = confirmed = 0

    def accepting(self) -> bool:
        """Nothing is to be claimed for this process."""
        return False

    def put(self, outgoing: Sequence[Outgoing], claimed_at: float) -> None:
        """Nothing to do: a delivery that a verb has claimed goes to the sweeper when the claim runs out."""

    def put_pending(self, pending: Pending) -> None:
        """The same."""

    def control(self, message: Control) -> None:
        """Nothing to do: an orchestrator informs the workers."""

    def close(self, timeout: float = FLUSH) -> None:
        """Nothing is on its way."""
