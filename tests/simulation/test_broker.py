"""The simulated broker keeps the brokers' contract."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from aiki.broker import Address, Session, work
from aiki.errors import BrokerUnavailable
from tests.broker.contract import BrokerContract
from tests.broker.kits import Kit
from tests.simulation.broker import SimulatedBroker


class Stand:
    """A process of `tests.broker.process`, played by this one: it can be killed, and does not do anything by itself."""

    def __init__(self, kit: SimulatedKit, role: str, arguments: tuple[str, ...]) -> None:
        self._kit = kit
        self._arguments = arguments
        self._lines: list[str] = []
        self.session: Session = kit.connect(role)
        self._stopped = False
        getattr(self, role)(*arguments)

    def hold(self, count: str) -> None:
        self.session.subscribe(work("ns", "a"), int(count))
        taken = 0
        while taken < int(count):
            taken += len(self.session.receive(1.0))
        self._lines.append(f"holds {taken}")

    def produce(self, count: str, mark: str) -> None:
        for number in range(int(count)):
            self.session.send(work("ns", "a"), f"{mark}{number}".encode())
        self.session.receive(0)
        self._lines.append(f"produced {count}")
        self.session.close()

    def consume(self) -> None:
        self.session.subscribe(work("ns", "a"), 20)
        self._lines.append("ready")

    def line(self) -> str:
        while not self._lines:
            if self._stopped or self.session.dead is not None:  # type: ignore[attr-defined]
                return ""
            try:
                for delivery in self.session.receive(0.05):
                    self._lines.append(delivery.body.decode())
                    self.session.ack([delivery])
                    self._stopped = self._stopped or delivery.body == b"stop"
                self.session.settled()
            except BrokerUnavailable:
                return ""
        return self._lines.pop(0)

    def signal(self, number: int) -> None:
        """Stopped: it does nothing anyway."""

    def kill9(self) -> None:
        with self._kit.broker.clock.lock:
            self.session.lose("killed", None)  # type: ignore[attr-defined]

    def wait(self) -> int:
        return 0

    def close(self) -> None:
        self.session.close()


class SimulatedKit(Kit):
    broker: SimulatedBroker  # type: ignore[assignment]

    def __init__(self) -> None:
        self.broker = SimulatedBroker()
        self.url = self.broker.url
        self._sessions = []
        self._processes = []

    def process(self, role: str, *arguments: str) -> Stand:  # type: ignore[override]
        process = Stand(self, role, arguments)
        self._processes.append(process)  # type: ignore[arg-type]
        return process

    def delete_queue(self, address: Address) -> None:
        self.broker.delete(address)

    def clean(self) -> None:
        assert threading.active_count() < 20


class TestSimulatedBroker(BrokerContract):
    @pytest.fixture
    def kit(self) -> Iterator[Kit]:
        kit = SimulatedKit()
        yield kit
        kit.close()

    # It lives in one process: there are no forks.
    test_a_forked_child_does_not_disturb_its_parent = None  # type: ignore[assignment]
    test_a_forked_child_does_not_keep_its_dead_parent_alive = None  # type: ignore[assignment]
