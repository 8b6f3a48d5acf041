"""Whom an orchestrator believes, beyond what the broker's session has looked at (`aiki.broker.signed`)."""

from __future__ import annotations

from collections.abc import Callable

from aiki import messages as m
from aiki import signing
from aiki.broker import Delivery
from aiki.errors import MessageError
from aiki.messages import Heartbeat
from aiki.orchestrator.freshness import Freshness
from aiki.orchestrator.introducing import Introducing
from aiki.orchestrator.outbound import Outbound
from aiki.owning import InstallationRing


class Trust:
    """One orchestrator's.

    :param ring: the installation's keys; None: messages are not signed, and everybody is believed.
    :param clock: microseconds since the Unix epoch.
    """

    def __init__(self, ring: InstallationRing | None, clock: Callable[[], int]) -> None:
        self._ring = ring
        self._freshness = Freshness(clock)
        self._introducing = None if ring is None else Introducing(lambda: ring.installation, clock)

    def admits(self, delivery: Delivery, beat: Heartbeat, out: Outbound) -> bool:
        """Whether a heartbeat counts. If not, its worker is sent what it lacks: a key, or the time."""
        signed = delivery.believed and bool(delivery.namespace)
        if self._introducing is not None:
            self._introducing.greet(beat, signed, out)
        if not delivery.believed:
            return False
        if not signed or self._freshness.is_fresh(beat):
            return True  # one that is not signed has nothing by which to tell
        if beat.kind != m.HELLO:
            out.control(beat.namespace, m.RESEND_HELLO)
        return False

    def why_refused(self, body: bytes) -> str:
        """Why a message that was rejected is not believed; empty if that was not the reason."""
        return "" if self._ring is None else signing.check(body, self._ring).refused


def see_whose(delivery: Delivery, namespace: str) -> None:
    """The key of one namespace proves nothing about another. Raises `MessageError`."""
    if delivery.namespace not in ("", namespace):
        raise MessageError(f"a message of namespace {namespace!r} that is signed for {delivery.namespace!r}")
